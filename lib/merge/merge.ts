/**
 * The main job: a recipe and a folder in, a checkpoint out. Everything that can be refused is refused before the
 * first byte is written; afterwards, whatever ends the run early leaves nothing under the final name.
 */

import type { Engine } from '../engine/engine.js'
import { throwIfAborted } from '../util/errors.js'
import {
  checkOptions,
  checkTargets,
  fail,
  type MergeOptions,
  type MergeReport,
  Models,
  type PreparedMerge,
  planRows,
  prepareMerge,
  publishAll,
  type Reader,
  type RunHost,
  stageMerge,
  summary,
} from './index.js'
import { loadRecipe, type RecipeInput } from './recipe/index.js'
import { LongHeaders, mergeInThread, shortHeaders } from './worker_client.js'

/**
 * Merges checkpoints by a recipe: an object, or the path of a YAML file with mergekit's keys. The result has its final name
 * when all of it is on disk. Errors after which the same call can go on with `resume` have `partial`, the folder of what is
 * finished.
 */
export function merge(engine: Engine, recipe: string | RecipeInput, options: MergeOptions): Promise<MergeReport> {
  return engine.use(async ({ addon, device, memory }) => {
    const settings = { memory, ...options }
    try {
      return await mergeOn({ addon: shortHeaders(addon), device }, recipe, settings)
    } catch (error) {
      if (error instanceof LongHeaders) return mergeInThread(device, recipe, settings)
      throw error
    }
  })
}

/** What a merge works with. */
export interface MergeHost extends RunHost {
  addon: Reader & RunHost['addon']
}

/** As `merge`, on a device that is open already, in this thread. */
export async function mergeOn(
  host: MergeHost,
  source: string | RecipeInput,
  options: MergeOptions,
): Promise<MergeReport> {
  const prepared = await openMerge(host.addon, source, options)
  return options.dryRun ? describeMerge(prepared, options) : runMerge(host, prepared, options)
}

/** Reads the recipe and the headers of its models, and plans; needs no device. */
export async function openMerge(
  addon: Reader,
  source: string | RecipeInput,
  options: MergeOptions,
): Promise<PreparedMerge> {
  checkOptions(options)
  throwIfAborted(options.signal, 'The merge')
  return prepareMerge(new Models(addon), await loadRecipe(source, options.folder), options)
}

/** The report of a dry run: outputs are checked, nothing is written. */
export async function describeMerge(prepared: PreparedMerge, options: MergeOptions): Promise<MergeReport> {
  const { seed } = checkOptions(options)
  const { outputs } = await checkTargets(prepared, options)
  const plan = outputs.flatMap((output) => planRows(output.plan, output.label))
  return { ...summary(outputs, options.out, seed), dryRun: true, plan }
}

export async function runMerge(host: RunHost, prepared: PreparedMerge, options: MergeOptions): Promise<MergeReport> {
  const { seed } = checkOptions(options)
  const { outputs, run } = await stageMerge(host, prepared, options)
  try {
    await publishAll(outputs)
  } catch (error) {
    throw await fail(outputs, error)
  }
  return { ...summary(outputs, options.out, seed), dryRun: false, run }
}
