/**
 * From a YAML file or an object to a recipe that is known to be sound. The keys are mergekit's, so existing recipes
 * run unchanged; what mergekit takes and ignores is accepted and noted, any other unknown key is an error. Messages
 * name the key path, what was expected and what was found. The checks are by hand because those three need the
 * method's own parameter list at hand.
 */

import { readFile } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { parseDocument } from 'yaml'
import { codeOf, messageOf, WeightsmithError } from '../errors.js'
import { ignoredParameters, type Method, methods, type ParameterSpec, type Scalar } from '../methods/index.js'
import type { StoreDType } from '../native/border.js'
import type { FilteredValue, Parameters, ParameterValue } from './values.js'

/** A recipe as it is written: mergekit's YAML, or the same as an object. */
export interface RecipeInput {
  merge_method: string
  base_model?: string
  models?: { model: string; parameters?: Record<string, ParameterValue> }[]
  slices?: {
    sources: { model: string; layer_range: [number, number]; parameters?: Record<string, ParameterValue> }[]
    parameters?: Record<string, ParameterValue>
  }[]
  parameters?: Record<string, ParameterValue>
  dtype?: string
  out_dtype?: string
  /** `base`, `none`, or one of the models; by default the base (or the first model). */
  tokenizer_source?: string
}

export interface Source {
  model: string
  /** First layer and the one after the last; absent: all of them. */
  range?: readonly [number, number]
  parameters: Parameters
  /** Where the source stands in the recipe. */
  path: string
}

export interface Slice {
  sources: Source[]
  parameters: Parameters
}

/** A checked recipe. `models` has become one slice without layer ranges. */
export interface Recipe {
  method: Method
  base?: string
  slices: Slice[]
  /** Whether the recipe moves layers (`slices`). */
  sliced: boolean
  parameters: Parameters
  dtype?: StoreDType
  tokenizer: string
  /** What was accepted and changes nothing. */
  notes: string[]
  /** As it was written. */
  input: RecipeInput
  /** Folder that relative model paths start from. */
  folder: string
}

const keys = {
  top: [
    'merge_method',
    'base_model',
    'models',
    'slices',
    'parameters',
    'dtype',
    'out_dtype',
    'tokenizer_source',
  ] as const,
  model: ['model', 'parameters'] as const,
  slice: ['sources', 'parameters'] as const,
  source: ['model', 'layer_range', 'parameters'] as const,
}

/** Keys of mergekit that cannot be left out of account: what to say about each. */
const refused: ReadonlyMap<string, string> = new Map([
  ['modules', 'merging modules apart is not offered; use models or slices, with filters for the parts'],
  ['tokenizer', 'building a tokenizer is not offered; use tokenizer_source: base, none or one of the models'],
  ['chat_template', 'setting a chat template is not offered; the template of the tokenizer source is copied'],
])

/** Keys of mergekit that change nothing in a merge. */
const ignoredKeys: ReadonlySet<string> = new Set(['name', 'default_vocab_size'])

const dtypes: ReadonlyMap<string, StoreDType> = new Map<string, StoreDType>([
  ['float32', 'F32'],
  ['fp32', 'F32'],
  ['f32', 'F32'],
  ['float16', 'F16'],
  ['fp16', 'F16'],
  ['f16', 'F16'],
  ['half', 'F16'],
  ['bfloat16', 'BF16'],
  ['bf16', 'BF16'],
])

/** The storage type that `bfloat16`, `bf16`, `F32` … stand for. */
export function parseDType(text: string): StoreDType | undefined {
  return dtypes.get(text.toLowerCase().replace(/^torch\./, ''))
}

/** Reads and checks a recipe; relative model paths start from the file's folder, or from `folder` for an object. */
export async function loadRecipe(source: string | RecipeInput, folder = process.cwd()): Promise<Recipe> {
  if (typeof source !== 'string') return checkRecipe(source, resolve(folder))
  const file = resolve(folder, source)
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (cause) {
    const missing = codeOf(cause) === 'ENOENT'
    throw new WeightsmithError(
      missing ? 'ERR_WEIGHTSMITH_NOT_FOUND' : 'ERR_WEIGHTSMITH_IO_READ',
      missing ? `There is no recipe ${file}.` : `The recipe ${file} cannot be read: ${messageOf(cause)}.`,
      { cause, file },
    )
  }
  return checkRecipe(parseYaml(text, file), dirname(file))
}

function parseYaml(text: string, file: string): unknown {
  try {
    const document = parseDocument(text)
    if (document.errors[0] !== undefined) throw document.errors[0]
    return document.toJS()
  } catch (cause) {
    // The first line says what and where; the lines after it draw the place.
    const message = messageOf(cause).trim().split('\n', 1)[0]?.replace(/[:.]$/, '')
    throw new WeightsmithError('ERR_WEIGHTSMITH_RECIPE', `The recipe ${file} is not valid YAML: ${message}.`, {
      cause,
      file,
    })
  }
}

/** Checks a recipe that is already in memory. Touches no file. */
export function checkRecipe(raw: unknown, folder: string): Recipe {
  const notes: string[] = []
  plain(raw)
  const top = record(raw, '', 'a mapping with merge_method and models or slices')
  knownKeys(top, '', keys.top, notes)
  const method = checkMethod(top.merge_method)
  const base = top.base_model === undefined ? undefined : modelName(top.base_model, 'base_model')
  if (method.needsBase && base === undefined) {
    fail('base_model', `a model, because method ${method.name} needs one`, undefined)
  }
  if (top.models !== undefined && top.slices !== undefined) fail('', 'either models or slices', 'both')
  const slices = checkSlices(top, method, notes)
  for (const [i, slice] of slices.entries())
    checkCount(method, base, slice, top.slices ? `slices[${i}].sources` : 'models')
  const parameters = checkParameters(top.parameters, 'parameters', method, 'top', notes)
  const dtype = checkDType(top.dtype, 'dtype')
  const outDType = checkDType(top.out_dtype, 'out_dtype') ?? dtype
  const tokenizer = top.tokenizer_source === undefined ? 'base' : checkTokenizer(top.tokenizer_source, slices, base)
  return {
    method,
    ...(base === undefined ? {} : { base }),
    slices,
    sliced: top.slices !== undefined,
    parameters,
    ...(outDType === undefined ? {} : { dtype: outDType }),
    tokenizer,
    notes,
    // every key of it has just been checked against the type
    input: top as unknown as RecipeInput,
    folder,
  }
}

function checkMethod(value: unknown): Method {
  const method = typeof value === 'string' ? methods.get(value) : undefined
  return method ?? fail('merge_method', `one of ${[...methods.keys()].join(', ')}`, value)
}

function checkSlices(top: Record<string, unknown>, method: Method, notes: string[]): Slice[] {
  if (top.slices === undefined) {
    const sources = list(top.models, 'models', 'a list of models (or slices)').map((value, i) => {
      const path = `models[${i}]`
      const entry = record(value, path, 'a mapping with model and parameters')
      knownKeys(entry, path, keys.model, notes)
      const parameters = checkParameters(entry.parameters, `${path}.parameters`, method, 'model', notes)
      return { model: modelName(entry.model, `${path}.model`), parameters, path }
    })
    noTwins(sources)
    return [{ sources, parameters: {} }]
  }
  return list(top.slices, 'slices', 'a list of slices').map((value, i) => {
    const path = `slices[${i}]`
    const entry = record(value, path, 'a mapping with sources and parameters')
    knownKeys(entry, path, keys.slice, notes)
    const sources = list(entry.sources, `${path}.sources`, 'a list of sources').map((source, j) =>
      checkSource(source, `${path}.sources[${j}]`, method, notes),
    )
    noTwins(sources)
    const first = sources[0]?.range
    for (const source of sources) {
      if (first && source.range && source.range[1] - source.range[0] !== first[1] - first[0]) {
        fail(
          `${source.path}.layer_range`,
          `${first[1] - first[0]} layers like the first source of the slice`,
          `${source.range[1] - source.range[0]} layers`,
        )
      }
    }
    return { sources, parameters: checkParameters(entry.parameters, `${path}.parameters`, method, 'slice', notes) }
  })
}

function checkSource(value: unknown, path: string, method: Method, notes: string[]): Source {
  const entry = record(value, path, 'a mapping with model and layer_range')
  knownKeys(entry, path, keys.source, notes)
  const range = entry.layer_range
  if (
    !Array.isArray(range) ||
    range.length !== 2 ||
    !range.every((n) => Number.isSafeInteger(n) && n >= 0) ||
    range[0] >= range[1]
  ) {
    fail(`${path}.layer_range`, 'two whole numbers, the first layer and the one after the last', range)
  }
  return {
    model: modelName(entry.model, `${path}.model`),
    range: [range[0], range[1]],
    parameters: checkParameters(entry.parameters, `${path}.parameters`, method, 'model', notes),
    path,
  }
}

function noTwins(sources: Source[]): void {
  for (const [i, source] of sources.entries()) {
    const twin = sources.findIndex((other) => other.model === source.model && `${other.range}` === `${source.range}`)
    if (twin !== i) fail(`${source.path}.model`, `a model other than that of ${sources[twin]?.path}`, source.model)
  }
}

function checkCount(method: Method, base: string | undefined, slice: Slice, path: string): void {
  const models = method.needsBase ? slice.sources.filter((s) => s.model !== base) : slice.sources
  const { min, max } = method.models
  if (models.length >= min && models.length <= max) return
  const wanted = min === max ? `exactly ${min}` : `${min} to ${max}`
  const beside = method.needsBase ? ` besides the base ${base}` : ''
  fail(path, `${wanted} model${max === 1 ? '' : 's'}${beside} for method ${method.name}`, `${models.length}`)
}

type Level = 'top' | 'slice' | 'model'

function checkParameters(raw: unknown, path: string, method: Method, level: Level, notes: string[]): Parameters {
  if (raw === undefined || raw === null) return {}
  const entries = record(raw, path, 'a mapping of parameters')
  const checked: Record<string, ParameterValue> = {}
  for (const [name, value] of Object.entries(entries)) {
    const at = `${path}.${name}`
    const spec = method.parameters.find((p) => p.name === name)
    if (spec === undefined) {
      if (!ignoredParameters.has(name)) {
        const known = method.parameters.map((p) => p.name)
        fail(at, `a parameter of method ${method.name} (${known.join(', ')})`, name)
      }
      finite(value, at)
      notes.push(`${at} changes nothing: method ${method.name} has no such parameter.`)
      continue
    }
    if (spec.scope === 'global' && level === 'model') {
      fail(at, `${name} under parameters at top level or of a slice, because it is one for all models`, value)
    }
    if ((spec.type === 'model' || spec.name === 'history') && level !== 'top') {
      fail(at, `${name} under parameters at top level`, value)
    }
    checked[name] = checkValue(value, at, spec)
  }
  return checked
}

function checkValue(value: unknown, path: string, spec: ParameterSpec): ParameterValue {
  if (!Array.isArray(value)) return checkScalar(value, path, spec)
  if (spec.type === 'model' || value.length === 0) return fail(path, expectation(spec), value)
  if (value.every((v) => typeof v === 'number')) return checkGradient(value, path, spec)
  return value.map((raw, i): FilteredValue => {
    const at = `${path}[${i}]`
    const entry = record(raw, at, 'a mapping with filter and value')
    for (const key of Object.keys(entry)) {
      if (key !== 'filter' && key !== 'value') fail(`${at}.${key}`, 'filter or value', key)
    }
    const { filter } = entry
    if (filter !== undefined && filter !== null && typeof filter !== 'string') {
      fail(`${at}.filter`, "a part of a tensor's name", filter)
    }
    const inner = Array.isArray(entry.value)
      ? checkGradient(entry.value, `${at}.value`, spec)
      : checkScalar(entry.value, `${at}.value`, spec)
    return typeof filter === 'string' ? { filter, value: inner } : { value: inner }
  })
}

function checkGradient(values: unknown[], path: string, spec: ParameterSpec): number[] {
  if (spec.type !== 'number' || values.length === 0) fail(path, expectation(spec), values)
  return values.map((v, i) => Number(checkScalar(v, `${path}[${i}]`, spec)))
}

function checkScalar(value: unknown, path: string, spec: ParameterSpec): Scalar {
  const scalar = isScalar(value) ? (spec.aliases?.get(value) ?? value) : fail(path, expectation(spec), value)
  switch (spec.type) {
    case 'number':
      finite(scalar, path)
      if (typeof scalar !== 'number') return fail(path, expectation(spec), value)
      if (scalar < (spec.min ?? -Infinity) || scalar > (spec.max ?? Infinity)) fail(path, expectation(spec), value)
      return scalar
    case 'boolean': {
      const yes = scalar === true || scalar === 1
      if (!yes && scalar !== false && scalar !== 0) return fail(path, expectation(spec), value)
      if (spec.values && !spec.values.includes(yes)) return fail(path, expectation(spec), value)
      return yes
    }
    case 'choice':
      return spec.values?.includes(scalar) ? scalar : fail(path, expectation(spec), value)
    case 'model':
      return modelName(scalar, path)
  }
}

function isScalar(value: unknown): value is Scalar {
  return typeof value === 'number' || typeof value === 'boolean' || typeof value === 'string'
}

function finite(value: unknown, path: string): void {
  if (typeof value === 'number' && !Number.isFinite(value)) fail(path, 'a finite number', value)
  if (Array.isArray(value)) for (const [i, v] of value.entries()) finite(v, `${path}[${i}]`)
}

function expectation(spec: ParameterSpec): string {
  if (spec.type === 'model') return 'a model'
  if (spec.values) return spec.values.map(String).join(', ')
  if (spec.type === 'boolean') return 'true or false'
  if (spec.min !== undefined && spec.max !== undefined) {
    return `a number from ${spec.min} to ${spec.max}, a gradient or a list of filters`
  }
  return 'a number, a gradient or a list of filters'
}

function checkDType(value: unknown, path: string): StoreDType | undefined {
  if (value === undefined || value === null) return undefined
  const dtype = typeof value === 'string' ? parseDType(value) : undefined
  return dtype ?? fail(path, 'float32, float16 or bfloat16', value)
}

function checkTokenizer(value: unknown, slices: Slice[], base: string | undefined): string {
  const models = new Set(slices.flatMap((s) => s.sources.map((source) => source.model)))
  if (base !== undefined) models.add(base)
  if (typeof value === 'string' && (value === 'base' || value === 'none' || models.has(value))) return value
  // mergekit's long form of naming a model
  if (typeof value === 'string' && models.has(value.replace(/^model:/, ''))) return value.replace(/^model:/, '')
  return fail('tokenizer_source', `base, none or one of the models (${[...models].join(', ')})`, value)
}

function modelName(value: unknown, path: string): string {
  if (typeof value === 'string' && value.trim() !== '' && !value.includes('\0')) return value
  return fail(path, 'the path or the org/name of a model', value)
}

function knownKeys(entry: Record<string, unknown>, path: string, known: readonly string[], notes: string[]): void {
  for (const key of Object.keys(entry)) {
    const at = path === '' ? key : `${path}.${key}`
    if (known.includes(key)) continue
    const why = path === '' ? refused.get(key) : undefined
    if (why !== undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_RECIPE', `The recipe has ${key}: ${why}.`)
    if (path === '' && ignoredKeys.has(key)) notes.push(`${at} changes nothing.`)
    else fail(at, `one of the keys ${known.join(', ')}`, key)
  }
}

/** What is no data (cycles, bigints, nesting without end) could be neither shown nor put into the manifest. */
function plain(raw: unknown): void {
  try {
    JSON.stringify(raw)
  } catch (cause) {
    const problem = messageOf(cause).split('\n', 1)[0]
    throw new WeightsmithError('ERR_WEIGHTSMITH_RECIPE', `The recipe should be plain data, but: ${problem}.`, { cause })
  }
}

function record(value: unknown, path: string, expected: string): Record<string, unknown> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>
  return fail(path, expected, value)
}

function list(value: unknown, path: string, expected: string): unknown[] {
  return Array.isArray(value) && value.length > 0 ? value : fail(path, expected, value)
}

function fail(path: string, expected: string, found: unknown): never {
  const where = path === '' ? 'The recipe' : `${path} of the recipe`
  throw new WeightsmithError('ERR_WEIGHTSMITH_RECIPE', `${where} should be ${expected}, but ${describe(found)}.`)
}

function describe(found: unknown): string {
  if (found === undefined) return 'is missing'
  if (found === null) return 'is empty'
  if (typeof found === 'string') return `"${found.length > 60 ? `${found.slice(0, 60)}…` : found}" was found`
  if (typeof found === 'number' || typeof found === 'boolean') return `${found} was found`
  const text = JSON.stringify(found) ?? String(found)
  return `${text.length > 60 ? `${text.slice(0, 60)}…` : text} was found`
}
