/** Options of training, with their defaults and limits. */

import type { TeacherMask } from '../runtime/index.js'
import { misuse, wrongOption } from '../util/errors.js'
import type { ProgressEvent } from '../util/progress.js'
import { defaultTokens } from './batches.js'
import type { TrainingFile } from './examples.js'
import type { TrainingLogLine } from './log.js'
import type { RateSchedule } from './schedule.js'
import type { TargetOptions } from './targets.js'

export interface TrainOptions extends TargetOptions {
  /** The folder to write: an adapter as PEFT saves one, or with `full` a checkpoint in the types of the model. */
  out: string
  /** Files of data, each maybe with a share. */
  data: string | readonly (string | TrainingFile)[]
  /** `lora` trains a low-rank adapter, `full` the weights themselves. Defaults to lora. */
  method?: 'lora' | 'full' | undefined
  /** Rank of the adapter. Defaults to 16. */
  rank?: number | undefined
  /** The adapter counts alpha / rank times. Defaults to twice the rank. */
  alpha?: number | undefined
  /** The adapter counts alpha / √rank times (rsLoRA, arXiv 2312.03732). Defaults to false. */
  rslora?: boolean | undefined
  /** Train lengths of rows beside the factors (DoRA, arXiv 2402.09353). Defaults to false. */
  dora?: boolean | undefined
  /** Share of the elements of what the adapter reads that is lost in each step. Defaults to 0. */
  dropout?: number | undefined
  /** Go on from an adapter, with its ranks, scales and modules. */
  adapter?: string | undefined
  /** Also write the model with the adapter folded in, to this folder. */
  fold?: string | undefined
  /** How factors of the adapter are stored. Defaults to float32. */
  dtype?: string | undefined

  /** Updates; or `epochs`. */
  steps?: number | undefined
  /** Passes over the data. Defaults to 1 where `steps` says nothing. */
  epochs?: number | undefined
  /** Sequences a step. Defaults to 8. */
  batch?: number | undefined
  /** Most tokens that go through the model at a time. Defaults to 2,048. */
  tokens?: number | undefined
  /** Most tokens of an example. Defaults to the context of the model, but to no more than `tokens`. */
  maxLength?: number | undefined
  /** What is predicted: the answers, or everything. Defaults to answer. */
  loss?: 'answer' | 'all' | undefined
  /**
   * A model of the same vocabulary whose probabilities are learned beside the targets, or a file of what one has said
   * (`teach` writes it; its name ends with .safetensors). The loss of a step is (1 - teacherShare) times that of its
   * targets, plus teacherShare times -Σ p log q of the teacher's probabilities p, by as many tokens.
   */
  teacher?: string | undefined
  /** How much of the loss is the teacher's, above 0 and up to 1. Defaults to 0.5. */
  teacherShare?: number | undefined
  /**
   * Where a teacher is learned: at the tokens that predict a target (`shifted`), or that are one (`own-label`, as
   * AmoebaLLM's release has it). Defaults to shifted.
   */
  teacherMask?: TeacherMask | undefined
  /**
   * What a teacher's part of the loss is: `cross-entropy`, -Σ p log q; or `kl`, which is less the teacher's entropy and
   * has the same gradient. Defaults to cross-entropy.
   */
  teacherLoss?: 'cross-entropy' | 'kl' | undefined
  /** What the loss of a step is divided by: its `targets`, or the mean of `micro-batches`. Defaults to targets. */
  normalise?: 'targets' | 'micro-batches' | undefined

  /** Highest learning rate. Defaults to 2e-4 for lora and 2e-5 for full. */
  rate?: number | undefined
  schedule?: RateSchedule | undefined
  warmup?: number | undefined
  lowest?: number | undefined
  /** Decay of the means of the gradient and of its square. Default to 0.9 and 0.999. */
  beta1?: number | undefined
  beta2?: number | undefined
  /** Defaults to 1e-8. */
  eps?: number | undefined
  /** Decoupled weight decay of matrices. Defaults to 0. */
  decay?: number | undefined
  /** Largest norm of the gradient; 0: any. Defaults to 1. */
  clip?: number | undefined
  /** Of the order of the data and of the first adapter. Defaults to 0. */
  seed?: number | undefined

  /** Data held out, whose loss is measured. */
  heldOut?: string | undefined
  /** Steps between two measurements. Defaults to a tenth of the run. */
  heldOutEvery?: number | undefined
  /** End after so many measurements without a better loss. */
  patience?: number | undefined
  /** What is written: the `last` state, or the `best` on the data held out. Defaults to best where there are any. */
  keep?: 'best' | 'last' | undefined

  /** A file of JSON lines, one a step. Defaults to none. */
  log?: string | undefined
  /** Steps between two resume points. Defaults to 100. */
  saveEvery?: number | undefined
  /** Go on where an earlier run has ended. */
  resume?: boolean | undefined
  overwrite?: boolean | undefined
  /** Check everything and say what it takes, but train nothing. */
  dryRun?: boolean | undefined
  signal?: AbortSignal | undefined
  onProgress?: ((event: ProgressEvent) => void) | undefined
  /** What the log gets, as it comes. */
  onLine?: ((line: TrainingLogLine) => void) | undefined
}

/** Options with their defaults, as they decide about the result. */
export type Settings = ReturnType<typeof settingsOf>

/** Throws ERR_WEIGHTSMITH_ARGUMENT for an option out of its range, and for options that contradict each other. */
export function settingsOf(options: TrainOptions) {
  const { method = 'lora', heldOut, adapter } = options
  if (method !== 'lora' && method !== 'full') throw wrongOption('the method', 'lora or full', method)
  const given = (['rank', 'alpha', 'rslora', 'dora', 'targets', 'layers'] as const).filter(
    (key) => options[key] !== undefined,
  )
  if (adapter !== undefined && given.length > 0) {
    throw misuse(`The adapter ${adapter} says its own ${given.join(', ')}; leave them out to go on from it.`)
  }
  const adapters = (
    ['rank', 'alpha', 'rslora', 'dora', 'dropout', 'targets', 'adapter', 'fold', 'dtype'] as const
  ).filter((key) => options[key] !== undefined)
  if (method === 'full' && adapters.length > 0) {
    throw misuse(`Full training has no adapter, so ${adapters.join(', ')} mean nothing to it; leave them out.`)
  }
  for (const key of ['heldOutEvery', 'patience'] as const) {
    if (options[key] !== undefined && heldOut === undefined) {
      throw misuse(`${key} needs data held out; give some, or leave it out.`)
    }
  }
  if (options.keep === 'best' && heldOut === undefined) {
    throw misuse('Which state is the best is told by data held out; give some, or keep the last.')
  }
  const settings = {
    method,
    rank: options.rank ?? 16,
    alpha: options.alpha ?? 2 * (options.rank ?? 16),
    rslora: options.rslora ?? false,
    dora: options.dora ?? false,
    dropout: options.dropout ?? 0,
    teacherShare: options.teacher === undefined ? 0 : (options.teacherShare ?? 0.5),
    teacherMask: options.teacherMask ?? 'shifted',
    teacherLoss: options.teacherLoss ?? 'cross-entropy',
    batch: options.batch ?? 8,
    tokens: options.tokens ?? defaultTokens,
    loss: options.loss ?? 'answer',
    normalise: options.normalise ?? 'targets',
    rate: options.rate ?? (method === 'lora' ? 2e-4 : 2e-5),
    schedule: options.schedule ?? 'linear',
    warmup: options.warmup ?? 0,
    lowest: options.lowest ?? 0,
    beta1: options.beta1 ?? 0.9,
    beta2: options.beta2 ?? 0.999,
    eps: options.eps ?? 1e-8,
    decay: options.decay ?? 0,
    clip: options.clip ?? 1,
    seed: options.seed ?? 0,
    keep: options.keep ?? (heldOut === undefined ? ('last' as const) : ('best' as const)),
  }
  const whole = (name: string, value: number | undefined) => {
    if (value !== undefined && !(Number.isSafeInteger(value) && value > 0)) {
      throw wrongOption(name, 'a whole number above 0', value)
    }
  }
  whole('the rank', settings.rank)
  whole('the tokens of a micro-batch', settings.tokens)
  whole('the steps between two resume points', options.saveEvery)
  whole('the steps between two measurements', options.heldOutEvery)
  whole('the patience', options.patience)
  const within = (name: string, value: number, fits: boolean, expected: string) => {
    if (!fits) throw wrongOption(name, expected, value)
  }
  const { alpha, dropout, teacherShare, beta1, beta2, eps, decay, clip } = settings
  within('alpha', alpha, alpha > 0 && Number.isFinite(alpha), 'a number above 0')
  within('the dropout', dropout, dropout >= 0 && dropout < 1, 'from 0 to below 1')
  for (const key of ['teacherShare', 'teacherMask', 'teacherLoss'] as const) {
    if (options[key] !== undefined && options.teacher === undefined) {
      throw misuse(`${key} ${options[key]} needs a teacher; give one, or leave it out.`)
    }
  }
  if (!['shifted', 'own-label'].includes(settings.teacherMask)) {
    throw wrongOption("the teacher's mask", 'shifted or own-label', settings.teacherMask)
  }
  if (!['cross-entropy', 'kl'].includes(settings.teacherLoss)) {
    throw wrongOption("the teacher's loss", 'cross-entropy or kl', settings.teacherLoss)
  }
  const taught = options.teacher === undefined || (teacherShare > 0 && teacherShare <= 1)
  within("the teacher's share", teacherShare, taught, 'above 0 and up to 1')
  within('beta1', beta1, beta1 >= 0 && beta1 < 1, 'from 0 to below 1')
  within('beta2', beta2, beta2 >= 0 && beta2 < 1, 'from 0 to below 1')
  within('eps', eps, eps > 0 && eps < 1, 'above 0 and below 1')
  within('the weight decay', decay, decay >= 0 && decay < 1, 'from 0 to below 1')
  within('the clipping', clip, clip >= 0 && Number.isFinite(clip), 'a number from 0 on')
  if (!['targets', 'micro-batches'].includes(settings.normalise)) {
    throw wrongOption('the normalisation', 'targets or micro-batches', settings.normalise)
  }
  if (!['best', 'last'].includes(settings.keep)) throw wrongOption('what is kept', 'best or last', settings.keep)
  return settings
}
