/**
 * What all dispatches of model kernels share: blocks of packed tensors, the forms in which a device runs kernels, and
 * grids. Activations are f32 rows; weights are packed (kernel `pack_weights`); buffers go by index.
 */

import type { NativeDeviceInfo, StoreDType } from '../../native/border.js'
import { dtypeCodes } from '../../native/dtypes.js'
import { layout } from '../../native/layouts.js'
import { subgroupLanes } from '../../native/subgroups.js'

/** A tensor on the device: `rows` of the checkpoint's [rows, columns] from `first` on, packed. */
export interface Block {
  buffer: number
  dtype: StoreDType
  first: number
  rows: number
  columns: number
}

/**
 * What is done to every element. `gelu` is the exact one, by erf; `gelu_tanh` its approximation; `quick_gelu` x *
 * sigmoid(1.702 x).
 */
export type Activation = 'silu' | 'gelu' | 'gelu_tanh' | 'quick_gelu' | 'relu'

const activations: Record<Activation, number> = {
  silu: layout.activationSilu,
  gelu: layout.activationGelu,
  gelu_tanh: layout.activationGeluTanh,
  quick_gelu: layout.activationQuickGelu,
  relu: layout.activationRelu,
}

/** The override that says how a tensor is stored. */
export const dtypeOf = ({ dtype }: { dtype: StoreDType }) => ({ DTYPE: dtypeCodes[dtype] })

/** The override that says which activation. */
export const kindOf = (kind: Activation) => ({ KIND: activations[kind] })

/** Columns of packed tensors that lie together. */
export const panel = layout.panelColumns

/** Words of a row of a packed tensor: its columns are the rows of the checkpoint, padded to whole panels. */
export function packedWords(rows: number, dtype: StoreDType): number {
  return (Math.ceil(rows / panel) * panel) / (dtype === 'F32' ? 1 : 2)
}

export function packedBytes({ rows, columns, dtype }: Pick<Block, 'rows' | 'columns' | 'dtype'>): number {
  return 4 * columns * packedWords(rows, dtype)
}

/** The forms in which a device runs the kernels that have several. */
export interface Forms {
  /** Invocations of a subgroup, whose neighbours read for each other; 0: the kernels that run anywhere. */
  lanes: number
  /** The most rows of a product that an invocation has in arrays; 1: only single rows, others take no arrays. */
  tall: 1 | 16 | 32
  /** f16 weights are read by the device's own f16. */
  f16: boolean
  /** Side of the matrices of f16 weights that a subgroup multiplies at once; 0: none. */
  matrix: number
}

export const plainForms: Forms = { lanes: 0, tall: 16, f16: false, matrix: 0 }

/**
 * Matrices of this side have run on a driver. Those of 16 are tested wherever they are offered, and chosen once one
 * passes.
 */
const provenSide = 8

/**
 * Those that are fastest on a device, of the ones that it offers: on a CPU matrices of a subgroup take ten times as
 * long.
 */
export function formsOf(device: NativeDeviceInfo): Forms {
  const { features, type } = device
  const lanes = subgroupLanes(device)
  if (lanes === 0) return plainForms
  const cpu = type === 'cpu'
  const side = cpu ? 0 : matrixSide(device)
  return {
    lanes,
    // SwiftShader, whose subgroups have 4 invocations, keeps arrays in memory; a GPU has no room for 32 rows.
    tall: cpu ? (lanes < 8 ? 1 : 32) : 16,
    f16: features.includes('shader-f16'),
    matrix: side === provenSide ? side : 0,
  }
}

/** Side of the matrices that kernel gemm_matrix can take on a device; 0: none. */
export function matrixSide({ features, limits }: NativeDeviceInfo): number {
  const { subgroupMinSize = 0, subgroupMaxSize = 0, subgroupMatrixSide: side = 0 } = limits
  const fits = features.includes('shader-f16') && subgroupMinSize === subgroupMaxSize
  return fits && (side === 8 || side === 16) ? side : 0
}

/** A workgroup a row, in a grid of two dimensions: one of them ends at 65,535. */
export function perRow(rows: number, z = 1): [number, number, number] {
  const x = Math.min(rows, 32768)
  return [x, Math.ceil(rows / x), z]
}

/** An invocation for each four of so many elements, 64 a workgroup. */
export function perVec4(elements: number): [number, number, number] {
  return perRow(Math.ceil(elements / 256))
}
