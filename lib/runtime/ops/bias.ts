/** A bias on every row, in place; part of `linear` and `norm`. */

import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { type Block, dtypeOf, perRow } from './dispatch.js'
import type { BackwardContext, StackContext } from './op.js'

/** y += bias, in every row. */
const bias = (weight: Block, y: number, rows: number): NativeDispatch => ({
  kernel: 'model/bias',
  constants: dtypeOf(weight),
  parameters: packParameters('model/bias', { rows, width: weight.rows }),
  buffers: [weight.buffer, y],
  grid: perRow(rows),
})

/** y[width] (+)= the sum of rows of g from column `first` on, of `stride`. */
const columnSums = (
  g: number,
  y: number,
  at: { rows: number; width: number; first: number; stride: number; add: boolean },
): NativeDispatch => ({
  kernel: 'model/column_sums',
  parameters: packParameters('model/column_sums', {
    rows: at.rows,
    width: at.width,
    first: at.first,
    stride: at.stride,
    add: at.add ? 1 : 0,
  }),
  buffers: [g, y],
  grid: [Math.ceil(at.width / 64), 1, 1],
})

/** Adds the bias of an op to its output, where it has one. */
export function addBias(
  { y, bias: tensor }: { y: string; bias?: string },
  { rows, activation, blocks }: StackContext,
): NativeDispatch[] {
  if (tensor === undefined) return []
  return blocks(tensor).map((block) => bias(block, activation(y), rows))
}

/** The gradient of the bias of an op, where it has one that is trained. */
export function biasGradient(
  { y, bias: tensor }: { y: string; bias?: string },
  { rows, gradient, trained }: BackwardContext,
): NativeDispatch[] {
  const of = tensor === undefined ? undefined : trained(tensor)
  if (of === undefined) return []
  const stride = of.blocks.reduce((sum, block) => sum + block.rows, 0)
  return of.blocks.map(({ buffer, rows: width, first }) =>
    columnSums(gradient(y), buffer, { rows, width, first, stride, add: of.add }),
  )
}

export const kernels = { bias, columnSums }
