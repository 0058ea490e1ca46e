/**
 * The one error class of the package. Codes are stable and part of the public contract; messages are whole sentences
 * with names and figures, for people. Native code throws this class too (it is handed over once, at load).
 */

export const errorCodes = [
  /** The native addon or a Dawn library does not load. */
  'ERR_WEIGHTSMITH_LOAD',
  /** No adapter fits what was asked for. */
  'ERR_WEIGHTSMITH_NO_ADAPTER',
  /** The device was lost while work was running. */
  'ERR_WEIGHTSMITH_DEVICE_LOST',
  /** Memory of the host or of the device does not suffice. */
  'ERR_WEIGHTSMITH_OUT_OF_MEMORY',
  /** A kernel is unknown, does not compile or is called with arguments it does not take. */
  'ERR_WEIGHTSMITH_KERNEL',
  /** The engine is closed. */
  'ERR_WEIGHTSMITH_DISPOSED',
  /** An AbortSignal or an interruption ended the work. */
  'ERR_WEIGHTSMITH_ABORTED',
  /** A promise of this package to itself is broken. */
  'ERR_WEIGHTSMITH_INTERNAL',
  /** A file cannot be read. */
  'ERR_WEIGHTSMITH_IO_READ',
  /** A file cannot be written. */
  'ERR_WEIGHTSMITH_IO_WRITE',
  /** The disk has no room for the output. */
  'ERR_WEIGHTSMITH_DISK_FULL',
  /** A file is not valid safetensors (or not safetensors at all). */
  'ERR_WEIGHTSMITH_FORMAT',
  /** A shard index contradicts itself, its shards or the safety rules for paths. */
  'ERR_WEIGHTSMITH_INDEX',
  /** A tensor that one model has is absent from another. */
  'ERR_WEIGHTSMITH_MISSING_TENSOR',
  /** A tensor has different shapes in two models. */
  'ERR_WEIGHTSMITH_SHAPE_MISMATCH',
  /** A storage type cannot be computed with or written. */
  'ERR_WEIGHTSMITH_DTYPE',
  /** A recipe is not valid. */
  'ERR_WEIGHTSMITH_RECIPE',
  /** An argument of a call or of the command line is not valid. */
  'ERR_WEIGHTSMITH_ARGUMENT',
  /** The output folder is there already. */
  'ERR_WEIGHTSMITH_OUTPUT_EXISTS',
  /** Output and input folders contain one another. */
  'ERR_WEIGHTSMITH_OUTPUT_INSIDE_INPUT',
  /** A file, folder or model is not where it was looked for. */
  'ERR_WEIGHTSMITH_NOT_FOUND',
  /** A result holds NaN or infinite values and `checkFinite` is on. */
  'ERR_WEIGHTSMITH_NON_FINITE',
  /** An output does not match its manifest. */
  'ERR_WEIGHTSMITH_VERIFY',
  /** A link leads out of the folder that was named. */
  'ERR_WEIGHTSMITH_OUTSIDE',
  /** Another process or job is writing the same output. */
  'ERR_WEIGHTSMITH_BUSY',
  /** An input was changed or replaced while it was in use, or since the run that is to be resumed. */
  'ERR_WEIGHTSMITH_INPUT_CHANGED',
  /** An unfinished output cannot be continued as asked: the recipe or an option is another one. */
  'ERR_WEIGHTSMITH_RESUME',
] as const

export type ErrorCode = (typeof errorCodes)[number]

export interface ErrorDetails {
  cause?: unknown
  file?: string | undefined
  tensor?: string | undefined
  problems?: string[] | undefined
}

export class WeightsmithError extends Error {
  /** `AbortError` for ERR_WEIGHTSMITH_ABORTED, as everywhere on the web platform; else `WeightsmithError`. */
  override readonly name: string
  readonly code: ErrorCode
  readonly file?: string
  readonly tensor?: string
  /** Of a `verify` that failed: everything that does not match. */
  readonly problems?: string[]
  /** Of a merge that can be continued with `resume`: the folder with its unfinished output. */
  partial?: string

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = code
    this.name = code === 'ERR_WEIGHTSMITH_ABORTED' ? 'AbortError' : 'WeightsmithError'
    if (details.file !== undefined) this.file = details.file
    if (details.tensor !== undefined) this.tensor = details.tensor
    if (details.problems !== undefined) this.problems = details.problems
  }
}

/** The `code` of a Node system error (`ENOENT` …) or of ours, where there is one. */
export function codeOf(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined
  return typeof error.code === 'string' ? error.code : undefined
}

/** The message of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error || (typeof error === 'object' && error !== null && 'message' in error)
    ? String(error.message)
    : String(error)
}
