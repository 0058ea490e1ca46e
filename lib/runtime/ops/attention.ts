/**
 * Grouped attention over the keys and values that a layer has cached, with its rotation and its entries in the cache.
 */

import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { WeightsmithError } from '../../util/errors.js'
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
 * many rows, where it is not 0. Leaves the log-sum-exp of every head in `statistics`, where that is a buffer.
 */
const attend = (
  {
    tokens,
    q,
    keys,
    values,
    y,
    statistics,
  }: Record<'tokens' | 'q' | 'keys' | 'values' | 'y', number> & {
    statistics?: number | undefined
  },
  at: Record<'rows' | 'heads' | 'numKvHeads' | 'size' | 'scale' | 'window' | 'sequenceLength', number> & {
    forms?: Forms
  },
): NativeDispatch => {
  const { lanes } = at.forms ?? plainForms
  const kept = statistics === undefined ? '' : '_lse'
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
    buffers: [tokens, q, keys, values, y, ...(statistics === undefined ? [] : [statistics])],
  }
  if (lanes === 0 || at.size % 4 !== 0 || at.size > 32 * lanes) {
    return { kernel: `model/attention${kept}`, ...common, grid: perRow(at.rows, at.heads) }
  }
  const parts = Math.ceil(at.size / 4 / lanes)
  // As many queries as registers hold elements of.
  const most = Math.min(8, 2 ** Math.floor(Math.log2(16 / parts)))
  const across = [8, 4, 2].find((count) => count <= most && (at.heads / at.numKvHeads) % count === 0) ?? 1
  // A few tokens are the next ones of as many sequences; more are sequences, whose neighbours see the same keys.
  const tile = at.rows <= 32 ? across : most
  return {
    kernel: `model/attention_subgroup${kept}`,
    constants: { SUBGROUP: lanes, PARTS: parts, TILE: tile, ACROSS: across },
    ...common,
    grid: perRow(Math.ceil(at.rows / (tile / across)), at.heads / across),
  }
}

/** The dot products of the heads of y and of its gradient, for the two that follow. */
const attentionDelta = (
  { y, g, statistics }: Record<'y' | 'g' | 'statistics', number>,
  at: Record<'rows' | 'heads' | 'size', number>,
): NativeDispatch => ({
  kernel: 'model/attention_delta',
  parameters: packParameters('model/attention_delta', { rows: at.rows, heads: at.heads, size: at.size }),
  buffers: [y, g, statistics],
  grid: perRow(at.rows),
})

/** The shape of attention whose gradient is taken: tokens in the order of their sequences, row by row. */
type Causal = Record<'rows' | 'heads' | 'numKvHeads' | 'size' | 'scale' | 'window', number> & { forms?: Forms }

const subgroupForm = ({ size, forms: { lanes } = plainForms }: Causal) => lanes > 0 && lanes <= 64 && size % 4 === 0

function gradientOf(kernel: 'attention_queries' | 'attention_keys', at: Causal, buffers: number[]): NativeDispatch {
  const { rows, heads, numKvHeads, size, scale, window, forms = plainForms } = at
  const across = kernel === 'attention_queries' ? heads : numKvHeads
  const parameters = packParameters(`model/${kernel}`, { tokens: rows, heads, groups: numKvHeads, size, scale, window })
  if (!subgroupForm(at)) return { kernel: `model/${kernel}`, parameters, buffers, grid: perRow(rows, across) }
  return {
    kernel: `model/${kernel}_subgroup`,
    constants: { SUBGROUP: forms.lanes, VEC4S: size / 4 },
    parameters,
    buffers,
    grid: perRow(Math.ceil(rows / forms.lanes), across),
  }
}

/** The gradient y of q, from that of what attention made, g. */
const attentionQueries = (
  of: Record<'tokens' | 'q' | 'keys' | 'values' | 'g' | 'statistics' | 'y', number>,
  at: Causal,
): NativeDispatch =>
  gradientOf('attention_queries', at, [of.tokens, of.q, of.keys, of.values, of.g, of.statistics, of.y])

/** The gradients y and z of k and v. */
const attentionKeys = (
  of: Record<'tokens' | 'q' | 'keys' | 'values' | 'g' | 'statistics' | 'y' | 'z', number>,
  at: Causal,
): NativeDispatch =>
  gradientOf('attention_keys', at, [of.tokens, of.q, of.keys, of.values, of.g, of.statistics, of.y, of.z])

export const op: Op<Spec> = {
  reads: ({ q, k, v }) => [q, k, v],
  writes: ({ y }) => y,
  forward(spec, { rows, attention: stack, forms, tokens, angles, cache, activation, statistics }) {
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
        { tokens, q, ...cache, y, statistics },
        { rows, heads, numKvHeads, size, scale: size ** -0.5, window, sequenceLength, forms },
      ),
    ]
  },
  // Keys and values are in the cache, where the layer has just put them.
  keeps: ({ q, y }) => [q, y],
  backward(spec, { rows, attention: stack, forms, tokens, angles, cache, activation, gradient, into, statistics }) {
    const { headSize: size, sequenceLength } = stack
    const { heads = stack.heads, numKvHeads = stack.numKvHeads, window } = spec
    const [q, k, v] = [into(spec.q), into(spec.k), into(spec.v)]
    if (sequenceLength > 0 || q.add || k.add || v.add) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_INTERNAL',
        'Only causal attention that alone reads q, k and v has a gradient.',
      )
    }
    const g = gradient(spec.y)
    const at = { rows, heads, numKvHeads, size, scale: size ** -0.5, window, forms }
    const of = { tokens, q: activation(spec.q), ...cache, g, statistics }
    const turnedBack = (x: number, count: number) =>
      angles === undefined ? [] : [rope({ angles, tokens, x }, { rows, heads: count, size, back: true })]
    return [
      attentionDelta({ y: activation(spec.y), g, statistics }, at),
      attentionQueries({ ...of, y: q.buffer }, at),
      attentionKeys({ ...of, y: k.buffer, z: v.buffer }, at),
      ...turnedBack(q.buffer, heads),
      ...turnedBack(k.buffer, numKvHeads),
    ]
  },
}

export const kernels = { attention: attend, kvStore, attentionDelta, attentionQueries, attentionKeys }
