/**
 * The main job: a recipe and a folder in, a checkpoint out. Everything that can be refused is refused before the
 * first byte is written; afterwards, whatever ends the run early leaves nothing under the final name.
 */

import { readMeasurements } from '../engine/bandwidth.js'
import type { Engine } from '../engine/engine.js'
import type { NativeAddon } from '../native/border.js'
import type { DryRun } from '../util/dry_run.js'
import { throwIfAborted } from '../util/errors.js'
import { forecastMerge, type MergeForecast } from './forecast.js'
import {
  type AdaptedModels,
  checkOptions,
  checkTargets,
  fail,
  type MergeOptions,
  type MergeReport,
  Models,
  type PreparedMerge,
  prepareMerge,
  publishAll,
  type Reader,
  type RunHost,
  stageMerge,
  summary,
} from './index.js'
import { loadRecipe, type RecipeInput } from './recipe/index.js'
import { LongHeaders, type MergeResult, mergeInThread, shortHeaders } from './worker_client.js'

/**
 * Merges checkpoints by a recipe: an object, or the path of a YAML file with mergekit's keys. The result has its final
 * name when all of it is on disk. Errors after which the same call can go on with `resume` have `partial`, the folder
 * of what is finished.
 */
export function merge(
  engine: Engine,
  recipe: string | RecipeInput,
  options: MergeOptions & { dryRun: true },
): Promise<DryRun<MergeForecast>>
export function merge(
  engine: Engine,
  recipe: string | RecipeInput,
  options: MergeOptions & { dryRun?: false | undefined },
): Promise<MergeReport>
export function merge(engine: Engine, recipe: string | RecipeInput, options: MergeOptions): Promise<MergeResult>
export function merge(engine: Engine, recipe: string | RecipeInput, options: MergeOptions): Promise<MergeResult> {
  return mergeAdapted(engine, recipe, options)
}

/** As `merge`; models of the recipe with these names are what is said of them here. */
export function mergeAdapted(
  engine: Engine,
  recipe: string | RecipeInput,
  options: MergeOptions,
  adapted: AdaptedModels = new Map(),
): Promise<MergeResult> {
  return engine.use(async ({ addon, device, memory }) => {
    const settings = { ...options, memory: options.memory ?? memory }
    try {
      return await mergeOn({ addon: shortHeaders(addon), device }, recipe, settings, adapted)
    } catch (error) {
      if (error instanceof LongHeaders) return mergeInThread(device, recipe, settings, adapted)
      throw error
    }
  })
}

/** What a merge works with. */
export interface MergeHost extends RunHost {
  addon: Reader & RunHost['addon'] & Pick<NativeAddon, 'forecast'>
}

/** As `merge`, on a device that is open already, in this thread. */
export async function mergeOn(
  host: MergeHost,
  source: string | RecipeInput,
  options: MergeOptions,
  adapted: AdaptedModels = new Map(),
): Promise<MergeResult> {
  const begin = performance.now()
  checkOptions(options)
  throwIfAborted(options.signal, 'The merge')
  const recipe = await loadRecipe(source, options.folder)
  const prepared = await prepareMerge(new Models(host.addon, adapted), recipe, options)
  return options.dryRun ? forecast(host, prepared, options) : run(host, prepared, options, begin)
}

async function forecast(
  { addon, device }: MergeHost,
  prepared: PreparedMerge,
  options: MergeOptions,
): Promise<DryRun<MergeForecast>> {
  const { outputs } = await checkTargets(prepared, options)
  const { maxStorageBufferBindingSize: maxBinding = 2 ** 27 } = device.info.limits
  const about = { known: await readMeasurements(), limits: { maxBinding, slots: device.slots } }
  return { forecast: await forecastMerge(addon, { ...prepared, outputs }, options, about) }
}

async function run(host: RunHost, prepared: PreparedMerge, options: MergeOptions, begin: number): Promise<MergeReport> {
  const { seed } = checkOptions(options)
  const { outputs, run } = await stageMerge(host, prepared, options)
  try {
    await publishAll(outputs)
  } catch (error) {
    throw await fail(outputs, error)
  }
  return { ...summary(outputs, options.out, seed), ...run, milliseconds: performance.now() - begin }
}
