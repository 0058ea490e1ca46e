/** Progress on stderr: a bar on a terminal, a line every few seconds elsewhere. stdout is for results. */

import cliProgress from 'cli-progress'
import type { ProgressEvent } from '../util/progress.js'
import { bytes, count, printable } from './format.js'

const lineEveryMilliseconds = 5000

export interface Progress {
  show(event: ProgressEvent): void
  stop(): void
}

export function showProgress(what: string, quiet: boolean): Progress {
  if (quiet) return { show: () => undefined, stop: () => undefined }
  return process.stderr.isTTY && process.env.TERM !== 'dumb' ? bar(what) : lines(what)
}

/** `3 of 8 layers`; nothing for work of unknown extent. */
function textOf({ done, total, unit }: ProgressEvent): string {
  if (total === 0) return ''
  return unit === 'bytes' ? `${bytes(done)} of ${bytes(total)}` : `${count(done)} of ${count(total)} ${unit}`
}

function bar(what: string): Progress {
  const view = new cliProgress.SingleBar({
    format: `${what} [{bar}] {percentage} % | {text} | {item}`,
    stream: process.stderr,
    hideCursor: true,
    clearOnComplete: true,
    stopOnComplete: false,
  })
  let started = false
  return {
    show(event) {
      const payload = { text: textOf(event), item: printable(event.item || event.phase).slice(0, 48) }
      // Phases have totals of their own.
      if (started) {
        view.setTotal(event.total)
        view.update(event.done, payload)
      } else view.start(event.total, event.done, payload)
      started = true
    },
    stop() {
      if (started) view.stop()
    },
  }
}

/** One line of progress: how far, and at what; an event that names nothing is of its phase. */
export function lineOf(what: string, event: ProgressEvent): string {
  return `${what}: ${[textOf(event), printable(event.item || event.phase)].filter((part) => part !== '').join(', ')}`
}

function lines(what: string): Progress {
  let last = performance.now()
  return {
    show(event) {
      if (performance.now() - last < lineEveryMilliseconds) return
      last = performance.now()
      process.stderr.write(`${lineOf(what, event)}\n`)
    },
    stop: () => undefined,
  }
}
