/** Arcee Fusion: the model's value where it matters most, the base's elsewhere. */

import type { MergeMethod } from './method.js'
import { sampleWords, selectWords } from './select.js'
import { rowSlots, rowsOf } from './span.js'

export const arceeFusion: MergeMethod = {
  name: 'arcee_fusion',
  about:
    "Takes the model's value where its difference from the base is exceptionally important, and the base's elsewhere",
  formula:
    'M where s ≥ median(s) + 1.5 (q₃(s) - q₁(s)), else B, with the importance s = |d| Σ p log(p / q) of the row, ' +
    'p = softmax(M) + 1e-8 and q = softmax(B) + 1e-8 of the row',
  source: 'mergekit',
  differences:
    'Quartiles are computed over all entries; mergekit samples a million. A selected entry is exactly that of the ' +
    'model; mergekit adds the difference to the base. The divergence of a row is computed without cancellation; in ' +
    'mergekit a small one is rounding noise.',
  needsBase: true,
  models: { min: 1, max: 1 },
  parameters: [],
  determinism: 'exact',
  step({ shape }) {
    // The softmax of one entry is 1: nothing is of more importance than anything else, and all is taken.
    if ((shape.at(-1) ?? 1) === 1) return { copy: 1 }
    const lines = rowsOf(shape)
    const constants = { WEIGHTED: lines ? 1 : 0 }
    const keyed = [
      { kernel: 'select_sample', writes: sampleWords(1), constants },
      { kernel: 'select', writes: selectWords(3), constants: { ...constants, CUTS: 3 } },
      { kernel: 'arcee_fusion', writes: 'output' as const, constants },
    ]
    // The divergence of a single row is a factor of all its entries, which changes nothing.
    if (!lines) return { program: { cpuStep: 'arcee_fusion', kernels: keyed }, coefficients: [] }
    const divergences = [5, 1].map((words, stage) => ({
      kernel: 'divergence',
      writes: words * rowSlots(lines),
      constants: { STAGE: stage },
    }))
    return { program: { cpuStep: 'arcee_fusion', lines, kernels: [...divergences, ...keyed] }, coefficients: [] }
  },
}
