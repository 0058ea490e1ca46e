/** RMSNorm and LayerNorm, of rows or of the heads in them. */

import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { addBias } from './bias.js'
import { type Block, dtypeOf, perRow } from './dispatch.js'
import type { Op } from './op.js'

/**
 * y = (x - m) / sqrt(mean((x - m)^2) + eps) * (weight + plus) + bias; m is the mean of x where the op is `centered`
 * (LayerNorm), else 0 (RMSNorm). `heads`: a row of x is so many, each normalised on its own.
 */
export interface Spec {
  op: 'norm'
  x: string
  y: string
  weight: string
  bias?: string
  eps: number
  centered?: boolean
  plus?: number
  heads?: number
}

/** y = RMSNorm(x), or LayerNorm(x) where it is `centered`, times weight + plus; rows of the weight's width. */
const normRows = (
  weight: Block,
  x: number,
  y: number,
  at: { rows: number; eps: number; centered?: boolean; plus?: number },
): NativeDispatch => ({
  kernel: 'model/norm',
  constants: dtypeOf(weight),
  parameters: packParameters('model/norm', {
    rows: at.rows,
    width: weight.rows,
    eps: at.eps,
    plus: at.plus ?? 0,
    centered: at.centered === true ? 1 : 0,
  }),
  buffers: [weight.buffer, x, y],
  grid: perRow(at.rows),
})

export const op: Op<Spec> = {
  writes: ({ y }) => y,
  forward(spec, context) {
    const { rows, activation, blocks } = context
    const many = rows * (spec.heads ?? 1)
    return [
      ...blocks(spec.weight).map((block) =>
        normRows(block, activation(spec.x), activation(spec.y), { rows: many, ...spec }),
      ),
      ...addBias(spec, context),
    ]
  },
}

export const kernels = { norm: normRows }
