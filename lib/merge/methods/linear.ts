/** Weighted mean of models ("model soup"). */

import { shares, weightedSum } from './combine.js'
import { type MergeMethod, normalize, num, weight } from './method.js'

export const linear: MergeMethod = {
  name: 'linear',
  about: 'Weighted sum of the models, divided by the sum of the weights unless normalize is false',
  formula: 'Σ wᵢ Mᵢ / Σ wᵢ; without normalize Σ wᵢ Mᵢ',
  source: 'arXiv 2203.05482',
  differences:
    'Weights that add up to 0 are refused where normalize is on; mergekit divides by 0. mergekit rounds weights, ' +
    'products and sums to the stored type; here they are float32 and the result is rounded once.',
  needsBase: false,
  models: { min: 1, max: 64 },
  parameters: [weight, normalize(true)],
  determinism: 'exact',
  step({ global, models }) {
    const weights = models.map((m) => num(m, 'weight'))
    if (global.normalize === false) return weightedSum(weights)
    return weightedSum(shares(weights, 'linear'))
  },
}
