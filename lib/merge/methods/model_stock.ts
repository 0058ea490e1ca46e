/** Model Stock: from the base towards the mean of the models, as far as the angle between their differences says. */

import type { MergeMethod } from './method.js'
import { mostVectors, rowsOf, spanStep } from './span.js'

export const modelStock: MergeMethod = {
  name: 'model_stock',
  about:
    'Interpolates between the base and the mean of the models, further towards the mean the more their differences agree',
  formula: 't Σ Mᵢ / n + (1 - t) B with t = n c / (1 + (n - 1) c), c the mean of cos(dᵢ, dⱼ) over the pairs',
  source: 'arXiv 2403.19522, for any number of models as in mergekit',
  differences:
    't and 1 - t are float32 factors of the differences; mergekit rounds t, 1 - t and every product to the stored type, which ' +
    'in bfloat16 moves a result by up to 0.4 %.',
  needsBase: true,
  models: { min: 2, max: mostVectors },
  parameters: [
    {
      name: 'filter_wise',
      about: 'Treat every row (the last dimension) separately, instead of the tensor as a whole',
      type: 'boolean',
      scope: 'global',
      default: false,
    },
  ],
  determinism: 'exact',
  step: ({ global, models, shape }) =>
    spanStep({
      cpuStep: 'model_stock',
      origin: true,
      vectors: models.length,
      parameters: [],
      lines: global.filter_wise === true ? rowsOf(shape) : undefined,
    }),
}
