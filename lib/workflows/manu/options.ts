/** Options of `manu`, their defaults and their checks. */

import { misuse } from '../../util/errors.js'
import type { ProgressEvent } from '../../util/progress.js'
import type { Layers } from './neurons.js'
import type { Weights } from './scores.js'
import { parts } from './statistics.js'

/** Ways to score neurons; see `ManuOptions.mode`. */
export const manuModes = ['code', 'paper', 'coupled'] as const
export type ManuMode = (typeof manuModes)[number]
export const manuStatistics = ['stream', 'batch'] as const

export interface ManuOptions {
  /** .jsonl files with examples to forget; those with an `image` are multimodal, the others text-only. */
  forget: readonly string[]
  retain: readonly string[]
  /** Further examples to evaluate before and after. */
  utility?: readonly string[] | undefined
  /** Folder of the images, or a safetensors file with the tensor `images`. Defaults to the folder of each data file. */
  images?: string | undefined
  /** Folder to write; with several alphas, each gets a folder in it. Not needed with `dryRun`. */
  out?: string | undefined
  /**
   * `code`: as the published code scores rows of linears (the default); `paper`: as the paper does; `coupled`: the
   * code's score for what comes out between the matrices of an MLP, whose neurons go with their rows and columns.
   */
  mode?: ManuMode | undefined
  /**
   * Percentage of neurons to zero, in the text model and in the vision encoder. Several: one output each, from one
   * measurement. Defaults to 2.
   */
  alpha?: number | readonly number[] | undefined
  /** Layers of each tower. Defaults to `last3`, in paper mode to `all`. */
  layers?: Layers | undefined
  /** Weights of the four statistics in the score. Default to 1 each in paper mode, else to 2, and 0 for `freq`. */
  weights?: Partial<Weights> | undefined
  /** Activation threshold on |z|, for `freq`. Defaults to 0.1. */
  tau?: number | undefined
  /** Over all tokens of a stream at once (the default), or `batch`: at each position of each batch, then the mean. */
  statistics?: (typeof manuStatistics)[number] | undefined
  /** Lines of a batch. Defaults to 4. */
  batch?: number | undefined
  /**
   * `coupled` only: neurons of the language model are left out instead of zeros, layers may then differ in width. Those
   * of a tower stay as zeros. Defaults to false.
   */
  compact?: boolean | undefined
  /** Rounds, each of which measures again and takes alpha per cent more. Defaults to 1. */
  iterations?: number | undefined
  /** As in the published code, modules of a kind share the statistics of all layers. Defaults to false. */
  poolLayers?: boolean | undefined
  /** Evaluate forget, retain and utility before and after. Defaults to true. */
  evaluate?: boolean | undefined
  /** Number of examples of each set and kind to evaluate, chosen by the seed. Defaults to all. */
  limit?: number | undefined
  /** Also evaluate with as many random neurons, and with those of the smallest weights, zeroed. */
  compare?: boolean | undefined
  /** Write only the largest alpha that lowers mean exact match on retain by at most this many percentage points. */
  maxRetainDrop?: number | undefined
  /** Random seed of the samples and of the random neurons. Defaults to 0. */
  seed?: number | undefined
  /**
   * Cache of the statistics, a score file: read if it exists, written otherwise. It has to be of the same model, lines
   * and layers.
   */
  cache?: string | undefined
  overwrite?: boolean | undefined
  /** Check everything and estimate the cost, but measure and write nothing. */
  dryRun?: boolean | undefined
  signal?: AbortSignal | undefined
  /** Lines that have been through the model, of all. */
  onProgress?: ((event: ProgressEvent) => void) | undefined
}

export type Settings = ReturnType<typeof checked>

/** With all defaults. Throws ERR_WEIGHTSMITH_ARGUMENT for what cannot be used. */
export function checked(options: ManuOptions) {
  const {
    mode = 'code',
    iterations = 1,
    tau = 0.1,
    statistics = 'stream',
    batch = 4,
    seed = 0,
    evaluate = true,
  } = options
  const alphas = [...new Set([options.alpha ?? 2].flat())].sort((a, b) => a - b)
  const layers = options.layers ?? (mode === 'paper' ? 'all' : 'last3')
  const weights: Weights = {
    ...(mode === 'paper' ? { abs: 1, freq: 1, var: 1, rms: 1 } : { abs: 2, freq: 0, var: 2, rms: 2 }),
    ...options.weights,
  }
  const whole = (value: number, least: number) => Number.isSafeInteger(value) && value >= least
  const wrong = [
    !manuModes.includes(mode) && `the mode should be ${manuModes.join(', ')}, not ${mode}`,
    !manuStatistics.includes(statistics) && `statistics should be ${manuStatistics.join(' or ')}, not ${statistics}`,
    alphas.some((alpha) => !(alpha >= 0 && alpha <= 100)) && `alpha should be 0 to 100 per cent, not ${alphas}`,
    alphas.length === 0 && 'pass at least one alpha',
    !whole(iterations, 1) && `iterations should be a whole number from 1, not ${iterations}`,
    iterations > 1 && alphas.length > 1 && 'a sweep over alpha has one iteration',
    options.compact === true && mode !== 'coupled' && `only coupled neurons can be left out, not those of mode ${mode}`,
    !whole(batch, 1) && `batch should be a whole number from 1, not ${batch}`,
    options.limit !== undefined &&
      !whole(options.limit, 1) &&
      `limit should be a whole number from 1, not ${options.limit}`,
    !(tau >= 0) && `tau should be a number from 0, not ${tau}`,
    !whole(seed, 0) && `seed should be a whole number from 0, not ${seed}`,
    parts.some((part) => !Number.isFinite(weights[part])) && 'weights should be numbers',
    options.maxRetainDrop !== undefined && !evaluate && 'maxRetainDrop needs the evaluation; leave evaluate on',
    options.out === undefined &&
      options.dryRun !== true &&
      options.evaluate === false &&
      'there is nothing to do; pass out, or leave evaluate on',
  ].find((what) => what !== false)
  if (wrong !== undefined) throw misuse(`Invalid option: ${wrong}.`)
  return { ...options, mode, alphas, layers, weights, iterations, tau, statistics, batch, seed, evaluate }
}
