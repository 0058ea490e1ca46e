/**
 * The four statistics of neurons over a stream: mean |z|, share of |z| above tau, standard deviation and root mean
 * square. Over all tokens at once (`stream`), or as the published code takes them (`batch`): at each position over the
 * lines of a batch, then the mean over batches and positions.
 */

import { layout } from '../../native/layouts.js'
import {
  type ColumnStatistics,
  type Groups,
  groupMean,
  type HookPoint,
  rowGroups,
  type StatisticSpec,
} from '../../runtime/index.js'

export const parts = ['abs', 'freq', 'var', 'rms'] as const
export type Part = (typeof parts)[number]
export type Statistics = Readonly<Record<Part, Float64Array>>

/** Values are held within it. */
export const limit = 1000

/** A line of a pass: its first row, and how many there are. */
export interface Rows {
  first: number
  length: number
}

/** Rows of a pass in the groups that are measured together; `size`: lines of a batch. */
export function groupsOf(lines: readonly Rows[], kind: 'stream' | 'batch', size: number): Groups {
  if (kind === 'stream') {
    return rowGroups(lines.flatMap(({ first, length }) => Array.from({ length }, (_, i) => first + i)))
  }
  const groups: number[][] = []
  for (let from = 0; from < lines.length; from += size) {
    const batch = lines.slice(from, from + size)
    const longest = Math.max(...batch.map(({ length }) => length))
    for (let position = 0; position < longest; position++) {
      groups.push(batch.filter(({ length }) => position < length).map(({ first }) => first + position))
    }
  }
  return groups
}

export interface Collector {
  measure(hook: HookPoint, groups: Groups, tau: number): StatisticSpec
  /** Rounded to float32, as score files keep them; undefined before anything was measured. */
  result(): Statistics | undefined
}

/** Over all tokens; float64, in one pass. */
export function overStream(statistics: ColumnStatistics): Collector {
  return {
    measure: (hook, groups, tau) => ({
      ...{ hook, groups, tau, limit },
      add: (group, words) => statistics.add(words, groups[group]?.length ?? 0),
    }),
    result: () => {
      const { count, absolute, above, spread, squares } = statistics
      if (count === 0) return undefined
      return {
        abs: absolute.map((sum) => Math.fround(sum / count)),
        freq: above.map((sum) => Math.fround(sum / count)),
        var: spread.map((sum) => Math.fround(Math.sqrt(sum / Math.max(1, count - 1)))),
        rms: squares.map((sum) => Math.fround(Math.sqrt(sum / count))),
      }
    },
  }
}

/** A group is a position of a batch; statistics of groups are averaged. */
export function overBatches(width: number): Collector {
  const sums: Record<Part, Float64Array> = {
    abs: new Float64Array(width),
    freq: new Float64Array(width),
    var: new Float64Array(width),
    rms: new Float64Array(width),
  }
  let count = 0
  const at = (values: ArrayLike<number>, i: number) => values[i] ?? 0
  return {
    measure: (hook, groups, tau) => ({
      ...{ hook, groups, tau, limit },
      add: (group, words) => {
        const rows = groups[group]?.length ?? 0
        count++
        for (let i = 0; i < width; i++) {
          sums.abs[i] = at(sums.abs, i) + at(words, layout.columnAbsolute * width + i) / rows
          sums.freq[i] = at(sums.freq, i) + at(words, layout.columnAbove * width + i) / rows
          sums.rms[i] = at(sums.rms, i) + Math.sqrt(at(words, layout.columnSquares * width + i) / rows)
          // One line alone does not vary.
          if (rows < 2) continue
          sums.var[i] = at(sums.var, i) + Math.sqrt(groupMean(words, width, i, rows).spread / (rows - 1))
        }
      },
    }),
    result: () => {
      if (count === 0) return undefined
      const mean = (part: Part) => sums[part].map((sum) => Math.fround(sum / count))
      return { abs: mean('abs'), freq: mean('freq'), var: mean('var'), rms: mean('rms') }
    },
  }
}
