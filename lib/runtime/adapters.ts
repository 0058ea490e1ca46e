/** LoRA adapters beside a model, in training and without: what they are, and the names of their tensors. */

import type { ModelSpec } from '../architectures/index.js'

/** The linears of a model's layers that adapters can be of: [outputs, inputs] by the name of the weight. */
export function linearsOf({ language, tensors }: ModelSpec): Map<string, readonly number[]> {
  const weights = language.layers.flatMap(({ ops }) => ops.flatMap((op) => (op.op === 'linear' ? [op.weight] : [])))
  return new Map(weights.map((weight) => [weight, tensors.get(weight) ?? []]))
}

/** A LoRA adapter of one matrix. */
export interface AdapterSpec {
  /** The tensor of the matrix [outputs, inputs]. */
  weight: string
  rank: number
  /** What the product of its factors is multiplied by: alpha / rank, or alpha / √rank. */
  scale: number
  /** DoRA: rows of the adapted matrix get lengths that are trained, at first those that they have. */
  dora?: boolean
  /** So many adapters, of which the router chooses. */
  experts?: number
}

/** An expert that counts in a pass. */
export interface Gate {
  expert: number
  /** Above 0. */
  gate: number
}

/** Experts that count, of the gates of all. */
export function gatesOf(gates: ArrayLike<number>): Gate[] {
  return Array.from(gates, (gate, expert) => ({ expert, gate })).filter(({ gate }) => gate > 0)
}

type Names = Record<'a' | 'b' | 'magnitude', string>

/** The names of the tensors of an adapter, or of an expert, as PEFT has them without its prefix. */
export function factorNames(weight: string, expert?: number): Names {
  const module = weight.replace(/\.weight$/, '')
  const of = expert === undefined ? '' : `.${expert}`
  return {
    a: `${module}.lora_A${of}.weight`,
    b: `${module}.lora_B${of}.weight`,
    magnitude: `${module}.lora_magnitude_vector`,
  }
}

/** What the factors of a mixture are called. */
export function mixedNames(weight: string): Names {
  const { a, b, magnitude } = factorNames(weight)
  return { a: `${a}, mixed`, b: `${b}, mixed`, magnitude }
}
