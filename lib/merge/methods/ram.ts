/** Reinforced agent merging: what one model changed is taken over whole, what several changed is averaged. */

import { type MergeMethod, num, type ParameterSpec } from './method.js'

const source = 'arXiv 2601.13572, as in mergekit'
/** Bits of a word in which the kernels note the models that changed an element. */
const most = 16

const epsilon: ParameterSpec = {
  name: 'epsilon',
  about: 'An element counts as changed if it differs from the base by more than this',
  type: 'number',
  scope: 'global',
  default: 1e-5,
  min: 0,
  max: 1e30,
}

export const ram: MergeMethod = {
  name: 'ram',
  about: 'Takes entries that one model changed, and the mean of entries that several models changed',
  formula: 'B + mean of the dᵢ with |dᵢ| > epsilon, for each entry; B if there is none',
  source,
  needsBase: true,
  models: { min: 1, max: most },
  parameters: [epsilon],
  determinism: 'exact',
  step: ({ global, models }) => ({
    program: { kernels: [{ kernel: 'ram', writes: 'output' }] },
    coefficients: [
      num(global, 'epsilon'),
      ...models.map(() => 1),
      ...Array.from({ length: models.length + 1 }, (_, k) => 1 / Math.max(1, k)),
    ],
  }),
}

export const ramPlusTl: MergeMethod = {
  name: 'ramplus_tl',
  about:
    'As ram, but entries that only one model changed are amplified by 1 + r min(shared changes / own changes, alpha) per tensor',
  formula:
    'As ram, but an entry that only model i changed adds (1 + r min(sᵢ / uᵢ, alpha)) dᵢ; sᵢ and uᵢ are the numbers of ' +
    'entries of the tensor that model i changed together with others and alone',
  source,
  needsBase: true,
  models: { min: 1, max: most },
  parameters: [
    { name: 'r', about: 'Strength of the amplification', type: 'number', scope: 'global', default: 0.1 },
    {
      name: 'alpha',
      about: 'Largest ratio of shared to own changes that counts',
      type: 'number',
      scope: 'global',
      default: 0.2,
      min: 0,
      max: 1e30,
    },
    epsilon,
  ],
  determinism: 'exact',
  step: ({ global, models }) => ({
    program: {
      cpuStep: 'ramplus_tl',
      kernels: [
        // elements changed with others and alone, two words a model
        { kernel: 'ram_counts', writes: 2 * models.length },
        { kernel: 'ram', writes: 'output' },
      ],
    },
    coefficients: [num(global, 'epsilon'), num(global, 'r'), num(global, 'alpha')],
  }),
}
