/** Options of a merge, and what they are by default. */

import { parseDType } from '../checkpoint/index.js'
import type { NativeProgress } from '../native/border.js'
import { parseBytes } from '../util/bytes.js'
import { wrongOption } from '../util/errors.js'
import type { ProgressEvent } from '../util/progress.js'

export type MergeChecksum = 'full' | 'outputs' | 'none'

export interface MergeProgress extends ProgressEvent, NativeProgress {
  /** `prepare`: prepasses, whose results the merge reads. */
  phase: 'prepare' | 'run' | 'finish'
}

export interface MergeOptions {
  /** Folder of the result. */
  out: string
  /** Type of the result; goes before `out_dtype` and `dtype` of the recipe. */
  dtype?: string | undefined
  /** Largest size of a file: bytes, or a text such as `5GB` (the default). */
  shardSize?: number | string | undefined
  /** Memory for tiles: bytes, or a text such as `1GiB` (the default). */
  memory?: number | string | undefined
  /** Of the random numbers of methods that drop entries. Defaults to 0. */
  seed?: number | undefined
  /** Check everything and forecast the cost, but write nothing. */
  dryRun?: boolean | undefined
  /** Replace a folder that is there already, and discard an unfinished output. */
  overwrite?: boolean | undefined
  /**
   * Continue the unfinished output of a run that was interrupted; where there is none, begin. Inputs, recipe, seed,
   * type and shard size have to be the same, or the merge rejects with ERR_WEIGHTSMITH_INPUT_CHANGED or _RESUME.
   */
  resume?: boolean | undefined
  /**
   * Bytes written between two notes on disk of what is finished, from which `resume` goes on: bytes, or a text such as
   * `256MiB` (the default). A note is taken every 2 s too.
   */
  journalEvery?: number | string | undefined
  /** SHA-256 of the outputs (default), of inputs too (`full`), or of nothing. */
  checksum?: MergeChecksum | undefined
  /** Fail when the result holds NaN or infinite values. */
  checkFinite?: boolean | undefined
  signal?: AbortSignal | undefined
  onProgress?: ((progress: MergeProgress) => void) | undefined
  /** Make sure the result is on disk before the promise settles. Defaults to true. */
  sync?: boolean | undefined
  /** Folder that relative paths of a recipe object start from; a recipe file's paths start from its own folder. */
  folder?: string | undefined
}

export type Settings = ReturnType<typeof checkOptions>

/** With all defaults, sizes in bytes. Throws ERR_WEIGHTSMITH_ARGUMENT for what cannot be used. */
export function checkOptions(options: MergeOptions) {
  const { out, seed = 0, checksum = 'outputs', sync = true, shardSize = 5e9, memory = 2 ** 30 } = options
  const { journalEvery = 2 ** 28 } = options
  if (typeof out !== 'string' || out === '') throw wrongOption('out', 'the path of a folder', out)
  if (!Number.isSafeInteger(seed) || seed < 0) throw wrongOption('seed', 'a whole number from 0 to 2^53 - 1', seed)
  if (!['full', 'outputs', 'none'].includes(checksum)) throw wrongOption('checksum', 'full, outputs or none', checksum)
  const dtype = options.dtype === undefined ? undefined : parseDType(options.dtype)
  if (options.dtype !== undefined && dtype === undefined) {
    throw wrongOption('dtype', 'float32, float16 or bfloat16', options.dtype)
  }
  return {
    dtype,
    seed,
    checksum,
    sync,
    shardSize: parseBytes(shardSize, 'shard size'),
    memory: parseBytes(memory, 'memory'),
    journalEvery: parseBytes(journalEvery, 'bytes between two notes'),
  }
}
