/** The ops by name, one a file, and their kernels. */

import type { OpSpec } from '../../architectures/index.js'
import type { NativeDispatch } from '../../native/border.js'
import { activation, unary } from './activation.js'
import { add, sum } from './add.js'
import { attend, attention, kvStore } from './attention.js'
import { bias } from './bias.js'
import { classToken, firstTokens } from './class_token.js'
import { embed, getRows } from './embed.js'
import { gated, glu } from './glu.js'
import { gemm, linear } from './linear.js'
import { norm, normRows } from './norm.js'
import type { Op, SpecOf, StackContext } from './op.js'
import { rope } from './rope.js'

export * from './dispatch.js'
export type { StackContext } from './op.js'

const ops: { readonly [Name in OpSpec['op']]: Op<SpecOf<Name>> } = {
  activation,
  add,
  attention,
  class_token: classToken,
  embed,
  glu,
  linear,
  norm,
}

/** The dispatches of an op. */
export function forward(spec: OpSpec, context: StackContext): NativeDispatch[] {
  const op: Op<OpSpec> = ops[spec.op]
  return op.forward(spec, context)
}

/** What makes the dispatch of each kernel that is part of an op: native/kernels/model/NAME.wgsl. */
export const opKernels = {
  add: sum,
  attention: attend,
  bias,
  classToken: firstTokens,
  gemm,
  getRows,
  glu: gated,
  kvStore,
  norm: normRows,
  rope,
  unary,
} as const
