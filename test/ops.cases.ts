/**
 * One table of what ops do on the device: inputs, dispatches, and the same in float64 (reference/forward.ts, and
 * reference/backward.ts for gradients.cases.ts). forward-kernels.test.ts checks every case in every form of its kernel;
 * bench/forward.mjs times those that name a shape for it.
 */
import { type Block, modelKernels as kernels, lossesOf, lossWords, packedBytes } from '../lib/runtime/index.js'
import { gradientCases } from './gradients.cases.js'
import { math } from './math.js'
import { mixtureCases } from './mixture.cases.js'
import { entry, type Heads, numbers, type OpCases, packed, tensor, timed, tokenTable, widths } from './op-case.js'
import { decode, encode } from './reference/dtypes.js'
import * as reference from './reference/forward.js'

const activations = (['silu', 'gelu', 'gelu_tanh', 'quick_gelu', 'relu'] as const).flatMap((kind) => {
  /** Among them some whose exponential overflows. */
  const inputs = (count: number) =>
    numbers(count, 15).map((value, i) => (i % 7 === 0 ? value * 100 : value * (1 + (i % 3))))
  const fastest = kind === 'silu'
  return [
    entry({
      says: `${kind} alone works on rows of any width, and on values whose exponential overflows`,
      shapes: widths,
      ...(fastest && { bench: { op: 'activation', ...timed } }),
      make: ({ rows, width }) => {
        const x = inputs(rows * width)
        return {
          buffers: [x],
          dispatches: () => [kernels.unary(kind, 0, rows, width)],
          read: 0,
          want: () => Float64Array.from(x, reference.activations[kind]),
          tolerance: 2e-6,
        }
      },
    }),
    entry({
      says: `${kind} in a glu works on rows of any width, and on values whose exponential overflows`,
      shapes: widths,
      ...(fastest && { bench: { op: 'glu', ...timed } }),
      make: ({ rows, width }) => {
        const [x, y] = [inputs(rows * width), numbers(rows * width, 16)]
        return {
          buffers: [x, y],
          dispatches: () => [kernels.glu(kind, 0, 1, rows, width)],
          read: 0,
          want: () => Float64Array.from(x, reference.activations[kind]).map((value, i) => value * y[i]!),
          tolerance: 2e-6,
        }
      },
    }),
  ]
})

export const opCases: readonly OpCases[] = [
  entry({
    says: 'mask multiplies every row by a vector',
    shapes: widths,
    bench: { op: 'mask', ...timed },
    make: ({ rows, width }) => {
      const [x, mask] = [
        numbers(rows * width, 40),
        numbers(width, 41).map((value, i) => (i % 3 ? 1 : i % 2 ? 0 : value)),
      ]
      return {
        buffers: [mask, x],
        dispatches: () => [kernels.mask({ buffer: 0, rows: width }, 1, rows)],
        read: 1,
        want: () => Float64Array.from(x, (value, i) => value * mask[i % width]!),
        tolerance: 1e-7,
      }
    },
  }),
  entry({
    says: 'gemm multiplies rows by the transpose of a matrix',
    weights: true,
    shapes: [
      [1, 1, 1],
      [1, 7, 3],
      [8, 8, 16],
      [9, 131, 65],
      [17, 130, 352],
      [1, 200, 36],
      [5, 70, 4],
      [33, 64, 1025],
      [61, 70, 36],
    ] as [rows: number, columns: number, inner: number][],
    bench: { op: 'linear', shape: [64, 1024, 1024], small: [16, 256, 64] },
    make: ([rows, columns, inner], dtype) => {
      const { block, values, buffers, pack } = tensor(dtype, columns, inner, 1)
      const x = numbers(rows * inner, 2)
      return {
        buffers: [...buffers, x, 4 * rows * columns],
        prepare: [pack],
        dispatches: (forms) => [kernels.gemm(block, 2, 3, { rows, stride: columns, forms })],
        forms: true,
        read: 3,
        want: () => reference.gemm(x, values, [rows, columns, inner]),
        tolerance: 1e-6 * inner,
      }
    },
  }),
  entry({
    says: 'gemm takes a matrix in blocks and x from any row on',
    weights: true,
    shapes: [{ rows: 11, columns: 24, inner: 64, skipped: 2 }],
    make: ({ rows, columns, inner, skipped }, dtype) => {
      const stored = encode(dtype, numbers(columns * inner, 3))
      const bytes = stored.byteLength / columns
      const blocks = [0, 16].map(
        (first, i): Block => ({ buffer: 2 + i, dtype, first, rows: i === 0 ? 16 : 8, columns: inner }),
      )
      const x = numbers((rows + skipped) * inner, 4)
      return {
        buffers: [
          ...[stored.slice(0, 16 * bytes), stored.slice(16 * bytes)],
          ...[...blocks.map(packedBytes), x, 4 * rows * columns],
        ],
        prepare: blocks.map((block, i) => kernels.packWeights(i, block)),
        dispatches: (forms) =>
          blocks.map((block) => kernels.gemm(block, 4, 5, { rows, stride: columns, from: skipped, forms })),
        forms: true,
        read: 5,
        want: () => reference.gemm(x.subarray(skipped * inner), decode(dtype, stored), [rows, columns, inner]),
        tolerance: 1e-6 * inner,
      }
    },
  }),
  entry({
    says: 'get_rows gathers rows of a table by id',
    weights: true,
    shapes: [{ vocabulary: 21, width: 37, ids: [0, 20, 7, 7, 13] }],
    bench: {
      op: 'embed',
      shape: { vocabulary: 512, width: 2048, ids: Array.from({ length: 512 }, (_, i) => (7 * i) % 512) },
      small: { vocabulary: 16, width: 64, ids: [3, 5] },
    },
    make: ({ vocabulary, width, ids }, dtype) => {
      const { block, values, buffers, pack } = tensor(dtype, vocabulary, width, 5)
      const tokens = tokenTable(ids.map((id, row) => [id, 0, row]))
      return {
        buffers: [...buffers, tokens, 4 * ids.length * width],
        prepare: [pack],
        dispatches: () => [kernels.getRows(block, 2, 3, { rows: ids.length, by: 'id' })],
        read: 3,
        want: () => ids.flatMap((id) => [...values.subarray(id * width, (id + 1) * width)]),
        tolerance: 0,
      }
    },
  }),
  entry({
    says: 'get_rows takes rows by position, scaled and added, and leaves what it has no rows for',
    weights: true,
    shapes: [{ positions: 9, width: 13, offset: 4, scale: 0.5, lengths: [3, 6] }],
    make: ({ positions, width, offset, scale, lengths }, dtype) => {
      const { block, values, buffers, pack } = tensor(dtype, positions, width, 5)
      const places = packed(...lengths)
      const x = numbers(places.length * width, 6)
      const tokens = tokenTable(places.map(({ start, row }) => [7, start, row]))
      const at = { rows: places.length, by: 'position', offset, scale, add: true } as const
      return {
        buffers: [...buffers, tokens, x],
        prepare: [pack],
        dispatches: () => [kernels.getRows(block, 2, 3, at)],
        read: 3,
        want: () =>
          x.map((value, i) => {
            const { start, row } = places[math.floor(i / width)]!
            const position = row - start + offset
            return value + (position < positions ? scale * values[position * width + (i % width)]! : 0)
          }),
        tolerance: 1e-6,
      }
    },
  }),
  entry({
    says: 'class_token puts values where sequences start',
    weights: true,
    shapes: [{ width: 70, lengths: [3, 1, 4] }],
    make: ({ width, lengths }, dtype) => {
      const { block, values, buffers, pack } = tensor(dtype, width, 1, 5)
      const places = packed(...lengths)
      const x = numbers(places.length * width, 6)
      const tokens = tokenTable(places.map(({ start, row }) => [0, start, row]))
      return {
        buffers: [...buffers, tokens, x],
        prepare: [pack],
        dispatches: () => [kernels.classToken(block, 2, 3, places.length)],
        read: 3,
        want: () =>
          Array.from(x, (value, i) => {
            const { start, row } = places[math.floor(i / width)]!
            return start === row ? values[i % width]! : value
          }),
        tolerance: 0,
      }
    },
  }),
  entry({
    says: 'norm scales rows by weights, around their mean or not, and bias is added',
    weights: true,
    shapes: [
      { rows: 1, width: 1, more: {} },
      { rows: 3, width: 63, more: { centered: true } },
      { rows: 2, width: 65, more: { plus: 1 } },
      { rows: 5, width: 2049, more: { centered: true, plus: 0.5 } },
    ],
    bench: {
      op: 'norm',
      shape: { rows: 512, width: 2048, more: {} },
      small: { rows: 4, width: 64, more: {} },
    },
    make: ({ rows, width, more }, dtype) => {
      const { block, values, buffers, pack } = tensor(dtype, width, 1, 6)
      const x = numbers(rows * width, 7).map((value) => value + 3)
      return {
        buffers: [...buffers, x, x.byteLength],
        prepare: [pack],
        dispatches: () => [kernels.norm(block, 2, 3, { rows, eps: 1e-5, ...more }), kernels.bias(block, 3, rows)],
        read: 3,
        want: () => reference.norm(x, values, { eps: 1e-5, ...more }).map((value, i) => value + values[i % width]!),
        tolerance: 4e-6,
      }
    },
  }),
  entry({
    says: 'rope rotates halves of heads by the position in the own sequence',
    shapes: [
      { heads: 1, size: 2, lengths: [1, 70, 3] },
      { heads: 3, size: 10, lengths: [1, 70, 3] },
      { heads: 4, size: 32, lengths: [1, 70, 3] },
      { heads: 2, size: 130, lengths: [1, 70, 3] },
    ],
    bench: {
      op: 'rope',
      shape: { heads: 32, size: 64, lengths: [512] },
      small: { heads: 2, size: 32, lengths: [8] },
    },
    make: ({ heads, size, lengths }) => {
      const places = packed(...lengths)
      const x = numbers(places.length * heads * size, 8)
      const frequencies = Float64Array.from({ length: size / 2 }, (_, i) => 10000 ** ((-2 * i) / size))
      const angles = Float32Array.from(
        Array.from({ length: math.max(...lengths) }, (_, position) =>
          [...frequencies].flatMap((f) => [math.cos(position * f), math.sin(position * f)]),
        ).flat(),
      )
      const tokens = tokenTable(places.map(({ start, row }) => [0, start, row]))
      const positions = places.map(({ start, row }) => row - start)
      return {
        buffers: [angles, tokens, x],
        dispatches: () => [kernels.rope({ angles: 0, tokens: 1, x: 2 }, { rows: places.length, heads, size })],
        read: 2,
        want: () => reference.rope(x, positions, frequencies, heads),
        tolerance: 1e-6,
      }
    },
  }),
  entry({
    says: 'kv_store puts rows where their tokens are in the cache',
    shapes: [{ width: 67, rows: [4, 0, 2] }],
    make: ({ width, rows }) => {
      const [x, cache] = [numbers(rows.length * width, 12), numbers(6 * width, 13)]
      const tokens = tokenTable(rows.map((row) => [0, 0, row]))
      return {
        buffers: [tokens, x, cache],
        dispatches: () => [kernels.kvStore(0, 1, 2, rows.length, width)],
        read: 2,
        want: () =>
          cache.map((value, i) => {
            const from = rows.indexOf(math.floor(i / width))
            return from < 0 ? value : x[from * width + (i % width)]!
          }),
        tolerance: 0,
      }
    },
  }),
  entry<Heads>({
    says: 'attention sees the own sequence up to the own token, a window of it, or all of it',
    shapes: [
      { lengths: [1], heads: 1, numKvHeads: 1, size: 2, window: 0 },
      { lengths: [65, 1, 7], heads: 4, numKvHeads: 2, size: 32, window: 0 },
      { lengths: [130], heads: 3, numKvHeads: 1, size: 80, window: 0 },
      { lengths: [5, 64], heads: 2, numKvHeads: 2, size: 256, window: 0 },
      { lengths: [131, 3], heads: 2, numKvHeads: 1, size: 6, window: 67 },
      { lengths: [9], heads: 6, numKvHeads: 3, size: 10, window: 1 },
      { lengths: [3, 91], heads: 2, numKvHeads: 1, size: 32, window: 67 },
      { lengths: [35, 35], heads: 2, numKvHeads: 2, size: 64, window: 0, sequenceLength: 35 },
      { lengths: [67, 67], heads: 2, numKvHeads: 2, size: 15, window: 0, sequenceLength: 67 },
      { lengths: [3, 1], heads: 8, numKvHeads: 2, size: 64, window: 2 },
      { lengths: [2, 33], heads: 16, numKvHeads: 2, size: 128, window: 0 },
      { lengths: [21, 19], heads: 4, numKvHeads: 1, size: 20, window: 0 },
    ],
    bench: {
      op: 'attention',
      shape: { lengths: [256], heads: 16, numKvHeads: 4, size: 64, window: 0 },
      small: { lengths: [8], heads: 4, numKvHeads: 2, size: 16, window: 0 },
    },
    make: ({ lengths, heads, numKvHeads, size, window, sequenceLength = 0 }) => {
      const places = packed(...lengths)
      const rows = places.length
      const [q, k, v] = [
        numbers(rows * heads * size, 9),
        numbers(rows * numKvHeads * size, 10),
        numbers(rows * numKvHeads * size, 11),
      ]
      const tokens = tokenTable(places.map(({ start, row }) => [0, start, row]))
      const sees = places.map(({ start, row }) => ({
        first: window > 0 ? math.max(start, row + 1 - window) : start,
        last: sequenceLength > 0 ? start + sequenceLength - 1 : row,
      }))
      const at = { rows, heads, numKvHeads, size, scale: size ** -0.5, window, sequenceLength }
      return {
        buffers: [tokens, q, k, v, q.byteLength],
        dispatches: (forms) => [kernels.attention({ tokens: 0, q: 1, keys: 2, values: 3, y: 4 }, { ...at, forms })],
        forms: true,
        read: 4,
        want: () => reference.attention({ q, k, v }, sees, { heads, numKvHeads, size }),
        tolerance: 2e-5,
      }
    },
  }),
  ...activations,
  entry({
    says: 'add works on rows of any width',
    shapes: widths,
    bench: { op: 'add', ...timed },
    make: ({ rows, width }) => {
      const [x, y] = [numbers(rows * width, 15), numbers(rows * width, 16)]
      return {
        buffers: [x, y],
        dispatches: () => [kernels.add(0, 1, rows, width)],
        read: 0,
        want: () => x.map((value, i) => value + y[i]!),
        tolerance: 0,
      }
    },
  }),
  entry({
    says: 'cross_entropy is the loss of the target, from any row on',
    shapes: [
      { rows: 1, width: 1 },
      { rows: 3, width: 64 },
      { rows: 5, width: 1003 },
    ],
    bench: { op: 'cross_entropy', small: { rows: 2, width: 256 }, shape: { rows: 64, width: 32000 } },
    make: ({ rows, width }) => {
      const logits = numbers(rows * width, 17).map((value) => value * 10)
      for (let t = 0; t < rows; t++) logits[t * width + ((t * 31 + 7) % width)] = 50
      const targets = Array.from({ length: rows }, (_, t) => (t * 11) % width)
      const table = targets.map((id): [number, number, number, number] => [0, 0, 0, id])
      return {
        buffers: [tokenTable([[0, 0, 0], ...table]), logits, 4 * lossWords * (rows + 1), 4 * (rows + 1)],
        // The first token is not among them: results start at the second.
        dispatches: () => [
          kernels.crossEntropy({ tokens: 0, logits: 1, losses: 2, best: 3 }, { rows, width, from: 1 }),
        ],
        read: 2,
        got: (words) => lossesOf(words).subarray(1),
        want: () => reference.crossEntropy(logits, targets),
        tolerance: 1e-6,
      }
    },
  }),
  ...gradientCases,
  ...mixtureCases,
]
