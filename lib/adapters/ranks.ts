/** How many singular values an adapter keeps of each module. */

import { misuse, wrongOption } from '../util/errors.js'

export interface RankOptions {
  /**
   * So many of every module, and with one of the others at most so many. Defaults to 16; with `budget` to 64, with
   * `energy` and `tolerance` to all.
   */
  rank?: number | undefined
  /** As few as keep this share of the squared norm of each difference: above 0, at most 1. */
  energy?: number | undefined
  /** As few as leave at most this share of the norm of each difference: from 0, below 1. */
  tolerance?: number | undefined
  /** Factors of so many parameters in all: those values that leave least for what they cost. */
  budget?: number | undefined
}

/** Throws ERR_WEIGHTSMITH_ARGUMENT for values out of range, and for two rules at once. */
export function checkRanks(options: RankOptions): void {
  const rules = (['energy', 'tolerance', 'budget'] as const).filter((rule) => options[rule] !== undefined)
  if (rules.length > 1) throw misuse(`Ranks follow from ${rules.join(' or ')}; give one of them.`)
  const { rank, energy, tolerance, budget } = options
  for (const [name, value] of Object.entries({ rank, budget })) {
    if (value !== undefined && !(Number.isSafeInteger(value) && value > 0)) {
      throw wrongOption(name, 'a whole number from 1', value)
    }
  }
  if (energy !== undefined && !(energy > 0 && energy <= 1)) throw wrongOption('energy', 'above 0 and at most 1', energy)
  if (tolerance !== undefined && !(tolerance >= 0 && tolerance < 1)) {
    throw wrongOption('tolerance', 'from 0 and below 1', tolerance)
  }
}

/** How many leading values are looked for at first. */
export function firstRank({ rank, energy, tolerance, budget }: RankOptions): number {
  if (budget !== undefined) return rank ?? 64
  if (energy === undefined && tolerance === undefined) return rank ?? 16
  return Math.min(16, rank ?? 16)
}

/** The rank of a module from what is known of its spectrum; undefined: more of it has to be known. */
export function rankOf(values: Float64Array, norm: number, all: boolean, options: RankOptions): number | undefined {
  const { energy, tolerance, budget } = options
  const there = values.indexOf(0)
  const most = there < 0 ? values.length : there
  if (budget !== undefined) return Math.min(most, firstRank(options))
  const share = energy ?? (tolerance === undefined ? undefined : 1 - tolerance ** 2)
  if (share === undefined) return Math.min(most, options.rank ?? 16)
  const limit = options.rank ?? Number.POSITIVE_INFINITY
  let kept = 0
  for (let k = 0; k < Math.min(most, limit); k++) {
    kept += (values[k] ?? 0) ** 2
    if (kept >= share * norm ** 2) return k + 1
  }
  if (all || values.length >= limit || most < values.length) return Math.min(most, limit)
  return undefined
}

/** Ranks within a budget of parameters: the values in the order of what each adds to the energy for its cost. */
export function shareBudget(modules: { values: Float64Array; cost: number }[], budget: number): number[] {
  const steps = modules.flatMap(({ values, cost }, module) =>
    Array.from(values, (value) => ({ module, cost, worth: value ** 2 / cost })),
  )
  const ranks = modules.map(() => 0)
  const ended = new Set<number>()
  let left = budget
  for (const { module, cost } of steps.sort((x, y) => y.worth - x.worth)) {
    // A value without those before it would be a worse choice than these.
    if (cost > left) ended.add(module)
    if (ended.has(module)) continue
    left -= cost
    ranks[module] = (ranks[module] ?? 0) + 1
  }
  return ranks
}
