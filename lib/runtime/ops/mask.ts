/** Columns that count or are zeros, in place: the units that a subnet has. */

import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { type Block, perRow } from './dispatch.js'
import type { Op } from './op.js'

/** x *= a vector, in every row; it is never trained. */
export interface Spec {
  op: 'mask'
  x: string
  by: string
}

/** x *= a vector [width], in every row. */
const masked = (by: Pick<Block, 'buffer' | 'rows'>, x: number, rows: number): NativeDispatch => ({
  kernel: 'model/mask',
  parameters: packParameters('model/mask', { rows, width: by.rows }),
  buffers: [by.buffer, x],
  grid: perRow(rows),
})

export const op: Op<Spec> = {
  reads: ({ x }) => [x],
  writes: ({ x }) => x,
  forward: ({ x, by }, { rows, activation, blocks }) => blocks(by).map((block) => masked(block, activation(x), rows)),
  keeps: () => [],
  backward: ({ x, by }, { rows, gradient, blocks }) => blocks(by).map((block) => masked(block, gradient(x), rows)),
}

export const kernels = { mask: masked }
