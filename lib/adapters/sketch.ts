/**
 * The random signs that a matrix is multiplied by to find what it reaches. They come from the generator of merges
 * (Philox4x32-10), keyed by the seed and the name of the tensor, and are drawn on the CPU: the same on every device.
 */

import { stream } from '../util/philox.js'

/** Signs [rows, width] as ±1; of a bit each, from the lowest bit of a word up. */
export function signs(rows: number, width: number, name: string, seed: number): Float32Array<ArrayBuffer> {
  const wordAt = stream(name, seed)
  const result = new Float32Array(rows * width)
  let word = 0
  for (let i = 0; i < result.length; i++) {
    if ((i & 31) === 0) word = wordAt(i >>> 5)
    result[i] = (word >>> (i & 31)) & 1 ? 1 : -1
  }
  return result
}
