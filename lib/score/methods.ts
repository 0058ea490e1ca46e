/** The methods of scoring: what each measures, by which formula, and who collects it. */

import { WeightsmithError } from '../util/errors.js'
import {
  ablation,
  angular,
  blockInfluence,
  type Collector,
  flap,
  gram,
  magnitude,
  neuron,
  type Setting,
  type Write,
  wanda,
} from './collectors.js'

export interface ScoreMethod {
  name: string
  about: string
  /** What is in the score file: `W` the weight of a linear, `X` its input, row t a token. */
  formula: string
  source: string
  /** Whether the model has to be run on data. */
  data: boolean
  collect: (setting: Setting, write: Write) => Collector
}

const list: ScoreMethod[] = [
  {
    name: 'magnitude',
    about: 'Magnitude of the weights, summed over each input of a linear layer',
    formula: 'absolute/W: Σ_o |W_oj|; squares/W: Σ_o W_oj²',
    source: 'the weights alone',
    data: false,
    collect: magnitude,
  },
  {
    name: 'wanda',
    about: 'Norm of each input of every linear layer',
    formula: 'norm/W: ‖X_j‖₂ over all tokens; absolute/W and squares/W as magnitude',
    source: 'arXiv 2306.11695',
    data: true,
    collect: wanda,
  },
  {
    name: 'flap',
    about: 'Fluctuation, around their mean, of the inputs of the linear layers that follow heads and neurons',
    formula:
      'over examples i: mean_j ← mean_j (i-1)/i + mean_t X_tj / i; fluctuation_j ← fluctuation_j (i-2)/(i-1) + ' +
      'Σ_t (X_tj - mean_j)² / i, 0 after the first; absolute/W and squares/W as magnitude',
    source: 'arXiv 2312.11983, as in AmoebaLLM',
    data: true,
    collect: flap,
  },
  {
    name: 'neuron',
    about: 'Activity of neurons: outputs of the linear layers that compute them, inputs of the one that reads them',
    formula:
      'mean, deviation (ddof 1), mean_absolute, rms over all tokens; frequency: fraction of tokens with |x| > tau; each as ' +
      'STATISTIC/output/W or STATISTIC/input/W',
    source: 'arXiv 2502.15910',
    data: true,
    collect: neuron,
  },
  {
    name: 'bi',
    about: 'Angular change of the residual stream by each block',
    formula: 'block_influence: 1 - mean_t cos(x_t before the block, x_t after it)',
    source: 'arXiv 2403.03853',
    data: true,
    collect: blockInfluence,
  },
  {
    name: 'angular',
    about:
      'Angular change of the residual stream by n consecutive blocks, at the last token of an example, for every n',
    formula: 'angular/n: mean over examples of acos(cos(x_l, x_{l+n})) / π, for l = 0, 1, ...',
    source: 'arXiv 2403.17887',
    data: true,
    collect: angular,
  },
  {
    name: 'ablation',
    about: 'Loss of the model without each block',
    formula:
      'nll: mean loss over all tokens, and over those of answers; ablation/all, ablation/answer: the same with block l ' +
      'left out; importance/...: the difference',
    source: 'arXiv 2506.22638',
    data: true,
    collect: ablation,
  },
  {
    name: 'gram',
    about:
      'Gram matrices of the inputs of linear layers, for SparseGPT and RegMean; layers that share an input share one',
    formula: 'gram/W: Σ_t X_tᵀ X_t, where W is the first linear layer that reads X',
    source: 'arXiv 2301.00774',
    data: true,
    collect: gram,
  },
]

/** By name. */
export const scoreMethods: ReadonlyMap<string, ScoreMethod> = new Map(list.map((method) => [method.name, method]))

/** Methods by name. Throws ERR_WEIGHTSMITH_ARGUMENT with those that there are. */
export function chosenMethods(names: readonly string[]): ScoreMethod[] {
  const chosen = [...new Set(names)].map((name) => {
    const method = scoreMethods.get(name)
    if (method !== undefined) return method
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_ARGUMENT',
      `A method of scoring is one of ${[...scoreMethods.keys()].join(', ')}, but "${name}" was found.`,
    )
  })
  if (chosen.length > 0) return chosen
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_ARGUMENT',
    `No method of scoring is given; there are ${[...scoreMethods.keys()].join(', ')}.`,
  )
}
