/**
 * Methods that look at updates element by element. They are merge methods of the registry on a base of zeros, in PEFT's
 * reading (peft/utils/merge_utils.py): unweighted updates elect the sign, the sum of those that agree is divided by
 * their number, and a random drop divides what is left by the density.
 */

import { methods, type TensorParameters } from '../merge/methods/index.js'
import { WeightsmithError } from '../util/errors.js'
import { type Array32, compute, type Device, weightedSum } from './device.js'

/** What a module's update becomes. */
export const elementwiseMethods = {
  ties: 'of each update the share `--density` of the largest elements; updates elect a sign, and those that agree are averaged',
  dare_linear: 'elements are dropped at random (`--seed`), the rest is divided by `--density`; then the sum',
  dare_ties: 'the same drops; then signs are elected as by ties',
  magnitude_prune: 'the sum of the largest elements of each update',
} as const

export interface Elementwise {
  method: keyof typeof elementwiseMethods | 'linear'
  /** Share of the elements of each update that is kept. */
  density: number
  /** How ties elects: by the sum of updates, or by how many have each sign. */
  majority: 'total' | 'frequency'
  seed: number
  signal: AbortSignal | undefined
}

/** One array of the updates, all of one length; `name` keys the random numbers, with the place of an update in them. */
export async function combineElements(
  on: Device,
  updates: readonly { values: Array32; weight: number; index: number }[],
  name: string,
  { method, density, majority, seed, signal }: Elementwise,
): Promise<Array32> {
  const weights = updates.map(({ weight }) => weight)
  const values = updates.map((update) => update.values)
  const run = (
    step: string,
    parameters: Omit<TensorParameters, 'shape' | 'base' | 'statistics'>,
    of = values,
    key = '',
  ) => runMethod(on, step, parameters, of, { name: `${key}${name}`, seed, signal })
  if (method === 'linear') return weightedSum(on, values, weights, signal)
  if (method === 'magnitude_prune') {
    // breadcrumbs that drops no outliers
    const models = weights.map((weight) => ({ weight, density, gamma: 0 }))
    return run('breadcrumbs', { global: { lambda: 1, normalize: false, rescale: false }, models })
  }
  const elected = { lambda: 1, normalize: true, rescale: false, consensus: 'peft', majority_sign_method: majority }
  const ties = (of: Array32[], kept: number) =>
    run(
      'ties',
      { global: { ...elected, scope: 'tensor' }, models: weights.map((weight) => ({ weight, density: kept })) },
      of,
    )
  if (method === 'ties') return ties(values, density)
  const dropped: Array32[] = []
  for (const { values: update, index } of updates) {
    const global = { lambda: 1, normalize: false, rescale: 'expectation' }
    dropped.push(await run('dare_linear', { global, models: [{ weight: 1, density }] }, [update], `${index}:`))
  }
  return method === 'dare_ties' ? ties(dropped, 1) : weightedSum(on, dropped, weights, signal)
}

/** A merge method on arrays, which are differences from a base of zeros. */
async function runMethod(
  on: Device,
  method: string,
  parameters: Omit<TensorParameters, 'shape' | 'base' | 'statistics'>,
  updates: readonly Array32[],
  keys: { name: string; seed: number; signal: AbortSignal | undefined },
): Promise<Array32> {
  const elements = updates[0]?.length ?? 0
  const step = methods.get(method)?.step({ ...parameters, shape: [elements], base: true, statistics: false })
  if (step === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `There is no method ${method}.`)
  const all = [new Float32Array(elements), ...updates]
  if ('copy' in step) return all[step.copy] ?? new Float32Array(elements)
  const { program, coefficients, inputs = [...all.keys()] } = step
  return compute(on, {
    program,
    coefficients,
    inputs: inputs.map((i) => all[i] ?? new Float32Array(elements)),
    elements,
    ...keys,
  })
}
