/**
 * What every check of a recipe is made of. Messages name the key path, what was expected and what was found.
 */

import { messageOf, WeightsmithError } from '../../util/errors.js'
import { type MergeMethod, methods } from '../methods/index.js'

export function checkMethod(value: unknown, path: string): MergeMethod {
  const method = typeof value === 'string' ? methods.get(value) : undefined
  return method ?? fail(path, `one of ${[...methods.keys()].join(', ')}`, value)
}

export function modelName(value: unknown, path: string): string {
  const name = reference(value)
  if (typeof name === 'string' && name.trim() !== '' && !name.includes('\0')) return name
  return fail(path, 'the path or the org/name of a model', value)
}

/** The name of a model that is written in mergekit's long form, `{ model: { path, revision }, lora: { path } }`. */
function reference(value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  // the architecture that mergekit is to take the model for; here names alone decide
  const { model, lora, override_architecture: _, ...others } = value as Record<string, unknown>
  const [base, adapter] = [pathOf(model), pathOf(lora ?? '')]
  if (base === undefined || adapter === undefined || Object.keys(others).length > 0) return value
  return adapter === '' ? base : `${base}+${adapter}`
}

function pathOf(value: unknown): string | undefined {
  if (typeof value === 'string') return value
  if (typeof value !== 'object' || value === null) return undefined
  const { path, revision, ...others } = value as Record<string, unknown>
  if (typeof path !== 'string' || Object.keys(others).length > 0) return undefined
  if (revision === undefined || revision === null) return path
  return typeof revision === 'string' ? `${path}@${revision}` : undefined
}

/** Keys of mergekit that change nothing in a merge. */
export const ignoredKeys: ReadonlySet<string> = new Set(['default_vocab_size', 'residual_weight'])

/** Options of mergekit's command line. Recipes have them too, where mergekit passes over them. */
export const commandLineKeys: ReadonlySet<string> = new Set([
  ...['allow_crimes', 'async_write', 'clone_tensors', 'copy_tokenizer', 'cuda', 'device', 'gpu_rich', 'lazy_unpickle'],
  ...['lora_merge_cache', 'lora_merge_dtype', 'low_cpu_memory', 'multi_gpu', 'num_threads', 'out_shard_size', 'quiet'],
  ...['random_seed', 'read_to_gpu', 'safe_serialization', 'transformers_cache', 'trust_remote_code', 'verbosity'],
  ...['write_model_card', 'write_threads'],
])

export function knownKeys(
  entry: Record<string, unknown>,
  path: string,
  known: readonly string[],
  notes: string[],
): void {
  for (const key of Object.keys(entry)) {
    const at = path === '' ? key : `${path}.${key}`
    if (known.includes(key)) continue
    if (ignoredKeys.has(key)) notes.push(`${at} changes nothing.`)
    else fail(at, `one of the keys ${known.join(', ')}`, key)
  }
}

/** What is no data (cycles, bigints, nesting without end) could be neither shown nor put into the manifest. */
export function plain(raw: unknown): void {
  try {
    JSON.stringify(raw)
  } catch (cause) {
    const problem = messageOf(cause).split('\n', 1)[0]
    throw new WeightsmithError('ERR_WEIGHTSMITH_RECIPE', `The recipe should be plain data, but: ${problem}.`, { cause })
  }
}

export function record(value: unknown, path: string, expected: string): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>
  return fail(path, expected, value)
}

/** A part of a recipe. A key that holds nothing (`base_model:`, or null) is as good as none, as in mergekit. */
export function entry(value: unknown, path: string, expected: string): Record<string, unknown> {
  return Object.fromEntries(Object.entries(record(value, path, expected)).filter(([, inner]) => inner !== null))
}

export function list(value: unknown, path: string, expected: string): unknown[] {
  return Array.isArray(value) && value.length > 0 ? value : fail(path, expected, value)
}

export function fail(path: string, expected: string, found: unknown): never {
  const where = path === '' ? 'The recipe' : `${path} of the recipe`
  throw new WeightsmithError('ERR_WEIGHTSMITH_RECIPE', `${where} should be ${expected}, but ${describe(found)}.`)
}

export function describe(found: unknown): string {
  if (found === undefined) return 'is missing'
  if (found === null) return 'is empty'
  if (typeof found === 'string') return `"${found.length > 60 ? `${found.slice(0, 60)}…` : found}" was found`
  if (typeof found === 'number' || typeof found === 'boolean') return `${found} was found`
  const text = JSON.stringify(found) ?? String(found)
  return `${text.length > 60 ? `${text.slice(0, 60)}…` : text} was found`
}
