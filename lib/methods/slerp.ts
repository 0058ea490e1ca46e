/** Spherical interpolation between two models, tensor by tensor. */

import { type Method, num } from './method.js'

export const slerp: Method = {
  name: 'slerp',
  about: 'Spherical interpolation from the base (t = 0) to the other model (t = 1)',
  source: 'Shoemake 1985, as in mergekit: linear interpolation where |cos| > 0.9995',
  needsBase: true,
  models: { min: 1, max: 1 },
  parameters: [
    { name: 't', about: 'Position between the base (0) and the other model (1)', type: 'number', scope: 'global' },
  ],
  determinism: 'exact',
  step({ global }) {
    const t = num(global, 't')
    if (t === 0 || t === 1) return { copy: t }
    return {
      program: {
        host: 'slerp',
        kernels: [
          // dot products of a block: a·a, b·b, a·b
          { kernel: 'dots', writes: 3 },
          { kernel: 'linear', writes: 'output' },
        ],
      },
      coefficients: [t],
    }
  },
}
