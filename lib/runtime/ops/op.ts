/** What an op of a forward pass is, and what it sees of the stack that it is part of. */

import type { Attention, OpSpec } from '../../architectures/index.js'
import type { NativeDispatch } from '../../native/border.js'
import type { Block, Forms } from './dispatch.js'

/** A stack on the device, in a pass at one of its layers. Buffers go by index. */
export interface StackContext {
  /** Tokens of the pass. */
  rows: number
  attention: Attention
  forms: Forms
  /** Buffer of the tokens' words. */
  tokens: number
  /** Buffer of (cos, sin) of every position; nothing where the stack rotates no heads. */
  angles: number | undefined
  /** Buffers of keys and values of the layer. */
  cache: { keys: number; values: number }
  /** Buffer and width of an activation by its name. */
  activation: (name: string) => number
  width: (name: string) => number
  /** Blocks of a tensor, in the order of its rows. */
  blocks: (tensor: string) => readonly Block[]
}

/** The description of an op, by its name. */
export type SpecOf<Name extends OpSpec['op']> = Extract<OpSpec, { op: Name }>

/**
 * One op, in a file of its own: how its description (a member of `OpSpec`) becomes dispatches.
 *
 * This is also the place of its derivative. `backward(spec, context)` will give the dispatches that turn the gradient
 * of what the op writes into gradients of what it reads, and `saves(spec)` the names of activations whose values it
 * needs for that: ops that write in place (`glu`, `add`, `activation`, the bias of `linear` and `norm`, rotation) lose
 * theirs today.
 */
export interface Op<Spec extends OpSpec> {
  forward(spec: Spec, context: StackContext): NativeDispatch[]
}
