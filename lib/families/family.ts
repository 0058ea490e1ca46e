/**
 * What a model is, as data: its tensors and their shapes, what can be pruned together, and the ops of a forward pass over
 * named activations. A family reads a config and gives this; nothing else in the library knows a family.
 */

/** An op of a forward pass. Activations are named; `weight` and `bias` are tensors. */
export type Op =
  | { op: 'norm'; x: string; y: string; weight: string }
  /** y = x · Wᵀ + bias. */
  | { op: 'linear'; x: string; y: string; weight: string; bias?: string }
  /** Rotates q and k, appends k and v to the cache of this layer, and attends. */
  | { op: 'attention'; q: string; k: string; v: string; y: string }
  /** x = silu(x) * y. */
  | { op: 'gate'; x: string; y: string }
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
  ops: Op[]
  units: Units[]
}

export interface ModelSpec {
  architecture: string
  vocabulary: number
  /** Most tokens of a sequence. */
  context: number
  heads: number
  /** KV heads; `heads / groups` query heads share one. */
  groups: number
  headSize: number
  /** Keys a token sees, its own among them; 0: all before it. */
  window: number
  /** Added under the root of a norm. */
  eps: number
  /** Angle a position of each pair of a head, float64. */
  frequencies: Float64Array
  /** Shape of every tensor that is used. */
  tensors: ReadonlyMap<string, readonly number[]>
  /** Width of every activation; `x` is the residual stream. */
  activations: Readonly<Record<string, number>>
  embedding: string
  layers: Layer[]
  /** From the residual stream to the rows that the head is applied to. */
  final: Op[]
  head: { x: string; weight: string }
}

export type Config = Readonly<Record<string, unknown>>
