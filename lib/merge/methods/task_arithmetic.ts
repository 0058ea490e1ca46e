/** Sum of task vectors (differences from a base). */

import { normalized, weightedDeltas } from './combine.js'
import { lambda, type MergeMethod, normalize, num, weight } from './method.js'

export const taskArithmetic: MergeMethod = {
  name: 'task_arithmetic',
  about: 'The base plus lambda times the weighted sum of the differences from it',
  formula: 'B + λ Σ wᵢ dᵢ; with normalize the sum is divided by Σ wᵢ',
  source: 'arXiv 2212.04089',
  differences:
    'A tensor of different shapes in two models is an error; mergekit leaves the model out of that tensor. mergekit ' +
    'rounds each difference to the stored type; here only the result is rounded.',
  needsBase: true,
  models: { min: 1, max: 64 },
  parameters: [weight, lambda, normalize(false)],
  determinism: 'exact',
  step({ global, models }) {
    const weights = models.map((m) => num(m, 'weight'))
    const shares = global.normalize === true ? normalized(weights) : weights
    return weightedDeltas(shares.map((w) => num(global, 'lambda') * w))
  },
}
