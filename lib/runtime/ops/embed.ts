/** Rows of a table by the ids or positions of tokens: kernel `get_rows`. */

import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { type Block, dtypeOf, perRow } from './dispatch.js'
import type { Op } from './op.js'

/**
 * y = scale * the row of the table at the token's id, or at its position + `offset`; `add`: y += that. Ids that the
 * table does not have leave y as it is.
 */
export interface Spec {
  op: 'embed'
  y: string
  table: string
  by: 'id' | 'position'
  offset?: number
  scale?: number
  add?: boolean
}

/**
 * y[tokens, columns] = scale * rows of the table, by the tokens' ids, or by their positions and `offset`; `add`: y +=
 * them. One dispatch a block of it.
 */
const getRows = (
  table: Block,
  tokens: number,
  y: number,
  at: { rows: number; by: 'id' | 'position'; offset?: number; scale?: number; add?: boolean },
): NativeDispatch => ({
  kernel: 'model/get_rows',
  constants: dtypeOf(table),
  parameters: packParameters('model/get_rows', {
    rows: at.rows,
    width: table.columns,
    first: table.first,
    held: table.rows,
    by_position: at.by === 'id' ? 0 : 1,
    offset: at.offset ?? 0,
    scale: at.scale ?? 1,
    add: at.add === true ? 1 : 0,
  }),
  buffers: [table.buffer, tokens, y],
  grid: perRow(at.rows),
})

export const op: Op<Spec> = {
  writes: ({ y }) => y,
  forward: (spec, { rows, tokens, activation, blocks }) =>
    blocks(spec.table).map((block) => getRows(block, tokens, activation(spec.y), { rows, ...spec })),
}

export const kernels = { getRows }
