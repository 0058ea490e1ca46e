/** Fisher-weighted averaging: every element is averaged by how much each model depends on it. */

import { shares, weightedSum } from './combine.js'
import { type MergeMethod, num, weight } from './method.js'

export const fisher: MergeMethod = {
  name: 'fisher',
  about: 'Average of the models, weighted element by element by their Fisher information, which is read from a file',
  formula: 'Σ wᵢ (Fᵢ + eps) Mᵢ / Σ wᵢ (Fᵢ + eps), element by element; Σ wᵢ Mᵢ / Σ wᵢ for tensors without statistics',
  source: 'arXiv 2111.09832',
  differences: 'mergekit has no such method.',
  needsBase: false,
  models: { min: 1, max: 8 },
  parameters: [
    { ...weight, about: 'Factor of the Fisher information of the model', default: 1, min: 0 },
    {
      name: 'statistics',
      about:
        'Safetensors file or folder with the diagonal of the Fisher information: tensors with the names and shapes of ' +
        'the model, of any float type, without negative values',
      type: 'model',
      scope: 'model',
    },
    { name: 'eps', about: 'Added to every Fisher value', type: 'number', scope: 'global', default: 1e-6, min: 0 },
  ],
  determinism: 'exact',
  step({ global, models, statistics }) {
    const weights = models.map((m) => num(m, 'weight'))
    const even = shares(weights, 'fisher')
    const used = [...weights.keys()].filter((i) => weights[i] !== 0)
    if (!statistics || used.length === 1) return weightedSum(even)
    return {
      program: { kernels: [{ kernel: 'fisher', writes: 'output' }] },
      coefficients: [num(global, 'eps'), ...used.map((i) => even[i] ?? 0)],
      inputs: [...used, ...used.map((i) => models.length + i)],
    }
  },
}
