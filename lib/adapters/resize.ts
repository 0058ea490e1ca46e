/** An adapter with another rank: the best one there is, module by module. */

import type { Engine } from '../engine/engine.js'
import type { DryRun } from '../util/dry_run.js'
import { misuse } from '../util/errors.js'
import {
  type AdapterForecast,
  type AdapterOptions,
  type AdapterReport,
  checkRanks,
  makeAdapter,
  type RankOptions,
  ranksOf,
  recipeOf,
  summed,
  upper,
} from './combine.js'

/** At least one of `rank`, `energy` and `tolerance`. */
export interface ResizeOptions extends AdapterOptions, RankOptions {}

/**
 * Gives an adapter fewer ranks by the singular values of each module's update, and reports what that loses. A rank
 * above that of the adapter leaves it as it is. Rejects as `combineAdapters` does.
 */
export function resizeAdapter(
  engine: Engine,
  adapter: string,
  options: ResizeOptions & { dryRun: true },
): Promise<DryRun<AdapterForecast>>
export function resizeAdapter(
  engine: Engine,
  adapter: string,
  options: ResizeOptions & { dryRun?: false | undefined },
): Promise<AdapterReport>
export function resizeAdapter(
  engine: Engine,
  adapter: string,
  options: ResizeOptions,
): Promise<AdapterReport | DryRun<AdapterForecast>>
export async function resizeAdapter(
  engine: Engine,
  adapter: string,
  options: ResizeOptions,
): Promise<AdapterReport | DryRun<AdapterForecast>> {
  checkRanks(options)
  const { rank, energy, tolerance } = options
  if (rank === undefined && energy === undefined && tolerance === undefined) {
    throw misuse('Give the rank that the adapter should get, or an energy or a tolerance that decides on it.')
  }
  const target = { rank, energy, tolerance }
  return makeAdapter(engine, [{ adapter, weight: 1 }], options, {
    recipe: { resize: { adapter, ...recipeOf(options) } },
    about: `It is the adapter ${adapter} with other ranks.`,
    method: 'resize',
    each: (host, module, signal) => summed(host, module, target, signal),
    upper: (module) => Math.min(upper(module, target), ranksOf(module)),
  })
}
