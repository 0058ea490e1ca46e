/** NearSwap: the base, changed where the other model is near to it. */

import { type MergeMethod, num } from './method.js'

export const nearswap: MergeMethod = {
  name: 'nearswap',
  about: 'Moves every element of the base towards the model by at most t',
  formula: 'B + min(1, t / |d|) d',
  source: 'mergekit (QuartetAnemoi-70B)',
  differences:
    'mergekit takes |d| to be at least 1e-6 in t / |d|, which matters only for t < 1e-6, and computes in the stored ' +
    'type, where a small t is lost.',
  needsBase: true,
  models: { min: 1, max: 1 },
  parameters: [
    {
      name: 't',
      about: 'Maximum change per element',
      type: 'number',
      scope: 'global',
      min: 0,
    },
  ],
  determinism: 'exact',
  step({ global }) {
    const t = num(global, 't')
    if (t === 0) return { copy: 0 }
    return { program: { kernels: [{ kernel: 'nearswap', writes: 'output' }] }, coefficients: [t] }
  },
}
