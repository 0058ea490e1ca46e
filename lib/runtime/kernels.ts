/**
 * The kernels of forward passes, as functions that make dispatches: native/kernels/model/NAME.wgsl, whose head has the
 * formula, plus one entry here. Activations are f32 rows; weights are packed (`packWeights`); buffers go by index.
 */

import type { Activation } from '../architectures/index.js'
import type { NativeDeviceInfo, NativeDispatch, StoreDType } from '../native/border.js'

/** A tensor on the device: `rows` of the checkpoint's [rows, columns] from `first` on, packed. */
export interface Block {
  buffer: number
  dtype: StoreDType
  first: number
  rows: number
  columns: number
}

/** What a token is, as words of the buffer of tokens: its id, the first row of its sequence in the cache, its own row there, and the id to be predicted. */
export const tokenWords = 4
export const noTarget = 0xffffffff

/** Words that kernel `column_stats` leaves for a column of a group: shift, sum, spread, |x|, x², above. */
export const columnWords = 6

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
export const samplingWords = 8

/** In the words of the kernels. */
const codes = { F32: 0, F16: 1, BF16: 2 } as const
const kinds: Record<Activation, number> = { silu: 0, gelu: 1, gelu_tanh: 2, quick_gelu: 3, relu: 4 }
const octet = 8
/** Columns of packed tensors that lie together. */
export const panel = 64

/** Words of a row of a packed tensor: its columns are the rows of the checkpoint, padded to whole panels. */
export function packedWords(rows: number, dtype: StoreDType): number {
  return (Math.ceil(rows / panel) * panel) / (dtype === 'F32' ? 1 : 2)
}

export function packedBytes({ rows, columns, dtype }: Pick<Block, 'rows' | 'columns' | 'dtype'>): number {
  return 4 * columns * packedWords(rows, dtype)
}

const words = new DataView(new ArrayBuffer(4))

/** The bits of an f32. */
function bits(value: number): number {
  words.setFloat32(0, value)
  return words.getUint32(0)
}

/** The forms in which a device runs the kernels that have several. */
export interface Forms {
  /** Invocations of a subgroup, whose neighbours read for each other; 0: the kernels that run anywhere. */
  lanes: number
  /** f16 weights are read by the device's own f16. */
  f16: boolean
  /** Side of the matrices of f16 weights that a subgroup multiplies at once; 0: none. */
  matrix: number
}

export const plainForms: Forms = { lanes: 0, f16: false, matrix: 0 }

/** Matrices of this side have run on a driver. Those of 16 are tested wherever they are offered, and chosen once one passes. */
const provenSide = 8

/** Those that are fastest on a device, of the ones that it offers: on a CPU matrices of a subgroup take ten times as long. */
export function formsOf(device: NativeDeviceInfo): Forms {
  const { features, limits, type } = device
  const lanes = features.includes('subgroups') ? (limits.subgroupMinSize ?? 0) : 0
  if (lanes < 4) return plainForms
  const side = type === 'cpu' ? 0 : matrixSide(device)
  return { lanes, f16: features.includes('shader-f16'), matrix: side === provenSide ? side : 0 }
}

/** Side of the matrices that kernel gemm_matrix can take on a device; 0: none. */
export function matrixSide({ features, limits }: NativeDeviceInfo): number {
  const { subgroupMinSize = 0, subgroupMaxSize = 0, subgroupMatrixSide: side = 0 } = limits
  const fits = features.includes('shader-f16') && subgroupMinSize === subgroupMaxSize
  return fits && (side === 8 || side === 16) ? side : 0
}

/** Sampling parameters as the words that kernel `sample` reads; a token without any keeps its likeliest id. */
export function packSamplingParams(all: readonly (SamplingParams | undefined)[]): Uint32Array<ArrayBuffer> {
  const table = new Uint32Array(samplingWords * all.length)
  for (const [i, params] of all.entries()) {
    if (params === undefined) continue
    const { temperature, topK, topP, seed, sequence, sample, step } = params
    const key = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0]
    table.set([bits(temperature), topK, bits(topP), step, sample, sequence, ...key], samplingWords * i)
  }
  return table
}

/** Words that kernel `cross_entropy` leaves of a token: the sum of exp(logit - largest), the largest logit, and the target's. */
export const lossWords = 3

/** −log softmax at the target, in nats: float64 until it is rounded, because f32 has no digits to spare beside logits of 20. */
export function lossesOf(words: Float32Array): Float32Array {
  return Float32Array.from({ length: words.length / lossWords }, (_, t) => {
    const [sum = 1, largest = 0, target = 0] = words.subarray(lossWords * t, lossWords * (t + 1))
    return Math.log(sum) + (largest - target)
  })
}

/** A workgroup a row, in a grid of two dimensions: one of them ends at 65,535. */
function perRow(rows: number, z = 1): [number, number, number] {
  const x = Math.min(rows, 32768)
  return [x, Math.ceil(rows / x), z]
}

/** An invocation for each four of so many elements, 64 a workgroup. */
function perQuads(elements: number): [number, number, number] {
  return perRow(Math.ceil(elements / 256))
}

/** The kernel that multiplies so many rows with a block, and the rows and columns that a workgroup of it makes. */
function gemmForm({ dtype, columns }: Block, rows: number, { lanes, f16, matrix }: Forms) {
  if (matrix > 0 && dtype === 'F16' && columns % 32 === 0 && rows > 8) {
    return { kernel: `gemm_matrix_${matrix}`, tall: 2 * matrix, wide: panel, lanes }
  }
  if (lanes === 0 || columns % 4 !== 0) return { kernel: 'gemm', tall: 8, wide: 16 * octet, lanes }
  const tall = rows === 1 ? 1 : rows <= 8 ? 8 : 16
  return { kernel: `gemm_${tall}${f16 && dtype === 'F16' ? '_f16' : ''}`, tall, wide: lanes * octet, lanes }
}

const dtypeOf = ({ dtype }: { dtype: StoreDType }) => ({ DTYPE: codes[dtype] })

export const modelKernels = {
  /** A tensor as in the checkpoint, [rows, columns], to what the others read. */
  packWeights: (source: number, to: Block): NativeDispatch => {
    const width = packedWords(to.rows, to.dtype)
    const vector = to.dtype === 'F32' ? 4 : 8
    const whole = to.columns % vector === 0
    return {
      kernel: 'model/pack_weights',
      constants: { ...dtypeOf(to), VECTORS: whole ? 1 : 0 },
      parameters: [to.rows, to.columns, width],
      buffers: [source, to.buffer],
      grid: [whole ? to.columns / vector : to.columns, Math.ceil(width / 64), 1],
    }
  },

  /** Zeros in rows or columns of a tensor as in the checkpoint, [rows, columns]; `list`: a buffer with `count` of their indices. */
  zeroRowsColumns: (
    { matrix, list }: { matrix: number; list: number },
    { rows, columns, dtype }: Pick<Block, 'rows' | 'columns' | 'dtype'>,
    { by, count }: { by: 'row' | 'column'; count: number },
  ): NativeDispatch => {
    const [lines, more] = perRow(count)
    return {
      kernel: 'model/zero_rows_columns',
      constants: dtypeOf({ dtype }),
      parameters: [rows, columns, count, by === 'column' ? 1 : 0],
      buffers: [list, matrix],
      grid: [Math.ceil((by === 'column' ? rows : columns) / 64), lines, more],
    }
  },

  /**
   * y[tokens, columns] = scale * rows of the table, by the tokens' ids, or by their positions and `offset`; `add`: y += them.
   * One dispatch a block of it.
   */
  getRows: (
    table: Block,
    tokens: number,
    y: number,
    at: { rows: number; by: 'id' | 'position'; offset?: number; scale?: number; add?: boolean },
  ): NativeDispatch => ({
    kernel: 'model/get_rows',
    constants: dtypeOf(table),
    parameters: [
      at.rows,
      table.columns,
      table.first,
      table.rows,
      at.by === 'id' ? 0 : 1,
      at.offset ?? 0,
      bits(at.scale ?? 1),
      at.add === true ? 1 : 0,
    ],
    buffers: [table.buffer, tokens, y],
    grid: perRow(at.rows),
  }),

  /** y = weight, for tokens that are the first of their sequence. */
  classToken: (weight: Block, tokens: number, y: number, rows: number): NativeDispatch => ({
    kernel: 'model/class_token',
    constants: dtypeOf(weight),
    parameters: [rows, weight.rows],
    buffers: [weight.buffer, tokens, y],
    grid: perRow(rows),
  }),

  /** y = row (id - first) of the features, for tokens whose id is not below `first`. */
  scatterImageFeatures: (
    { tokens, features, y }: { tokens: number; features: number; y: number },
    { rows, width, first }: { rows: number; width: number; first: number },
  ): NativeDispatch => ({
    kernel: 'model/scatter_image_features',
    parameters: [rows, width, first],
    buffers: [tokens, features, y],
    grid: perRow(rows),
  }),

  /** y = RMSNorm(x), or LayerNorm(x) where it is `centered`, times weight + plus; rows of the weight's width. */
  norm: (
    weight: Block,
    x: number,
    y: number,
    at: { rows: number; eps: number; centered?: boolean; plus?: number },
  ): NativeDispatch => ({
    kernel: 'model/norm',
    constants: dtypeOf(weight),
    parameters: [at.rows, weight.rows, bits(at.eps), bits(at.plus ?? 0), at.centered === true ? 1 : 0],
    buffers: [weight.buffer, x, y],
    grid: perRow(at.rows),
  }),

  /** y[rows, stride] at the columns of the block = x[from.., columns] · Wᵀ. */
  gemm: (
    weight: Block,
    x: number,
    y: number,
    { rows, stride, from = 0, forms = plainForms }: { rows: number; stride: number; from?: number; forms?: Forms },
  ): NativeDispatch => {
    const { kernel, tall, wide, lanes } = gemmForm(weight, rows, forms)
    return {
      kernel: `model/${kernel}`,
      constants: { ...dtypeOf(weight), SUBGROUP: lanes },
      parameters: [rows, weight.columns, weight.rows, weight.first, stride, from],
      buffers: [weight.buffer, x, y],
      grid: [Math.ceil(weight.rows / wide), Math.ceil(rows / tall), 1],
    }
  },

  /** y += bias, in every row. */
  bias: (weight: Block, y: number, rows: number): NativeDispatch => ({
    kernel: 'model/bias',
    constants: dtypeOf(weight),
    parameters: [rows, weight.rows],
    buffers: [weight.buffer, y],
    grid: perRow(rows),
  }),

  /** Turns x[tokens, heads * size] by the angles of the tokens' positions, in place. */
  rope: (
    { angles, tokens, x }: { angles: number; tokens: number; x: number },
    { rows, heads, size }: { rows: number; heads: number; size: number },
  ): NativeDispatch => ({
    kernel: 'model/rope',
    parameters: [rows, heads, size],
    buffers: [angles, tokens, x],
    grid: perRow(rows),
  }),

  /** Rows of x to their rows in the cache. */
  kvStore: (tokens: number, x: number, cache: number, rows: number, width: number): NativeDispatch => ({
    kernel: 'model/kv_store',
    parameters: [rows, width],
    buffers: [tokens, x, cache],
    grid: perRow(rows),
  }),

  /** Rows of the cache to other rows of it: pairs of `from` and `to`. */
  kvCopy: (copies: number, cache: number, count: number, width: number): NativeDispatch => ({
    kernel: 'model/kv_copy',
    parameters: [count, width],
    buffers: [copies, cache],
    grid: perRow(count),
  }),

  /** y[tokens, heads * size] from q and the cache; `window` 0: all keys up to the token's own; `sequenceLength`: all of so many rows, where it is not 0. */
  attention: (
    { tokens, q, keys, values, y }: { tokens: number; q: number; keys: number; values: number; y: number },
    at: Record<'rows' | 'heads' | 'numKvHeads' | 'size' | 'scale' | 'window' | 'sequenceLength', number> & {
      forms?: Forms
    },
  ): NativeDispatch => {
    const { lanes } = at.forms ?? plainForms
    const common = {
      parameters: [at.rows, at.heads, at.numKvHeads, at.size, bits(at.scale), at.window, at.sequenceLength],
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
  },

  /** x = f(x). */
  unary: (kind: Activation, x: number, rows: number, width: number): NativeDispatch => ({
    kernel: 'model/unary',
    constants: { KIND: kinds[kind] },
    parameters: [Math.ceil((rows * width) / 4)],
    buffers: [x],
    grid: perQuads(rows * width),
  }),

  /** x = f(x) * y. */
  glu: (kind: Activation, x: number, y: number, rows: number, width: number): NativeDispatch => ({
    kernel: 'model/glu',
    constants: { KIND: kinds[kind] },
    parameters: [Math.ceil((rows * width) / 4)],
    buffers: [y, x],
    grid: perQuads(rows * width),
  }),

  /** x += y. */
  add: (x: number, y: number, rows: number, width: number): NativeDispatch => ({
    kernel: 'model/add',
    parameters: [Math.ceil((rows * width) / 4)],
    buffers: [y, x],
    grid: perQuads(rows * width),
  }),

  /** What losses of targets are made of (see `lossesOf`), and the largest logit, of tokens from `from` on. */
  crossEntropy: (
    { tokens, logits, losses, best }: { tokens: number; logits: number; losses: number; best: number },
    { rows, width, from }: { rows: number; width: number; from: number },
  ): NativeDispatch => ({
    kernel: 'model/cross_entropy',
    parameters: [rows, width, from],
    buffers: [tokens, logits, losses, best],
    grid: perRow(rows),
  }),

  /** Ids drawn from logits, in the place of the largest, of tokens from `from` on. */
  sample: (
    { sampling, logits, best }: { sampling: number; logits: number; best: number },
    { rows, width, from }: { rows: number; width: number; from: number },
  ): NativeDispatch => ({
    kernel: 'model/sample',
    parameters: [rows, width, from],
    buffers: [sampling, logits, best],
    grid: perRow(rows),
  }),

  /** Prunes `count` columns of w[in, rows] from `first` on and makes up for them among each other; errors[count, rows]. */
  sparsegptPrune: (
    { u, mask, w, errors }: Record<'u' | 'mask' | 'w' | 'errors', number>,
    at: Record<'rows' | 'inputs' | 'first' | 'count' | 'stay' | 'of', number>,
  ): NativeDispatch => ({
    kernel: 'model/sparsegpt_prune',
    parameters: [at.rows, at.inputs, at.first, at.count, at.stay, at.of],
    buffers: [u, mask, w, errors],
    grid: [Math.ceil(at.rows / 64), 1, 1],
  }),

  /** Makes up for them in the columns of w from `first` on. */
  sparsegptUpdate: (
    { u, errors, w }: Record<'u' | 'errors' | 'w', number>,
    at: Record<'rows' | 'inputs' | 'first' | 'count', number>,
  ): NativeDispatch => ({
    kernel: 'model/sparsegpt_update',
    parameters: [at.rows, at.inputs, at.first, at.count],
    buffers: [u, errors, w],
    grid: [Math.ceil(at.rows / 64), Math.ceil((at.inputs - at.first) / 8), 1],
  }),

  /**
   * Statistics of the columns of x over `count` groups of its rows from `first` on: `columnWords` rows a group, in y from
   * word `start` on. The groups are at word `list` of their buffer.
   */
  columnStats: (
    { groups, x, y }: { groups: number; x: number; y: number },
    at: Record<'width' | 'list' | 'groups' | 'first' | 'count' | 'start' | 'tau' | 'limit', number>,
  ): NativeDispatch => ({
    kernel: 'model/column_stats',
    parameters: [at.width, at.list, at.groups, at.first, at.count, at.start, bits(at.tau), bits(at.limit)],
    buffers: [groups, x, y],
    grid: [Math.ceil(at.width / 64), at.count, 1],
  }),

  /** y[rows, width] += rows `first` to `first + rows` of xᵀx, over `picked` rows of x, which are listed from word `list` on. */
  gram: (
    { picks, x, y }: { picks: number; x: number; y: number },
    { width, first, rows, list, picked }: Record<'width' | 'first' | 'rows' | 'list' | 'picked', number>,
  ): NativeDispatch => ({
    kernel: 'model/gram',
    parameters: [width, first, rows, list, picked],
    buffers: [picks, x, y],
    grid: [Math.ceil(width / 64), Math.ceil(rows / 8), 1],
  }),

  /** y[rows, 3] = a·a, a·(b - a), (b - a)·(b - a) of every row. */
  residualDelta: ({ a, b, y }: { a: number; b: number; y: number }, rows: number, width: number): NativeDispatch => ({
    kernel: 'model/residual_delta',
    parameters: [rows, width],
    buffers: [a, b, y],
    grid: perRow(rows),
  }),

  /** y[inputs, 2] += sums of |W| and W² over the outputs of a block; or y[outputs, 2] over its inputs. */
  weightSums: (weight: Block, y: number, by: 'input' | 'output' = 'input'): NativeDispatch => ({
    kernel: 'model/weight_sums',
    constants: dtypeOf(weight),
    parameters: by === 'output' ? [weight.rows, weight.columns, 1, weight.first] : [weight.columns, weight.rows, 0, 0],
    buffers: [weight.buffer, y],
    grid: perRow(by === 'output' ? weight.rows : weight.columns),
  }),
} as const
