/** What the CPU step `ties` takes: how each model's differences are trimmed by magnitude and then combined. */

import { layout } from './layouts.js'

/** Codes of the consensus in the coefficients and in the constant CONSENSUS of kernels. */
export const consensusCodes = {
  sum: layout.consensusSum,
  mergekit: layout.consensusMergekit,
  total: layout.consensusTotal,
  frequency: layout.consensusFrequency,
  reference: layout.consensusReference,
} as const

export interface TrimCoefficients {
  lambda: number
  normalize: boolean
  rescale: boolean
  consensus: keyof typeof consensusCodes
  weights: number[]
  densities: number[]
  /** Share of the largest entries that go too, a number a model; absent: none do. */
  gammas?: number[]
}

export function trimCoefficients(trim: TrimCoefficients): number[] {
  const { weights, densities, gammas = [] } = trim
  const head = new Array<number>(layout.trimWeights).fill(0)
  head[layout.trimLambda] = trim.lambda
  head[layout.trimNormalize] = trim.normalize ? 1 : 0
  head[layout.trimConsensus] = consensusCodes[trim.consensus]
  head[layout.trimRescale] = trim.rescale ? 1 : 0
  return [...head, ...weights, ...densities, ...gammas]
}
