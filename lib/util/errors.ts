/**
 * The one error class of the package. Codes are stable and part of the public contract; messages are whole sentences
 * with names and figures, for people. Native code throws this class too (it is handed over once, at load).
 */

/** Every code: what it means, and what to do about it. docs/errors.md is written from this table. */
export const errors = {
  ERR_WEIGHTSMITH_LOAD: {
    meaning: 'The native addon or a Dawn library does not load.',
    remedy:
      'Do what the message says: build the addon with `npm run setup`, install the package it names, or set `WEIGHTSMITH_DAWN`.',
  },
  ERR_WEIGHTSMITH_NO_DEVICE: {
    meaning: 'No device fits what was asked for.',
    remedy: 'Run `weightsmith doctor`: it lists the devices there are and the command that installs a driver.',
  },
  ERR_WEIGHTSMITH_DEVICE_LOST: {
    meaning: 'The device was lost while work was running.',
    remedy:
      'Start the work again: the engine opens a new device by itself. If it happens again, give less memory or another device.',
  },
  ERR_WEIGHTSMITH_OUT_OF_MEMORY: {
    meaning: 'Memory of the host or of the device does not suffice.',
    remedy:
      'Give the amount the message asks for with `memory` (`--memory`), or less where the device is the one that ran out.',
  },
  ERR_WEIGHTSMITH_KERNEL: {
    meaning: 'A kernel is unknown, does not compile or is called with arguments it does not take.',
    remedy: 'Correct the call; `kernels` lists every kernel with its inputs and coefficients.',
  },
  ERR_WEIGHTSMITH_DISPOSED: {
    meaning: 'The engine is closed.',
    remedy: 'Open an engine with `Engine.open()` and close it only after the last call.',
  },
  ERR_WEIGHTSMITH_ABORTED: {
    meaning: 'An AbortSignal or an interruption ended the work.',
    remedy: 'Nothing, if it was meant; otherwise start the work again, with `resume` where the error has `partial`.',
  },
  ERR_WEIGHTSMITH_INTERNAL: {
    meaning: 'A promise of this package to itself is broken.',
    remedy: 'Report it with the message and the recipe: it is a bug.',
  },
  ERR_WEIGHTSMITH_IO_READ: {
    meaning: 'A file cannot be read.',
    remedy:
      'Look at the file the message names: its permissions, its disk, and whether something changes it meanwhile.',
  },
  ERR_WEIGHTSMITH_IO_WRITE: {
    meaning: 'A file cannot be written.',
    remedy: 'Look at the folder the message names: its permissions and its disk.',
  },
  ERR_WEIGHTSMITH_DISK_FULL: {
    meaning: 'The disk has no room for the output.',
    remedy: 'Free the bytes the message names, or write to another disk.',
  },
  ERR_WEIGHTSMITH_FORMAT: {
    meaning:
      'A file is not valid safetensors, its config or manifest is not valid JSON, or an adapter is not one that can be merged.',
    remedy:
      'Get the file again; a checkpoint in another format has to be converted to safetensors first. An adapter is written behind the model it was trained for (`base+adapter`).',
  },
  ERR_WEIGHTSMITH_INDEX: {
    meaning: 'A shard index contradicts itself, its shards or the safety rules for paths.',
    remedy: 'Get the index and all shards again, from one version of the model.',
  },
  ERR_WEIGHTSMITH_MISSING_TENSOR: {
    meaning: 'A tensor that one model has is absent from another, or one that an architecture needs is absent.',
    remedy: 'Merge models of one architecture; look at those that the message names with `weightsmith inspect`.',
  },
  ERR_WEIGHTSMITH_SHAPE_MISMATCH: {
    meaning: 'A tensor has different shapes in two models, or another one than its config says.',
    remedy: 'Merge models of the same shapes; differing vocabularies are the usual reason.',
  },
  ERR_WEIGHTSMITH_DTYPE: {
    meaning:
      'A storage type cannot be computed with or written, a model is quantised, or tensors that are no floats differ between models.',
    remedy: 'Convert the model to F32, F16 or BF16, or ask for one of these as the output type.',
  },
  ERR_WEIGHTSMITH_RECIPE: {
    meaning: 'A recipe is not valid.',
    remedy:
      'Correct the key that the message names; `weightsmith schema` prints a JSON Schema that editors complete and check with.',
  },
  ERR_WEIGHTSMITH_ARGUMENT: {
    meaning: 'An argument of a call or of the command line is not valid.',
    remedy: 'Correct the argument that the message names; `--help` lists the options.',
  },
  ERR_WEIGHTSMITH_OUTPUT_EXISTS: {
    meaning: 'The output folder is there already, or an unfinished output is.',
    remedy: 'Choose another folder, ask for `overwrite` (`--overwrite`), or go on with `resume` (`--resume`).',
  },
  ERR_WEIGHTSMITH_OUTPUT_INSIDE_INPUT: {
    meaning: 'Output and input folders contain one another.',
    remedy: 'Choose an output folder outside of every model.',
  },
  ERR_WEIGHTSMITH_NOT_FOUND: {
    meaning: 'A file, folder or model is not where it was looked for.',
    remedy: 'Correct the name: the message lists every place that was looked in. Nothing is downloaded.',
  },
  ERR_WEIGHTSMITH_NON_FINITE: {
    meaning: 'A result holds NaN or infinite values and `checkFinite` is on.',
    remedy:
      'Look at the inputs of the tensor that the message names, and at weights that are too large for the output type.',
  },
  ERR_WEIGHTSMITH_VERIFY: {
    meaning: 'An output does not match its manifest.',
    remedy: 'Do not use the output; merge again. `problems` of the error lists what was changed or lost.',
  },
  ERR_WEIGHTSMITH_OUTSIDE: {
    meaning: 'A link leads out of the folder that was named.',
    remedy: 'Put the file itself into the folder, or name the folder that holds it.',
  },
  ERR_WEIGHTSMITH_BUSY: {
    meaning: 'Another process or job is writing the same output.',
    remedy: 'Wait for it to end, or choose another folder.',
  },
  ERR_WEIGHTSMITH_INPUT_CHANGED: {
    meaning: 'An input was changed or replaced while it was in use, or since the run that is to be resumed.',
    remedy: 'Let the inputs rest and start over, with `overwrite` (`--overwrite`) where an unfinished output is left.',
  },
  ERR_WEIGHTSMITH_RESUME: {
    meaning: 'An unfinished output cannot be continued as asked: the recipe or an option is another one.',
    remedy: 'Resume with what the run was begun with, or start over with `overwrite` (`--overwrite`).',
  },
  ERR_WEIGHTSMITH_COMMAND: {
    meaning: 'A command of a workflow (a trainer, a generator, a filter) cannot be started or has failed.',
    remedy: 'Read its last lines in the message, correct what they say, and go on with `resume` (`--resume`).',
  },
} as const satisfies Record<`ERR_WEIGHTSMITH_${string}`, ErrorGuide>

export interface ErrorGuide {
  /** One sentence. */
  meaning: string
  /** What a caller can do, in one or two sentences. */
  remedy: string
}

export type ErrorCode = keyof typeof errors

/** In the order of native/base/error.h. */
export const errorCodes = Object.keys(errors) as ErrorCode[]

export interface ErrorDetails {
  cause?: unknown
  file?: string | undefined
  tensor?: string | undefined
  problems?: string[] | undefined
}

/** What this package throws; `code` is stable, the message is for people: one sentence with names and figures. */
export class WeightsmithError extends Error {
  /** `AbortError` for ERR_WEIGHTSMITH_ABORTED, as everywhere on the web platform; else `WeightsmithError`. */
  override readonly name: string
  readonly code: ErrorCode
  readonly file?: string
  readonly tensor?: string
  /** Of a `verify` that failed: everything that does not match. */
  readonly problems?: string[]
  /** Of a run that can be continued with `resume`: what lies there of its output. */
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

/** Wrong use of a function or a verb: ERR_WEIGHTSMITH_ARGUMENT. */
export function misuse(message: string, details?: ErrorDetails): WeightsmithError {
  return new WeightsmithError('ERR_WEIGHTSMITH_ARGUMENT', message, details)
}

/** An option that cannot be used: ERR_WEIGHTSMITH_ARGUMENT; `expected` goes on after "should be". */
export function wrongOption(name: string, expected: string, found: unknown): WeightsmithError {
  return misuse(`The option ${name} should be ${expected}, but "${String(found)}" was found.`)
}

/** A file or folder that cannot be written: ERR_WEIGHTSMITH_DISK_FULL or _IO_WRITE. */
export function writeFailed(file: string, cause: unknown): WeightsmithError {
  const full = codeOf(cause) === 'ENOSPC' || codeOf(cause) === 'EDQUOT'
  const code = full ? 'ERR_WEIGHTSMITH_DISK_FULL' : 'ERR_WEIGHTSMITH_IO_WRITE'
  return new WeightsmithError(code, `${file} cannot be written: ${messageOf(cause)}.`, { cause, file })
}

/** `what` was aborted: `The merge`. */
export function aborted(signal: AbortSignal | undefined, what: string): WeightsmithError {
  return new WeightsmithError('ERR_WEIGHTSMITH_ABORTED', `${what} was aborted.`, { cause: signal?.reason })
}

export function throwIfAborted(signal: AbortSignal | undefined, what: string): void {
  if (signal?.aborted) throw aborted(signal, what)
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
