/** What an adapter is, whatever program has saved it: low-rank changes of weights, and what else comes with them. */

import type { Checkpoint, CheckpointTensor } from '../checkpoint/open.js'

/** One low-rank change of a weight: + s (B A). */
export interface LowRank {
  /** Name of the weight in the base model, as the adapter has it. */
  target: string
  /** [r, in]; of experts [E r, in], or [E, r, in] where `stacked`. */
  a: CheckpointTensor
  /** [out, r]; of experts [out, r E], where the expert is the fastest index, or [E, out, r] where `stacked`. */
  b: CheckpointTensor
  /** r */
  rank: number
  /** s: alpha / r or alpha / √r of PEFT; of mlx-lm as it is. */
  scale: number
  /** The transpose of B A is added to a weight [rows, columns]: B is [columns, r] and A [r, rows]. */
  turned: boolean
  /** The weight is a table of tokens. */
  embedding: boolean
  /** E: the weight is a stack of so many matrices; absent: it is one. */
  experts?: number
  /** How a stack was read when A and B were made, where the adapter says it. */
  order?: StackOrder
  /** The factors of each expert lie together. */
  stacked?: boolean
  /**
   * DoRA (arXiv 2402.09353): lengths that the rows of the adapted weight get, one an output; of tables of tokens one a
   * column in PEFT and one a row in mlx-lm.
   */
  magnitude?: CheckpointTensor
  /** Factors that the base lost when training began: W - s (B₀ A₀) + s (B A). */
  start?: Start
  /**
   * The weight that A and B were trained on, where the adapter has it itself: tables of tokens, maybe with more rows.
   */
  below?: CheckpointTensor
}

/**
 * How B₀ and A₀ follow from the base: `pissa` the leading part of its SVD (arXiv 2404.02948), `olora` that of its QR
 * factorisation (arXiv 2406.01775).
 */
export type Start = 'pissa' | 'olora'

/**
 * `in-out`: a stack [E, x, y] takes x inputs and gives y outputs, whatever class it is of; `class`: it is [E, out, in]
 * but where its class says otherwise, as that of GPT-OSS does.
 */
export type StackOrder = 'in-out' | 'class'

/** Rows of a table of tokens that replace those of the base. */
export interface TokenRows {
  tensor: CheckpointTensor
  ids: number[]
}

export interface Adapter {
  format: 'PEFT' | 'mlx-lm'
  checkpoint: Checkpoint
  /** Name of the model it was trained on, as the config has it. */
  base?: string
  matrices: LowRank[]
  /** Tensors that replace those of the base (`modules_to_save`, `bias`), by name. */
  replaced: ReadonlyMap<string, CheckpointTensor>
  /** Vectors that are added to biases, times a scale (`lora_bias`), by the name of the bias. */
  biases: ReadonlyMap<string, { tensor: CheckpointTensor; scale: number }>
  /** By the name of the table. */
  tokens: ReadonlyMap<string, TokenRows>
  /** Weights of linears are stored as [in, out], and so the transpose of B A too (`fan_in_fan_out`). */
  turned: boolean
  /** Modules, or the ends of their names, that the config says the adapter has. */
  named: string[]
  /** What is special about it, by the keys of its config. */
  features: string[]
  /** Why it cannot be folded into a model: sentences that go on after "The adapter … cannot be folded: ". */
  obstacles: string[]
}
