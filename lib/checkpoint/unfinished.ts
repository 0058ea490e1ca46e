/**
 * What a run has to know of an unfinished one to continue it: everything that decides about the bytes. It is written
 * beside the output before the first byte of it, and a run that finds another answer to any of it refuses to go on.
 */

import { createHash } from 'node:crypto'
import { stat } from 'node:fs/promises'
import { WeightsmithError } from '../util/errors.js'
import { type Checkpoint, type CheckpointFile, identityOf } from './open.js'

export interface Unfinished {
  format: 1
  version: string
  /** As it was written. */
  recipe: unknown
  seed: number
  dtype: string
  shardSize: number
  /** SHA-256 of the plan: tensors, places, programs, coefficients. */
  plan: string
  inputs: { path: string; size: number; mtimeMs: number; headerHash: string }[]
}

/** The inputs of a run, each file once. */
export function inputsOf(checkpoints: Iterable<Checkpoint>): Unfinished['inputs'] {
  const files = new Map<string, CheckpointFile>()
  for (const checkpoint of checkpoints) for (const file of checkpoint.files) files.set(file.path, file)
  return [...files.values()].map(({ path, size, modified, headerHash }) => ({
    path,
    size,
    mtimeMs: modified,
    headerHash,
  }))
}

/** SHA-256 (hex) of any number of values that JSON can hold. */
export function digest(values: Iterable<unknown>): string {
  const hash = createHash('sha256')
  for (const value of values) hash.update(`${JSON.stringify(value)}\n`)
  return hash.digest('hex')
}

/** Refuses to continue `before` with `now`, and says what is different. */
export function refuseOther(before: Unfinished, now: Unfinished, folder: string): void {
  for (const file of now.inputs) {
    const known = before.inputs.find(({ path }) => path === file.path)
    if (known === undefined) continue
    const what = (['size', 'mtimeMs', 'headerHash'] as const).find((key) => known[key] !== file[key])
    if (what === undefined) continue
    const label = { size: 'size in bytes', mtimeMs: 'time of change (ms)', headerHash: "header's SHA-256" }[what]
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_INPUT_CHANGED',
      `The unfinished output ${folder} cannot be continued, because the input ${file.path} has changed: its ${label} ` +
        `was ${known[what]} and is ${file[what]}. ${startOver}`,
      { file: file.path },
    )
  }
  const keys = ['version', 'recipe', 'seed', 'dtype', 'shardSize', 'inputs', 'plan'] as const
  const other = keys.filter((key) => JSON.stringify(before[key]) !== JSON.stringify(now[key]))
  const [first] = other
  if (first === undefined) return
  const shown = first === 'seed' || first === 'dtype' || first === 'shardSize' || first === 'version'
  const change = shown ? ` (${before[first]} then, ${now[first]} now)` : ''
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_RESUME',
    `The unfinished output ${folder} cannot be continued, because it was begun with another ${labels[first]}${change}. ` +
      startOver,
    { file: folder },
  )
}

const startOver = 'Start over with overwrite (--overwrite).'

const labels = {
  version: 'version of Weightsmith',
  recipe: 'recipe',
  seed: 'seed',
  dtype: 'type of the result',
  shardSize: 'shard size',
  inputs: 'set of input files',
  plan: 'plan (the configuration of a model has changed)',
} as const

/** Whether a text read back is one of ours; a torn one is not. */
export function parseUnfinished(text: string): Unfinished | undefined {
  try {
    const value: unknown = JSON.parse(text)
    const fine = typeof value === 'object' && value !== null && 'inputs' in value && Array.isArray(value.inputs)
    return fine ? (value as Unfinished) : undefined
  } catch {
    return undefined
  }
}

/** Refuses a result whose inputs were replaced, truncated or written to while they were read. */
export async function refuseChanged(checkpoints: Iterable<Checkpoint>): Promise<void> {
  const files = [...checkpoints].flatMap((checkpoint) => checkpoint.files)
  for (const { path, size, modified, identity } of new Set(files)) {
    const info = await stat(path).catch(() => undefined)
    const change =
      info === undefined
        ? 'is gone'
        : info.size !== size
          ? `had ${size} bytes and has ${info.size} now`
          : identityOf(info) !== identity
            ? 'is another file now'
            : info.mtimeMs !== modified
              ? 'was written to'
              : undefined
    if (change === undefined) continue
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_INPUT_CHANGED',
      `The input ${path} ${change}, while it was being read; the result was discarded.`,
      { file: path },
    )
  }
}
