/** The ops by name, one a file, and their kernels. */

import type { NativeDispatch } from '../../native/border.js'
import type { BackwardContext, Op, SpecOf, StackContext } from './op.js'
import { registry } from './registry.js'

export * from './dispatch.js'
export { adaptedNorms } from './dora.js'
export { dotsOfExpert } from './mixture.js'
export type { Adapter, Attention, BackwardContext, Mixture, Rotary, StackContext, TensorGradient } from './op.js'
export { opKernels } from './registry.js'

/** An op of a forward pass: the `Spec` of any file here. */
export type OpSpec = SpecOf<(typeof registry)[keyof typeof registry]>

const ops: { readonly [Name in OpSpec['op']]: Op<Extract<OpSpec, { op: Name }>> } = registry

const opOf = ({ op }: OpSpec): Op<OpSpec> => ops[op]

/** The dispatches of an op. */
export function forward(spec: OpSpec, context: StackContext): NativeDispatch[] {
  return opOf(spec).forward(spec, context)
}

/** The activation that an op writes. */
export function writtenBy(spec: OpSpec): string {
  return opOf(spec).writes(spec)
}

/** The activations that an op reads. */
export function readBy(spec: OpSpec): string[] {
  return opOf(spec).reads(spec)
}

/** The activations whose values the gradient of an op needs. */
export function keptBy(spec: OpSpec, learns: (tensor: string) => boolean): string[] {
  return opOf(spec).keeps(spec, learns)
}

/** The dispatches of the gradient of an op. */
export function backward(spec: OpSpec, context: BackwardContext): NativeDispatch[] {
  return opOf(spec).backward(spec, context)
}

/** The tensors that an op names. */
export function tensorsOfOp(op: OpSpec): string[] {
  const { table, weight, bias } = op as { table?: string; weight?: string; bias?: string }
  return [table, weight, bias].filter((name) => name !== undefined)
}
