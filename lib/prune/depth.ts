/** Which blocks go. */

import { WeightsmithError } from '../util/errors.js'

/**
 * The `count` blocks of least score, of equal ones the first. Throws ERR_WEIGHTSMITH_ARGUMENT where none would be left.
 */
export function leastBlocks(scores: ArrayLike<number>, count: number): number[] {
  checkCount(count, scores.length)
  const order = Array.from({ length: scores.length }, (_, layer) => layer)
  order.sort((a, b) => (scores[a] ?? 0) - (scores[b] ?? 0) || a - b)
  return order.slice(0, count).sort((a, b) => a - b)
}

/** The `count` blocks in a row that turn the residual stream least: `distances[l]` is that of l to l + count. */
export function leastRun(distances: ArrayLike<number>, count: number, layers: number): number[] {
  checkCount(count, layers)
  let first = 0
  for (let layer = 1; layer < distances.length; layer++) {
    if ((distances[layer] ?? 0) < (distances[first] ?? 0)) first = layer
  }
  return Array.from({ length: count }, (_, i) => first + i)
}

export function checkCount(count: number, layers: number): void {
  if (Number.isInteger(count) && count >= 1 && count < layers) return
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_ARGUMENT',
    `Of ${layers} blocks 1 to ${layers - 1} can be removed, but ${count} are to go.`,
  )
}
