/** Spherical interpolation between two models, tensor by tensor. */

import { type MergeMethod, num } from './method.js'

export const slerp: MergeMethod = {
  name: 'slerp',
  about: 'Spherical interpolation from the base (t = 0) to the other model (t = 1)',
  formula:
    '(sin((1 - t) θ) B + sin(t θ) M) / sin θ with cos θ = B·M / (‖B‖ ‖M‖); (1 - t) B + t M where |cos θ| > 0.9995',
  source: 'Shoemake 1985, as in mergekit: linear interpolation where |cos| > 0.9995',
  differences:
    'The angle is computed from float64 sums over the whole tensor instead of float32, so nearly parallel tensors differ ' +
    'in the last digits (up to about 1e-5). If t is 0 or 1, the model is copied unchanged.',
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
        cpuStep: 'slerp',
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
