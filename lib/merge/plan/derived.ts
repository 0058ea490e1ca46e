/**
 * Tensors that no file holds yet: results of earlier stages, weights with a LoRA adapter, tables whose rows follow
 * another vocabulary. They stand among the tensors of a checkpoint like stored ones. Where the step that reads one
 * can be joined with the step that makes it, it never comes into being; else it is made first, in float32.
 */

import type { Checkpoint, CheckpointFile, CheckpointTensor } from '../../checkpoint/index.js'
import type { NativeProgram } from '../../native/border.js'
import type { Origin } from './planned.js'

export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, i) => size === b[i])
}

/** How a run of elements is made; without a program the bytes of the one origin are copied. */
export interface Operand {
  /** First element. */
  first: number
  elements: number
  program?: NativeProgram
  coefficients: number[]
  origins: Origin[]
  /** Keys the random numbers. */
  key: string
}

export interface DerivedTensor extends CheckpointTensor {
  /** What is not in any operand is zero. */
  operands: Operand[]
  /** In the order of the network: the tensors whose programs share facts with this one's, so all of them are made. */
  together?: DerivedTensor[]
  /** The type that a tensor made from it has by default: that of the stored weights behind it. */
  as: string
}

export function isDerived(tensor: CheckpointTensor): tensor is DerivedTensor {
  return 'operands' in tensor
}

/** The type of the stored weights. */
export function storedType(tensor: CheckpointTensor): string {
  return isDerived(tensor) ? tensor.as : tensor.dtype
}

/** The one operand that makes all of a tensor. */
export function soleOperand({ operands }: DerivedTensor): Operand | undefined {
  return operands.length === 1 ? operands[0] : undefined
}

/** Factors of a program that is a weighted sum of its inputs. */
function factorsOf(program: NativeProgram, coefficients: number[]): number[] | undefined {
  const [only] = program.kernels
  if (program.cpuStep !== undefined || program.kernels.length !== 1) return undefined
  if (only?.kernel === 'linear') return coefficients
  if (only?.kernel === 'delta') return [1 - coefficients.reduce((a, b) => a + b, 0), ...coefficients]
  return undefined
}

const mostInputs = 64

/** A weighted sum of weighted sums as one: `undefined` where it is not one, or joins nothing. */
function joinSums(
  program: NativeProgram,
  coefficients: number[],
  origins: Origin[],
): { program: NativeProgram; coefficients: number[]; origins: Origin[] } | undefined {
  if (!origins.some(({ tensor }) => isDerived(tensor))) return undefined
  const outer = factorsOf(program, coefficients)
  if (outer === undefined) return undefined
  const sums = new Map<CheckpointTensor, { factor: number; origin: Origin }>()
  const add = (origin: Origin, factor: number) => {
    const known = sums.get(origin.tensor)
    sums.set(origin.tensor, { origin, factor: factor + (known?.factor ?? 0) })
  }
  let joined = false
  for (const [i, origin] of origins.entries()) {
    const operand = isDerived(origin.tensor) ? soleOperand(origin.tensor) : undefined
    const inner = operand?.program && factorsOf(operand.program, operand.coefficients)
    if (operand === undefined || inner === undefined) add(origin, outer[i] ?? 0)
    else {
      joined = true
      for (const [j, source] of operand.origins.entries()) add(source, (outer[i] ?? 0) * (inner[j] ?? 0))
    }
  }
  if (!joined || sums.size > mostInputs) return undefined
  const kept = [...sums.values()].filter(({ factor }) => factor !== 0)
  const read = kept.length > 0 ? kept : [...sums.values()].slice(0, 1)
  const flat = {
    program: linear,
    coefficients: read.map(({ factor }) => factor),
    origins: read.map(({ origin }) => origin),
  }
  return joinSums(linear, flat.coefficients, flat.origins) ?? flat
}

type Work = Omit<Operand, 'first' | 'elements' | 'key'> & { key?: string }

/** Joins a step with those that make what it reads, where that is exact: copies, and sums of sums. */
export function fused(work: Work): Work {
  const { program = linear, coefficients, origins } = work
  const [only] = origins
  if (program === linear && coefficients.length === 1 && coefficients[0] === 1 && only && isDerived(only.tensor)) {
    const operand = soleOperand(only.tensor)
    if (operand?.program !== undefined && !operand.program.shared) return fused(operand)
  }
  const sum = joinSums(program, coefficients, origins)
  return sum === undefined ? work : { ...work, ...sum }
}

export const linear: NativeProgram = { kernels: [{ kernel: 'linear', writes: 'output' }] }

/** A list of files that tensors of several checkpoints can point into. */
export class Files {
  readonly list: CheckpointFile[] = []
  private readonly known = new Map<string, number>()

  /** The tensor as one of these files. */
  take<T extends CheckpointTensor>(tensor: T, { files }: Checkpoint): T {
    const file = files[tensor.file]
    return file === undefined ? tensor : { ...tensor, file: this.add(file) }
  }

  /** Where the file stands in the list. */
  add(file: CheckpointFile): number {
    const index = this.known.get(file.path) ?? this.list.push(file) - 1
    this.known.set(file.path, index)
    return index
  }
}

/** What has to be made before the merge, in order: tensors of a prepass read those of the prepasses before it. */
export interface Prepass {
  bytes: number
  /** Byte offsets. */
  places: Map<DerivedTensor, number>
}

export function prepassesOf(origins: Iterable<Origin>): Prepass[] {
  const depths = new Map<DerivedTensor, number>()
  const depthOf = (tensor: DerivedTensor): number => {
    const known = depths.get(tensor)
    if (known !== undefined) return known
    const { together } = tensor
    let depth = 0
    const operands = together === undefined ? tensor.operands : together.flatMap((one) => one.operands)
    for (const operand of operands) {
      for (const origin of operand.origins) {
        if (isDerived(origin.tensor)) depth = Math.max(depth, 1 + depthOf(origin.tensor))
      }
    }
    for (const one of together ?? [tensor]) depths.set(one, depth)
    return depth
  }
  for (const { tensor } of origins) if (isDerived(tensor)) depthOf(tensor)
  const prepasses: Prepass[] = []
  for (const [tensor, depth] of depths) {
    while (prepasses.length <= depth) prepasses.push({ bytes: 0, places: new Map() })
    const prepass = prepasses[depth]
    if (prepass === undefined) continue
    prepass.places.set(tensor, prepass.bytes)
    prepass.bytes += Math.ceil((tensor.end - tensor.begin) / 64) * 64
  }
  return prepasses
}
