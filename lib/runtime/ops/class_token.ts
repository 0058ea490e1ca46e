/** A class token takes the place of the first of every sequence. */

import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { type Block, dtypeOf, perRow } from './dispatch.js'
import type { Op } from './op.js'

/** The first token of every sequence: y = weight. */
export interface Spec {
  op: 'class_token'
  y: string
  weight: string
}

/** y = weight, for tokens that are the first of their sequence. */
const firstTokens = (weight: Block, tokens: number, y: number, rows: number): NativeDispatch => ({
  kernel: 'model/class_token',
  constants: dtypeOf(weight),
  parameters: packParameters('model/class_token', { rows, width: weight.rows }),
  buffers: [weight.buffer, tokens, y],
  grid: perRow(rows),
})

export const op: Op<Spec> = {
  reads: ({ y }) => [y],
  writes: ({ y }) => y,
  forward: (spec, { rows, tokens, activation, blocks }) =>
    blocks(spec.weight).map((block) => firstTokens(block, tokens, activation(spec.y), rows)),
  keeps: () => [],
  // Only vision encoders have one, and they are not trained.
  backward: () => [],
}

export const kernels = { classToken: firstTokens }
