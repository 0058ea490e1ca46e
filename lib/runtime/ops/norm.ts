/** RMSNorm and LayerNorm, of rows or of the heads in them. */

import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { addBias, biasGradient } from './bias.js'
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

/** The gradient y of what norm read, from g of what it made; leaves (mean, scale) of rows in `moments`. */
const normGradient = (
  weight: Block,
  { x, g, moments, y }: Record<'x' | 'g' | 'moments' | 'y', number>,
  at: { rows: number; eps: number; centered?: boolean; plus?: number; add: boolean },
): NativeDispatch => ({
  kernel: 'model/norm_gradient',
  constants: dtypeOf(weight),
  parameters: packParameters('model/norm_gradient', {
    rows: at.rows,
    width: weight.rows,
    eps: at.eps,
    plus: at.plus ?? 0,
    centered: at.centered === true ? 1 : 0,
    add: at.add ? 1 : 0,
  }),
  buffers: [weight.buffer, x, g, moments, y],
  grid: perRow(at.rows),
})

/** The gradient y[width] (+)= of a norm's weight, after `normGradient`. */
const normWeightGradient = (
  { moments, x, g, y }: Record<'moments' | 'x' | 'g' | 'y', number>,
  at: { rows: number; width: number; add: boolean },
): NativeDispatch => ({
  kernel: 'model/norm_weight_gradient',
  parameters: packParameters('model/norm_weight_gradient', { rows: at.rows, width: at.width, add: at.add ? 1 : 0 }),
  buffers: [moments, x, g, y],
  grid: [Math.ceil(at.width / 64), 1, 1],
})

export const op: Op<Spec> = {
  reads: ({ x }) => [x],
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
  keeps: ({ x }) => [x],
  backward(spec, context) {
    const { activation, blocks, gradient, into, moments, trained } = context
    const many = context.rows * (spec.heads ?? 1)
    const [weight] = blocks(spec.weight)
    const of = into(spec.x)
    const learned = trained(spec.weight)
    if (weight === undefined) return []
    const buffers = { x: activation(spec.x), g: gradient(spec.y), moments }
    return [
      ...biasGradient(spec, context),
      normGradient(weight, { ...buffers, y: of.buffer }, { ...spec, rows: many, add: of.add }),
      ...(learned?.blocks ?? []).map(({ buffer, rows: width }) =>
        normWeightGradient({ ...buffers, y: buffer }, { rows: many, width, add: learned?.add === true }),
      ),
    ]
  },
}

export const kernels = { norm: normRows, normGradient, normWeightGradient }
