/**
 * What hook points measure: the input or the output of a linear, over groups of rows of a pass. The device leaves sums
 * of each group (kernel `column_stats`); here they are put together in float64, in the order of the passes.
 */

import { layout } from '../native/layouts.js'

/** A hook point: the input or the output of a linear, which is named by its weight. */
export interface HookPoint {
  weight: string
  side: 'input' | 'output'
}

/**
 * Rows of a pass that are measured together. Rows that are in no group are not measured; a group may be as long as the
 * pass, but sums of short ones (`chunks`) lose less.
 */
export type Groups = readonly ArrayLike<number>[]

export interface StatisticSpec {
  hook: HookPoint
  groups: Groups
  /** Values are counted whose size is above it. Defaults to 0.1. */
  tau?: number | undefined
  /** Values are held within ±limit. Defaults to 3e38: no limit. */
  limit?: number | undefined
  /** Is given `layout.columnWords` rows of the hook point's width for each group, in order. */
  add(group: number, words: Float32Array): void
}

/** Sums of so many f32 lose nothing that counts. */
const chunkRows = 128

/** Groups of a few rows each, for statistics over all of them. */
export function rowGroups(rows: ArrayLike<number>): Groups {
  const all = Uint32Array.from(rows)
  return Array.from({ length: Math.ceil(all.length / chunkRows) }, (_, i) =>
    all.subarray(i * chunkRows, (i + 1) * chunkRows),
  )
}

/** Statistics of columns over any number of groups. */
export class ColumnStatistics {
  readonly mean: Float64Array
  /** Sum of the squared distances from the mean. */
  readonly spread: Float64Array
  readonly absolute: Float64Array
  readonly squares: Float64Array
  /** Values above tau. */
  readonly above: Float64Array
  private readonly counts: Float64Array

  /** `make`: where the numbers are kept. */
  constructor(
    readonly width: number,
    make: (length: number) => Float64Array = (length) => new Float64Array(length),
  ) {
    this.mean = make(width)
    this.spread = make(width)
    this.absolute = make(width)
    this.squares = make(width)
    this.above = make(width)
    this.counts = make(1)
  }

  /** Rows seen. */
  get count(): number {
    return at(this.counts, 0)
  }

  /** Adds what the kernel has left for a group of `rows` rows. */
  add(words: Float32Array, rows: number): void {
    if (rows === 0) return
    const { width } = this
    const total = this.count + rows
    for (let i = 0; i < width; i++) {
      const { mean, spread } = groupMean(words, width, i, rows)
      const step = mean - at(this.mean, i)
      this.mean[i] = at(this.mean, i) + (step * rows) / total
      this.spread[i] = at(this.spread, i) + spread + (step * step * this.count * rows) / total
      this.absolute[i] = at(this.absolute, i) + at(words, layout.columnAbsolute * width + i)
      this.squares[i] = at(this.squares, i) + at(words, layout.columnSquares * width + i)
      this.above[i] = at(this.above, i) + at(words, layout.columnAbove * width + i)
    }
    this.counts[0] = total
  }
}

/** Mean of column `i` of a group, and the sum of the squared distances from it. */
export function groupMean(
  words: Float32Array,
  width: number,
  i: number,
  rows: number,
): { mean: number; spread: number } {
  const [shift, sum, spread] = [layout.columnShift, layout.columnSum, layout.columnSpread].map((row) =>
    at(words, row * width + i),
  ) as [number, number, number]
  const offset = sum / rows
  return { mean: shift + offset, spread: Math.max(0, spread - offset * offset * rows) }
}

/** Words of a group. */
export function groupWords(width: number): number {
  return layout.columnWords * width
}

function at(values: ArrayLike<number>, i: number): number {
  return values[i] ?? 0
}
