/** A vector on every row, in place: what units that a subnet lacks gave on average. */

import { addBias } from './bias.js'
import type { Op } from './op.js'

/** x += a vector, in every row; it is never trained. */
export interface Spec {
  op: 'offset'
  x: string
  by: string
}

export const op: Op<Spec> = {
  reads: ({ x }) => [x],
  writes: ({ x }) => x,
  forward: ({ x, by }, context) => addBias({ y: x, bias: by }, context),
  keeps: () => [],
  backward: () => [],
}

export const kernels = {}
