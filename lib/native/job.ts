/** Jobs of the addon, and the signals of their callers. */

/** Settles as the job does; where the signal is aborted, so is the job. */
export async function untilDone<T>(
  job: { abort(): void; readonly done: Promise<T> },
  signal: AbortSignal | undefined,
): Promise<T> {
  const abort = () => job.abort()
  signal?.addEventListener('abort', abort, { once: true })
  if (signal?.aborted) abort()
  try {
    return await job.done
  } finally {
    signal?.removeEventListener('abort', abort)
  }
}
