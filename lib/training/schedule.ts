/**
 * The learning rate of every step: a warm-up that rises from 0 by a straight line, and then a constant, a line or half
 * a cosine. Formulas of transformers' optimization.py: get_constant_schedule_with_warmup,
 * get_linear_schedule_with_warmup, get_cosine_schedule_with_warmup, and with a lowest rate
 * get_polynomial_decay_schedule_with_warmup (power 1) and get_cosine_with_min_lr_schedule_with_warmup.
 */

import { misuse, wrongOption } from '../util/errors.js'

export const scheduleNames = ['constant', 'linear', 'cosine'] as const
export type RateSchedule = (typeof scheduleNames)[number]

export interface RateOptions {
  /** The highest learning rate, in (0, 1]. */
  rate: number
  /** What follows the warm-up. Defaults to linear. */
  schedule?: RateSchedule | undefined
  /** Steps of the warm-up; below 1, a share of all steps, rounded up. Defaults to 0. */
  warmup?: number | undefined
  /** What a line or a cosine ends at, as a share of the rate, in [0, 1). Defaults to 0. */
  lowest?: number | undefined
}

/**
 * The rate of each step of a run of `steps` steps; step 0 is the first. Throws ERR_WEIGHTSMITH_ARGUMENT for an option
 * out of its range.
 */
export function rateSchedule(options: RateOptions, steps: number): (step: number) => number {
  const { rate, schedule = 'linear', warmup = 0, lowest = 0 } = options
  if (!(rate > 0 && rate <= 1)) throw wrongOption('the learning rate', 'above 0 and up to 1', rate)
  if (!scheduleNames.includes(schedule)) {
    throw wrongOption('the schedule of the learning rate', scheduleNames.join(', '), schedule)
  }
  if (!(warmup >= 0 && (warmup < 1 || Number.isInteger(warmup)))) {
    throw wrongOption('the warm-up', 'a whole number of steps, or a share of them below 1', warmup)
  }
  if (!(lowest >= 0 && lowest < 1)) {
    throw wrongOption('the lowest learning rate', 'a share of the rate from 0 to below 1', lowest)
  }
  if (lowest > 0 && schedule === 'constant') {
    throw misuse(`A constant learning rate has no lowest one, but ${lowest} was given; choose linear or cosine.`)
  }
  const rising = warmup < 1 ? Math.ceil(steps * warmup) : warmup
  if (rising >= steps && rising > 0) {
    throw misuse(
      `The warm-up takes ${rising} steps, but the run has only ${steps}; the full rate would never be reached.`,
    )
  }
  return (step) => {
    if (step < rising) return rate * (step / rising)
    const progress = Math.min(1, (step - rising) / Math.max(1, steps - rising))
    return rate * (lowest + (1 - lowest) * falling[schedule](progress))
  }
}

/** The share of the rate by the share of the steps after the warm-up. */
const falling: Record<RateSchedule, (progress: number) => number> = {
  constant: () => 1,
  linear: (progress) => 1 - progress,
  cosine: (progress) => Math.max(0, 0.5 * (1 + Math.cos(Math.PI * progress))),
}
