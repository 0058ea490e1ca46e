/**
 * The kernels of models, as functions that make dispatches: native/kernels/model/NAME.wgsl, whose head has the formula.
 * Those of ops are in the files of the ops; here are the others: weights on their way to the device, the cache, the end
 * of a pass, statistics, and pruning.
 */

import type { NativeDispatch } from '../native/border.js'
import { layout } from '../native/layouts.js'
import { packParameters, packRecord, recordWords, wordOf } from '../native/parameters.js'
import { type Block, dtypeOf, opKernels, packedBytes, packedWords, perRow, perVec4 } from './ops/index.js'

/** Tokens as kernels read them, `layout.tokenWords` words each; where there is no target, there is no loss. */
export function packTokens(
  tokens: readonly { id: number; start: number; row: number; target?: number | undefined }[],
): Uint32Array<ArrayBuffer> {
  const table = new Uint32Array(layout.tokenWords * tokens.length)
  for (const [i, { id, start, row, target = layout.noTarget }] of tokens.entries()) {
    const first = layout.tokenWords * i
    table[first + layout.tokenId] = id
    table[first + layout.tokenStart] = start
    table[first + layout.tokenRow] = row
    table[first + layout.tokenTarget] = target
  }
  return table
}

/** How an id is drawn from what a model says; `sample` and `sequence` tell those of one seed apart. */
export interface SamplingParams {
  /** What logits are divided by; 0: the likeliest id. */
  temperature: number
  /** Only so many of the likeliest; 0: all. */
  topK: number
  /** Only the likeliest whose probabilities together reach this. */
  topP: number
  seed: number
  sequence: number
  sample: number
  step: number
}

/** Words of the sampling parameters of a token. */
export const samplingWords = recordWords('Sampling')

/** Sampling parameters as the words that kernel `sample` reads; a token without any keeps its likeliest id. */
export function packSamplingParams(all: readonly (SamplingParams | undefined)[]): Uint32Array<ArrayBuffer> {
  const table = new Uint32Array(samplingWords * all.length)
  for (const [i, params] of all.entries()) {
    if (params === undefined) continue
    const { temperature, topK: top_k, topP: top_p, seed, sequence, sample, step } = params
    const [seed_low, seed_high] = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0]
    const words = packRecord('Sampling', { temperature, top_k, top_p, step, sample, sequence, seed_low, seed_high })
    table.set(words, samplingWords * i)
  }
  return table
}

/** Words that kernel `cross_entropy` leaves of a token. */
export const lossWords = recordWords('Loss')

/**
 * −log softmax at the target, in nats: float64 until it is rounded, because f32 has no digits to spare beside logits of
 * 20.
 */
export function lossesOf(words: Float32Array): Float32Array {
  const [sum, largest, own] = [wordOf('Loss', 'sum'), wordOf('Loss', 'largest'), wordOf('Loss', 'own')]
  return Float32Array.from({ length: words.length / lossWords }, (_, t) => {
    const at = (field: number) => words[lossWords * t + field] ?? 0
    return Math.log(at(sum)) + (at(largest) - at(own))
  })
}

/** Words that kernel `distillation_gradient` leaves of a token. */
export const taughtLossWords = recordWords('TaughtLoss')

/** Losses with a teacher, in nats. `shares`: of the target and of the teacher, a token. */
export function taughtLossesOf(words: Float32Array, shares: Float32Array, divergence: boolean): Float32Array {
  const fields = [wordOf('TaughtLoss', 'sum'), wordOf('TaughtLoss', 'teacher_sum'), wordOf('TaughtLoss', 'own')]
  return Float32Array.from({ length: words.length / taughtLossWords }, (_, t) => {
    const [sum = 1, teacherSum = 1, own = 0] = fields.map((field) => words[taughtLossWords * t + field] ?? 0)
    const [target = 0, teacher = 0] = shares.subarray(2 * t, 2 * t + 2)
    return (target + teacher) * Math.log(sum) - (divergence ? teacher * Math.log(teacherSum) : 0) - own
  })
}

/** What makes the dispatch of each kernel of a model, by its name. */
export const modelKernels = {
  ...opKernels,

  /** A tensor as in the checkpoint, [rows, columns], to what the others read. */
  packWeights: (source: number, to: Block): NativeDispatch => {
    const width = packedWords(to.rows, to.dtype)
    const vector = to.dtype === 'F32' ? 4 : 8
    const whole = to.columns % vector === 0
    return {
      kernel: 'model/pack_weights',
      constants: { ...dtypeOf(to), VECTORS: whole ? 1 : 0 },
      parameters: packParameters('model/pack_weights', { rows: to.rows, columns: to.columns, words: width }),
      buffers: [source, to.buffer],
      grid: [whole ? to.columns / vector : to.columns, Math.ceil(width / 64), 1],
    }
  },

  /** A packed tensor to what a checkpoint stores, [rows, columns]. */
  unpackWeights: (from: Block, to: number): NativeDispatch => {
    const { rows, columns } = from
    const words = from.dtype === 'F32' ? rows * columns : Math.ceil((rows * columns) / 2)
    return {
      kernel: 'model/unpack_weights',
      constants: dtypeOf(from),
      parameters: packParameters('model/unpack_weights', { rows, columns, words }),
      buffers: [from.buffer, to],
      grid: perRow(Math.ceil(words / 64)),
    }
  },

  /** A packed tensor in f32, from any type. */
  widenWeights: (from: Block, to: number): NativeDispatch => {
    const vec8s = packedBytes({ ...from, dtype: 'F32' }) / 32
    return {
      kernel: 'model/widen_weights',
      constants: dtypeOf(from),
      parameters: packParameters('model/widen_weights', { vec8s }),
      buffers: [from.buffer, to],
      grid: perRow(Math.ceil(vec8s / 64)),
    }
  },

  /** A packed tensor of a 16-bit type from the same in f32. */
  roundWeights: (from: number, to: Block): NativeDispatch => {
    const vec4s = packedBytes(to) / 16
    return {
      kernel: 'model/round_weights',
      constants: dtypeOf(to),
      parameters: packParameters('model/round_weights', { vec4s }),
      buffers: [from, to.buffer],
      grid: perRow(Math.ceil(vec4s / 64)),
    }
  },

  /**
   * Zeros in rows or columns of a tensor as in the checkpoint, [rows, columns]; `list`: a buffer with `count` of their
   * indices.
   */
  zeroRowsColumns: (
    { matrix, list }: { matrix: number; list: number },
    { rows, columns, dtype }: Pick<Block, 'rows' | 'columns' | 'dtype'>,
    { by, count }: { by: 'row' | 'column'; count: number },
  ): NativeDispatch => {
    const [lines, more] = perRow(count)
    return {
      kernel: 'model/zero_rows_columns',
      constants: dtypeOf({ dtype }),
      parameters: packParameters('model/zero_rows_columns', {
        rows,
        columns,
        count,
        by_column: by === 'column' ? 1 : 0,
      }),
      buffers: [list, matrix],
      grid: [Math.ceil((by === 'column' ? rows : columns) / 64), lines, more],
    }
  },

  /** y = row (id - first) of the features, for tokens whose id is not below `first`. */
  scatterImageFeatures: (
    { tokens, features, y }: { tokens: number; features: number; y: number },
    { rows, width, first }: { rows: number; width: number; first: number },
  ): NativeDispatch => ({
    kernel: 'model/scatter_image_features',
    parameters: packParameters('model/scatter_image_features', { rows, width, first }),
    buffers: [tokens, features, y],
    grid: perRow(rows),
  }),

  /** Rows of the cache to other rows of it: pairs of `from` and `to`. */
  kvCopy: (copies: number, cache: number, count: number, width: number): NativeDispatch => ({
    kernel: 'model/kv_copy',
    parameters: packParameters('model/kv_copy', { rows: count, width }),
    buffers: [copies, cache],
    grid: perRow(count),
  }),

  /** What losses of targets are made of (see `lossesOf`), and the largest logit, of tokens from `from` on. */
  crossEntropy: (
    { tokens, logits, losses, best }: { tokens: number; logits: number; losses: number; best: number },
    { rows, width, from }: { rows: number; width: number; from: number },
  ): NativeDispatch => ({
    kernel: 'model/cross_entropy',
    parameters: packParameters('model/cross_entropy', { rows, width, start: from }),
    buffers: [tokens, logits, losses, best],
    grid: perRow(rows),
  }),

  /** scale * the gradient of the losses of targets, in the place of logits, after `crossEntropy`. */
  crossEntropyGradient: (
    { tokens, losses, logits }: { tokens: number; losses: number; logits: number },
    { rows, width, from, scale }: { rows: number; width: number; from: number; scale: number },
  ): NativeDispatch => ({
    kernel: 'model/cross_entropy_gradient',
    parameters: packParameters('model/cross_entropy_gradient', { rows, width, start: from, scale }),
    buffers: [tokens, losses, logits],
    grid: perRow(rows),
  }),

  /**
   * What losses with a teacher are made of (see `taughtLossesOf`), and scale * their gradient in the place of logits.
   * `shares`: of the target and of the teacher, a row.
   */
  distillationGradient: (
    { tokens, shares, teacher, losses, logits }: Record<'tokens' | 'shares' | 'teacher' | 'losses' | 'logits', number>,
    at: Record<'rows' | 'width' | 'from' | 'scale', number> & { divergence: boolean },
  ): NativeDispatch => ({
    kernel: 'model/distillation_gradient',
    parameters: packParameters('model/distillation_gradient', {
      rows: at.rows,
      width: at.width,
      start: at.from,
      scale: at.scale,
      divergence: at.divergence ? 1 : 0,
    }),
    buffers: [tokens, shares, teacher, losses, logits],
    grid: perRow(at.rows),
  }),

  /** Rows of logits of which only some are known: y[t, ids[t, k]] = values[t, k]; the others have no probability. */
  expandTop: (
    { ids, values, y }: Record<'ids' | 'values' | 'y', number>,
    { rows, width, top }: Record<'rows' | 'width' | 'top', number>,
  ): NativeDispatch => ({
    kernel: 'model/expand_top',
    parameters: packParameters('model/expand_top', { rows, width, top }),
    buffers: [ids, values, y],
    grid: perRow(rows),
  }),

  /** y[i] = x[list[i]]. */
  gatherRows: (
    { list, x, y }: { list: number; x: number; y: number },
    { rows, width }: { rows: number; width: number },
  ): NativeDispatch => ({
    kernel: 'model/gather_rows',
    parameters: packParameters('model/gather_rows', { rows, width }),
    buffers: [list, x, y],
    grid: perRow(rows),
  }),

  /** y[list[i]] = x[i]. */
  scatterRows: (
    { list, x, y }: { list: number; x: number; y: number },
    { rows, width }: { rows: number; width: number },
  ): NativeDispatch => ({
    kernel: 'model/scatter_rows',
    parameters: packParameters('model/scatter_rows', { rows, width }),
    buffers: [list, x, y],
    grid: perRow(rows),
  }),

  /** y[start..] = sums of the squares of blocks of x, `blocksOfSquares` of them. */
  squares: (x: number, y: number, { elements, start }: { elements: number; start: number }): NativeDispatch => ({
    kernel: 'model/squares',
    parameters: packParameters('model/squares', { rows: Math.ceil(elements / layout.block), elements, start }),
    buffers: [x, y],
    grid: perRow(Math.ceil(elements / layout.block)),
  }),

  /** y[at] = the sum of x[first .. first + count]. */
  total: (x: number, y: number, at: { first: number; count: number; at: number }): NativeDispatch => ({
    kernel: 'model/total',
    parameters: packParameters('model/total', { rows: 1, ...at }),
    buffers: [x, y],
    grid: [1, 1, 1],
  }),

  /** x *= scale. */
  scale: (x: number, { elements, scale }: { elements: number; scale: number }): NativeDispatch => ({
    kernel: 'model/scale',
    parameters: packParameters('model/scale', { vec4s: Math.ceil(elements / 4), scale }),
    buffers: [x],
    grid: perVec4(elements),
  }),

  /** Gates y[experts] of the `top` experts, then 1 for each of them. */
  gates: (
    { logits, spread, noise, y }: Record<'logits' | 'spread' | 'noise' | 'y', number>,
    { experts, top }: { experts: number; top: number },
  ): NativeDispatch => ({
    kernel: 'model/gates',
    parameters: packParameters('model/gates', { experts, top }),
    buffers: [logits, spread, noise, y],
    grid: [1, 1, 1],
  }),

  /** Gradients y of logits and z of spreads, from that of gates, g. */
  gatesGradient: (
    { gates, spread, noise, g, y, z }: Record<'gates' | 'spread' | 'noise' | 'g' | 'y' | 'z', number>,
    { experts }: { experts: number },
  ): NativeDispatch => ({
    kernel: 'model/gates_gradient',
    parameters: packParameters('model/gates_gradient', { experts }),
    buffers: [gates, spread, noise, g, y, z],
    grid: [1, 1, 1],
  }),

  /** A step of AdamW on so many elements x, from `clip` times their gradient. `step` counts from 1. */
  adamw: (
    { gradient, m, v, x }: Record<'gradient' | 'm' | 'v' | 'x', number>,
    at: Record<'elements' | 'clip' | 'rate' | 'decay' | 'beta1' | 'beta2' | 'eps' | 'step', number>,
  ): NativeDispatch => ({
    kernel: 'model/adamw',
    parameters: packParameters('model/adamw', {
      vec4s: Math.ceil(at.elements / 4),
      clip: at.clip,
      rate: at.rate,
      kept: 1 - at.rate * at.decay,
      beta1: at.beta1,
      fresh1: 1 - at.beta1,
      correction1: 1 - at.beta1 ** at.step,
      beta2: at.beta2,
      fresh2: 1 - at.beta2,
      correction2: 1 - at.beta2 ** at.step,
      eps: at.eps,
    }),
    buffers: [gradient, m, v, x],
    grid: perVec4(at.elements),
  }),

  /** Ids drawn from logits, in the place of the largest, of tokens from `from` on. */
  sample: (
    { sampling, logits, best }: { sampling: number; logits: number; best: number },
    { rows, width, from }: { rows: number; width: number; from: number },
  ): NativeDispatch => ({
    kernel: 'model/sample',
    parameters: packParameters('model/sample', { rows, width, start: from }),
    buffers: [sampling, logits, best],
    grid: perRow(rows),
  }),

  /**
   * Prunes `count` columns of w[in, rows] from `first` on and makes up for them among each other; errors[count, rows].
   */
  sparsegptPrune: (
    { u, mask, w, errors }: Record<'u' | 'mask' | 'w' | 'errors', number>,
    at: Record<'rows' | 'inputs' | 'first' | 'count' | 'stay' | 'of', number>,
  ): NativeDispatch => ({
    kernel: 'model/sparsegpt_prune',
    parameters: packParameters('model/sparsegpt_prune', {
      rows: at.rows,
      inputs: at.inputs,
      first: at.first,
      count: at.count,
      stay: at.stay,
      of_: at.of,
    }),
    buffers: [u, mask, w, errors],
    grid: [Math.ceil(at.rows / 64), 1, 1],
  }),

  /** Makes up for them in the columns of w from `first` on. */
  sparsegptUpdate: (
    { u, errors, w }: Record<'u' | 'errors' | 'w', number>,
    at: Record<'rows' | 'inputs' | 'first' | 'count', number>,
  ): NativeDispatch => ({
    kernel: 'model/sparsegpt_update',
    parameters: packParameters('model/sparsegpt_update', {
      rows: at.rows,
      inputs: at.inputs,
      first: at.first,
      count: at.count,
    }),
    buffers: [u, errors, w],
    grid: [Math.ceil(at.rows / 64), Math.ceil((at.inputs - at.first) / 8), 1],
  }),

  /**
   * Statistics of the columns of x over `count` groups of its rows from `first` on: `layout.columnWords` rows a group,
   * in y from word `start` on. The groups are at word `list` of their buffer.
   */
  columnStats: (
    { groups, x, y }: { groups: number; x: number; y: number },
    at: Record<'width' | 'list' | 'groups' | 'first' | 'count' | 'start' | 'tau' | 'limit', number>,
  ): NativeDispatch => ({
    kernel: 'model/column_stats',
    parameters: packParameters('model/column_stats', {
      width: at.width,
      list: at.list,
      groups: at.groups,
      first: at.first,
      count: at.count,
      start: at.start,
      tau: at.tau,
      limit: at.limit,
    }),
    buffers: [groups, x, y],
    grid: [Math.ceil(at.width / 64), at.count, 1],
  }),

  /**
   * y[rows, width] += rows `first` to `first + rows` of xᵀx, over `picked` rows of x, which are listed from word `list`
   * on.
   */
  gram: (
    { picks, x, y }: { picks: number; x: number; y: number },
    { width, first, rows, list, picked }: Record<'width' | 'first' | 'rows' | 'list' | 'picked', number>,
  ): NativeDispatch => ({
    kernel: 'model/gram',
    parameters: packParameters('model/gram', { width, first, rows, list, picked }),
    buffers: [picks, x, y],
    grid: [Math.ceil(width / 64), Math.ceil(rows / 8), 1],
  }),

  /** y[rows, 3] = a·a, a·(b - a), (b - a)·(b - a) of every row. */
  residualDelta: ({ a, b, y }: { a: number; b: number; y: number }, rows: number, width: number): NativeDispatch => ({
    kernel: 'model/residual_delta',
    parameters: packParameters('model/residual_delta', { rows, width }),
    buffers: [a, b, y],
    grid: perRow(rows),
  }),

  /** y[inputs, 2] += sums of |W| and W² over the outputs of a block; or y[outputs, 2] over its inputs. */
  weightSums: (weight: Block, y: number, by: 'input' | 'output' = 'input'): NativeDispatch => ({
    kernel: 'model/weight_sums',
    constants: dtypeOf(weight),
    parameters: packParameters(
      'model/weight_sums',
      by === 'output'
        ? { rows: weight.rows, width: weight.columns, by_output: 1, first: weight.first }
        : { rows: weight.columns, width: weight.rows, by_output: 0, first: 0 },
    ),
    buffers: [weight.buffer, y],
    grid: perRow(by === 'output' ? weight.rows : weight.columns),
  }),
} as const
