/** Multi-SLERP: weighted mean on the sphere of any number of models. */

import { shares } from './combine.js'
import { type MergeMethod, num, weight } from './method.js'
import { mostVectors, spanStep } from './span.js'

export const multislerp: MergeMethod = {
  name: 'multislerp',
  about:
    'Weighted mean of the directions of the models, scaled to their mean length; with a base, of the differences from it',
  formula:
    'Σ wᵢ ‖vᵢ‖ · m / ‖m‖ with m = Σ wᵢ vᵢ / (‖vᵢ‖ + eps), v = M; with a base v = d and B is added; ' +
    'with normalize_weights wᵢ is divided by Σ wᵢ; Σ wᵢ vᵢ where ‖m‖ < eps',
  source: 'mergekit; its step in the tangent space at m adds up to zero by construction and is left out',
  differences:
    'If the directions cancel (or all differences are zero), the result is the weighted sum for any number of ' +
    'models; mergekit does that for two models and fails for more. Weights that add up to 0 are refused if ' +
    'normalize_weights is on; mergekit divides by 0. eps does not vanish in a 16-bit type.',
  needsBase: 'optional',
  models: { min: 1, max: mostVectors },
  parameters: [
    weight,
    {
      name: 'normalize_weights',
      about: 'Divide the weights by their sum',
      type: 'boolean',
      scope: 'global',
      default: true,
    },
    {
      name: 'eps',
      about: 'Added to each length before dividing by it',
      type: 'number',
      scope: 'global',
      default: 1e-8,
      min: 0,
    },
  ],
  determinism: 'exact',
  step({ global, models, base }) {
    const first = base ? 1 : 0
    if (models.length === 1) return { copy: first }
    const given = models.map((m) => num(m, 'weight'))
    const weights = global.normalize_weights === false ? given : shares(given, 'multislerp', 'normalize_weights')
    const used = [...weights.keys()].filter((i) => weights[i] !== 0)
    const [only] = used
    if (only === undefined && base) return { copy: 0 }
    if (used.length === 1 && only !== undefined && weights[only] === 1) return { copy: only + first }
    const vectors = only === undefined ? [0] : used
    return {
      ...spanStep({
        cpuStep: 'multislerp',
        origin: base,
        vectors: vectors.length,
        parameters: [num(global, 'eps'), ...vectors.map((i) => weights[i] ?? 0)],
      }),
      inputs: [...(base ? [0] : []), ...vectors.map((i) => i + first)],
    }
  },
}
