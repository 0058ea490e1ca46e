/**
 * The main job: a recipe and a folder in, a checkpoint out. Everything that can be refused is refused before the
 * first byte is written; afterwards, whatever ends the run early leaves nothing under the final name.
 */

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

/** What a merge works with. */
export interface MergeHost extends RunHost {
  addon: Reader & RunHost['addon']
}

export async function merge(
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
