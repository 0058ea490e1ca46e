/** Sum of task vectors (differences from a base). */

import { normalized, weightedDeltas } from './combine.js'
import { lambda, type Method, normalize, num, weight } from './method.js'

export const taskArithmetic: Method = {
  name: 'task_arithmetic',
  about: 'The base plus lambda times the weighted sum of the differences from it',
  source: 'arXiv 2212.04089',
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
