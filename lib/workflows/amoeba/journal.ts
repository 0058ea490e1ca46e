/**
 * What was measured so far, in the order in which it is asked for: an interrupted run goes on behind it. The numbers
 * are noted as texts, so that all of them come back as they were.
 */

import { ResumePoint } from '../../checkpoint/resume/index.js'
import { WeightsmithError } from '../../util/errors.js'

/** Milliseconds between two notes; the first one is made at once. */
const noteEvery = 1000

export class Journal {
  private asked = 0
  private noted = Number.NEGATIVE_INFINITY

  private constructor(
    private readonly place: string,
    private readonly point: ResumePoint,
    private readonly measured: number[],
  ) {}

  /** `facts`: all that decides about the numbers; `verb`: whose they are. */
  static async open(
    place: string,
    facts: Readonly<Record<string, unknown>>,
    { resume = false, overwrite = false }: { resume?: boolean | undefined; overwrite?: boolean | undefined },
    verb = 'amoeba strategy',
  ): Promise<Journal> {
    const run = { verb, facts, inputs: [] }
    const point = await ResumePoint.open(place, run, { resume, overwrite })
    const { measured = [] } = (point.done ?? {}) as { measured?: unknown }
    if (!Array.isArray(measured) || measured.some((text) => typeof text !== 'string')) {
      throw point.damaged('its note is torn')
    }
    return new Journal(place, point, measured.map(Number))
  }

  /** The next `count` numbers: as an earlier run has measured them, or as `measure` does now. */
  async once(count: number, measure: () => Promise<number[]>): Promise<number[]> {
    const end = this.asked + count
    if (this.measured.length < end) {
      this.measured.splice(this.asked, count, ...(await measure()))
      if (performance.now() - this.noted > noteEvery) await this.note()
    }
    const numbers = this.measured.slice(this.asked, end)
    this.asked = end
    return numbers
  }

  /** The error of a run that ends early, after what it has measured is noted. */
  async left(error: unknown): Promise<unknown> {
    if (this.measured.length === 0) return error
    await this.note()
    if (error instanceof WeightsmithError) error.partial = this.place
    return error
  }

  remove(): Promise<void> {
    return this.point.remove()
  }

  private async note(): Promise<void> {
    await this.point.save({ measured: this.measured.map(String) })
    this.noted = performance.now()
  }
}
