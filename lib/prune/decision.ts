/** What the ways of pruning share: their options, what they are given, and what they decide. */

import type { ModelSpec, Units } from '../architectures/index.js'
import type { Checkpoint, Content } from '../checkpoint/index.js'
import type { Host } from '../native/host.js'
import type { Scores } from '../score/index.js'
import { WeightsmithError } from '../util/errors.js'
import type { WidthMetric } from './widths.js'

interface Method {
  /** Single weights, heads and neurons, or blocks. */
  goes: 'weights' | 'widths' | 'blocks'
  about: string
  /** The method of scoring whose file it needs. */
  scores?: string
  source: string
}

const methods = {
  magnitude: {
    goes: 'weights',
    about: 'The weights of a tensor with the smallest absolute value',
    source: 'Han et al., arXiv 1506.02626',
  },
  wanda: {
    goes: 'weights',
    about: 'In every row of a linear layer, the weights with the smallest |W_oj| ‖X_j‖₂',
    scores: 'wanda',
    source: 'arXiv 2306.11695',
  },
  sparsegpt: {
    goes: 'weights',
    about:
      'In blocks of columns, the weights with the smallest (W_oj / U_jj)², where U is the upper Cholesky factor of the inverse ' +
      'Gram matrix; the weights to their right are updated to compensate',
    scores: 'gram',
    source: 'arXiv 2301.00774',
  },
  flap: {
    goes: 'widths',
    about:
      'Heads and neurons with the smallest fluctuation times Σ W² (`metric`: wifv; also wifn, ifv), standardised per layer and ' +
      'ranked over the model; a bias replaces their mean output',
    scores: 'flap',
    source: 'arXiv 2312.11983, as in AmoebaLLM',
  },
  'wanda-sp': {
    goes: 'widths',
    about: 'Heads and neurons with the smallest ‖X_j‖₂ Σ |W_oj|, the same number in every layer',
    scores: 'wanda',
    source: 'arXiv 2306.11695, 2312.11983',
  },
  bi: {
    goes: 'blocks',
    about: 'Blocks that change the direction of the residual stream least',
    scores: 'bi',
    source: 'ShortGPT, arXiv 2403.03853',
  },
  angular: {
    goes: 'blocks',
    about: 'The consecutive blocks that together change the direction of the last token of an example least',
    scores: 'angular',
    source: 'arXiv 2403.17887',
  },
  ablation: {
    goes: 'blocks',
    about: 'Blocks whose removal, one at a time, raises the loss least',
    scores: 'ablation',
    source: 'arXiv 2506.22638',
  },
} satisfies Record<string, Method>

export type PruneMethod = keyof typeof methods

export const pruneMethods: Readonly<Record<PruneMethod, Method>> = methods

/** What decides about the result. */
export interface Choice {
  method: PruneMethod
  /** A file of `score` with what the method needs; `magnitude` needs none. */
  scores?: string | undefined
  /** Weights: the share that goes. Defaults to 0.5. */
  sparsity?: number | undefined
  /** Weights: `2:4`, of each 4 neighbours in a row 2 stay; goes before `sparsity`. */
  pattern?: string | undefined
  /** Heads and neurons: the share of their parameters that stays. Defaults to 0.75. */
  keepRatio?: number | undefined
  /**
   * Heads and neurons: one order over the whole model (`global`, default of flap), or as many in every layer (`local`).
   */
  allocation?: 'global' | 'uniform' | undefined
  /** Of flap: `wifv` (default), `wifn` or `ifv`. */
  metric?: Exclude<WidthMetric, 'wanda-sp'> | undefined
  /** Of flap: add what pruned inputs gave on average as a bias. Defaults to true. */
  bias?: boolean | undefined
  /** Blocks: how many go. Defaults to 1. */
  remove?: number | undefined
  /** Of ablation: the loss over `all` positions (default), or over those of the `answer`. */
  positions?: 'all' | 'answer' | undefined
  /** Zeros in tensors of the same shapes (`masked`), or smaller tensors (`compact`). Defaults to `masked`. */
  layout?: 'masked' | 'compact' | undefined
}

export interface Subject {
  host: Host
  checkpoint: Checkpoint
  spec: ModelSpec
  /** There for every method that needs them. */
  scores: Scores | undefined
}

/** What becomes of the model, before anything is written. */
export interface Decision {
  /** Tensors that differ, or are new; null: left out. */
  tensors: Map<string, Content | null>
  /** Where it differs. */
  config: Record<string, unknown> | undefined
  /** Parameters that go. */
  removed: number
  about: string
  /** Heads and neurons that stay, by layer, and which go. */
  units?: { layer: number; kind: Units['kind']; kept: number; dropped: number[] }[] | undefined
  /** The same units in the same order with their scores: means over the columns that take what they make. */
  scored?: { kept: boolean[]; scores: number[] }[] | undefined
  /** Blocks that go. */
  blocks?: number[] | undefined
  /** What the blocks were chosen by, one a block; for `angular` one a run that could go, by its first block. */
  blockScores?: number[] | undefined
  notes: string[]
}

export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1)
}

export function argument(message: string): WeightsmithError {
  return new WeightsmithError('ERR_WEIGHTSMITH_ARGUMENT', message)
}

/** Throws ERR_WEIGHTSMITH_ARGUMENT for a method that needs scores, and has none. */
export function needScores({ scores, method }: Pick<Choice, 'scores' | 'method'>): void {
  const by = pruneMethods[method].scores
  if (scores !== undefined || by === undefined) return
  throw argument(`The method ${method} needs a score file; make one with score --methods ${by}.`)
}
