/**
 * What the tensors of an output come from: models or their modules, layer by layer, tables in the order of the
 * vocabulary.
 */

import {
  type AddedToken,
  type Checkpoint,
  type LayerChange,
  layerKey,
  quantisationNamed,
  textConfig,
  type Vocabulary,
} from '../../checkpoint/index.js'
import { layerChange } from '../../checkpoint/layers.js'
import { WeightsmithError } from '../../util/errors.js'
import { plural } from '../../util/plural.js'
import type { MergeMethod, ParameterScalar } from '../methods/index.js'
import { type Merge, type Module, modelsOf, type Parameters, type Recipe } from '../recipe/index.js'
import { named } from './aliases.js'
import { type View, viewOf } from './modules.js'
import type { Origin } from './planned.js'
import { refuseBesideOthers } from './quantised.js'
import { type PlannedSlice, planSlices } from './slices.js'
import { mapTables } from './tables.js'
import { type OutputSource, planTensors } from './tensors.js'
import { planVocabulary } from './vocabulary.js'

/** A tensor of the output before its method has said what is made of it. */
export interface Planned {
  name: string
  /** What is read; tables of tokens are in the order of the output's vocabulary. */
  origins: Origin[]
  /** Absent: the one origin is copied. */
  merged?: { source: OutputSource; by: Treatment }
}

/** What tensors of one merge have in common. */
export interface Treatment {
  method: MergeMethod
  /** Names the checkpoints of statistics. */
  checkpointOf(model: string): Checkpoint
  notes: string[]
}

export interface PlannedSources {
  sources: Planned[]
  donor: Checkpoint
  layers: LayerChange[]
  vocabulary?: number
  /** Whether a head is made though that of the donor is its embedding. */
  untied: boolean
  tokenizer?: Vocabulary | { folder: string; extra: AddedToken[] }
  notes: string[]
}

/** Every tensor of the result of a recipe or a stage, which is among the checkpoints of later ones. */
export function planSources(recipe: Recipe, checkpoints: ReadonlyMap<string, Checkpoint>): PlannedSources {
  const notes = [...recipe.notes]
  const first = (recipe.modules[0] ?? recipe).slices[0]?.sources[0]?.model
  const donorName = recipe.base ?? first
  if (donorName === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', 'The recipe has no models.')
  const opened = (model: string) => {
    const checkpoint = checkpoints.get(model)
    if (checkpoint !== undefined) return checkpoint
    throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `The model ${model} has not been opened.`)
  }
  const donor = opened(donorName)
  // Modules have views of their own, and prefixes are those that are stored.
  const known = new Map<string, Checkpoint>()
  const checkpointOf = (model: string) => {
    const checkpoint =
      known.get(model) ?? (recipe.modules.length > 0 ? opened(model) : named(opened(model), donor, notes))
    known.set(model, checkpoint)
    return checkpoint
  }
  const layers: LayerChange[] = []
  const chosen = checkpoints.get(recipe.tokenizer.source) ?? donor
  const models = modelsOf(recipe).map(checkpointOf)
  refuseBesideOthers(models)
  for (const said of new Set(models.flatMap((model) => model.notes ?? []))) notes.push(said)
  const said = donor.config && quantisationNamed(donor.config)
  if (said !== undefined && donor.quantisation === undefined) {
    notes.push(
      `config.json of ${donor.name} says that its weights are quantised (${said}), but they are not; it is copied as it is.`,
    )
  }
  const vocabulary = planVocabulary(recipe.tokenizer, models, chosen)
  const { folder } = chosen
  const files = chosen.vocabulary ?? (folder === undefined ? undefined : { folder, extra: [] })
  const tokenizer = recipe.tokenizer.source === 'none' ? undefined : (vocabulary ?? files)
  const finish = (sources: Planned[]): PlannedSources => {
    const mapped = vocabulary && mapTables(vocabulary, sources, recipe.base && donor.name, notes)
    return {
      sources: mapped?.sources ?? sources,
      donor,
      layers,
      untied: sources.some(({ merged }) => merged?.source.untied),
      ...(mapped?.rows === undefined ? {} : { vocabulary: mapped.rows }),
      ...(tokenizer === undefined ? {} : { tokenizer }),
      notes,
    }
  }
  const planOne = (merge: Merge, above: Parameters[], seen: Seen<Checkpoint>, view?: View): Planned[] => {
    const globals = topLevelScalars(merge.method, above)
    const { pretrained } = globals
    const roles = { globals, checkpointOf: seen, ...(typeof pretrained === 'string' ? { pretrained } : {}) }
    const slices = planSlices(merge, roles, above)
    if (merge.sliced) layers.push(movedLayers(slices, donor, view?.section, notes))
    const by = { method: merge.method, checkpointOf, notes }
    return planTensors(slices, view ?? donor, merge.sliced, notes, vocabulary !== undefined).map((source) => ({
      name: view?.stored(source.name) ?? source.name,
      origins: source.origins,
      merged: { source, by },
    }))
  }
  if (recipe.modules.length === 0) {
    return finish(planOne(recipe, [recipe.parameters], ({ model }) => checkpointOf(model)))
  }
  const covered = new Set<string>()
  const sources = recipe.modules.flatMap((module) => {
    const seen = viewsOf(module, checkpointOf)
    const view = seen({ model: donorName })
    for (const name of view.tensors.keys()) {
      if (covered.has(view.stored(name))) throw twice(module, view.stored(name))
      covered.add(view.stored(name))
    }
    // parameters of the recipe are those of its own method
    const above = module.method === recipe.method ? [module.parameters, recipe.parameters] : [module.parameters]
    return planOne(module, above, seen, view)
  })
  const rest = [...donor.tensors].filter(([name]) => !covered.has(name))
  if (rest.length > 0) {
    notes.push(
      `${plural(rest.length, 'tensor')} of no module ${rest.length === 1 ? 'is' : 'are'} copied from ${donor.name}.`,
    )
  }
  for (const [name, tensor] of rest) sources.push({ name, origins: [{ checkpoint: donor, tensor }] })
  return finish(sources)
}

/** What moved layers change in the donor's config. Throws ERR_WEIGHTSMITH_RECIPE for an encoder with a decoder. */
function movedLayers(
  slices: PlannedSlice[],
  { name, config, path }: Checkpoint,
  section: string | undefined,
  notes: string[],
): LayerChange {
  const change = layerChange(slices, section)
  const part = section === undefined ? config : (config?.[section] as Record<string, unknown>)
  if (part !== undefined && [part, textConfig(part)].some(({ is_encoder_decoder: both }) => both === true)) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_RECIPE',
      `slices of the recipe move layers, but ${name} has those of an encoder and of a decoder, which its config counts apart; ` +
        'give models instead.',
      { file: path },
    )
  }
  if (part !== undefined && layerKey(part) === undefined) {
    notes.push(`config.json of ${name} has no known key for the number of layers; the output has ${change.count}.`)
  }
  return change
}

function twice(module: Module, name: string): WeightsmithError {
  return new WeightsmithError(
    'ERR_WEIGHTSMITH_RECIPE',
    `${module.path} of the recipe should be a module apart from the others, but ${name} is in two of them.`,
    { tensor: name },
  )
}

type Seen<C extends Checkpoint> = (source: { model: string; prefix?: string }) => C

/** Each model as the module sees it, made once. */
function viewsOf(module: Module, checkpointOf: (model: string) => Checkpoint): Seen<View> {
  const views = new Map<string, View>()
  const given = module.slices.flatMap(({ sources }) => sources)
  return ({ model, prefix = given.find((source) => source.model === model)?.prefix }) => {
    const key = JSON.stringify([model, prefix])
    const view = views.get(key) ?? viewOf(checkpointOf(model), module, prefix)
    views.set(key, view)
    return view
  }
}

/** Parameters that decide about the whole merge (which inputs, in which order). */
function topLevelScalars(method: MergeMethod, above: Parameters[]): Record<string, ParameterScalar | undefined> {
  const values = method.parameters.map((spec) => {
    const value = above.find((level) => level[spec.name] !== undefined)?.[spec.name] ?? spec.default
    return [spec.name, Array.isArray(value) ? undefined : value]
  })
  return Object.fromEntries(values)
}
