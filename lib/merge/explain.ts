/** `explain`: the forecast of a merge without a device, or with figures that an engine measures for it. */

import { resolve } from 'node:path'
import {
  keepMeasurements,
  type Measurements,
  measureDevice,
  measureDisk,
  readMeasurements,
} from '../engine/bandwidth.js'
import { Engine } from '../engine/engine.js'
import { loadAddon } from '../native/load.js'
import { existing, forecastMerge, kernelsOf, type MergeForecast } from './forecast.js'
import { checkTargets, type MergeOptions, Models, prepareMerge } from './index.js'
import { loadRecipe, type RecipeInput } from './recipe/index.js'

type Shared = 'dtype' | 'shardSize' | 'memory' | 'seed' | 'overwrite' | 'resume' | 'folder'

export interface ExplainOptions extends Pick<MergeOptions, Shared> {
  /**
   * Where the output is to be, which is checked as `merge` does. By default nothing is checked but the disk of the
   * working folder.
   */
  out?: string | undefined
}

/**
 * Plans a recipe and says what its merge would do and cost; nothing is written. Times are estimated from what `doctor`
 * has kept; with an engine, the recipe's kernels and the disk are measured first, and the figures kept. Throws what
 * planning a merge throws, such as ERR_WEIGHTSMITH_RECIPE, _NOT_FOUND and _SHAPE_MISMATCH, and
 * ERR_WEIGHTSMITH_OUT_OF_MEMORY where `memory` is too small.
 */
export function explain(recipe: string | RecipeInput, options?: ExplainOptions): Promise<MergeForecast>
export function explain(engine: Engine, recipe: string | RecipeInput, options?: ExplainOptions): Promise<MergeForecast>
export async function explain(
  ...given: [string | RecipeInput, ExplainOptions?] | [Engine, string | RecipeInput, ExplainOptions?]
): Promise<MergeForecast> {
  const [engine, recipe, asked = {}] = isWithEngine(given) ? given : [undefined, ...given]
  const addon = loadAddon()
  const options = { ...asked, memory: asked.memory ?? engine?.memory, out: asked.out ?? '.' }
  const prepared = await prepareMerge(new Models(addon), await loadRecipe(recipe, asked.folder), options)
  const { outputs } =
    asked.out === undefined
      ? { outputs: prepared.outputs.map((output) => ({ ...output, target: resolve(output.out) })) }
      : await checkTargets(prepared, options)
  const known =
    engine === undefined
      ? await readMeasurements()
      : await measureNow(engine, await existing(resolve(options.out)), kernelsOf(outputs))
  return forecastMerge(addon, { ...prepared, outputs }, options, { known })
}

function isWithEngine(given: readonly unknown[]): given is [Engine, string | RecipeInput, ExplainOptions?] {
  return given[0] instanceof Engine
}

async function measureNow(engine: Engine, folder: string, kernels: Set<string>): Promise<Measurements> {
  const disk = await measureDisk(folder, 256 * 2 ** 20)
  if ('write' in disk) await keepMeasurements({ disk })
  return keepMeasurements({ device: await measureDevice(engine, new Set(['linear', ...kernels])) })
}
