/**
 * Depth shrinking of AmoebaLLM (arXiv 2411.10606): which blocks stay, for every number of them that goes, by dynamic
 * programming over whole blocks. d[n][m] is the best metric that was found with n blocks decided about and m of them
 * removed, s[n][m] its mask; blocks that are not decided about stay. It is a heuristic: what is best for n - 1 blocks
 * need not be a part of what is best for n, and masks of different m need not be nested.
 */

import type { DepthMetric, DepthOrder, DepthTable } from '../../subnets/index.js'

export interface DepthSearch {
  /** Blocks of the model; the last `keepLast` always stay. */
  layers: number
  keepLast: number
  /** Most blocks that are removed. */
  most: number
  /** Which blocks are decided about first; the published code begins with the deepest. */
  order: DepthOrder
  metric: DepthMetric
}

/** A mask that is tried; of one row of the table, cells do not depend on each other. */
export interface Cell {
  n: number
  m: number
  /** By block: true = stays. */
  mask: boolean[]
}

/** What is known for a cell: nothing where every mask so far had a metric of NaN. */
interface Best {
  value: number
  mask: boolean[] | undefined
}

/**
 * Fills the table; `dense` is the metric of the whole model, `measure` gives those of the masks of a row. Of equal
 * metrics the mask that keeps the block goes first.
 */
export async function searchDepths(
  { layers, keepLast, most, order, metric }: DepthSearch,
  dense: number,
  measure: (cells: readonly Cell[]) => Promise<number[]>,
): Promise<DepthTable> {
  const decided = layers - keepLast
  const all = Array.from({ length: layers }, () => true)
  const whole: Best = { value: dense, mask: all }
  const table = [[whole]]
  const tried = [[Number.NaN]]
  for (let n = 1; n <= decided; n++) {
    const block = order === 'deepest' ? decided - n : n - 1
    const before = table[n - 1] ?? []
    const cells = before.slice(0, most).flatMap(({ mask }, m): Cell[] => {
      return mask === undefined ? [] : [{ n, m: m + 1, mask: mask.with(block, false) }]
    })
    const values = await measure(cells)
    const [row, triedRow] = [[whole], [Number.NaN]]
    for (let m = 1; m <= Math.min(n, most); m++) {
      const kept = before[m] ?? { value: Number.NaN, mask: undefined }
      const i = cells.findIndex((cell) => cell.m === m)
      const removed = { value: values[i] ?? Number.NaN, mask: cells[i]?.mask }
      row.push(isBetter(metric, removed.value, kept.value) ? removed : kept)
      triedRow.push(removed.value)
    }
    table.push(row)
    tried.push(triedRow)
  }
  const none = all.map(() => false)
  return {
    values: table.map((row) => row.map(({ value }) => value)),
    masks: table.map((row) => row.map(({ mask }) => mask ?? none)),
    tried,
  }
}

/** Any number is better than NaN, and NaN is no better than any. */
function isBetter(metric: DepthMetric, value: number, than: number): boolean {
  if (Number.isNaN(than)) return !Number.isNaN(value)
  return metric === 'nll' ? value < than : value > than
}

/**
 * Masks that are tried, and blocks that they and the whole model are run through, where each begins with its first
 * removed block: if the deepest are decided about first exactly as many, else at most.
 */
export function costOf({ layers, keepLast, most, order }: DepthSearch): { cells: number; blockPasses: number } {
  let [cells, blockPasses] = [0, layers]
  for (let n = 1; n <= layers - keepLast; n++) {
    for (let m = 1; m <= Math.min(n, most); m++) {
      cells++
      blockPasses += (order === 'deepest' ? n + keepLast : layers) - m
    }
  }
  return { cells, blockPasses }
}
