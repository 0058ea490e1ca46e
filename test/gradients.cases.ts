/** The cases of ops.cases.ts that training adds: gradients, and what the optimizer does. */
import type { StoreDType } from '../lib/native/border.js'
import { layout } from '../lib/native/layouts.js'
import {
  type Block,
  type Forms,
  modelKernels as kernels,
  lossWords,
  packedBytes,
  taughtLossesOf,
  taughtLossWords,
} from '../lib/runtime/index.js'
import { adaptedNorms } from '../lib/runtime/ops/index.js'
import { math } from './math.js'
import {
  entry,
  type Heads,
  numbers,
  type OpCases,
  packed,
  tensor,
  timed,
  tokenTable,
  untouched,
  widths,
} from './op-case.js'
import * as gradient from './reference/backward.js'
import { decode, encode } from './reference/dtypes.js'
import * as reference from './reference/forward.js'
import { philox } from './reference/philox.js'

const halves = ['F16', 'BF16'] as const

/** Rows of a result between rows that are to stay as they are. */
function between(values: ArrayLike<number>, before: number, after: number): Float32Array {
  const result = new Float32Array(before + values.length + after).fill(untouched)
  result.set(values, before)
  return result
}

/** What is in a buffer before something is added to it, or what nothing may be left of. */
const start = (count: number, add: boolean, seed: number) => numbers(count, seed).map((x) => (add ? x : Number.NaN))

/** What a gradient is, or what it becomes of what was there. */
const onTop = (values: ArrayLike<number>, before: ArrayLike<number>, add: boolean) =>
  Float64Array.from(values, (value, i) => value + (add ? before[i]! : 0))

/** The gradient of a matrix [rows, columns] as it lies on the device; what pads its panels stays. */
function inPanels(values: ArrayLike<number>, { rows, columns }: Pick<Block, 'rows' | 'columns'>): Float32Array {
  const width = layout.panelColumns
  const result = new Float32Array(packedBytes({ rows, columns, dtype: 'F32' }) / 4).fill(untouched)
  for (let n = 0; n < rows; n++) {
    const panel = math.floor(n / width) * columns
    for (let k = 0; k < columns; k++) result[(panel + k) * width + (n % width)] = values[n * columns + k]!
  }
  return result
}

interface Product {
  rows: number
  /** Rows of the matrix, block by block. */
  blocks: number[]
  inner: number
  /** The row of what is not the gradient at which it begins. */
  from: number
  add: boolean
  scale?: number
  /** Of the blocks, the one that is read. */
  read?: number
}

const total = (blocks: number[]) => blocks.reduce((sum, rows) => sum + rows, 0)

/** Blocks of a matrix, in buffers from `buffer` on. */
function blocksOf(blocks: number[], columns: number, dtype: StoreDType, buffer: number): Block[] {
  return blocks.map((rows, i) => ({ buffer: buffer + i, dtype, first: total(blocks.slice(0, i)), rows, columns }))
}

/** A matrix in blocks: as it is stored, and packed. */
function matrix(dtype: StoreDType, rows: number[], inner: number, seed: number) {
  const stored = encode(dtype, numbers(total(rows) * inner, seed))
  const bytes = stored.byteLength / total(rows)
  const blocks = blocksOf(rows, inner, dtype, rows.length)
  return {
    blocks,
    values: decode(dtype, stored),
    buffers: [
      ...blocks.map((block) => stored.slice(bytes * block.first, bytes * (block.first + block.rows))),
      ...blocks.map(packedBytes),
    ],
    prepare: blocks.map((block, i) => kernels.packWeights(i, block)),
  }
}

const products: Product[] = [
  { rows: 1, blocks: [1], inner: 1, from: 0, add: false },
  { rows: 1, blocks: [7], inner: 3, from: 1, add: true, scale: -0.75 },
  { rows: 8, blocks: [16], inner: 8, from: 0, add: false, scale: 2 },
  { rows: 9, blocks: [131], inner: 65, from: 2, add: false },
  { rows: 17, blocks: [132], inner: 352, from: 1, add: true },
  { rows: 5, blocks: [4], inner: 72, from: 0, add: false },
  { rows: 33, blocks: [64], inner: 1025, from: 0, add: true, scale: 0.5 },
  { rows: 11, blocks: [16, 8], inner: 64, from: 2, add: false, read: 1 },
  { rows: 70, blocks: [68, 60], inner: 36, from: 1, add: true, read: 0 },
  { rows: 130, blocks: [64, 5], inner: 20, from: 3, add: true, read: 1 },
  { rows: 70, blocks: [64, 12], inner: 17, from: 1, add: true, scale: 0.5, read: 1 },
  { rows: 3, blocks: [8], inner: 32, from: 0, add: false },
]
const large: Product = { rows: 512, blocks: [1024], inner: 1024, from: 0, add: false }
const small: Product = { rows: 16, blocks: [256], inner: 64, from: 0, add: false }

const ofProducts = [
  entry<Product>({
    says: 'gemm adds a multiple of the product to what is there',
    weights: true,
    shapes: [
      { rows: 1, blocks: [7], inner: 3, from: 0, add: true, scale: -0.75 },
      { rows: 1, blocks: [12], inner: 36, from: 1, add: true, scale: 0.5 },
      { rows: 5, blocks: [12, 8], inner: 64, from: 0, add: true, scale: 2 },
      { rows: 33, blocks: [131], inner: 64, from: 0, add: false, scale: 0.25 },
      { rows: 19, blocks: [40], inner: 128, from: 1, add: true, scale: -1.5 },
    ],
    make: ({ rows, blocks: some, inner, from, add, scale = 1 }, dtype) => {
      const columns = total(some)
      const { blocks, values, buffers, prepare } = matrix(dtype, some, inner, 1)
      const x = numbers((from + rows) * inner, 2)
      const before = start(rows * columns, add, 3)
      const [atX, atY] = [buffers.length, buffers.length + 1]
      return {
        buffers: [...buffers, x, between(before, 0, columns)],
        prepare,
        dispatches: (forms) =>
          blocks.map((block) => kernels.gemm(block, atX, atY, { rows, stride: columns, from, add, scale, forms })),
        forms: true,
        read: atY,
        want: () => {
          const product = reference.gemm(x.subarray(from * inner), values, [rows, columns, inner])
          return between(
            onTop(
              product.map((value) => scale * value),
              before,
              add,
            ),
            0,
            columns,
          )
        },
        tolerance: 1e-6 * math.sqrt(inner),
        ofLargest: true,
      }
    },
  }),
  entry<Product>({
    says: 'gemm_transposed is the gradient of what gemm multiplies, in blocks and from any row on',
    weights: true,
    shapes: products,
    bench: { op: 'linear, gradient of x', shape: large, small },
    make: ({ rows, blocks: some, inner, from, add, scale = 1 }, dtype) => {
      const columns = total(some)
      const { blocks, values, buffers, prepare } = matrix(dtype, some, inner, 1)
      const g = numbers(rows * columns, 2)
      const before = start(rows * inner, add, 3)
      const [atG, atY] = [buffers.length, buffers.length + 1]
      return {
        buffers: [...buffers, g, between(before, from * inner, inner)],
        prepare,
        dispatches: (forms) =>
          blocks.map((block, i) =>
            kernels.gemmTransposed(block, atG, atY, { rows, stride: columns, from, add: add || i > 0, scale, forms }),
          ),
        forms: true,
        read: atY,
        want: () => {
          const product = gradient.gemmInput(g, values, [rows, columns, inner]).map((value) => scale * value)
          return between(onTop(product, before, add), from * inner, inner)
        },
        tolerance: 2e-6,
        ofLargest: true,
      }
    },
  }),
  entry<Product>({
    says: 'gemm_outer is the gradient of the matrix that gemm applies, in blocks and from any row on',
    shapes: products,
    bench: { op: 'linear, gradient of W', shape: large, small },
    make: ({ rows, blocks: some, inner, from, add, read = 0 }) => {
      const columns = total(some)
      const blocks = blocksOf(some, inner, 'F32', 2)
      const [g, x] = [numbers(rows * columns, 1), numbers((from + rows) * inner, 2)]
      const before = blocks.map((block, i) => start(block.rows * inner, add, 3 + i))
      const compared = blocks[read]!
      return {
        buffers: [g, x, ...blocks.map((block, i) => inPanels(before[i]!, block))],
        dispatches: (forms) =>
          blocks.map((block) => kernels.gemmOuter(block, 0, 1, { rows, stride: columns, from, add, forms })),
        forms: true,
        read: compared.buffer,
        want: () => {
          const product = gradient.gemmWeight(g, x.subarray(from * inner), [rows, columns, inner])
          const own = product.subarray(compared.first * inner, (compared.first + compared.rows) * inner)
          return inPanels(onTop(own, before[read]!, add), compared)
        },
        tolerance: 2e-6,
        ofLargest: true,
      }
    },
  }),
  entry({
    says: 'column_sums is the gradient of a bias, of a block of it too',
    shapes: [
      { rows: 1, width: 1, first: 0, stride: 1, add: false },
      { rows: 5, width: 65, first: 3, stride: 70, add: true },
      { rows: 130, width: 131, first: 0, stride: 131, add: false },
    ],
    make: ({ rows, width, first, stride, add }) => {
      const g = numbers(rows * stride, 1)
      const before = start(width, add, 2)
      return {
        buffers: [g, between(before, 0, 3)],
        dispatches: () => [kernels.columnSums(0, 1, { rows, width, first, stride, add })],
        read: 1,
        want: () => between(onTop(gradient.columnSums(g, stride).subarray(first, first + width), before, add), 0, 3),
        tolerance: 1e-6,
        ofLargest: true,
      }
    },
  }),
]

interface Norm {
  rows: number
  width: number
  add: boolean
  more: { centered?: boolean; plus?: number }
}

const norms: Norm[] = [
  { rows: 1, width: 2, add: false, more: {} },
  { rows: 3, width: 63, add: true, more: { centered: true } },
  { rows: 70, width: 65, add: false, more: { plus: 1 } },
  { rows: 5, width: 2049, add: true, more: { centered: true, plus: 0.5 } },
]

/** Rows that are not around zero, so that a mean counts; one of them small, so that eps does. */
const rowsOfNorm = (rows: number, width: number) =>
  numbers(rows * width, 7).map((value, i) => (i < width ? value / 16 : value + 3))

const ofNorms = [
  entry<Norm>({
    says: 'norm_gradient is the gradient of the rows that norm reads',
    weights: true,
    shapes: norms,
    bench: {
      op: 'norm, gradient of x',
      shape: { rows: 512, width: 2048, add: false, more: {} },
      small: { rows: 4, width: 64, add: false, more: {} },
    },
    make: ({ rows, width, add, more }, dtype) => {
      const { block, values, buffers, pack } = tensor(dtype, width, 1, 6)
      const [x, g] = [rowsOfNorm(rows, width), numbers(rows * width, 8)]
      const before = start(rows * width, add, 9)
      const at = { rows, eps: 0.01, ...more, add }
      return {
        buffers: [...buffers, x, g, 8 * rows, between(before, 0, width)],
        prepare: [pack],
        dispatches: () => [kernels.normGradient(block, { x: 2, g: 3, moments: 4, y: 5 }, at)],
        read: 5,
        want: () => between(onTop(gradient.norm(g, x, values, { eps: 0.01, ...more }).x, before, add), 0, width),
        tolerance: 5e-6,
        ofLargest: true,
      }
    },
  }),
  entry<Norm>({
    says: 'norm_weight_gradient is the gradient of the weight of a norm',
    shapes: norms,
    make: ({ rows, width, add, more }) => {
      const { block, values, buffers, pack } = tensor('F32', width, 1, 6)
      const [x, g] = [rowsOfNorm(rows, width), numbers(rows * width, 8)]
      const before = start(width, add, 9)
      const moments = between(new Float32Array(2 * rows), 0, 2)
      const at = { rows, eps: 0.01, ...more, add: false }
      return {
        buffers: [...buffers, x, g, moments, 4 * rows * width, between(before, 0, 3)],
        prepare: [pack],
        dispatches: () => [
          kernels.normGradient(block, { x: 2, g: 3, moments: 4, y: 5 }, at),
          kernels.normWeightGradient({ moments: 4, x: 2, g: 3, y: 6 }, { rows, width, add }),
        ],
        read: 6,
        want: () => between(onTop(gradient.norm(g, x, values, { eps: 0.01, ...more }).weight, before, add), 0, 3),
        tolerance: 5e-6,
        ofLargest: true,
      }
    },
  }),
]

/** Among them some whose exponential overflows, and zeros. */
const inputs = (count: number) =>
  numbers(count, 15).map((value, i) => (i % 11 === 5 ? 0 : i % 7 === 3 ? value * 100 : value * (1 + (i % 3))))

const ofActivations = (['silu', 'gelu', 'gelu_tanh', 'quick_gelu', 'relu'] as const).flatMap((kind) => [
  entry({
    says: `${kind} has a gradient on rows of any width, and of values whose exponential overflows`,
    shapes: widths,
    ...(kind === 'silu' && { bench: { op: 'activation, gradient', ...timed } }),
    make: ({ rows, width }) => {
      const [x, g] = [inputs(rows * width), numbers(rows * width, 16)]
      return {
        buffers: [x, g],
        dispatches: () => [kernels.unaryGradient(kind, 0, 1, rows, width)],
        read: 1,
        want: () => gradient.activation(kind, g, x),
        tolerance: 2e-6,
        ofLargest: true,
      }
    },
  }),
  ...(['x', 'y'] as const).map((of) =>
    entry({
      says: `${kind} in a glu has a gradient of ${of === 'x' ? 'what it is of' : 'what it is multiplied by'}`,
      shapes: widths.map((shape, i) => ({ ...shape, add: i === 1 })),
      ...(kind === 'silu' &&
        of === 'x' && {
          bench: {
            op: 'glu, gradient',
            shape: { ...timed.shape, add: false },
            small: { ...timed.small, add: false },
          },
        }),
      make: ({ rows, width, add }) => {
        const [x, y, g] = [inputs(rows * width), numbers(rows * width, 16), numbers(rows * width, 17)]
        const before = start(rows * width, add, 18)
        return {
          buffers: [x, y, g, before],
          dispatches: () => [kernels.gluGradient(kind, { x: 0, y: 1, g: 2, z: 3 }, { rows, width, add })],
          read: of === 'x' ? 2 : 3,
          want: () => {
            const both = gradient.glu(kind, g, x, y)
            return of === 'x' ? both.x : onTop(both.y, before, add)
          },
          tolerance: 2e-6,
          ofLargest: true,
        }
      },
    }),
  ),
])

const heads: Heads[] = [
  { lengths: [1], heads: 1, numKvHeads: 1, size: 2, window: 0 },
  { lengths: [65, 1, 7], heads: 4, numKvHeads: 2, size: 32, window: 0 },
  { lengths: [130], heads: 3, numKvHeads: 1, size: 80, window: 0 },
  { lengths: [5, 30], heads: 2, numKvHeads: 2, size: 256, window: 0 },
  { lengths: [131, 3], heads: 2, numKvHeads: 1, size: 6, window: 67 },
  { lengths: [9], heads: 6, numKvHeads: 3, size: 10, window: 1 },
  { lengths: [3, 91], heads: 2, numKvHeads: 1, size: 32, window: 67 },
  { lengths: [3, 1], heads: 8, numKvHeads: 2, size: 64, window: 2 },
  { lengths: [21, 19], heads: 4, numKvHeads: 1, size: 20, window: 0 },
  { lengths: [2, 1], heads: 70, numKvHeads: 35, size: 4, window: 0 },
]

/** Attention, which leaves what its gradients need, and these. Buffers 7, 8 and 9: of q, k and v. */
function attention({ lengths, heads, numKvHeads, size, window }: Heads) {
  const places = packed(...lengths)
  const rows = places.length
  const [q, g] = [numbers(rows * heads * size, 9), numbers(rows * heads * size, 12)]
  const [k, v] = [numbers(rows * numKvHeads * size, 10), numbers(rows * numKvHeads * size, 11)]
  const sees = places.map(({ start, row }) => ({
    first: window > 0 ? math.max(start, row + 1 - window) : start,
    last: row,
  }))
  const at = { rows, heads, numKvHeads, size, scale: size ** -0.5, window }
  const empty = (count: number) => between(new Float32Array(count).fill(Number.NaN), 0, 2 * size)
  const buffers = [
    ...[tokenTable(places.map(({ start, row }) => [0, start, row])), q, k, v, q.byteLength],
    ...[empty(2 * rows * heads), g, empty(q.length), empty(k.length), empty(v.length)],
  ]
  const of = { tokens: 0, q: 1, keys: 2, values: 3, statistics: 5, g: 6 }
  return {
    ...{ q, k, v, g, sees, at, buffers },
    attend: (forms: Forms) => [
      kernels.attention({ ...of, y: 4 }, { ...at, sequenceLength: 0, forms }),
      kernels.attentionDelta({ y: 4, g: 6, statistics: 5 }, at),
    ],
    of,
  }
}

const ofAttention = [
  entry<Heads>({
    says: 'attention leaves the log-sum-exp of its scores, and attention_delta what its gradients have in common',
    shapes: heads,
    make: (shape) => {
      const { q, k, v, g, sees, at, buffers, attend } = attention(shape)
      const { heads, numKvHeads, size, scale } = at
      return {
        buffers,
        dispatches: attend,
        forms: true,
        read: 5,
        want: () => {
          const y = reference.attention({ q, k, v }, sees, shape)
          const dot = (a: ArrayLike<number>, i: number, b: ArrayLike<number>, j: number) => {
            let sum = 0
            for (let e = 0; e < size; e++) sum += a[i * size + e]! * b[j * size + e]!
            return sum
          }
          const both = sees.flatMap(({ first, last }, t) =>
            Array.from({ length: heads }, (_, head) => {
              const own = t * heads + head
              const group = math.floor((head * numKvHeads) / heads)
              let sum = 0
              for (let row = first; row <= last; row++) {
                sum += math.exp(scale * dot(q, own, k, row * numKvHeads + group))
              }
              return [math.log(sum), dot(y, own, g, own)]
            }),
          )
          return between(both.flat(), 0, 2 * size)
        },
        tolerance: 2e-6,
        ofLargest: true,
      }
    },
  }),
  ...(['q', 'k', 'v'] as const).map((name) =>
    entry<Heads>({
      says: `${name === 'q' ? 'attention_queries' : 'attention_keys'} is the gradient of ${name}`,
      shapes: heads,
      ...(name !== 'v' && {
        bench: {
          op: `attention, gradient of ${name === 'q' ? 'q' : 'k and v'}`,
          shape: { lengths: [256], heads: 16, numKvHeads: 4, size: 64, window: 0 },
          small: { lengths: [8], heads: 4, numKvHeads: 2, size: 16, window: 0 },
        },
      }),
      make: (shape) => {
        const { q, k, v, g, sees, at, buffers, attend, of } = attention(shape)
        return {
          buffers,
          dispatches: (forms) => [
            ...attend(forms),
            name === 'q'
              ? kernels.attentionQueries({ ...of, y: 7 }, { ...at, forms })
              : kernels.attentionKeys({ ...of, y: 8, z: 9 }, { ...at, forms }),
          ],
          forms: true,
          read: { q: 7, k: 8, v: 9 }[name],
          want: () => between(gradient.attention(g, { q, k, v }, sees, shape)[name], 0, 2 * shape.size),
          tolerance: 5e-6,
          ofLargest: true,
        }
      },
    }),
  ),
  entry({
    says: 'rope turns heads back',
    shapes: [{ heads: 3, size: 10, lengths: [1, 70, 3] }],
    make: ({ heads, size, lengths }) => {
      const places = packed(...lengths)
      const g = numbers(places.length * heads * size, 8)
      const frequencies = Float64Array.from({ length: size / 2 }, (_, i) => 10000 ** ((-2 * i) / size))
      const angles = Float32Array.from(
        Array.from({ length: math.max(...lengths) }, (_, position) =>
          [...frequencies].flatMap((f) => [math.cos(position * f), math.sin(position * f)]),
        ).flat(),
      )
      const tokens = tokenTable(places.map(({ start, row }) => [0, start, row]))
      const positions = places.map(({ start, row }) => row - start)
      const at = { rows: places.length, heads, size, back: true }
      return {
        buffers: [angles, tokens, g],
        dispatches: () => [kernels.rope({ angles: 0, tokens: 1, x: 2 }, at)],
        read: 2,
        want: () => gradient.rope(g, positions, frequencies, heads),
        tolerance: 1e-6,
        ofLargest: true,
      }
    },
  }),
]

/** Rows by what they share, as kernel embed_gradient reads them: (value, first, end) of each, then the rows. */
function buckets(values: number[]) {
  const shared = [...new Set(values)]
  const rows = shared.map((value) => [...values.keys()].filter((row) => values[row] === value))
  let end = 0
  const heads = shared.flatMap((value, i) => {
    end += rows[i]!.length
    return [value, end - rows[i]!.length, end]
  })
  return { words: Uint32Array.from([...heads, ...rows.flat()]), count: shared.length }
}

const ofEnds = [
  entry({
    says: 'embed_gradient adds up the rows of a table, in blocks, and leaves what the table does not have',
    shapes: [
      { vocabulary: [1], width: 1, ids: [0], offset: 0, scale: 1, add: false, read: 0 },
      { vocabulary: [21], width: 67, ids: [0, 20, 7, 7, 13, 7], offset: 0, scale: 1.5, add: false, read: 0 },
      { vocabulary: [70, 10], width: 13, ids: [3, 79, 3, 66, 70, 200, 66], offset: 0, scale: 1, add: true, read: 0 },
      { vocabulary: [70, 10], width: 13, ids: [3, 79, 3, 66, 70, 200, 79], offset: 0, scale: 1, add: false, read: 1 },
      { vocabulary: [9], width: 5, ids: [0, 1, 2, 0, 1, 2, 3], offset: 2, scale: 0.5, add: true, read: 0 },
    ],
    bench: {
      op: 'embed, gradient',
      shape: {
        ...{ vocabulary: [512], width: 2048, ids: Array.from({ length: 512 }, (_, i) => (7 * i) % 97) },
        ...{ offset: 0, scale: 1, add: true, read: 0 },
      },
      small: { vocabulary: [16], width: 64, ids: [3, 5, 3], offset: 0, scale: 1, add: true, read: 0 },
    },
    make: ({ vocabulary, width, ids, offset, scale, add, read }) => {
      const blocks = blocksOf(vocabulary, width, 'F32', 2)
      const rows = total(vocabulary)
      const g = numbers(ids.length * width, 1)
      const { words, count } = buckets(ids)
      const before = blocks.map((block, i) => start(block.rows * width, add, 3 + i))
      const own = blocks[read]!
      return {
        buffers: [words, g, ...blocks.map((block, i) => inPanels(before[i]!, block))],
        dispatches: () =>
          blocks.flatMap((block) => [
            ...(add ? [] : [kernels.zero(block.buffer, packedBytes(block) / 4)]),
            kernels.embedGradient(block, { buckets: 0, g: 1, y: block.buffer }, { count, offset, scale }),
          ]),
        read: own.buffer,
        want: () => {
          const known = [...ids.keys()].filter((i) => ids[i]! + offset < rows)
          const some = known.flatMap((i) => [...g.subarray(i * width, (i + 1) * width)])
          const at = known.map((i) => ids[i]! + offset)
          const table = gradient.embed(some, at, { vocabulary: rows, width, scale })
          const mine = table.subarray(own.first * width, (own.first + own.rows) * width)
          const panels = inPanels(onTop(mine, before[read]!, add), own)
          return add ? panels : panels.map((value) => (value === untouched ? 0 : value))
        },
        tolerance: 1e-6,
        ofLargest: true,
      }
    },
  }),
  entry({
    says: 'cross_entropy_gradient is the gradient of logits, from any row on, also where the target is all but certain',
    shapes: [
      { rows: 1, width: 2, certain: 0, scale: 1 },
      { rows: 3, width: 64, certain: 0, scale: 1 / 3 },
      { rows: 5, width: 1003, certain: 0, scale: -0.5 },
      { rows: 2, width: 131, certain: 30, scale: 1 },
    ],
    bench: {
      op: 'cross_entropy, gradient',
      shape: { rows: 64, width: 32000, certain: 0, scale: 1 },
      small: { rows: 2, width: 256, certain: 0, scale: 1 },
    },
    make: ({ rows, width, certain, scale }) => {
      const logits = numbers((rows + 2) * width, 17)
      const targets = Array.from({ length: rows }, (_, t) => (t * 11 + 1) % width)
      for (const [t, target] of targets.entries()) logits[t * width + target]! += certain
      // The first token is not among them, and the last one has no target; what is behind it stays.
      logits.fill(untouched, (rows + 1) * width)
      const table = targets.map((id): [number, number, number, number] => [0, 0, 0, id])
      const tokens = tokenTable([[0, 0, 0], ...table, [0, 0, 0]])
      const at = { rows: rows + 1, width, from: 1 }
      return {
        buffers: [tokens, logits, 4 * lossWords * (rows + 2), 4 * (rows + 2)],
        dispatches: () => [
          kernels.crossEntropy({ tokens: 0, logits: 1, losses: 2, best: 3 }, at),
          kernels.crossEntropyGradient({ tokens: 0, losses: 2, logits: 1 }, { ...at, scale }),
        ],
        read: 1,
        want: () => [
          ...gradient.crossEntropy(logits.subarray(0, rows * width), targets, scale),
          ...new Float32Array(width),
          ...logits.subarray((rows + 1) * width),
        ],
        tolerance: 2e-6,
        ofLargest: true,
      }
    },
  }),
  ...(['gradient', 'losses'] as const).map((read) =>
    entry({
      says: `distillation_gradient gives ${read} of what a teacher and targets say, from any row on`,
      shapes: [
        { rows: 1, width: 2, share: 1, scale: 1, certain: 0, divergence: false },
        { rows: 3, width: 67, share: 0.25, scale: -0.5, certain: 0, divergence: true },
        { rows: 5, width: 1003, share: 1, scale: 1 / 3, certain: 0, divergence: true },
        { rows: 2, width: 131, share: 0.5, scale: 1, certain: 20, divergence: false },
      ],
      ...(read === 'gradient' && {
        bench: {
          op: 'distillation, gradient',
          shape: { rows: 64, width: 32000, share: 1, scale: 1, certain: 0, divergence: false },
          small: { rows: 2, width: 256, share: 1, scale: 1, certain: 0, divergence: false },
        },
      }),
      make: ({ rows, width, share, scale, certain, divergence }) => {
        // Behind the rows with both, one that only the teacher and one that only a target says something of, one of
        // which nobody does, and one that stays.
        const all = rows + 3
        const [logits, teacher] = [numbers((all + 1) * width, 17), numbers((all + 1) * width, 18)]
        const targets = Array.from({ length: all }, (_, t) => (t * 11 + 1) % width)
        for (const [t, target] of targets.entries()) {
          logits[t * width + target]! += certain
          teacher[t * width + target]! += certain
        }
        logits.fill(untouched, all * width)
        const weights = Array.from({ length: all }, (_, t): [number, number] =>
          t < rows ? [1 - share, share] : t === rows ? [0, share] : t === rows + 1 ? [1 - share, 0] : [0, 0],
        )
        const hasTarget = (t: number) => t < rows || t === rows + 1
        const table = targets.map((id, t): Parameters<typeof tokenTable>[0][number] =>
          hasTarget(t) ? [0, 0, 0, id] : [0, 0, 0],
        )
        const [own, theirs] = [logits.slice(0, all * width), teacher.slice(0, all * width)]
        const mixed = (a: ArrayLike<number>, b: ArrayLike<number>, each: number) =>
          Float64Array.from(a, (value, i) => {
            const [ofTarget, ofTeacher] = weights[math.floor(i / each)]!
            return ofTeacher * value + ofTarget * b[i]!
          })
        const taught = () => {
          const losses = gradient.distillationLoss(own, theirs, width)
          return divergence
            ? losses.map((loss, t) => loss - gradient.distillationLoss(theirs, theirs, width)[t]!)
            : losses
        }
        return {
          buffers: [
            tokenTable([[0, 0, 0], ...table]),
            Float32Array.from([0, 0, ...weights.flat()]),
            teacher,
            between(new Float32Array(taughtLossWords * all), taughtLossWords, taughtLossWords),
            logits,
          ],
          dispatches: () => [
            kernels.distillationGradient(
              { tokens: 0, shares: 1, teacher: 2, losses: 3, logits: 4 },
              { rows: all, width, from: 1, scale, divergence },
            ),
          ],
          read: read === 'losses' ? 3 : 4,
          ...(read === 'losses' && {
            got: (words: Float32Array) => [
              ...[...words.subarray(0, taughtLossWords), ...words.subarray(taughtLossWords * (all + 1))],
              ...taughtLossesOf(
                words.subarray(taughtLossWords, taughtLossWords * (all + 1)),
                Float32Array.from(weights.flat()),
                divergence,
              ),
            ],
          }),
          want: () =>
            read === 'losses'
              ? [
                  ...new Float32Array(2 * taughtLossWords).fill(untouched),
                  ...mixed(taught(), reference.crossEntropy(own, targets), 1),
                ]
              : [
                  ...mixed(
                    gradient.distillation(own, theirs, width, scale),
                    gradient.crossEntropy(own, targets, scale),
                    width,
                  ),
                  ...logits.subarray(all * width),
                ],
          tolerance: read === 'losses' ? 1e-6 : 2e-6,
          ...(read === 'gradient' && { ofLargest: true }),
        }
      },
    }),
  ),
  entry({
    says: 'expand_top puts known logits at their ids, and beside them ones of no probability',
    shapes: [
      { rows: 3, width: 67, top: 5 },
      { rows: 1, width: 9, top: 1 },
    ],
    make: ({ rows, width, top }) => {
      const values = numbers(rows * top, 3)
      const ids = Uint32Array.from({ length: rows * top }, (_, i) => ((i % top) * 7 + math.floor(i / top)) % width)
      const x = numbers(rows * width + 4, 4)
      return {
        buffers: [ids, values, x],
        dispatches: () => [kernels.expandTop({ ids: 0, values: 1, y: 2 }, { rows, width, top })],
        read: 2,
        want: () => {
          const want = Float32Array.from(x, (value, i) => (i < rows * width ? -1e4 : value))
          for (const [i, id] of ids.entries()) want[math.floor(i / top) * width + id] = values[i]!
          return want
        },
        tolerance: 0,
      }
    },
  }),
  entry({
    says: 'gather_rows takes rows in any order',
    shapes: [{ width: 67, list: [4, 0, 2, 4] }],
    make: ({ width, list }) => {
      const x = numbers(5 * width, 1)
      return {
        buffers: [Uint32Array.from(list), x, between(new Float32Array(list.length * width), 0, width)],
        dispatches: () => [kernels.gatherRows({ list: 0, x: 1, y: 2 }, { rows: list.length, width })],
        read: 2,
        want: () =>
          between(
            list.flatMap((row) => [...x.subarray(row * width, (row + 1) * width)]),
            0,
            width,
          ),
        tolerance: 0,
      }
    },
  }),
  entry({
    says: 'scatter_rows puts rows where they were taken from, and leaves the others',
    shapes: [{ width: 67, list: [4, 0, 2] }],
    make: ({ width, list }) => {
      const [x, y] = [numbers(list.length * width, 1), numbers(6 * width, 2)]
      return {
        buffers: [Uint32Array.from(list), x, y],
        dispatches: () => [kernels.scatterRows({ list: 0, x: 1, y: 2 }, { rows: list.length, width })],
        read: 2,
        want: () =>
          y.map((value, i) => {
            const from = list.indexOf(math.floor(i / width))
            return from < 0 ? value : x[from * width + (i % width)]!
          }),
        tolerance: 0,
      }
    },
  }),
  entry({
    says: 'copy copies rows of any width, and no more',
    shapes: widths,
    make: ({ rows, width }) => {
      const x = numbers(rows * width, 1)
      // The last vec4 may reach past the end.
      const behind = (4 - (x.length % 4)) % 4
      return {
        buffers: [x, between(new Float32Array(x.length), 0, behind + 4)],
        dispatches: () => [kernels.copy(0, 1, rows, width)],
        read: 1,
        got: (words) => [...words.subarray(0, x.length), ...words.subarray(x.length + behind)],
        want: () => between(x, 0, 4),
        tolerance: 0,
      }
    },
  }),
]

interface Moved {
  elements: number
  step: number
  read: 'm' | 'v' | 'p'
}

const ofTheOptimizer = [
  entry({
    says: 'squares leaves sums of blocks, and no more of them',
    shapes: [1, 67, layout.block, 2 * layout.block + 5].map((elements) => ({ elements })),
    make: ({ elements }) => {
      const x = numbers(elements + 3, 1)
      const blocks = math.ceil(elements / layout.block)
      return {
        buffers: [x, between(new Float32Array(blocks), 2, 2)],
        dispatches: () => [kernels.squares(0, 1, { elements, start: 2 })],
        read: 1,
        want: () =>
          between(
            Array.from({ length: blocks }, (_, i) => {
              const block = x.subarray(i * layout.block, math.min(elements, (i + 1) * layout.block))
              return block.reduce((sum, value) => sum + value * value, 0)
            }),
            2,
            2,
          ),
        tolerance: 1e-6,
        ofLargest: true,
      }
    },
  }),
  ...(['p', 'm', 'v'] as const).map((read) =>
    entry<Moved>({
      says: `adamw moves ${{ p: 'weights', m: 'the mean of gradients', v: 'the mean of their squares' }[read]}`,
      shapes: [
        { elements: 4, step: 1, read },
        { elements: 1024 + 68, step: 7, read },
      ],
      make: ({ elements, step, read }) => {
        const some = (seed: number) => between(numbers(elements, seed), 0, 4)
        const [gradients, m, v, p] = [some(1), some(2), some(3).map((x) => (x === untouched ? x : x * x)), some(4)]
        const at = { rate: 0.1, beta1: 0.8, beta2: 0.9, eps: 0.01, decay: 0.5 }
        const clip = 0.75
        return {
          buffers: [gradients, m, v, p],
          dispatches: () => [kernels.adamw({ gradient: 0, m: 1, v: 2, x: 3 }, { ...at, elements, clip, step })],
          read: { m: 1, v: 2, p: 3 }[read],
          want: () => {
            const own = (x: Float32Array) => Float64Array.from(x.subarray(0, elements))
            const state = { p: own(p), m: own(m), v: own(v), step: step - 1 }
            gradient.adamw(
              state,
              own(gradients).map((value) => clip * value),
              at,
            )
            return between(state[read], 0, 4)
          },
          tolerance: 1e-6,
          ofLargest: true,
        }
      },
    }),
  ),
  entry({
    says: 'unpack_weights gives what pack_weights was given',
    weights: true,
    shapes: [
      { rows: 1, columns: 1 },
      { rows: 3, columns: 67 },
      { rows: 131, columns: 8 },
    ],
    make: ({ rows, columns }, dtype) => {
      const { stored, block, values, buffers, pack } = tensor(dtype, rows, columns, 1)
      const bytes = 4 * math.ceil(stored.byteLength / 4)
      return {
        buffers: [...buffers, between(new Float32Array(bytes / 4), 0, 2)],
        prepare: [pack],
        dispatches: () => [kernels.unpackWeights(block, 2)],
        read: 2,
        got: (words) => [
          ...decode(dtype, new Uint8Array(words.buffer, 0, stored.byteLength)),
          ...words.subarray(bytes / 4),
        ],
        want: () => [...values, untouched, untouched],
        tolerance: 0,
      }
    },
  }),
  entry({
    says: 'widen_weights gives packed weights in f32',
    weights: halves,
    shapes: [
      { rows: 1, columns: 1 },
      { rows: 67, columns: 5 },
    ],
    make: ({ rows, columns }, dtype) => {
      const { block, values, buffers, pack } = tensor(dtype, rows, columns, 1)
      const wide: Block = { ...block, dtype: 'F32', buffer: 2 }
      return {
        buffers: [...buffers, between(new Float32Array(packedBytes(wide) / 4), 0, 8)],
        prepare: [pack],
        dispatches: () => [kernels.widenWeights(block, 2)],
        read: 2,
        // What pads panels is zeros.
        want: () => [
          ...inPanels(values, wide).map((value) => (value === untouched ? 0 : value)),
          ...new Float32Array(8).fill(untouched),
        ],
        tolerance: 0,
      }
    },
  }),
  entry({
    says: 'round_weights rounds to the type of weights, halves to even',
    weights: halves,
    shapes: [
      { rows: 1, columns: 1 },
      { rows: 67, columns: 5 },
    ],
    make: ({ rows, columns }, dtype) => {
      const block: Block = { buffer: 1, dtype, first: 0, rows, columns }
      // Every third one is half-way between two numbers of the type.
      const digits = dtype === 'BF16' ? 2 ** 7 : 2 ** 10
      const x = numbers(rows * columns, 1).map((value, i) =>
        i % 3 === 0 ? value : (math.round(digits * value) + 0.5) / digits / 2 ** (i % 5),
      )
      const stored = encode(dtype, x)
      const bytes = 4 * math.ceil(stored.byteLength / 4)
      return {
        buffers: [inPanels(x, block), packedBytes(block), bytes],
        dispatches: () => [kernels.roundWeights(0, block), kernels.unpackWeights(block, 2)],
        read: 2,
        got: (words) => decode(dtype, new Uint8Array(words.buffer, 0, stored.byteLength)),
        want: () => decode(dtype, stored),
        tolerance: 0,
      }
    },
  }),
]

interface Dora {
  /** Rows of the matrix and of B, and columns of the matrix, block by block. */
  outputs: number[]
  ofB: number[]
  inputs: number[]
  rank: number
}

const doras: Dora[] = [
  { outputs: [1], ofB: [1], inputs: [1], rank: 1 },
  { outputs: [67], ofB: [67], inputs: [70], rank: 3 },
  { outputs: [64, 9], ofB: [70, 3], inputs: [64, 20], rank: 8 },
]

const ofDora = [
  entry<Dora>({
    says: 'dora_norms gives the norms of rows of an adapted matrix, in blocks of it and of both factors',
    weights: true,
    shapes: doras,
    bench: {
      op: 'linear, norms of DoRA',
      shape: { outputs: [1024], ofB: [1024], inputs: [1024], rank: 16 },
      small: { outputs: [64], ofB: [64], inputs: [64], rank: 4 },
    },
    make: ({ outputs, ofB, inputs, rank }, dtype) => {
      const [rows, columns] = [total(outputs), total(inputs)]
      const { blocks, values, buffers, prepare } = matrix(dtype, outputs, columns, 1)
      const [a, b] = [numbers(rank * columns, 2), numbers(rows * rank, 3)]
      const turned = Float32Array.from({ length: a.length }, (_, i) => a[(i % rank) * columns + math.floor(i / rank)]!)
      const factor = (some: number[], value: Float32Array, buffer: number) =>
        blocksOf(some, rank, 'F32', buffer).map((block) => ({
          block,
          content: inPanels(value.subarray(block.first * rank, (block.first + block.rows) * rank), block),
        }))
      const blocksOfA = factor(inputs, turned, buffers.length)
      const blocksOfB = factor(ofB, b, buffers.length + inputs.length)
      const y = buffers.length + inputs.length + ofB.length
      const scale = 0.75
      return {
        buffers: [
          ...[...buffers, ...blocksOfA.map(({ content }) => content), ...blocksOfB.map(({ content }) => content)],
          between(new Float32Array(rows), 0, 3),
        ],
        prepare,
        dispatches: () =>
          adaptedNorms(
            'W',
            {
              index: 0,
              a: 'A',
              b: 'B',
              scale,
              inner: 0,
              innerGradient: 0,
              magnitude: { tensor: 'm', norms: y, outer: 0 },
            },
            (tensor) => (tensor === 'W' ? blocks : (tensor === 'A' ? blocksOfA : blocksOfB).map(({ block }) => block)),
          ),
        read: y,
        want: () => between(reference.doraNorms(values, { a, b, scale, rank }), 0, 3),
        tolerance: 1e-6,
        ofLargest: true,
      }
    },
  }),
  entry({
    says: 'dora_scale scales columns, and leaves zeros of those whose norm is zero',
    shapes: widths,
    make: ({ rows, width }) => {
      const [magnitude, norms, x] = [numbers(width, 1), numbers(width, 2).map(math.abs), numbers(rows * width, 3)]
      if (width > 1) norms[0] = 0
      return {
        buffers: [magnitude, norms, between(x, 0, 3)],
        dispatches: () => [kernels.doraScale({ magnitude: 0, norms: 1, x: 2 }, { rows, width })],
        read: 2,
        want: () => {
          const scaled = x.map((value, i) => {
            const norm = norms[i % width]!
            return norm > 0 ? (value * magnitude[i % width]!) / norm : 0
          })
          return between(scaled, 0, 3)
        },
        tolerance: 1e-6,
      }
    },
  }),
  entry({
    says: 'dora_add adds columns by their magnitude, or puts them there, and takes norms of zero for a quotient of zero',
    shapes: widths.flatMap((at) => [
      { ...at, less: 1, add: false },
      { ...at, less: 0, add: true },
    ]),
    make: ({ rows, width, less, add }) => {
      const [magnitude, norms] = [numbers(width, 1), numbers(width, 2).map(math.abs)]
      const [x, y] = [numbers(rows * width, 3), numbers(rows * width, 4)]
      if (width > 1) norms[0] = 0
      return {
        buffers: [magnitude, norms, x, between(y, 0, 3)],
        dispatches: () => [
          kernels.doraAdd({ magnitude: 0, norms: 1, x: 2, y: 3 }, { rows, width, less: less as 0 | 1, add }),
        ],
        read: 3,
        want: () => {
          const changed = x.map((value, i) => {
            const norm = norms[i % width]!
            return (add ? y[i]! : 0) + value * ((norm > 0 ? magnitude[i % width]! / norm : 0) - less)
          })
          return between(changed, 0, 3)
        },
        tolerance: 2e-6,
      }
    },
  }),
  entry({
    says: 'dora_magnitude_gradient is the gradient of lengths of rows, and zero where a row is zeros',
    shapes: [
      { rows: 1, width: 1, add: false },
      { rows: 70, width: 65, add: true },
    ],
    make: ({ rows, width, add }) => {
      const [x, g] = [numbers(rows * width, 1), numbers(rows * width, 2)]
      const norms = numbers(width, 3).map((value, i) => (i === 3 ? 0 : math.abs(value) + 0.25))
      const before = start(width, add, 4)
      return {
        buffers: [norms, x, g, between(before, 0, 3)],
        dispatches: () => [kernels.doraMagnitudeGradient({ norms: 0, x: 1, g: 2, y: 3 }, { rows, width, add })],
        read: 3,
        want: () => {
          const sums = gradient.columnSums(
            x.map((value, i) => value * g[i]!),
            width,
          )
          return between(
            onTop(
              sums.map((sum, i) => (norms[i]! > 0 ? sum / norms[i]! : 0)),
              before,
              add,
            ),
            0,
            3,
          )
        },
        tolerance: 2e-6,
        ofLargest: true,
      }
    },
  }),
]

const ofDropout = [
  entry({
    says: 'dropout loses elements by seed, adapter, step and micro-batch, and scales those that stay',
    shapes: [
      { rows: 1, width: 4, share: 0.5, add: false },
      { rows: 3, width: 67, share: 0.1, add: true },
      { rows: 5, width: 33, share: 0.75, add: false },
    ],
    make: ({ rows, width, share, add }) => {
      const x = numbers(rows * width, 1)
      const before = start(rows * width, add, 2)
      const at = { share, seed: 2 ** 40 + 5, step: 7, microBatch: 2, module: 11, add }
      return {
        buffers: [x, between(before, 0, 8)],
        dispatches: () => [kernels.dropout(0, 1, rows * width, at)],
        read: 1,
        got: (words) => words.subarray(0, rows * width),
        want: () => {
          const kept = x.map((value, i) => {
            const words = philox([math.floor(i / 4), 11, 7, 2], [5, 2 ** 8])
            return words[i % 4]! < share * 2 ** 32 ? 0 : value / (1 - share)
          })
          return onTop(kept, before, add)
        },
        tolerance: 1e-6,
        ofLargest: true,
      }
    },
  }),
]

export const gradientCases: readonly OpCases[] = [
  ...ofProducts,
  ...ofNorms,
  ...ofActivations,
  ...ofAttention,
  ...ofEnds,
  ...ofDora,
  ...ofDropout,
  ...ofTheOptimizer,
]
