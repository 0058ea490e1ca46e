/** Rows of a table by the ids or positions of tokens: kernel `get_rows`. */

import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { type Block, dtypeOf, packedBytes, perRow, perVec4 } from './dispatch.js'
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

/** y += scale * the sums of rows of g that have an id (+ `offset`) of the table; `buckets` are `count` of them. */
const embedGradient = (
  table: Block,
  { buckets, g, y }: Record<'buckets' | 'g' | 'y', number>,
  { count, offset = 0, scale = 1 }: { count: number; offset?: number; scale?: number },
): NativeDispatch => ({
  kernel: 'model/embed_gradient',
  parameters: packParameters('model/embed_gradient', {
    rows: count,
    width: table.columns,
    first: table.first,
    held: table.rows,
    offset,
    scale,
  }),
  buffers: [buckets, g, y],
  grid: perRow(count),
})

/** x = 0, so many elements. */
const zero = (x: number, elements: number): NativeDispatch => ({
  kernel: 'model/zero',
  parameters: packParameters('model/zero', { vec4s: Math.ceil(elements / 4) }),
  buffers: [x],
  grid: perVec4(elements),
})

export const op: Op<Spec> = {
  reads: ({ y, add }) => (add === true ? [y] : []),
  writes: ({ y }) => y,
  forward: (spec, { rows, tokens, activation, blocks }) =>
    blocks(spec.table).map((block) => getRows(block, tokens, activation(spec.y), { rows, ...spec })),
  keeps: () => [],
  backward(spec, { gradient, trained, buckets }) {
    const of = trained(spec.table)
    if (of === undefined) return []
    const { buffer, count } = buckets(spec.by)
    return of.blocks.flatMap((block) => [
      ...(of.add ? [] : [zero(block.buffer, packedBytes(block) / 4)]),
      embedGradient(block, { buckets: buffer, g: gradient(spec.y), y: block.buffer }, { ...spec, count }),
    ])
  },
}

export const kernels = { getRows, embedGradient, zero }
