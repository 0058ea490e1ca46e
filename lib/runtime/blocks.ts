/** How tensors lie in buffers: in blocks of whole panels of rows. */

import type { StoreDType } from '../native/border.js'
import { type Block, panel } from './ops/index.js'

/** A block of a tensor is read from the file in one piece of at most so many bytes, through one staging buffer. */
export const stagingBytes = 32 * 2 ** 20

export function bytesOf(dtype: StoreDType): number {
  return dtype === 'F32' ? 4 : 2
}

/** A tensor in blocks of rows that fit the limit, whole panels each. */
export function blocksOf(rows: number, columns: number, dtype: StoreDType, limit: number): Omit<Block, 'buffer'>[] {
  const most = Math.max(panel, Math.floor(limit / (columns * bytesOf(dtype)) / panel) * panel)
  return Array.from({ length: Math.ceil(rows / most) }, (_, i) => ({
    dtype,
    first: i * most,
    rows: Math.min(most, rows - i * most),
    columns,
  }))
}

/** The transpose of values [rows, columns]. */
export function transposed(values: Float32Array, rows: number, columns: number): Float32Array<ArrayBuffer> {
  return Float32Array.from(values, (_, i) => values[(i % rows) * columns + Math.floor(i / rows)] ?? 0)
}
