/**
 * RegMean: merged linears give, on the models' own data, what the models' linears give, as nearly as one matrix can.
 * The Gram matrices of inputs are statistics (`score --methods gram`). From them the shares M_i = G'_i (Σ G')⁻¹ are
 * solved in float64 (they add up to the identity, so one of them is never needed), then the weights are multiplied by
 * them.
 */

import type { NativeProgram } from '../../native/border.js'
import { layout } from '../../native/layouts.js'
import { shares, weightedSum } from './combine.js'
import { type Made, type MergeMethod, num, weight } from './method.js'

export const regmean: MergeMethod = {
  name: 'regmean',
  about:
    'Linear layers whose outputs are nearest to those of all models, given Gram matrices of their inputs (read from files)',
  formula:
    '(Σ wᵢ Mᵢ Gᵢ) (Σ wᵢ Gᵢ)⁻¹ for a matrix Mᵢ [out, in], Gᵢ = Σ xᵀx over its inputs x with off-diagonals times ' +
    'reduce_non_diagonal_ratio; Σ wᵢ Mᵢ / Σ wᵢ for tensors without statistics',
  source: 'arXiv 2212.09849, as in MergeLM',
  differences:
    'mergekit has no such method. MergeLM inverts in float32, and its default ratio is 1, with which Gram matrices of little ' +
    'data are singular. Inputs that are zero in all data are averaged. Every model but the first needs an [in, in] matrix: ' +
    '16 bytes per entry on the host while it is computed, in addition to the memory of the run, then 4 bytes per entry, ' +
    'which must fit a binding of the device (128 MiB, or 5,700 inputs, on some) and three times the memory.',
  needsBase: false,
  models: { min: 1, max: 8 },
  parameters: [
    { ...weight, about: 'Factor of the Gram matrices of the model', default: 1, min: 0 },
    {
      name: 'statistics',
      about:
        'Safetensors file or folder with Gram matrices: for a matrix NAME of shape [out, in], a tensor gram/NAME of shape ' +
        '[in, in], as `score --methods gram` writes them; k_proj and v_proj may share that of q_proj, up_proj that of gate_proj',
      type: 'model',
      scope: 'model',
    },
    {
      name: 'reduce_non_diagonal_ratio',
      about: 'Factor of the off-diagonals of the Gram matrices',
      type: 'number',
      scope: 'global',
      default: 0.9,
      min: 0,
      max: 1,
    },
  ],
  statistics: 'inputs',
  determinism: 'exact',
  step({ global, models, statistics, shape }) {
    const weights = models.map((m) => num(m, 'weight'))
    const even = shares(weights, 'regmean')
    const used = [...weights.keys()].filter((i) => weights[i] !== 0)
    if (!statistics || used.length === 1) return weightedSum(even)
    const [, size = 0] = shape
    const ratio = num(global, 'reduce_non_diagonal_ratio')
    const made = used.slice(1).map(
      (_, i): Made => ({
        program: sharesOf(used.length),
        coefficients: [size, ratio, i + 1, ...used.map((model) => even[model] ?? 0)],
        inputs: used.map((model) => models.length + model),
        elements: size * size,
      }),
    )
    return {
      program: { rows: true, kernels: [{ kernel: 'regmean', writes: 'output' }] },
      coefficients: [size],
      inputs: [...used, ...made.map((_, i) => 2 * models.length + i)],
      made,
    }
  },
}

function sharesOf(models: number): NativeProgram {
  return {
    cpuStep: 'regmean',
    lines: { size: 1, across: false },
    kernels: [
      { kernel: 'store_f32', writes: layout.block * models },
      { kernel: 'load_f32', writes: 'output' },
    ],
  }
}
