/**
 * What a model is, as data: its tensors and their shapes, what can be pruned together, and the ops of a forward pass
 * over named activations. An architecture reads a config and gives this; nothing else in the library knows an
 * architecture.
 *
 * A model is one or more stacks of layers. All of them are run by the same code: the language model, and before it,
 * where images are given, the vision encoder that turns them into rows of its residual stream.
 */

/**
 * What is done to every element. `gelu` is the exact one, by erf; `gelu_tanh` its approximation; `quick_gelu` x *
 * sigmoid(1.702 x).
 */
export type Activation = 'silu' | 'gelu' | 'gelu_tanh' | 'quick_gelu' | 'relu'

/** An op of a forward pass. Activations are named; `table`, `weight` and `bias` are tensors. */
export type OpSpec =
  /**
   * y = scale * the row of the table at the token's id, or at its position + `offset`; `add`: y += that. Ids that the
   * table does not have leave y as it is.
   */
  | { op: 'embed'; y: string; table: string; by: 'id' | 'position'; offset?: number; scale?: number; add?: boolean }
  /** The first token of every sequence: y = weight. */
  | { op: 'class_token'; y: string; weight: string }
  /**
   * y = (x - m) / sqrt(mean((x - m)^2) + eps) * (weight + plus) + bias; m is the mean of x where the op is `centered`
   * (LayerNorm), else 0 (RMSNorm). `heads`: a row of x is so many, each normalised on its own.
   */
  | {
      op: 'norm'
      x: string
      y: string
      weight: string
      bias?: string
      eps: number
      centered?: boolean
      plus?: number
      heads?: number
    }
  /** y = x · Wᵀ + bias. */
  | { op: 'linear'; x: string; y: string; weight: string; bias?: string }
  /**
   * Rotates q and k where the stack has angles, appends k and v to the cache of this layer, and attends. `window`: keys
   * a token sees, its own among them; 0: all before it. `heads` and `numKvHeads`: where the layer has others than the
   * stack.
   */
  | { op: 'attention'; q: string; k: string; v: string; y: string; window: number; heads?: number; numKvHeads?: number }
  /** x = f(x). */
  | { op: 'activation'; kind: Activation; x: string }
  /** x = f(x) * y. */
  | { op: 'glu'; kind: Activation; x: string; y: string }
  /** x += y. */
  | { op: 'add'; x: string; y: string }

/** Parts of tensors that can only be removed together: unit u is `size` rows (or columns) from u * size on, of each. */
export interface Units {
  kind: 'neuron' | 'group'
  count: number
  rows: { tensor: string; size: number }[]
  columns: { tensor: string; size: number }[]
}

export interface Layer {
  ops: OpSpec[]
  units: Units[]
}

/** Angles of rotary embeddings for sequences of up to `length` tokens. */
export interface Rotary {
  /** Angle a position of each pair of a head, float64. */
  frequencies: Float64Array
  /** Cosines and sines are multiplied by it. */
  factor: number
}

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

export interface Stack {
  /** Width of every activation; `x` is the residual stream. */
  activations: Readonly<Record<string, number>>
  attention: Attention
  /** What fills the residual stream. */
  embed: OpSpec[]
  layers: Layer[]
  /** From the residual stream to what the stack gives. */
  final: OpSpec[]
}

/** The vision encoder of a model that sees. An image is a sequence: a class token, then its patches in rows. */
export interface Vision {
  stack: Stack
  channels: number
  /** Pixels a side of an image and of a patch. */
  size: number
  patch: number
  /** The activation that patches are written to: [channels, patch, patch] of each, in the order of their rows. */
  patches: string
  /** Layers that the features have gone through; the others do not reach the output. */
  layers: number
  /**
   * The activation of features after `final`, and how many of an image's first rows are not given on: the class
   * token's, or none.
   */
  features: string
  skipped: number
  /** The id that stands for an image. */
  token: number
}

export interface ModelSpec {
  architecture: string
  vocabulary: number
  /** Most tokens of a sequence. */
  context: number
  /** Shape of every tensor that is used. */
  tensors: ReadonlyMap<string, readonly number[]>
  language: Stack
  vision?: Vision
  /** Logits: the rows of an activation after the language model's `final`, by this matrix. */
  head: { x: string; weight: string }
}

export type Config = Readonly<Record<string, unknown>>

/** What an architecture is told beside the config. */
export interface Subject {
  /** In messages. */
  name: string
  architecture: string
  /** Whether the checkpoint has a tensor: some layouts have several names. */
  has: (tensor: string) => boolean
}

export type Architecture = (config: Config, subject: Subject) => ModelSpec
