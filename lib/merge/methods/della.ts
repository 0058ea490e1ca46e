/**
 * DELLA: drop entries of each difference at random, the smaller ones of a row more often. The ranks are counted
 * exactly, and the draws are those of DARE.
 */

import { WeightsmithError } from '../../util/errors.js'
import { type Dare, dareStep } from './dare.js'
import { density, lambda, type MergeMethod, mostVoters, normalize, num, weight } from './method.js'

function dellaMethod(name: string, consensus: Dare['consensus'], most: number, about: string): MergeMethod {
  return {
    name,
    about,
    formula:
      'An entry of rank r among the n of its row (by |dᵢ|, from 0) is kept with probability density - epsilon + ' +
      '2 epsilon r / (n - 1); tᵢ = the kept entries, scaled to the L1 norm of dᵢ if rescale is on; ' +
      (consensus === 'linear' ? 'B + λ Σ wᵢ tᵢ' : 'B + λ times the mean of the wᵢ tᵢ that agree in sign, as ties'),
    source: 'arXiv 2406.11617; rescaled to the L1 norm of the difference, as in mergekit',
    differences:
      'Ranks are exact in any type (mergekit rounds them to the type of the tensor, so bf16 ranks fall into steps). Rows ' +
      'run along the last dimension (mergekit ranks along the second of three). A row of one entry is kept with ' +
      'probability density (mergekit divides by zero). Draws depend only on seed, tensor and entry.',
    needsBase: true,
    models: { min: 1, max: most },
    parameters: [
      weight,
      density,
      {
        name: 'epsilon',
        about:
          'The smallest entry of a row is kept with probability density - epsilon, the largest with density + epsilon',
        type: 'number',
        scope: 'model',
        default: 0.15,
        min: 0,
        max: 0.5,
      },
      lambda,
      normalize(consensus === 'ties'),
      {
        name: 'rescale',
        about: 'Rescale the kept entries of each difference to the L1 norm of the whole difference',
        type: 'boolean',
        scope: 'global',
        default: true,
      },
    ],
    determinism: 'exact',
    step({ global, models, shape }) {
      const densities = models.map((m) => num(m, 'density'))
      const epsilons = models.map((m) => num(m, 'epsilon'))
      for (const [i, share] of densities.entries()) {
        const epsilon = epsilons[i] ?? 0
        if (share === 0 || share === 1 || (share - epsilon > 0 && share + epsilon < 1)) continue
        throw new WeightsmithError(
          'ERR_WEIGHTSMITH_RECIPE',
          `epsilon of the recipe should leave density - epsilon above 0 and density + epsilon below 1, but with density ` +
            `${share} and epsilon ${epsilon} they are ${share - epsilon} and ${share + epsilon}.`,
        )
      }
      return dareStep({
        shape,
        weights: models.map((m) => num(m, 'weight')),
        densities,
        epsilons,
        lambda: num(global, 'lambda'),
        normalize: global.normalize === true,
        consensus,
        rescale: global.rescale === false ? 'none' : 'l1',
      })
    },
  }
}

export const della = dellaMethod(
  'della',
  'ties',
  mostVoters,
  'Drops small entries of the differences more often than large ones, rescales, and averages by sign',
)
export const dellaLinear = dellaMethod(
  'della_linear',
  'linear',
  16,
  'Drops small entries of the differences more often than large ones, rescales and adds them',
)
