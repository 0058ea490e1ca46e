/**
 * Weighted sums, shared by the methods that come down to one. Weights of exactly 0 and 1 never reach a kernel: an
 * input of weight 0 is not read, and a sum that is one input is a copy of its bytes.
 */

import type { NativeProgram } from '../../native/border.js'
import { WeightsmithError } from '../../util/errors.js'
import type { Step } from './method.js'

const sum: NativeProgram = { kernels: [{ kernel: 'linear', writes: 'output' }] }
const deltas: NativeProgram = { kernels: [{ kernel: 'delta', writes: 'output' }] }

/** `sum w_i m_i` over all inputs. */
export function weightedSum(weights: number[]): Step {
  const inputs = [...weights.keys()].filter((i) => weights[i] !== 0)
  const only = inputs[0]
  if (inputs.length === 1 && only !== undefined && weights[only] === 1) return { copy: only }
  const read = inputs.length === 0 ? [0] : inputs
  return {
    program: sum,
    coefficients: read.map((i) => weights[i] ?? 0),
    inputs: read,
  }
}

/** `base + sum c_i (m_i - base)`; input 0 is the base, `c_i` belongs to input i + 1. */
export function weightedDeltas(factors: number[]): Step {
  const models = [...factors.keys()].filter((i) => factors[i] !== 0)
  const only = models[0]
  if (only === undefined) return { copy: 0 }
  // Factors that add up to 1 cancel the base: it need not be read, nor its rounding errors be paid for.
  if (1 - factors.reduce((a, b) => a + b, 0) === 0) return weightedSum([0, ...factors])
  return {
    program: deltas,
    coefficients: models.map((i) => factors[i] ?? 0),
    inputs: [0, ...models.map((i) => i + 1)],
  }
}

/** Weights divided by their sum, which must not be zero. */
export function shares(weights: number[], method: string, option = 'normalize'): number[] {
  const sum = weights.reduce((a, b) => a + b, 0)
  if (Math.abs(sum) >= 1e-8) return weights.map((w) => w / sum)
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_RECIPE',
    `The weights ${weights.join(', ')} of method ${method} add up to ${sum}, and cannot be normalized; set ${option}: ` +
      'false or change the weights.',
  )
}

/** Weights divided by their sum; a sum of (nearly) 0 leaves them as they are, as mergekit does for deltas. */
export function normalized(weights: number[]): number[] {
  const sum = weights.reduce((a, b) => a + b, 0)
  return Math.abs(sum) < 1e-8 ? weights : weights.map((w) => w / sum)
}
