/** One model as it is: layers are moved, not mixed. */

import { weightedSum } from './combine.js'
import { type MergeMethod, num } from './method.js'

export const passthrough: MergeMethod = {
  name: 'passthrough',
  about: 'Copies each tensor from its only source, unchanged or multiplied by scale',
  formula: 'scale · M',
  source: 'mergekit',
  needsBase: false,
  models: { min: 1, max: 1 },
  parameters: [{ name: 'scale', about: 'Factor of the tensor', type: 'number', scope: 'model', default: 1 }],
  determinism: 'exact',
  step: ({ models }) => weightedSum(models.map((m) => num(m, 'scale'))),
}
