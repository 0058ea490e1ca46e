/** Weighted mean of models ("model soup"). */

import { WeightsmithError } from '../errors.js'
import { weightedSum } from './combine.js'
import { type Method, normalize, num, weight } from './method.js'

export const linear: Method = {
  name: 'linear',
  about: 'Weighted sum of the models, divided by the sum of the weights unless normalize is false',
  source: 'arXiv 2203.05482',
  needsBase: false,
  models: { min: 1, max: 64 },
  parameters: [weight, normalize(true)],
  determinism: 'exact',
  step({ global, models }) {
    const weights = models.map((m) => num(m, 'weight'))
    if (global.normalize === false) return weightedSum(weights)
    const sum = weights.reduce((a, b) => a + b, 0)
    if (Math.abs(sum) < 1e-8) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_RECIPE',
        `The weights ${weights.join(', ')} of method linear add up to ${sum}, and cannot be normalized; set normalize: ` +
          'false or change the weights.',
      )
    }
    return weightedSum(weights.map((w) => w / sum))
  },
}
