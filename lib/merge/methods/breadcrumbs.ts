/** Model breadcrumbs: drop the largest and the smallest entries of each difference, and combine the rest. */

import { density, lambda, type MergeMethod, mostVoters, normalize, num, weight } from './method.js'
import { rescaleNorm, trimStep } from './trim.js'

function breadcrumbsMethod(name: string, consensus: 'sum' | 'mergekit', most: number, about: string): MergeMethod {
  return {
    name,
    about,
    formula:
      'tᵢ = dᵢ without its int(gamma · n) largest entries and without its smallest, so that int(density · n) stay; ' +
      (consensus === 'sum' ? 'B + λ Σ wᵢ tᵢ' : 'B + λ times the mean of the wᵢ tᵢ that agree in sign, as ties'),
    source: 'arXiv 2312.06795; per tensor, as in mergekit',
    differences:
      'Exactly int(gamma * n) outliers are dropped and int(density * n) entries kept, with equal magnitudes taken in order ' +
      'of index; older versions of mergekit drop the whole difference if there is no outlier to drop.',
    needsBase: true,
    models: { min: 1, max: most },
    parameters: [
      weight,
      density,
      {
        name: 'gamma',
        about: 'Fraction of the entries, the largest ones, that is dropped; less if density leaves less room',
        type: 'number',
        scope: 'model',
        default: 0.01,
        min: 0,
        max: 1,
      },
      lambda,
      normalize(false),
      rescaleNorm,
    ],
    determinism: 'exact',
    step: ({ global, models }) =>
      trimStep({
        weights: models.map((m) => num(m, 'weight')),
        densities: models.map((m) => num(m, 'density')),
        gammas: models.map((m) => num(m, 'gamma')),
        lambda: num(global, 'lambda'),
        normalize: global.normalize === true,
        rescale: global.rescale === true,
        consensus,
        scope: 'tensor',
      }),
  }
}

export const breadcrumbs = breadcrumbsMethod(
  'breadcrumbs',
  'sum',
  16,
  'Drops the largest and smallest entries of each difference and adds up the rest',
)
export const breadcrumbsTies = breadcrumbsMethod(
  'breadcrumbs_ties',
  'mergekit',
  mostVoters,
  'Drops the largest and smallest entries of each difference and averages the rest by sign',
)
