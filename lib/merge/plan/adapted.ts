/**
 * Weights with low-rank changes as derived tensors: W + s (B A) is computed from the stored W, A and B by one kernel,
 * which takes further pairs as further inputs, so that several adapters cost one pass over the weight.
 */

import { bytesOf, type Checkpoint, type CheckpointTensor, isLoadable, kernelCode } from '../../checkpoint/index.js'
import type { LowRank } from '../../lora/index.js'
import type { NativeProgram } from '../../native/border.js'
import { WeightsmithError } from '../../util/errors.js'
import { columnsOf, rowsOf, spanStep } from '../methods/span.js'
import { type DerivedTensor, isDerived, linear, type Operand, soleOperand, storedType } from './derived.js'
import type { Origin } from './planned.js'

/** B and A of one matrix, with the scale of their product. */
export interface Pair {
  a: Origin
  b: Origin
  rank: number
  scale: number
  /** Elements of B from one to the next of the same matrix, and its first. */
  step: number
  first: number
}

/** Rows and columns of the weight that are changed, and whether the transpose of B A is added. */
export interface Change {
  rows: number
  columns: number
  transposed: boolean
  pairs: Pair[]
}

/** Pairs that one kernel can add. */
const mostPairs = 16

/** A tensor whose runs of elements are computed, each by one change; `as`: the type it has by default. */
export function changed(key: string, weight: Origin, changes: Change[], as: string): DerivedTensor {
  const { shape } = weight.tensor
  let first = 0
  const operands = changes.map((change): Operand => {
    const elements = change.rows * change.columns
    if (elements >= 2 ** 32) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_SHAPE_MISMATCH',
        `Tensor ${key} has a matrix of ${elements} elements, and an adapter can change fewer than 4294967296.`,
        { tensor: key },
      )
    }
    const operand = { first, elements, key, ...operandOf(weight, first, change) }
    first += elements
    return operand
  })
  return derived(key, shape, as, operands)
}

function operandOf(
  weight: Origin,
  first: number,
  change: Change,
): Pick<Operand, 'program' | 'coefficients' | 'origins'> {
  const { rows, columns, transposed, pairs } = change
  const own = isDerived(weight.tensor) ? earlier(weight.tensor, change) : undefined
  const added = pairs.flatMap(({ rank, scale, step, first }) => [rank, scale, step, first])
  const coefficients = [...(own?.coefficients ?? [columns, rows]), ...added]
  const skip = first * (isLoadable(weight.tensor.dtype) ? bytesOf(weight.tensor.dtype) : 1)
  const start = own?.origins ?? [skip > 0 ? { ...weight, skip } : weight]
  const origins = [...start, ...pairs.flatMap(({ a, b }) => [b, a])]
  return { program: programOf(origins, transposed), coefficients, origins }
}

/** What made a weight, where the pairs of a change can be added to it. */
function earlier(tensor: DerivedTensor, { transposed, pairs }: Change): Operand | undefined {
  const operand = soleOperand(tensor)
  const [kernel] = operand?.program?.kernels ?? []
  if (operand === undefined || kernel?.kernel !== 'lora' || kernel.constants?.TRANSPOSED !== (transposed ? 1 : 0)) {
    return undefined
  }
  return (operand.origins.length - 1) / 2 + pairs.length <= mostPairs ? operand : undefined
}

function programOf([weight, ...factors]: Origin[], transposed: boolean): NativeProgram {
  const types = new Set(factors.map(({ tensor }) => tensor.dtype))
  const [only] = types
  const constants = {
    TRANSPOSED: transposed ? 1 : 0,
    WEIGHT: kernelCode(weight?.tensor.dtype),
    FACTORS: kernelCode(types.size === 1 ? only : undefined),
  }
  return { kernels: [{ kernel: 'lora', writes: 'output', constants }] }
}

/** The origins of a pair whose factors are read whole. */
export function pairOf(checkpoint: Checkpoint, { a, b, rank, scale }: LowRank, weight: number): Pair {
  const whole = (tensor: CheckpointTensor): Origin => ({ checkpoint, tensor, whole: count(tensor.shape) })
  return { a: whole(a), b: whole(b), rank, scale: scale * weight, step: 1, first: 0 }
}

/** Pairs of one expert of a stack. */
export function expertPair(checkpoint: Checkpoint, matrix: LowRank, expert: number, weight: number): Pair {
  const { a, b, rank, scale, experts = 1, stacked } = matrix
  const part = (tensor: CheckpointTensor): Origin => {
    const elements = count(tensor.shape) / experts
    const width = isLoadable(tensor.dtype) ? bytesOf(tensor.dtype) : 1
    return { checkpoint, tensor, skip: expert * elements * width, whole: elements }
  }
  const common = { a: part(a), rank, scale: scale * weight }
  if (stacked) return { ...common, b: part(b), step: 1, first: 0 }
  return { ...common, b: { checkpoint, tensor: b, whole: count(b.shape) }, step: experts, first: expert }
}

/**
 * DoRA (arXiv 2402.09353): every row (or column) of the matrix gets the length m. The sums of squares are added in
 * float64; a length of 0 stays one, because it has no direction.
 */
export function lengthened(key: string, matrix: Origin, m: readonly number[], across: boolean): DerivedTensor {
  const { shape } = matrix.tensor
  const lines = across ? columnsOf(shape) : rowsOf(shape)
  const step = spanStep({ cpuStep: 'dora', origin: false, vectors: 1, parameters: [...m], lines })
  const operand = { first: 0, elements: count(shape), key, ...step, origins: [matrix] }
  return derived(key, shape, storedType(matrix.tensor), [operand])
}

/** b + s x, with one rounding. */
export function added(key: string, bias: Origin, change: Origin, scale: number): DerivedTensor {
  const { shape } = bias.tensor
  const operand = {
    first: 0,
    elements: count(shape),
    key,
    program: linear,
    coefficients: [1, scale],
    origins: [bias, change],
  }
  return derived(key, shape, storedType(bias.tensor), [operand])
}

function derived(name: string, shape: number[], as: string, operands: Operand[]): DerivedTensor {
  return { name, file: -1, dtype: 'F32', shape, begin: 0, end: 4 * count(shape), as, operands }
}

function count(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1)
}
