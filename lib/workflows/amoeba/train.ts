/** `amoebaTrain`: shared adapters for all subnets of a strategy, by one-for-all fine-tuning. */

import type { Engine } from '../../engine/engine.js'
import type { TeacherMask } from '../../runtime/index.js'
import { checkpointOf, modelOf } from '../../runtime/open_model.js'
import { readStrategy, type Strategy, sameRatio } from '../../subnets/index.js'
import type { TrainOptions } from '../../training/index.js'
import { type TrainForecast, type TrainReport, trainFor } from '../../training/train.js'
import type { DryRun } from '../../util/dry_run.js'
import { misuse, wrongOption } from '../../util/errors.js'
import type { MixtureForm } from './mixture.js'
import { OneForAll, type OneForAllSettings } from './one_for_all.js'
import type { SubnetRange } from './sandwich.js'

type Shared = Omit<
  TrainOptions,
  | 'method'
  | 'dora'
  | 'rslora'
  | 'dropout'
  | 'adapter'
  | 'fold'
  | 'teacher'
  | 'teacherShare'
  | 'teacherMask'
  | 'teacherLoss'
>

/** Options of `train` have the same meaning here. */
export interface AmoebaTrainOptions extends Shared {
  /** The file that `amoebaStrategy` has written for the model. */
  strategy: string
  /** Rank of each expert. Defaults to 64. */
  rank?: number | undefined
  /** Each counts alpha / rank times. Defaults to 16. */
  alpha?: number | undefined
  /** Experts that the router chooses from; 1: one adapter for all shapes, and no router. Defaults to 5. */
  experts?: number | undefined
  /** Experts that a subnet has. Defaults to 2. */
  top?: number | undefined
  /** What is mixed: the factors of experts, as in the published code, or what they add. Defaults to `factor`. */
  mix?: MixtureForm | undefined
  /** Whether there is noise in the choice of experts while they are trained. Defaults to true. */
  noise?: boolean | undefined
  /** Subnets a micro-batch: the largest, the smallest, and others at random. Defaults to 4. */
  subnets?: number | undefined
  /** Fewest blocks of a subnet. Defaults to the strategy's. */
  minDepth?: number | undefined
  /** Widths, of those of the strategy. Defaults to all. */
  widths?: readonly number[] | undefined
  /** How much of a subnet's loss is what the largest says, from 0 to 1; targets count for the rest. Defaults to 1. */
  teacherShare?: number | undefined
  /**
   * Where it is taught: at the tokens that predict a target (`shifted`), or at those that are one (`own-label`, as in
   * the published code, which never teaches the first token of an answer). Defaults to `shifted`.
   */
  teacherMask?: TeacherMask | undefined
  /** Whether the loss of each subnet is made as large as that of the largest. Defaults to true. */
  balance?: boolean | undefined
  /** Whether biases stand for what units gave that are not there. Defaults to true. */
  bias?: boolean | undefined
  /** Whether experts that no subnet of a step has are moved on by their moments. Defaults to false. */
  dense?: boolean | undefined
}

/**
 * Trains adapters that all subnets of a strategy share. Rates are constant, gradients are clipped at 0.3 and a step's
 * loss is a mean of micro-batches, unless options say otherwise. Throws what `train` throws, and
 * ERR_WEIGHTSMITH_INPUT_CHANGED for the strategy of another model.
 */
export function amoebaTrain(
  engine: Engine,
  model: string,
  options: AmoebaTrainOptions & { dryRun: true },
): Promise<DryRun<TrainForecast>>
export function amoebaTrain(
  engine: Engine,
  model: string,
  options: AmoebaTrainOptions & { dryRun?: false | undefined },
): Promise<TrainReport>
export function amoebaTrain(
  engine: Engine,
  model: string,
  options: AmoebaTrainOptions,
): Promise<TrainReport | DryRun<TrainForecast>>
export async function amoebaTrain(
  engine: Engine,
  model: string,
  options: AmoebaTrainOptions,
): Promise<TrainReport | DryRun<TrainForecast>> {
  // The teacher is the model itself, and none of `train`.
  const { strategy: file, teacherShare: _share, teacherMask: _mask, ...training } = options
  const settings = settingsOf(options)
  const checkpoint = await checkpointOf(engine, model)
  const { spec } = modelOf(engine, checkpoint, { batchTokens: 1 })
  const strategy = await engine.use(({ addon }) => readStrategy(addon, file, checkpoint))
  const range = rangeOf(strategy, options)
  const { seed: _, ...shown } = settings
  const facts = { ...shown, ...range, strategy: file }
  const objective = new OneForAll(spec, strategy, range, settings, facts, { 'set of masks': masksOf(strategy) })
  const defaults = { rank: 64, alpha: 16, clip: 0.3, schedule: 'constant', normalise: 'micro-batches' } as const
  return trainFor(
    engine,
    model,
    { ...defaults, ...definedIn(training), out: options.out, data: options.data },
    objective,
  )
}

/** Throws ERR_WEIGHTSMITH_ARGUMENT for an option out of its range. */
function settingsOf(options: AmoebaTrainOptions): OneForAllSettings {
  const settings = {
    subnets: options.subnets ?? 4,
    experts: options.experts ?? 5,
    top: options.top ?? Math.min(2, options.experts ?? 5),
    mix: options.mix ?? 'factor',
    noise: options.noise ?? true,
    balance: options.balance ?? true,
    teacherShare: options.teacherShare ?? 1,
    teacherMask: options.teacherMask ?? 'shifted',
    compensated: options.bias ?? true,
    dense: options.dense ?? false,
    seed: options.seed ?? 0,
  }
  const { subnets, experts, top, mix, teacherShare, teacherMask } = settings
  const whole = (value: number, least: number, most: number) =>
    Number.isSafeInteger(value) && value >= least && value <= most
  if (!whole(subnets, 2, 64)) throw wrongOption('the subnets of a micro-batch', 'a whole number from 2 to 64', subnets)
  if (!whole(experts, 1, 64)) throw wrongOption('the experts', 'a whole number from 1 to 64', experts)
  if (!whole(top, 1, experts)) throw wrongOption('the experts of a subnet', `a whole number from 1 to ${experts}`, top)
  if (mix !== 'factor' && mix !== 'output') throw wrongOption('mix', 'factor or output', mix)
  if (!(teacherShare >= 0 && teacherShare <= 1)) throw wrongOption("the teacher's share", 'from 0 to 1', teacherShare)
  if (teacherMask !== 'shifted' && teacherMask !== 'own-label') {
    throw wrongOption("the teacher's mask", 'shifted or own-label', teacherMask)
  }
  return settings
}

/** Throws ERR_WEIGHTSMITH_ARGUMENT for depths and widths that the strategy does not have. */
function rangeOf(strategy: Strategy, { minDepth, widths }: AmoebaTrainOptions): SubnetRange {
  const { layers } = strategy
  const least = layers - strategy.depth.masks.length + 1
  const leastDepth = minDepth ?? least
  if (!(Number.isInteger(leastDepth) && leastDepth >= least && leastDepth <= layers)) {
    throw misuse(
      `The depths of the strategy are ${least} to ${layers} blocks, but the fewest were to be ${leastDepth}.`,
    )
  }
  const all = strategy.widths.map(({ ratio }) => ratio)
  const known = (widths ?? all).map((width) => {
    const ratio = all.find((own) => Math.abs(own - width) < sameRatio)
    if (ratio !== undefined) return ratio
    throw misuse(`The widths of the strategy are ${all.join(', ')}, but ${width} was asked for.`)
  })
  if (known.length === 0) throw misuse('There is no width to train; give at least one.')
  return { leastDepth, layers, widths: [...new Set(known)].sort((a, b) => b - a) }
}

/** What a resumed run compares: which blocks and units stay. */
function masksOf({ depth, widths }: Strategy): unknown {
  return { depths: depth.masks, widths: widths.map(({ ratio, units }) => [ratio, units.map(({ kept }) => kept)]) }
}

/** Options that were given. */
function definedIn<T extends object>(options: T): Partial<T> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Partial<T>
}
