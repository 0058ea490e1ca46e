/**
 * Deltas that are trimmed by magnitude and then combined: TIES and breadcrumbs. The readings of TIES that are published
 * agree on the trim and differ in who votes and what the winners' sum is divided by.
 */

import type { NativeKernelStep } from '../../native/border.js'
import { consensusCodes, type TrimCoefficients, trimCoefficients } from '../../native/trim.js'
import { normalized, weightedDeltas } from './combine.js'
import type { ParameterSpec, Step } from './method.js'
import { sampleWords, selectWords } from './select.js'

export interface Trim extends TrimCoefficients {
  /** What the densities are shares of. */
  scope: 'tensor' | 'model'
}

export function trimStep(trim: Trim): Step {
  const { weights, densities, gammas = [], lambda, consensus, scope } = trim
  // A tensor that counts in the model's trim cannot be left out.
  const alone = scope === 'tensor'
  if (alone && (lambda === 0 || weights.every((w, i) => w === 0 || densities[i] === 0))) return { copy: 0 }
  if (alone && consensus === 'sum' && densities.every((d) => d === 1)) {
    const shares = trim.normalize ? normalized(weights) : weights
    return weightedDeltas(shares.map((w) => lambda * w))
  }
  const models = weights.length
  const cuts = gammas.length > 0 ? 2 : 1
  const constants = { OUTLIERS: cuts - 1 }
  const facts: NativeKernelStep[] =
    trim.rescale || consensus === 'reference'
      ? // two norms a model, and the elections won by each sign
        [{ kernel: 'ties_facts', writes: 2 * models + 2, constants }]
      : []
  return {
    program: {
      cpuStep: 'ties',
      ...(alone ? {} : { shared: true }),
      kernels: [
        { kernel: 'select_sample', writes: sampleWords(models) },
        { kernel: 'select', writes: selectWords(cuts * models), constants: { CUTS: cuts } },
        ...facts,
        { kernel: 'ties', writes: 'output', constants: { ...constants, CONSENSUS: consensusCodes[consensus] } },
      ],
    },
    coefficients: trimCoefficients(trim),
  }
}

export const rescaleNorm: ParameterSpec = {
  name: 'rescale',
  about: 'Rescale the kept entries of each difference to the L1 norm of the whole difference',
  type: 'boolean',
  scope: 'global',
  default: false,
}
