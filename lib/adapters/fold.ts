/**
 * `lora fold`: a model with the changes of adapters, as a checkpoint of its own. It is a merge of one model, so what a
 * merge promises (memory, staging, resume, one rounding) holds here, and a recipe that names `model+adapter` gives the
 * same bytes.
 */

import type { Engine } from '../engine/engine.js'
import type { Adapter } from '../lora/index.js'
import type { MergeForecast } from '../merge/forecast.js'
import type { AdaptedTensor, MergeOptions, MergeReport } from '../merge/index.js'
import { mergeAdapted } from '../merge/merge.js'
import type { DryRun } from '../util/dry_run.js'
import { wrongOption } from '../util/errors.js'

/** An adapter, by its folder or its name in the local Hugging Face cache, and the factor of its change. */
export interface WeightedAdapter {
  adapter: string
  /** Negative weights take the change back. Defaults to 1. */
  weight?: number | undefined
}

export interface FoldOptions extends Omit<MergeOptions, 'seed'> {
  /** In the order in which their changes are added: a path is one with the weight 1. */
  adapters: (string | WeightedAdapter)[]
  /**
   * Where the model has one table for embedding and head and an adapter changes one of them: store both, and say so in
   * the config. Defaults to false, which refuses such adapters.
   */
  untie?: boolean | undefined
  /** Let the vocabulary grow, where tables of an adapter have more rows than the model's. Defaults to false. */
  resize?: boolean | undefined
}

/** What adapters changed in weights, those that they replace as a whole included; biases that they add to are apart. */
export interface FoldedElements {
  /** Of the weights that adapters change. */
  elements: number
  /** Of these, how many are stored as something else than in the model. */
  changed: number
  /**
   * How many keep their value because the change is smaller than half a step of the type: what the rounding has
   * swallowed.
   */
  swallowed: number
}

export interface FoldReport extends Omit<MergeReport, 'method' | 'seed' | 'sweep' | 'adapted'> {
  model: string
  adapters: Required<WeightedAdapter>[]
  folded: FoldedElements
  /** The same, weight by weight. */
  adapted: AdaptedTensor[]
}

export interface FoldForecast extends Omit<MergeForecast, 'method' | 'seed' | 'sweep'> {
  model: string
  adapters: Required<WeightedAdapter>[]
}

/**
 * Folds LoRA adapters into a model: W + Σ weight · s (B A) in float32, in the order given, rounded once to the type of
 * the model or `dtype`. Takes adapters of PEFT (LoRA, rsLoRA, DoRA, PiSSA, OLoRA; embeddings, biases, whole modules,
 * rows of tokens, experts) and of mlx-lm. Throws ERR_WEIGHTSMITH_FORMAT for an adapter that cannot be folded,
 * ERR_WEIGHTSMITH_MISSING_TENSOR or _SHAPE_MISMATCH for one of another model, and what `merge` throws.
 */
export function foldAdapters(
  engine: Engine,
  model: string,
  options: FoldOptions & { dryRun: true },
): Promise<DryRun<FoldForecast>>
export function foldAdapters(
  engine: Engine,
  model: string,
  options: FoldOptions & { dryRun?: false | undefined },
): Promise<FoldReport>
export function foldAdapters(
  engine: Engine,
  model: string,
  options: FoldOptions,
): Promise<FoldReport | DryRun<FoldForecast>>
export async function foldAdapters(
  engine: Engine,
  model: string,
  { adapters: given, ...options }: FoldOptions,
): Promise<FoldReport | DryRun<FoldForecast>> {
  return foldOpened(engine, model, { adapters: checkAdapters(given) }, options)
}

/** The same of adapters in memory, which are made of others. */
export async function foldOpened(
  engine: Engine,
  model: string,
  { adapters, mix, opened }: { adapters: Required<WeightedAdapter>[]; mix?: string; opened?: Adapter[] },
  { untie = false, resize = false, ...options }: Omit<FoldOptions, 'adapters'>,
): Promise<FoldReport | DryRun<FoldForecast>> {
  // The recipe in the manifest says the weights too.
  const words = adapters.map(({ adapter, weight }) => (weight === 1 ? adapter : `${adapter}=${weight}`))
  const name = [model, ...(mix === undefined ? words : [`${mix}(${words.join(' ')})`])].join('+')
  const recipe = { merge_method: 'passthrough', models: [{ model: name }] }
  const about = { model, adapters }
  const sources = opened?.map((adapter) => ({ adapter })) ?? adapters
  const models = new Map([[name, { model, adapters: sources, untie, resize }]])
  const result = await mergeAdapted(engine, recipe, options, models)
  if ('forecast' in result) {
    const { method: _, seed: __, sweep: ___, ...forecast } = result.forecast
    return { forecast: { ...about, ...forecast } }
  }
  const { method: _, seed: __, sweep: ___, adapted = [], ...report } = result
  const sum = (key: keyof FoldedElements) => adapted.reduce((total, tensor) => total + tensor[key], 0)
  const folded = { elements: sum('elements'), changed: sum('changed'), swallowed: sum('swallowed') }
  return { ...about, ...report, folded, adapted }
}

/** Throws ERR_WEIGHTSMITH_ARGUMENT for none, and for weights that are no numbers. */
export function checkAdapters(given: readonly (string | WeightedAdapter)[]): Required<WeightedAdapter>[] {
  if (!Array.isArray(given) || given.length === 0)
    throw wrongOption('adapters', 'a list of at least one adapter', given)
  return given.map((entry) => {
    const { adapter, weight = 1 } = typeof entry === 'string' ? { adapter: entry } : entry
    if (typeof adapter !== 'string' || adapter === '') throw wrongOption('adapter', 'the folder of an adapter', adapter)
    if (!Number.isFinite(weight)) throw wrongOption('weight', 'a number', weight)
    return { adapter, weight: weight ?? 1 }
  })
}
