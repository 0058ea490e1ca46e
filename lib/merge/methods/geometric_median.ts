/** Geometric median of any number of models: a mean that an outlier cannot drag away. */

import { type MergeMethod, num } from './method.js'
import { mostVectors, spanStep } from './span.js'

export const geometricMedian: MergeMethod = {
  name: 'geometric_median',
  about: 'The tensor with the least sum of distances to the models',
  formula: 'argmin over x of Σ ‖x - Mᵢ‖',
  source: 'Weiszfeld 1937, with the step of Vardi and Zhang (PNAS 2000) if an iterate coincides with a model',
  differences: 'mergekit has no such method.',
  needsBase: false,
  models: { min: 1, max: mostVectors },
  parameters: [
    { name: 'max_iter', about: 'Largest number of iterations', type: 'number', scope: 'global', default: 1000, min: 0 },
    {
      name: 'tol',
      about:
        'The iteration ends when a step is smaller than this fraction of the largest distance between the first model and another',
      type: 'number',
      scope: 'global',
      default: 1e-9,
      min: 0,
    },
  ],
  determinism: 'exact',
  step({ global, models }) {
    if (models.length === 1) return { copy: 0 }
    return spanStep({
      cpuStep: 'geometric_median',
      origin: true,
      vectors: models.length - 1,
      parameters: [num(global, 'max_iter'), num(global, 'tol')],
    })
  },
}
