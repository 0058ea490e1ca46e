/** Statistics of taps within a pass: kernels leave their sums in one buffer, which is read when it is full. */

import type { ModelSpec } from '../architectures/index.js'
import type { NativeDispatch } from '../native/border.js'
import { forwardKernels as kernels } from './kernels.js'
import { chunks, type Groups, groupWords, type Measure, type Tap } from './statistics.js'

/** Words of sums that are read at a time: what a layer leaves, but not more than this, unless a single group has more. */
const mostWords = 2 ** 20
/** Inputs that a layer has, for which there is room. */
const usualTaps = 4
/** Lists of groups a pass may have. */
const mostLists = 8

/** What is on the device beside the model for what is seen of its passes. */
export interface Gear {
  /** Statistics of columns. */
  measures: boolean
  /** How far blocks move the residual stream. */
  moves: boolean
  /** Sums of weights. */
  sums: boolean
  /** Gram matrices, by block of rows. */
  grams: readonly Tap[]
}

export const noGear: Gear = { measures: false, moves: false, sums: false, grams: [] }

/** Buffers of the gear of one part. */
export class Meters {
  readonly lists: number
  readonly listWords: number
  readonly sums: number
  readonly sumWords: number
  readonly before: number
  readonly moves: number
  readonly weights: number
  readonly grams: { tap: Tap; width: number; blocks: { buffer: number; first: number; rows: number }[] }[]

  constructor(
    { tensors, language }: ModelSpec,
    gear: Gear,
    { rows, binding, held }: { rows: number; binding: number; held: ReadonlyMap<string, unknown> },
    add: (bytes: number) => number,
  ) {
    const widest = [...tensors.values()].reduce((most, shape) => Math.max(most, ...shape.slice(0, 2)), 0)
    const measured = gear.measures || gear.grams.length > 0
    this.listWords = measured ? mostLists * (2 * rows + 1) : 0
    this.lists = measured ? add(4 * this.listWords) : -1
    const each = groupWords(widest)
    const usual = usualTaps * each * chunks({ length: rows }).length
    this.sumWords = gear.measures ? Math.max(each, Math.min(mostWords, usual)) : 0
    this.sums = gear.measures ? add(4 * this.sumWords) : -1
    this.before = gear.moves ? add(4 * rows * (language.activations.x ?? 0)) : -1
    this.moves = gear.moves ? add(12 * rows) : -1
    this.weights = gear.sums ? add(8 * widest) : -1
    this.grams = gear.grams
      .filter(({ weight }) => held.has(weight))
      .map((tap) => {
        const width = tensors.get(tap.weight)?.[1] ?? 0
        const most = Math.max(1, Math.floor(binding / (4 * width)))
        const blocks = Array.from({ length: Math.ceil(width / most) }, (_, i) => {
          const own = Math.min(most, width - i * most)
          return { buffer: add(4 * width * own), first: i * most, rows: own }
        })
        return { tap, width, blocks }
      })
  }
}

/** What takes writes and dispatches, and reads. */
interface Work {
  write(buffer: number, memory: Uint32Array<ArrayBuffer>): void
  add(dispatches: NativeDispatch[]): void
  read(...wants: [buffer: number, words: number][]): Promise<ArrayBuffer[]>
}

/** The measures of one pass. */
export class Meter {
  private readonly places = new Map<Groups, number>()
  private readonly byTap = new Map<string, Measure[]>()
  private readonly grams: ReadonlyMap<string, Meters['grams'][number]>
  private waiting: { measure: Measure; group: number; start: number; words: number }[] = []
  private used = 0

  constructor(
    private readonly work: Work,
    private readonly meters: Meters,
    { measures = [], grams = false }: { measures?: readonly Measure[] | undefined; grams?: boolean | undefined },
    rows: number,
  ) {
    for (const measure of measures) {
      const key = keyOf(measure.tap)
      this.byTap.set(key, [...(this.byTap.get(key) ?? []), measure])
    }
    this.grams = new Map(grams ? meters.grams.map((gram) => [keyOf(gram.tap), gram]) : [])
    const words: number[] = []
    const all = [Array.from({ length: rows }, (_, row) => row)]
    for (const groups of [...(this.grams.size > 0 ? [all] : []), ...measures.map((measure) => measure.groups)]) {
      if (this.places.has(groups)) continue
      this.places.set(groups, words.length)
      let end = 0
      for (const group of groups) {
        words.push(end)
        end += group.length
      }
      words.push(end)
      for (const group of groups) words.push(...Array.from(group))
    }
    this.all = all
    if (words.length > 0) work.write(meters.lists, Uint32Array.from(words))
  }

  private readonly all: Groups

  /** Whether something is measured there. */
  has(weight: string): boolean {
    return this.byTap.has(`input ${weight}`) || this.byTap.has(`output ${weight}`)
  }

  /** Measures x[rows, width] for what taps it. */
  async tap(tap: Tap, x: number, width: number): Promise<void> {
    const gram = this.grams.get(keyOf(tap))
    for (const { buffer: y, first, rows } of gram?.blocks ?? []) {
      const list = (this.places.get(this.all) ?? 0) + this.all.length + 1
      const picked = this.all[0]?.length ?? 0
      this.work.add([kernels.gram({ picks: this.meters.lists, x, y }, { width, first, rows, list, picked })])
    }
    for (const measure of this.byTap.get(keyOf(tap)) ?? []) {
      const { groups, tau = 0.1, limit = 3e38 } = measure
      const each = groupWords(width)
      const list = this.places.get(groups) ?? 0
      for (let first = 0; first < groups.length; ) {
        if (this.used + each > this.meters.sumWords) await this.flush()
        const count = Math.min(groups.length - first, Math.floor((this.meters.sumWords - this.used) / each))
        const at = { width, list, groups: groups.length, first, count, start: this.used, tau, limit }
        this.work.add([kernels.columns({ groups: this.meters.lists, x, y: this.meters.sums }, at)])
        for (let i = 0; i < count; i++) {
          this.waiting.push({ measure, group: first + i, start: this.used, words: each })
          this.used += each
        }
        first += count
      }
    }
  }

  /** Hands out what was measured so far. */
  async flush(): Promise<void> {
    if (this.used === 0) return
    const [bytes] = await this.work.read([this.meters.sums, this.used])
    const sums = new Float32Array(bytes ?? new ArrayBuffer(0))
    for (const { measure, group, start, words } of this.waiting) measure.add(group, sums.subarray(start, start + words))
    this.waiting = []
    this.used = 0
  }
}

function keyOf({ weight, side }: Tap): string {
  return `${side} ${weight}`
}
