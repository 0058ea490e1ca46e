/** Products with a matrix: kernel `gemm` in the form that suits the device and the number of rows. */

import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { addBias } from './bias.js'
import { type Block, dtypeOf, type Forms, panel, plainForms } from './dispatch.js'
import type { Op } from './op.js'

/** y = x · Wᵀ + bias. */
export interface Spec {
  op: 'linear'
  x: string
  y: string
  weight: string
  bias?: string
}

/** Columns that an invocation makes. */
const invocationColumns = 8

/** The kernel that multiplies so many rows with a block, and the rows and columns that a workgroup of it makes. */
function gemmForm({ dtype, columns }: Block, rows: number, { lanes, tall: most, f16, matrix }: Forms) {
  if (matrix > 0 && dtype === 'F16' && columns % 32 === 0 && rows > 8) {
    return { kernel: `gemm_matrix_${matrix}`, tall: 2 * matrix, wide: panel, lanes }
  }
  if (lanes === 0 || columns % 4 !== 0 || (most === 1 && rows > 1)) {
    return { kernel: 'gemm', tall: 8, wide: 16 * invocationColumns, lanes }
  }
  // Tiles of 32 rows are faster by a quarter at least, if they are not half empty.
  const padded = (tall: number) => Math.ceil(rows / tall) * tall
  const tall = rows === 1 ? 1 : rows <= 8 ? 8 : most === 32 && padded(32) <= 1.25 * padded(16) ? 32 : 16
  return { kernel: `gemm_${tall}${f16 && dtype === 'F16' ? '_f16' : ''}`, tall, wide: lanes * invocationColumns, lanes }
}

/** y[rows, stride] at the columns of the block = x[from.., columns] · Wᵀ. */
const gemm = (
  weight: Block,
  x: number,
  y: number,
  { rows, stride, from = 0, forms = plainForms }: { rows: number; stride: number; from?: number; forms?: Forms },
): NativeDispatch => {
  const { kernel, tall, wide, lanes } = gemmForm(weight, rows, forms)
  return {
    kernel: `model/${kernel}`,
    constants: { ...dtypeOf(weight), SUBGROUP: lanes },
    parameters: packParameters('model/gemm', {
      rows,
      inner: weight.columns,
      columns: weight.rows,
      first: weight.first,
      stride,
      start: from,
    }),
    buffers: [weight.buffer, x, y],
    grid: [Math.ceil(weight.rows / wide), Math.ceil(rows / tall), 1],
  }
}

export const op: Op<Spec> = {
  writes: ({ y }) => y,
  forward(spec, context) {
    const { rows, forms, activation } = context
    const blocks = context.blocks(spec.weight)
    const stride = blocks.reduce((sum, block) => sum + block.rows, 0)
    return [
      ...blocks.map((block) => gemm(block, activation(spec.x), activation(spec.y), { rows, stride, forms })),
      ...addBias(spec, context),
    ]
  },
}

export const kernels = { gemm }
