/**
 * What a merge method is. A method is data plus one small function: for the parameters of one tensor it says which
 * program runs with which coefficients, or that the result is one input unchanged. Bytes, names, layers and
 * files are the planner's business, arithmetic is the kernels'.
 */

import type { NativeProgram } from '../../native/border.js'

export type ParameterScalar = number | boolean | string

export interface ParameterSpec {
  name: string
  about: string
  /**
   * `model`: a model reference; of scope `global` it is given once at top level, of scope `model` it names the
   * statistics of each model, whose tensors follow the inputs. `choice`: one of `values`.
   */
  type: 'number' | 'boolean' | 'choice' | 'model'
  /** `model`: may differ between models; `global`: one value for a tensor. */
  scope: 'global' | 'model'
  /** Absent: the recipe has to give it, unless `optional`. */
  default?: ParameterScalar
  optional?: boolean
  min?: number
  max?: number
  values?: readonly ParameterScalar[]
  /** Other ways of writing a choice: what is written, what it means. */
  aliases?: ReadonlyMap<ParameterScalar, ParameterScalar>
}

/** Evaluated parameters of one tensor, and what a method may have to know of it. */
export interface TensorParameters {
  shape: readonly number[]
  /** Whether input 0 is a base. */
  base: boolean
  /** Whether the inputs are followed by as many tensors of statistics (see `ParameterSpec.type`). */
  statistics: boolean
  global: Readonly<Record<string, ParameterScalar | undefined>>
  /** One an input that is not a base, in the order of the inputs. */
  models: readonly Readonly<Record<string, ParameterScalar | undefined>>[]
}

export type Step =
  /** The result is this input, byte for byte (or cast, where the output has another type). */
  | { copy: number }
  /**
   * `inputs`: which of the tensor's inputs the program reads, in order; all of them by default. `made`: tensors that
   * are made before and follow the inputs; the program reads each as a whole.
   */
  | { program: NativeProgram; coefficients: number[]; inputs?: number[]; made?: Made[] }

/** A float32 tensor that a step needs, made from inputs of `elements` elements. */
export interface Made {
  program: NativeProgram
  coefficients: number[]
  inputs: number[]
  elements: number
}

export interface MergeMethod {
  name: string
  about: string
  /** What one tensor becomes: B is the base, M the models, d = M - B; one line of plain text. */
  formula: string
  /** Where the formula comes from. */
  source: string
  /** Where the result is not mergekit's, and why: whole sentences. Absent: only rounding differs. */
  differences?: string
  /** Whether input 0 is a base that the deltas are taken against; `optional`: where the recipe names one. */
  needsBase: boolean | 'optional'
  /** How many models besides the base. */
  models: { min: number; max: number }
  parameters: readonly ParameterSpec[]
  /**
   * What files of statistics hold. `elements`: tensors of the names and shapes of the model. `inputs`: for a matrix
   * NAME of [out, in] the tensor gram/NAME of [in, in], where linears with one input may share the first one's.
   * Defaults to `elements`.
   */
  statistics?: 'elements' | 'inputs'
  /** `exact`: same bytes on every device. */
  determinism: 'exact' | 'tolerance'
  /**
   * Input order, where it is not the base (if needed) followed by the models. `base` and `pretrained` are counted
   * in `bases`: these inputs come first and have no parameters of their own.
   */
  arrange?<S>(roles: { base: S; pretrained?: S; models: S[]; globals: TensorParameters['global'] }): {
    bases: S[]
    models: S[]
  }
  step(parameters: TensorParameters): Step
}

/** Models whose differences a kernel takes one by one: it keeps two sums of each for every invocation. */
export const mostVoters = 16

/** A number that validation has guaranteed. */
export function num(values: TensorParameters['global'], name: string): number {
  return Number(values[name])
}

export const weight: ParameterSpec = {
  name: 'weight',
  about: 'Weight of the model, or of its difference from the base',
  type: 'number',
  scope: 'model',
}

export const density: ParameterSpec = {
  name: 'density',
  about: 'Fraction of the entries of the difference that is kept',
  type: 'number',
  scope: 'model',
  default: 1,
  min: 0,
  max: 1,
}

export const lambda: ParameterSpec = {
  name: 'lambda',
  about: 'Scale of the combined difference',
  type: 'number',
  scope: 'global',
  default: 1,
}

export function normalize(byDefault: boolean): ParameterSpec {
  return {
    name: 'normalize',
    about: 'Divide by the sum of the weights',
    type: 'boolean',
    scope: 'global',
    default: byDefault,
  }
}
