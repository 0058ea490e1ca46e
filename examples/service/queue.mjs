/** A queue with a bound: a few jobs run, some wait, the rest is refused; a job that is no longer wanted leaves it. */

export class QueueFull extends Error {}

export class Queue {
  #running = 0
  #waiting = []
  #idle = []

  constructor({ parallel, waiting }) {
    this.limits = { parallel, waiting }
  }

  get counts() {
    return { running: this.#running, waiting: this.#waiting.length }
  }

  /**
   * Runs `work` when it is its turn; `onWait` hears how many are before it. Rejects with QueueFull or the abort reason.
   */
  async run(work, { signal, onWait }) {
    signal.throwIfAborted()
    if (this.#running >= this.limits.parallel) await this.#turn(signal, onWait)
    else this.#running++
    try {
      return await work()
    } finally {
      // The place goes to the next in line, so that nobody can slip in between.
      const next = this.#waiting.shift()
      if (next) next.start()
      else this.#running--
      this.#tellPositions()
      if (this.#running === 0) for (const wake of this.#idle.splice(0)) wake()
    }
  }

  /** Settles when nothing runs and nothing waits. */
  async idle() {
    if (this.#running > 0) await new Promise((wake) => this.#idle.push(wake))
  }

  #turn(signal, onWait) {
    if (this.#waiting.length >= this.limits.waiting) {
      throw new QueueFull(`${this.#waiting.length} jobs are waiting already.`)
    }
    return new Promise((resolve, reject) => {
      const entry = { onWait }
      const leave = () => {
        this.#waiting.splice(this.#waiting.indexOf(entry), 1)
        this.#tellPositions()
        reject(signal.reason)
      }
      entry.start = () => {
        signal.removeEventListener('abort', leave)
        resolve()
      }
      signal.addEventListener('abort', leave, { once: true })
      onWait(this.#waiting.push(entry) - 1)
    })
  }

  #tellPositions() {
    for (const [before, { onWait }] of this.#waiting.entries()) onWait(before)
  }
}
