/** SCE: select the entries in which the models differ most, calculate their weights, erase what disagrees in sign. */

import type { NativeKernelStep } from '../../native/border.js'
import { type MergeMethod, mostVoters, num } from './method.js'
import { sampleWords, selectWords } from './select.js'

export const sce: MergeMethod = {
  name: 'sce',
  about:
    'Keeps the entries in which the models differ most, and averages the differences that agree in sign, weighted by their mean squares',
  formula:
    'tᵢ = dᵢ where the variance over the models is among the largest fraction select_topk; wᵢ = mean tᵢ² / Σ mean tⱼ²; ' +
    's = sign Σ tᵢ; B + Σ wᵢ tᵢ [sign tᵢ = s] / Σ wᵢ [sign tᵢ = s]',
  source:
    'arXiv 2408.07990, as in mergekit: models are weighted equally (wᵢ = 1 / n) if the mean squares add up to less than 1e-6, ' +
    'and no sum of weights is taken as less than 1e-6. Most fine-tunes move their weights by less than 0.001, so they are ' +
    'weighted equally; exact_weights applies the formula without these limits',
  differences:
    'The variance is computed from the models themselves, so entries in which they agree have none; mergekit computes it ' +
    'from rounded differences.',
  needsBase: true,
  models: { min: 1, max: mostVoters },
  parameters: [
    {
      name: 'select_topk',
      about: 'Fraction of the entries in which the models differ that is kept: those with the largest variance',
      type: 'number',
      scope: 'global',
      default: 1,
      min: 0,
      max: 1,
    },
    {
      name: 'exact_weights',
      about: 'Weight the models by their mean squares, however small; mergekit has no such parameter',
      type: 'boolean',
      scope: 'global',
      default: false,
    },
  ],
  determinism: 'exact',
  step({ global, models }) {
    const share = num(global, 'select_topk')
    // One model differs from no other.
    if (share === 0 || (share < 1 && models.length === 1)) return { copy: 0 }
    const constants = { SPREAD: 1 }
    const select: NativeKernelStep[] = [
      { kernel: 'select_sample', writes: sampleWords(1), constants },
      { kernel: 'select', writes: selectWords(1), constants },
    ]
    return {
      program: {
        cpuStep: 'sce',
        kernels: [
          ...(share < 1 ? select : []),
          // sums of squares, one a model
          { kernel: 'sce_squares', writes: models.length },
          { kernel: 'sce', writes: 'output' },
        ],
      },
      coefficients: [share, global.exact_weights === true ? 1 : 0],
    }
  },
}
