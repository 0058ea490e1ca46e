/** Model Stock: from the base towards the mean of the models, as far as the angle between their differences says. */

import type { Method } from './method.js'
import { mostVectors, spanStep } from './span.js'

export const modelStock: Method = {
  name: 'model_stock',
  about: 'The base, moved towards the mean of the models as far as their differences agree',
  formula: 't Σ Mᵢ / n + (1 - t) B with t = n c / (1 + (n - 1) c), c the mean of cos(dᵢ, dⱼ) over the pairs',
  source: 'arXiv 2403.19522, for any number of models as in mergekit',
  needsBase: true,
  models: { min: 2, max: mostVectors },
  parameters: [],
  determinism: 'exact',
  step: ({ models }) => spanStep('model_stock', true, models.length, []),
}
