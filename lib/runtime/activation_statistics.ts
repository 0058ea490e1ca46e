/** Statistics of hook points within a pass: kernels leave their sums in one buffer, which is read when it is full. */

import type { ModelSpec } from '../architectures/index.js'
import type { NativeDispatch } from '../native/border.js'
import { recordWords } from '../native/parameters.js'
import { modelKernels as kernels } from './kernels.js'
import { type Groups, groupWords, type HookPoint, rowGroups, type StatisticSpec } from './statistics.js'

/**
 * Words of sums that are read at a time: what a layer leaves, but not more than this, unless a single group has more.
 */
const mostWords = 2 ** 20
/** Inputs that a layer has, for which there is room. */
const usualHooks = 4
/** Lists of groups a pass may have. */
const mostLists = 8

/** Which buffers the device has beside the model, for what is observed of its passes. */
export interface CaptureOptions {
  /** Statistics of columns. */
  statistics: boolean
  /** How far blocks move the residual stream (kernel `residual_delta`). */
  residualDelta: boolean
  /** Sums of weights. */
  sums: boolean
  /** Gram matrices, by block of rows. */
  grams: readonly HookPoint[]
}

export const noCapture: CaptureOptions = { statistics: false, residualDelta: false, sums: false, grams: [] }

/** Device buffers for what is captured, of one partition. */
export class CaptureBuffers {
  readonly lists: number
  readonly listWords: number
  readonly sums: number
  readonly sumWords: number
  readonly before: number
  readonly residualDelta: number
  readonly weights: number
  readonly grams: { hook: HookPoint; width: number; blocks: { buffer: number; first: number; rows: number }[] }[]

  constructor(
    { tensors, language }: ModelSpec,
    capture: CaptureOptions,
    { rows, binding, held }: { rows: number; binding: number; held: ReadonlyMap<string, unknown> },
    add: (bytes: number) => number,
  ) {
    const widest = [...tensors.values()].reduce((most, shape) => Math.max(most, ...shape.slice(0, 2)), 0)
    const measured = capture.statistics || capture.grams.length > 0
    this.listWords = measured ? mostLists * (2 * rows + 1) : 0
    this.lists = measured ? add(4 * this.listWords) : -1
    const each = groupWords(widest)
    const usual = usualHooks * each * rowGroups({ length: rows }).length
    this.sumWords = capture.statistics ? Math.max(each, Math.min(mostWords, usual)) : 0
    this.sums = capture.statistics ? add(4 * this.sumWords) : -1
    this.before = capture.residualDelta ? add(4 * rows * (language.activations.x ?? 0)) : -1
    this.residualDelta = capture.residualDelta ? add(4 * recordWords('ResidualDelta') * rows) : -1
    this.weights = capture.sums ? add(4 * recordWords('WeightSums') * widest) : -1
    this.grams = capture.grams
      .filter(({ weight }) => held.has(weight))
      .map((hook) => {
        const width = tensors.get(hook.weight)?.[1] ?? 0
        const most = Math.max(1, Math.floor(binding / (4 * width)))
        const blocks = Array.from({ length: Math.ceil(width / most) }, (_, i) => {
          const own = Math.min(most, width - i * most)
          return { buffer: add(4 * width * own), first: i * most, rows: own }
        })
        return { hook, width, blocks }
      })
  }
}

/** What takes writes and dispatches, and reads. */
interface Work {
  write(buffer: number, memory: Uint32Array<ArrayBuffer>): void
  add(dispatches: NativeDispatch[]): void
  read(...wants: [buffer: number, words: number][]): Promise<ArrayBuffer[]>
}

/** The statistics of one pass. */
export class ActivationStatistics {
  private readonly places = new Map<Groups, number>()
  private readonly byHook = new Map<string, StatisticSpec[]>()
  private readonly grams: ReadonlyMap<string, CaptureBuffers['grams'][number]>
  private waiting: { spec: StatisticSpec; group: number; start: number; words: number }[] = []
  private used = 0

  constructor(
    private readonly work: Work,
    private readonly captured: CaptureBuffers,
    {
      statistics = [],
      grams = false,
    }: { statistics?: readonly StatisticSpec[] | undefined; grams?: boolean | undefined },
    rows: number,
  ) {
    for (const spec of statistics) {
      const key = keyOf(spec.hook)
      this.byHook.set(key, [...(this.byHook.get(key) ?? []), spec])
    }
    this.grams = new Map(grams ? captured.grams.map((gram) => [keyOf(gram.hook), gram]) : [])
    const words: number[] = []
    const all = [Array.from({ length: rows }, (_, row) => row)]
    for (const groups of [...(this.grams.size > 0 ? [all] : []), ...statistics.map((spec) => spec.groups)]) {
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
    if (words.length > 0) work.write(captured.lists, Uint32Array.from(words))
  }

  private readonly all: Groups

  /** Whether something is measured there. */
  has(weight: string): boolean {
    return this.byHook.has(`input ${weight}`) || this.byHook.has(`output ${weight}`)
  }

  /** Measures x[rows, width] for the statistics of a hook point. */
  async capture(hook: HookPoint, x: number, width: number): Promise<void> {
    const gram = this.grams.get(keyOf(hook))
    for (const { buffer: y, first, rows } of gram?.blocks ?? []) {
      const list = (this.places.get(this.all) ?? 0) + this.all.length + 1
      const picked = this.all[0]?.length ?? 0
      this.work.add([kernels.gram({ picks: this.captured.lists, x, y }, { width, first, rows, list, picked })])
    }
    for (const spec of this.byHook.get(keyOf(hook)) ?? []) {
      const { groups, tau = 0.1, limit = 3e38 } = spec
      const each = groupWords(width)
      const list = this.places.get(groups) ?? 0
      for (let first = 0; first < groups.length; ) {
        if (this.used + each > this.captured.sumWords) await this.flush()
        const count = Math.min(groups.length - first, Math.floor((this.captured.sumWords - this.used) / each))
        const at = { width, list, groups: groups.length, first, count, start: this.used, tau, limit }
        this.work.add([kernels.columnStats({ groups: this.captured.lists, x, y: this.captured.sums }, at)])
        for (let i = 0; i < count; i++) {
          this.waiting.push({ spec, group: first + i, start: this.used, words: each })
          this.used += each
        }
        first += count
      }
    }
  }

  /** Hands out what was measured so far. */
  async flush(): Promise<void> {
    if (this.used === 0) return
    const [bytes] = await this.work.read([this.captured.sums, this.used])
    const sums = new Float32Array(bytes ?? new ArrayBuffer(0))
    for (const { spec, group, start, words } of this.waiting) spec.add(group, sums.subarray(start, start + words))
    this.waiting = []
    this.used = 0
  }
}

function keyOf({ weight, side }: HookPoint): string {
  return `${side} ${weight}`
}
