/** NuSLERP: spherical interpolation by weights, of two models or of their differences from a base. */

import { type MergeMethod, num, weight } from './method.js'
import { columnsOf, rowsOf, spanStep } from './span.js'

export const nuslerp: MergeMethod = {
  name: 'nuslerp',
  about: 'Spherical interpolation of two models by their weights; with a base, of their differences from it',
  formula:
    '(sin((1 - t) θ) v₁ + sin(t θ) v₂) / sin θ with t = w₂ / (w₁ + w₂), cos θ = v₁·v₂ / (‖v₁‖ ‖v₂‖), v = M; ' +
    'with a base v = d and B is added; (1 - t) v₁ + t v₂ where sin² θ ≤ 1e-12',
  source: 'mergekit',
  differences:
    'Norms and angles are float64 instead of the stored type. Where t is 0 or 1 the model is copied as it is.',
  needsBase: 'optional',
  models: { min: 2, max: 2 },
  parameters: [
    weight,
    {
      name: 'nuslerp_flatten',
      about: 'Treat the tensor as one vector; false: interpolate every row or column separately',
      type: 'boolean',
      scope: 'global',
      default: true,
    },
    {
      name: 'nuslerp_row_wise',
      about:
        'If nuslerp_flatten is false: interpolate along the first dimension (true; columns as stored) or along the last ' +
        'one (false; rows as stored)',
      type: 'boolean',
      scope: 'global',
      default: false,
    },
  ],
  determinism: 'exact',
  step({ global, models, shape, base }) {
    const [a = 0, b = 0] = models.map((m) => num(m, 'weight'))
    const t = Math.abs(a + b) < 1e-6 ? 0.5 : b / (a + b)
    if (t === 0 || t === 1) return { copy: t + (base ? 1 : 0) }
    const linesOf = global.nuslerp_row_wise === true ? columnsOf : rowsOf
    return spanStep({
      cpuStep: 'nuslerp',
      origin: base,
      vectors: 2,
      parameters: [t],
      lines: global.nuslerp_flatten === false ? linesOf(shape) : undefined,
    })
  },
}
