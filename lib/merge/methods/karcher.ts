/** Karcher (Riemannian) mean of any number of models on the sphere. */

import { type MergeMethod, num } from './method.js'
import { mostVectors, spanStep } from './span.js'

export const karcher: MergeMethod = {
  name: 'karcher',
  about: 'The direction with the least sum of squared angles to the models, scaled to their mean length',
  formula: '(Σ ‖Mᵢ‖ / n) · argmin over ‖x‖ = 1 of Σ angle(x, Mᵢ)²',
  source: 'Karcher 1977, iterated as in mergekit (arXiv 2603.04972)',
  differences:
    'The iteration uses float64 on inner products instead of the stored type, so rounding errors do not end it. ' +
    'Models whose lengths are all below tol are averaged; mergekit sets the tensor to zero.',
  needsBase: false,
  models: { min: 1, max: mostVectors },
  parameters: [
    { name: 'max_iter', about: 'Largest number of iterations', type: 'number', scope: 'global', default: 10, min: 0 },
    {
      name: 'tol',
      about:
        'Angle (radians) below which two directions count as equal, and length below which a tensor has no direction',
      type: 'number',
      scope: 'global',
      default: 1e-5,
      min: 0,
    },
  ],
  determinism: 'exact',
  step({ global, models }) {
    if (models.length === 1) return { copy: 0 }
    return spanStep({
      cpuStep: 'karcher',
      origin: false,
      vectors: models.length,
      parameters: [num(global, 'max_iter'), num(global, 'tol')],
    })
  },
}
