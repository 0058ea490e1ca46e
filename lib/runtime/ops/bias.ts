/** A bias on every row, in place; part of `linear` and `norm`. */

import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { type Block, dtypeOf, perRow } from './dispatch.js'
import type { StackContext } from './op.js'

/** y += bias, in every row. */
const bias = (weight: Block, y: number, rows: number): NativeDispatch => ({
  kernel: 'model/bias',
  constants: dtypeOf(weight),
  parameters: packParameters('model/bias', { rows, width: weight.rows }),
  buffers: [weight.buffer, y],
  grid: perRow(rows),
})

/** Adds the bias of an op to its output, where it has one. */
export function addBias(
  { y, bias: tensor }: { y: string; bias?: string },
  { rows, activation, blocks }: StackContext,
): NativeDispatch[] {
  if (tensor === undefined) return []
  return blocks(tensor).map((block) => bias(block, activation(y), rows))
}

export const kernels = { bias }
