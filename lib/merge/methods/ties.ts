/** TIES: trim each difference to its largest entries, elect a sign, average those that agree with it. */

import { WeightsmithError } from '../../util/errors.js'
import { density, lambda, type MergeMethod, mostVoters, normalize, num, weight } from './method.js'
import { rescaleNorm, trimStep } from './trim.js'

export const ties: MergeMethod = {
  name: 'ties',
  about:
    'Keeps the largest entries of each difference, elects one sign per entry and averages those that agree with it',
  formula:
    'tᵢ = dᵢ where |dᵢ| is among the int(density · n) largest, else 0; s = sign Σ wᵢ tᵢ (0 counts as +); ' +
    'B + λ Σ wᵢ tᵢ [sign wᵢ tᵢ = s] / Σ wᵢ [sign wᵢ tᵢ = s]; without normalize the divisor is 1. ' +
    'consensus: peft counts signs or unweighted sums (majority_sign_method); reference averages over entries, not ' +
    'weights, and gives zero sums the sign of the majority. scope: model trims all tensors of a model together',
  source: 'arXiv 2306.01708, in the readings of mergekit, PEFT (merge_utils.ties) and the authors (ties-merging)',
  differences:
    'int(density * n) entries are kept (possibly none), with equal magnitudes taken in order of index; mergekit keeps at ' +
    "least one. The authors' code, which is consensus: reference with scope: model, keeps one more, and all equal ones.",
  needsBase: true,
  models: { min: 1, max: mostVoters },
  parameters: [
    weight,
    density,
    lambda,
    normalize(true),
    rescaleNorm,
    {
      name: 'consensus',
      about:
        'mergekit: weighted differences vote, and the sum of those that agree is divided by their weights; peft: ' +
        'unweighted differences vote, and the sum is divided by how many agree; reference: as peft, but a tie goes to ' +
        'the sign that won most entries, instead of +',
      type: 'choice',
      scope: 'global',
      default: 'mergekit',
      values: ['mergekit', 'peft', 'reference'],
    },
    {
      name: 'majority_sign_method',
      about: 'With consensus peft: sum the differences (total) or count their signs (frequency)',
      type: 'choice',
      scope: 'global',
      default: 'total',
      values: ['total', 'frequency'],
    },
    {
      name: 'scope',
      about: 'Apply the density to each tensor, or to all tensors of the model together',
      type: 'choice',
      scope: 'global',
      default: 'tensor',
      values: ['tensor', 'model'],
    },
  ],
  determinism: 'exact',
  step({ global, models }) {
    const majority = global.majority_sign_method === 'frequency' ? 'frequency' : 'total'
    const reading = global.consensus === 'reference' || global.consensus === 'peft' ? global.consensus : 'mergekit'
    if (reading !== 'mergekit' && global.rescale === true) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_RECIPE',
        `parameters.rescale of the recipe should be false with consensus ${reading}, which is published without a ` +
          'rescale, but true was found.',
      )
    }
    return trimStep({
      weights: models.map((m) => num(m, 'weight')),
      densities: models.map((m) => num(m, 'density')),
      lambda: num(global, 'lambda'),
      normalize: global.normalize === true,
      rescale: global.rescale === true,
      consensus: reading === 'peft' ? majority : reading,
      scope: global.scope === 'model' ? 'model' : 'tensor',
    })
  },
}
