/** Interruptions: the first one ends the work in good order; a second one, or one without work, ends the process. */

const controller = new AbortController()
/** Whether there is something to put in order. */
let working = false
let exitCode: number | undefined

/** Aborted by an interruption. */
export const signal: AbortSignal = controller.signal

/** From here on an interruption leaves the end to the verb, which gets `signal`. */
export function beginWork(): void {
  working = true
}

/** 128 + the number of the signal that came, as shells have it; undefined where none came. */
export function interruptedBy(): number | undefined {
  return exitCode
}

export function listenForInterruptions(): void {
  process.on('SIGINT', () => interrupt(130))
  process.on('SIGTERM', () => interrupt(143))
}

function interrupt(code: number): void {
  exitCode = code
  if (!working || signal.aborted) process.exit(code)
  controller.abort()
}
