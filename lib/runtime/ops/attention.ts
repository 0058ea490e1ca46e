/**
 * Grouped attention over the keys and values that a layer has cached, with its rotation and its entries in the cache.
 */

import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { type Forms, perRow, plainForms } from './dispatch.js'
import type { Op } from './op.js'
import { rope } from './rope.js'

/**
 * Rotates q and k where the stack has angles, appends k and v to the cache of this layer, and attends. `window`: keys a
 * token sees, its own among them; 0: all before it. `heads` and `numKvHeads`: where the layer has others than the
 * stack.
 */
export interface Spec {
  op: 'attention'
  q: string
  k: string
  v: string
  y: string
  window: number
  heads?: number
  numKvHeads?: number
}

/** Rows of x to their rows in the cache. */
const kvStore = (tokens: number, x: number, cache: number, rows: number, width: number): NativeDispatch => ({
  kernel: 'model/kv_store',
  parameters: packParameters('model/kv_store', { rows, width }),
  buffers: [tokens, x, cache],
  grid: perRow(rows),
})

/**
 * y[tokens, heads * size] from q and the cache; `window` 0: all keys up to the token's own; `sequenceLength`: all of so
 * many rows, where it is not 0.
 */
const attend = (
  { tokens, q, keys, values, y }: { tokens: number; q: number; keys: number; values: number; y: number },
  at: Record<'rows' | 'heads' | 'numKvHeads' | 'size' | 'scale' | 'window' | 'sequenceLength', number> & {
    forms?: Forms
  },
): NativeDispatch => {
  const { lanes } = at.forms ?? plainForms
  const common = {
    parameters: packParameters('model/attention', {
      tokens: at.rows,
      heads: at.heads,
      groups: at.numKvHeads,
      size: at.size,
      scale: at.scale,
      window: at.window,
      both: at.sequenceLength,
    }),
    buffers: [tokens, q, keys, values, y],
  }
  if (lanes === 0 || at.size % 4 !== 0 || at.size > 32 * lanes) {
    return { kernel: 'model/attention', ...common, grid: perRow(at.rows, at.heads) }
  }
  const parts = Math.ceil(at.size / 4 / lanes)
  // As many queries as registers hold elements of.
  const most = Math.min(8, 2 ** Math.floor(Math.log2(16 / parts)))
  const across = [8, 4, 2].find((count) => count <= most && (at.heads / at.numKvHeads) % count === 0) ?? 1
  // A few tokens are the next ones of as many sequences; more are sequences, whose neighbours see the same keys.
  const tile = at.rows <= 32 ? across : most
  return {
    kernel: 'model/attention_subgroup',
    constants: { SUBGROUP: lanes, PARTS: parts, TILE: tile, ACROSS: across },
    ...common,
    grid: perRow(Math.ceil(at.rows / (tile / across)), at.heads / across),
  }
}

export const op: Op<Spec> = {
  writes: ({ y }) => y,
  forward(spec, { rows, attention: stack, forms, tokens, angles, cache, activation }) {
    const { headSize: size, sequenceLength } = stack
    const { heads = stack.heads, numKvHeads = stack.numKvHeads, window } = spec
    const [q, k, v, y] = [activation(spec.q), activation(spec.k), activation(spec.v), activation(spec.y)]
    const rotated = (x: number, count: number) =>
      angles === undefined ? [] : [rope({ angles, tokens, x }, { rows, heads: count, size })]
    return [
      ...rotated(q, heads),
      ...rotated(k, numKvHeads),
      kvStore(tokens, k, cache.keys, rows, numKvHeads * size),
      kvStore(tokens, v, cache.values, rows, numKvHeads * size),
      attend(
        { tokens, q, ...cache, y },
        { rows, heads, numKvHeads, size, scale: size ** -0.5, window, sequenceLength, forms },
      ),
    ]
  },
}

export const kernels = { attention: attend, kvStore }
