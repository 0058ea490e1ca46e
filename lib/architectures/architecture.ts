/**
 * What a model is, as data: its tensors and their shapes, what can be pruned together, and the ops of a forward pass
 * over named activations. An architecture reads a config and gives this; nothing else in the library knows an
 * architecture.
 *
 * A model is one or more stacks of layers. All of them are run by the same code: the language model, and before it,
 * where images are given, the vision encoder that turns them into rows of its residual stream.
 */

import type { Attention, OpSpec } from '../runtime/ops/index.js'

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
