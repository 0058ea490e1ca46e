/**
 * What a case of an op is: inputs, dispatches, and the same in float64; and inputs that many of them share. The cases
 * are in ops.cases.ts and gradients.cases.ts.
 */
import type { NativeDispatch, StoreDType } from '../lib/native/border.js'
import { type Block, type Forms, modelKernels as kernels, packedBytes, packTokens } from '../lib/runtime/index.js'
import { uniform } from './random.js'
import { decode, encode } from './reference/dtypes.js'

export interface OpCase {
  /** Content of buffers, or their bytes. */
  buffers: (number | ArrayBufferView)[]
  /** Run once before the others: weights are packed. */
  prepare?: NativeDispatch[]
  dispatches: (forms: Forms) => NativeDispatch[]
  /** Whether the kernel has several forms. */
  forms?: boolean
  /** The buffer with the result. */
  read: number
  /** From what is read there to what is compared. */
  got?: (words: Float32Array) => ArrayLike<number>
  want: () => ArrayLike<number>
  /** Of |got - want|, as a share of 1 + |want|; of the largest |want| with `ofLargest`, as gradients are compared. */
  tolerance: number
  ofLargest?: true
}

interface Entry<Shape> {
  /** What the test says of it. */
  says: string
  shapes: readonly Shape[]
  /** Whether it is one case a type of weights, or the types. */
  weights?: true | readonly StoreDType[]
  make: (shape: Shape, dtype: StoreDType) => OpCase
  /** The op and the shape that the bench times; `small`: to see that it runs. */
  bench?: { op: string; shape: Shape; small: Shape }
}

export interface OpCases {
  says: string
  dtypes: readonly StoreDType[]
  cases: (dtype: StoreDType) => OpCase[]
  bench?: { op: string; make: (small: boolean, dtype: StoreDType) => OpCase }
}

export const dtypes = ['F32', 'F16', 'BF16'] as const

/** What lies where nothing may be written. Gradients are compared with it bit by bit. */
export const untouched = -7.25

export function entry<Shape>({ says, shapes, weights, make, bench }: Entry<Shape>): OpCases {
  return {
    says,
    dtypes: weights === true ? dtypes : (weights ?? ['F32']),
    cases: (dtype) => shapes.map((shape) => make(shape, dtype)),
    ...(bench && {
      bench: { op: bench.op, make: (small, dtype) => make(small ? bench.small : bench.shape, dtype) },
    }),
  }
}

/** Numbers of one seed over [-2, 2), rounded to f32. */
export function numbers(count: number, seed: number): Float32Array {
  const next = uniform(seed)
  return Float32Array.from({ length: count }, () => 4 * next() - 2)
}

/** What a token is: id, first row of its sequence, own row, target. */
export const tokenTable = (rows: [id: number, start: number, row: number, target?: number][]) =>
  packTokens(rows.map(([id, start, row, target]) => ({ id, start, row, target })))

/** Sequences of these lengths, one after another. */
export const packed = (...lengths: number[]) =>
  lengths.flatMap((length, i) => {
    const start = lengths.slice(0, i).reduce((a, b) => a + b, 0)
    return Array.from({ length }, (_, j) => ({ start, row: start + j }))
  })

/** A tensor as a checkpoint stores it, in buffer 0, and packed in buffer 1. */
export function tensor(dtype: StoreDType, rows: number, columns: number, seed: number) {
  const stored = encode(dtype, numbers(rows * columns, seed))
  const block: Block = { buffer: 1, dtype, first: 0, rows, columns }
  return {
    stored,
    block,
    values: decode(dtype, stored),
    buffers: [stored, packedBytes(block)],
    pack: kernels.packWeights(0, block),
  }
}

export const widths = [
  { rows: 1, width: 1 },
  { rows: 3, width: 65 },
  { rows: 2, width: 2049 },
]
/** What elementwise ops are timed on. */
export const timed = { small: { rows: 4, width: 256 }, shape: { rows: 512, width: 4096 } }

export interface Heads {
  lengths: number[]
  heads: number
  numKvHeads: number
  size: number
  window: number
  sequenceLength?: number
}
