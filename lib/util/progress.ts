/** One event of progress for all verbs. */

export interface ProgressEvent {
  /** What is being done; `done` and `total` are those of the phase. */
  phase: string
  done: number
  /** 0 where it is not known. */
  total: number
  unit: 'bytes' | 'layers' | 'modules' | 'examples' | 'continuations' | 'models' | 'jobs' | 'steps'
  /** The tensor, file, model or job at hand. */
  item?: string | undefined
}

/** Of a run of the engine, which counts what it reads and what it writes. */
export interface ByteCounts {
  bytesRead: number
  bytesWritten: number
  totalRead: number
  totalWrite: number
  tensor: string
}

/** The event of bytes that are read and written. */
export function byteProgress(phase: string, counts: ByteCounts): ProgressEvent {
  const total = counts.totalRead + counts.totalWrite
  // A kernel that runs once more reads more than was planned.
  const done = Math.min(total, counts.bytesRead + counts.bytesWritten)
  return { phase, done, total, unit: 'bytes', item: counts.tensor }
}
