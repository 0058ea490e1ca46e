/** What an op of a forward pass is, and what it sees of the stack that it is part of. */

import type { NativeDispatch } from '../../native/border.js'
import type { Block, Forms } from './dispatch.js'

/** Angles of rotary embeddings for sequences of up to `length` tokens. */
export interface Rotary {
  /** Angle a position of each pair of a head, float64. */
  frequencies: Float64Array
  /** Cosines and sines are multiplied by it. */
  factor: number
}

/** How a stack attends. */
export interface Attention {
  heads: number
  /** KV heads; `heads / numKvHeads` query heads share one. */
  numKvHeads: number
  headSize: number
  /**
   * Tokens of every sequence of bidirectional attention, all of which see one another; 0: causal, a token sees itself
   * and those before it.
   */
  sequenceLength: number
  rotary?: (length: number) => Rotary
}

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

/**
 * One op, in a file of its own, which exports the description of an op (`Spec`, where activations are named, and
 * `table`, `weight` and `bias` are tensors), how it becomes dispatches (`op`), and what makes the dispatches of its
 * kernels (`kernels`). scripts/generate.mjs puts all of them into registry.ts.
 *
 * This is also the place of its derivative. `backward(spec, context)` will give the dispatches that turn the gradient
 * of what the op writes into gradients of what it reads, and `saves(spec)` the names of activations whose values it
 * needs for that: ops that write in place (`glu`, `add`, `activation`, the bias of `linear` and `norm`, rotation) lose
 * theirs today.
 */
export interface Op<Spec extends { op: string }> {
  /** The activation that it writes. */
  writes(spec: Spec): string
  forward(spec: Spec, context: StackContext): NativeDispatch[]
}

/** The description that an op takes. */
export type SpecOf<O> = O extends Op<infer Spec> ? Spec : never
