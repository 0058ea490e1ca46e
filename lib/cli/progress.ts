/** Progress on stderr: a bar on a terminal, a line every few seconds elsewhere. stdout is for results. */

import cliProgress from 'cli-progress'
import type { NativeProgress } from '../native/border.js'
import { bytes, printable } from './format.js'

const lineEveryMilliseconds = 5000

export interface Progress {
  update(event: NativeProgress): void
  /** Of work that is not counted in bytes. */
  step(done: number, total: number, at?: string): void
  stop(): void
}

export function showProgress(what: string, quiet: boolean): Progress {
  if (quiet) return { update: () => undefined, step: () => undefined, stop: () => undefined }
  return process.stderr.isTTY && process.env.TERM !== 'dumb' ? bar(what) : lines(what)
}

function done(event: NativeProgress): { moved: number; total: number } {
  const total = event.totalRead + event.totalWrite
  // A kernel that runs once more reads more than was planned.
  return { moved: Math.min(total, event.bytesRead + event.bytesWritten), total }
}

/** Nothing for work whose steps are not known. */
function stepText(moved: number, total: number): string {
  return total === 0 ? '' : `step ${moved} of ${total}`
}

function bar(what: string): Progress {
  const view = new cliProgress.SingleBar({
    format: `${what} [{bar}] {percentage} % | {text} | {tensor}`,
    stream: process.stderr,
    hideCursor: true,
    clearOnComplete: true,
    stopOnComplete: false,
  })
  let started = false
  const show = (moved: number, total: number, payload: { text: string; tensor: string }) => {
    // what is made before the merge has totals of its own
    if (started) {
      view.setTotal(total)
      view.update(moved, payload)
    } else view.start(total, moved, payload)
    started = true
  }
  return {
    update(event) {
      const { moved, total } = done(event)
      show(moved, total, { text: `${bytes(moved)} of ${bytes(total)}`, tensor: printable(event.tensor).slice(0, 48) })
    },
    step: (moved, total, at = '') => show(moved, total, { text: stepText(moved, total), tensor: at }),
    stop() {
      if (started) view.stop()
    },
  }
}

function lines(what: string): Progress {
  let last = performance.now()
  const show = (text: () => string) => {
    if (performance.now() - last < lineEveryMilliseconds) return
    last = performance.now()
    process.stderr.write(`${what}: ${text()}\n`)
  }
  return {
    update: (event) =>
      show(() => {
        const { moved, total } = done(event)
        return `${bytes(moved)} of ${bytes(total)}, ${printable(event.tensor)}`
      }),
    step: (moved, total, at = '') => show(() => [stepText(moved, total), at].filter((text) => text !== '').join(', ')),
    stop: () => undefined,
  }
}
