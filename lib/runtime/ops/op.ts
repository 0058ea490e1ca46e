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
  /** The adapter of a matrix, where it has one. */
  adapter?: ((weight: string) => Adapter | undefined) | undefined
  /** Buffer of (log-sum-exp, delta) of every head of every token, in a pass of which a gradient is taken. */
  statistics?: number | undefined
  /** What adapters read loses elements. */
  dropout?: Dropout | undefined
}

/** Dropout of what adapters read: which elements are lost follows from all of this, the adapter and the element. */
export interface Dropout {
  /** Of the elements; the others are multiplied by 1 / (1 - share). */
  share: number
  seed: number
  step: number
  /** Within the step. */
  microBatch: number
}

/** A LoRA adapter of a matrix: y += scale * (x Aᵀ) Bᵀ, with tensors Aᵀ [inputs, rank] and B [outputs, rank]. */
export interface Adapter {
  a: string
  b: string
  scale: number
  /** Buffers of rows of `rank` elements: of scale * x Aᵀ, and of its gradient. */
  inner: number
  innerGradient: number
  /** Tells its draws of dropout from those of other adapters. */
  index: number
  /** Buffer of rows of `inputs` elements: of x after dropout, where there is any. */
  dropped?: number | undefined
  /** DoRA: y is magnitude / norms times that, a column. */
  magnitude?: Magnitude
  /** A and B are made of those of experts. */
  mixture?: Mixture
}

/** The experts that count in a pass; see mixture.ts. */
export interface Mixture {
  form: 'factor' | 'output'
  /** Tensors of factors, above 0 how much they count, and where sums of the gradient of that begin. */
  experts: readonly { a: string; b: string; gate: number; dots: number }[]
  /** Buffer of the sums. */
  sums: number
}

/** Lengths that the rows of an adapted matrix get. */
export interface Magnitude {
  /** The tensor of lengths [outputs], in one block. */
  tensor: string
  /** Buffer of the norms that the rows have. */
  norms: number
  /** Buffer of rows of `outputs` elements: of the product before it is scaled. */
  outer: number
}

/** Where the gradient of a tensor that is trained goes: f32, packed as the tensor is, one a block of it. */
export interface TensorGradient {
  blocks: readonly Block[]
  /** Whether it is added to what is there. */
  add: boolean
}

/** What the backward form of an op sees: values of its activations as it read and wrote them, and gradients. */
export interface BackwardContext extends StackContext {
  /** Buffer with the gradient of what the op wrote. */
  gradient: (name: string) => number
  /**
   * Where the gradient of what the op read goes, whether it is added to what is there, and whether anybody wants it.
   * Asked for once an activation.
   */
  into: (name: string) => { buffer: number; add: boolean; wanted: boolean }
  /** Where the gradient of a tensor goes; nothing for one that is not trained. */
  trained: (tensor: string) => TensorGradient | undefined
  /** Buffer of (mean, scale) of rows. */
  moments: number
  /** Ids or positions with their tokens (see kernel `embed_gradient`), so many of them. */
  buckets: (by: 'id' | 'position') => { buffer: number; count: number }
  statistics: number
}

/**
 * One op, in a file of its own, which exports the description of an op (`Spec`, where activations are named, and
 * `table`, `weight` and `bias` are tensors), how it becomes dispatches forward and backward (`op`), and what makes the
 * dispatches of its kernels (`kernels`). scripts/generate.mjs puts all of them into registry.ts.
 */
export interface Op<Spec extends { op: string }> {
  /** The activations that it reads. One that it also writes is changed in place. */
  reads(spec: Spec): string[]
  /** The activation that it writes. */
  writes(spec: Spec): string
  forward(spec: Spec, context: StackContext): NativeDispatch[]
  /**
   * Activations whose values the backward form needs: as the op read them, or, of one that it does not read, as it
   * wrote it. `learns`: whether a tensor, or an adapter of it, is trained.
   */
  keeps(spec: Spec, learns: (tensor: string) => boolean): string[]
  /**
   * From the gradient of what the op wrote to gradients of what it read, and of tensors that are trained. The gradient
   * of an activation that is changed in place is, too.
   */
  backward(spec: Spec, context: BackwardContext): NativeDispatch[]
}

/** The description that an op takes. */
export type SpecOf<O> = O extends Op<infer Spec> ? Spec : never
