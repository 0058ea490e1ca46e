/** TIES: trim each difference to its largest entries, elect a sign, average those that agree with it. */

import { density, lambda, type Method, mostVoters, normalize, num, weight } from './method.js'
import { sampleWords, selectWords } from './select.js'

export const ties: Method = {
  name: 'ties',
  about: 'Trims each difference to its largest entries, elects a sign an entry and averages the ones that agree',
  formula:
    'tᵢ = dᵢ where |dᵢ| is among the int(density · n) largest, else 0; s = sign Σ wᵢ tᵢ (0 counts as +); ' +
    'B + λ Σ wᵢ tᵢ [sign wᵢ tᵢ = s] / Σ wᵢ [sign wᵢ tᵢ = s]; without normalize the divisor is 1',
  source: 'arXiv 2306.01708; trimmed per tensor and voted on weighted differences, as in mergekit',
  differences:
    'Equal magnitudes at the cut are kept in the order of the elements until int(density · n) are kept, whatever the ' +
    'device; which of them mergekit keeps is arbitrary. The arithmetic is float32 with one rounding. rescale: true is ' +
    'refused.',
  needsBase: true,
  models: { min: 1, max: mostVoters },
  parameters: [
    weight,
    density,
    lambda,
    normalize(true),
    {
      name: 'rescale',
      about: 'Rescaling after the trim; not offered',
      type: 'boolean',
      scope: 'global',
      default: false,
      values: [false],
    },
  ],
  determinism: 'exact',
  step({ global, models }) {
    const weights = models.map((m) => num(m, 'weight'))
    const densities = models.map((m) => num(m, 'density'))
    const scale = num(global, 'lambda')
    if (scale === 0 || weights.every((w, i) => w === 0 || densities[i] === 0)) return { copy: 0 }
    return {
      program: {
        host: 'ties',
        kernels: [
          { kernel: 'select_sample', writes: sampleWords(models.length) },
          { kernel: 'select', writes: selectWords(models.length) },
          { kernel: 'ties', writes: 'output' },
        ],
      },
      coefficients: [scale, global.normalize === true ? 1 : 0, ...weights, ...densities],
    }
  },
}
