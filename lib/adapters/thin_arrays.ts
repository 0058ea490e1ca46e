/** The kernels of thin products on typed arrays: what `extractAdapter` runs on the differences of stored matrices. */

import { bytesOf, type Checkpoint, isLoadable } from '../checkpoint/index.js'
import type { Engine } from '../engine/engine.js'
import type { KernelInput } from '../engine/kernel.js'
import type { LoadDType } from '../native/border.js'
import { misuse } from '../util/errors.js'
import { Difference, type Side } from './thin_products.js'

/** A matrix [rows, columns], row by row. */
export interface ThinMatrix {
  data: KernelInput
  rows: number
  columns: number
}

export interface ThinOptions {
  signal?: AbortSignal | undefined
}

/**
 * D X [rows, width] of a matrix D and a thin X [columns, width], or with `transposed` Dᵀ X [columns, width] of X [rows,
 * width]; f32, in the order of kernel thin_product. Throws ERR_WEIGHTSMITH_ARGUMENT for sizes that do not fit and
 * ERR_WEIGHTSMITH_NON_FINITE where D is NaN or infinite.
 */
export function thinProduct(
  engine: Engine,
  matrix: ThinMatrix,
  thin: Float32Array<ArrayBuffer>,
  { transposed = false, ...options }: ThinOptions & { transposed?: boolean | undefined } = {},
): Promise<Float32Array> {
  return withMatrix(engine, matrix, options, async (difference) => {
    const height = transposed ? matrix.rows : matrix.columns
    const width = thin.length / height
    if (!Number.isInteger(width) || width < 1) {
      throw misuse(`A matrix of ${thin.length} numbers does not have ${height} rows.`)
    }
    const lines = transposed ? matrix.columns : matrix.rows
    // The kernel works on vectors of four columns.
    const wide = 4 * Math.ceil(width / 4)
    const given = rewidened(thin, height, width, wide)
    const found = transposed ? await difference.transposedTimes(given, wide) : await difference.times(given, wide)
    return rewidened(found, lines, wide, width)
  })
}

/** ‖D‖ and ‖D - B A‖ of a matrix D, B [rows, rank] and A [rank, columns]; Frobenius. Throws as `thinProduct` does. */
export function lowRankResidual(
  engine: Engine,
  matrix: ThinMatrix,
  { a, b }: { a: Float32Array<ArrayBuffer>; b: Float32Array<ArrayBuffer> },
  options: ThinOptions = {},
): Promise<{ norm: number; residual: number }> {
  return withMatrix(engine, matrix, options, async (difference) => {
    const rank = a.length / matrix.columns
    if (!Number.isInteger(rank) || rank < 1 || b.length !== rank * matrix.rows) {
      throw misuse(
        `A of ${a.length} and B of ${b.length} numbers are no factors of ${matrix.rows} x ${matrix.columns}.`,
      )
    }
    return { norm: await difference.norm(), residual: await difference.residual(a, b) }
  })
}

async function withMatrix<T>(
  engine: Engine,
  { data, rows, columns }: ThinMatrix,
  options: ThinOptions,
  work: (difference: Difference) => Promise<T>,
): Promise<T> {
  const { dtype, bytes } = stored(data)
  if (rows < 1 || columns < 1 || bytes.length !== rows * columns * bytesOf(dtype)) {
    throw misuse(`A matrix of ${rows} x ${columns} in ${dtype} does not have ${bytes.length} bytes.`)
  }
  const zeros = new Uint8Array(2 * rows * columns)
  return engine.use(async (host) => {
    const side = (memory: Uint8Array, dtype: LoadDType) => sideOf(memory, dtype, [rows, columns])
    const difference = new Difference(host, side(bytes, dtype), side(zeros, 'BF16'), options)
    try {
      return await work(difference)
    } finally {
      await difference.release()
    }
  })
}

function stored(data: KernelInput): { dtype: LoadDType; bytes: Uint8Array } {
  const { dtype, data: view } =
    data instanceof Float32Array
      ? { dtype: 'F32' as const, data }
      : data instanceof Float64Array
        ? { dtype: 'F64' as const, data }
        : data
  if (!isLoadable(dtype)) throw misuse(`A matrix cannot be of type ${String(dtype)}.`)
  return { dtype, bytes: new Uint8Array(view.buffer, view.byteOffset, view.byteLength) }
}

function sideOf(memory: Uint8Array, dtype: LoadDType, shape: number[]): Side {
  const name = 'the matrix'
  const file = { path: name, name, size: memory.length, modified: 0, identity: name, headerHash: '', memory }
  const checkpoint: Checkpoint = { name, path: name, files: [file], tensors: new Map(), stacks: new Map() }
  return { checkpoint, tensor: { name, file: 0, dtype, shape, begin: 0, end: memory.length } }
}

/** Rows of another width: cut, or with zeros behind. */
function rewidened(matrix: Float32Array, rows: number, from: number, to: number): Float32Array<ArrayBuffer> {
  const result = new Float32Array(rows * to)
  for (let i = 0; i < rows; i++) result.set(matrix.subarray(i * from, i * from + Math.min(from, to)), i * to)
  return result
}
