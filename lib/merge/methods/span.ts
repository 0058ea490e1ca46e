/**
 * Methods whose result lies in the span of the inputs (or of their differences from the first): one pass for the inner
 * products, a small float64 computation, one pass that adds up. Two passes, however many iterations the method takes.
 * A tensor is one vector, or every row or column of it is one.
 */

import type { NativeLines, NativeProgram } from '../../native/border.js'
import { layout } from '../../native/layouts.js'
import type { Step } from './method.js'

type Computed = Extract<Step, { program: NativeProgram }>

/** Inputs such a method can have besides a base: every two of them make a partial result a block. */
export const mostVectors = 32

export interface Span {
  /** CPU step that turns inner products into factors. */
  cpuStep: string
  /** Whether the vectors are the differences from input 0. */
  origin: boolean
  vectors: number
  parameters: number[]
  lines?: NativeLines | undefined
}

export function spanStep({ cpuStep, origin, vectors, parameters, lines }: Span): Computed {
  const pairs = (vectors * (vectors + 1)) / 2
  const constants = { BASE: origin ? 1 : 0 }
  const coefficients = [origin ? 1 : 0, ...parameters]
  if (lines !== undefined) {
    const each = { ...constants, ACROSS: lines.across ? 1 : 0 }
    return {
      program: {
        cpuStep,
        lines,
        kernels: [
          { kernel: 'gram_lines', writes: pairs * slotsOf(lines), constants: each },
          { kernel: 'line_sum', writes: 'output', constants: each },
        ],
      },
      coefficients,
    }
  }
  return {
    program: {
      cpuStep,
      kernels: [
        { kernel: 'gram', writes: pairs, constants },
        { kernel: origin ? 'delta' : 'linear', writes: 'output' },
      ],
    },
    coefficients,
  }
}

/** Rows along the last dimension; undefined where the tensor is a single one. */
export function rowsOf(shape: readonly number[]): NativeLines | undefined {
  const size = shape.at(-1) ?? 1
  return size === count(shape) ? undefined : { size, across: false }
}

/** Columns: vectors along the first dimension; undefined where the tensor is a single one. */
export function columnsOf(shape: readonly number[]): NativeLines | undefined {
  const size = count(shape.slice(1))
  return size === 1 ? undefined : { size, across: true }
}

function count(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1)
}

/** Lines that a block of 2,048 elements can touch. */
function slotsOf(lines: NativeLines): number {
  return lines.across ? Math.min(lines.size, layout.block) : rowSlots(lines)
}

/** Rows that a block of 2,048 elements can touch. */
export function rowSlots({ size }: NativeLines): number {
  return Math.ceil((layout.block - 1) / size) + 1
}
