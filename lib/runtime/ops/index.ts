/** The ops by name, one a file, and their kernels. */

import type { NativeDispatch } from '../../native/border.js'
import type { Op, SpecOf, StackContext } from './op.js'
import { registry } from './registry.js'

export * from './dispatch.js'
export type { Attention, Rotary, StackContext } from './op.js'
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
