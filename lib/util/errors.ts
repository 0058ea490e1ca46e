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
    meaning: 'No device matches the request.',
    remedy: 'Run `weightsmith doctor`: it lists the available devices and the command that installs a driver.',
  },
  ERR_WEIGHTSMITH_DEVICE_LOST: {
    meaning: 'The device was lost while work was running.',
    remedy: 'Try again: the engine reopens the device. If it happens again, lower `memory` or choose another device.',
  },
  ERR_WEIGHTSMITH_OUT_OF_MEMORY: {
    meaning: 'The host or the device does not have enough memory.',
    remedy: 'Raise `memory` (`--memory`) to the amount in the message, or lower it if the device ran out.',
  },
  ERR_WEIGHTSMITH_KERNEL: {
    meaning: 'A kernel is unknown, does not compile, or was called with the wrong arguments.',
    remedy: 'Correct the call; `kernels` lists every kernel with its inputs and coefficients.',
  },
  ERR_WEIGHTSMITH_DISPOSED: {
    meaning: 'The engine is closed.',
    remedy: 'Open an engine with `Engine.open()` and close it only after the last call.',
  },
  ERR_WEIGHTSMITH_ABORTED: {
    meaning: 'The work was ended by an AbortSignal or an interruption.',
    remedy: 'None if it was intended. Otherwise run it again, with `resume` if the error has `partial`.',
  },
  ERR_WEIGHTSMITH_INTERNAL: {
    meaning: 'An internal invariant failed.',
    remedy: 'This is a bug: report it with the message and the recipe.',
  },
  ERR_WEIGHTSMITH_IO_READ: {
    meaning: 'A file cannot be read.',
    remedy: 'Check the file in the message: its permissions, its disk, and whether another program is changing it.',
  },
  ERR_WEIGHTSMITH_IO_WRITE: {
    meaning: 'A file cannot be written.',
    remedy: 'Check the folder in the message: its permissions and its disk.',
  },
  ERR_WEIGHTSMITH_DISK_FULL: {
    meaning: 'The disk is too full for the output.',
    remedy: 'Free the space that the message asks for, or write to another disk.',
  },
  ERR_WEIGHTSMITH_FORMAT: {
    meaning:
      'A file is not valid safetensors (or is GGUF), its config or manifest is not valid JSON, an adapter is not one that can be folded, a file of scores or a strategy is none, or a pickle has what is not read as data.',
    remedy:
      'Download the file again, or convert the checkpoint to safetensors. To merge an adapter, write it after the model it was trained for (`base+adapter`).',
  },
  ERR_WEIGHTSMITH_INDEX: {
    meaning: 'A shard index contradicts itself, its shards or the safety rules for paths.',
    remedy: 'Download the index and all shards again, from one revision of the model.',
  },
  ERR_WEIGHTSMITH_MISSING_TENSOR: {
    meaning: 'A tensor that one model has is absent from another, or one that an architecture needs is absent.',
    remedy: 'Merge models of one architecture; compare those in the message with `weightsmith inspect`.',
  },
  ERR_WEIGHTSMITH_SHAPE_MISMATCH: {
    meaning: 'A tensor has different shapes in two models, or a shape that contradicts the config.',
    remedy: 'Merge models of the same shapes. The usual cause is vocabularies of different sizes.',
  },
  ERR_WEIGHTSMITH_DTYPE: {
    meaning: 'A dtype is not supported, a model is quantised, or integer tensors differ between models.',
    remedy: 'Convert the model to F32, F16 or BF16, or choose one of these as the output dtype.',
  },
  ERR_WEIGHTSMITH_RECIPE: {
    meaning: 'A recipe is not valid.',
    remedy:
      'Correct the key in the message. `weightsmith schema` prints a JSON Schema for completion and checks in editors.',
  },
  ERR_WEIGHTSMITH_ARGUMENT: {
    meaning: 'An argument of a call or of the command line is not valid.',
    remedy: 'Correct the argument in the message; `--help` lists the options.',
  },
  ERR_WEIGHTSMITH_OUTPUT_EXISTS: {
    meaning: 'The output already exists, or an unfinished one does.',
    remedy:
      'Choose another folder, replace it with `overwrite` (`--overwrite`), or continue with `resume` (`--resume`).',
  },
  ERR_WEIGHTSMITH_OUTPUT_INSIDE_INPUT: {
    meaning: 'The output folder contains an input, or lies in one.',
    remedy: 'Choose an output folder outside of every model.',
  },
  ERR_WEIGHTSMITH_NOT_FOUND: {
    meaning: 'A file, folder or model was not found.',
    remedy: 'Correct the name; the message lists every place searched. Nothing is downloaded.',
  },
  ERR_WEIGHTSMITH_NON_FINITE: {
    meaning: 'A result has NaN or infinite values and `checkFinite` is on, or a loss or a gradient of training has.',
    remedy:
      'Check the inputs of the tensor in the message, and for weights too large for the output dtype; train with a lower rate or stronger clipping.',
  },
  ERR_WEIGHTSMITH_VERIFY: {
    meaning: 'An output does not match its manifest, or a folded model is not what its base is with the adapters.',
    remedy:
      'Do not use the output; write it again. `problems` of the error lists what has changed or is missing; a fold that differs by its rounding needs `dtype: float32`.',
  },
  ERR_WEIGHTSMITH_OUTSIDE: {
    meaning: 'A symbolic link leads out of its folder.',
    remedy:
      'Copy the file into the folder, pass the folder that it is in, or, for folders you trust, follow links with `--follow-links` or `WEIGHTSMITH_FOLLOW_LINKS=1`.',
  },
  ERR_WEIGHTSMITH_BUSY: {
    meaning: 'Another process or job is writing the same output.',
    remedy: 'Wait for it to end, or choose another folder.',
  },
  ERR_WEIGHTSMITH_INPUT_CHANGED: {
    meaning:
      'An input has changed during the run, or since the run being resumed, or scores or a strategy are of another model.',
    remedy:
      'Leave the inputs unchanged and start over, with `overwrite` (`--overwrite`) if there is an unfinished output.',
  },
  ERR_WEIGHTSMITH_RESUME: {
    meaning:
      'An unfinished output cannot be continued: the recipe or an option has changed, or its resume point is torn.',
    remedy: 'Resume with the recipe and options of the first run, or start over with `overwrite` (`--overwrite`).',
  },
  ERR_WEIGHTSMITH_COMMAND: {
    meaning: 'A command of a workflow (trainer, generator or filter) failed or could not be started.',
    remedy: 'Fix what the last lines of its output report, then continue with `resume` (`--resume`).',
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

/** The error this package throws: `code` is stable; the message is a sentence for people, with names and figures. */
export class WeightsmithError extends Error {
  /** `AbortError` for ERR_WEIGHTSMITH_ABORTED, as everywhere on the web platform; else `WeightsmithError`. */
  override readonly name: string
  readonly code: ErrorCode
  readonly file?: string
  readonly tensor?: string
  /** From a failed `verify`: everything that does not match. */
  readonly problems?: string[]
  /** The unfinished output of a run that can be continued with `resume`. */
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

/** An option with a wrong value: ERR_WEIGHTSMITH_ARGUMENT. `expected` completes "Expected NAME to be ...". */
export function wrongOption(name: string, expected: string, found: unknown): WeightsmithError {
  return misuse(`Expected ${name} to be ${expected}, but received "${String(found)}".`)
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
