/**
 * From a recipe and opened checkpoints to a plan: every tensor of the output with its program, coefficients and byte
 * ranges. The plan is plain data; it can be shown (`--dry-run`) or handed to the engine. Nothing is read or
 * written here.
 */

import {
  type AddedToken,
  bytesOf,
  type Checkpoint,
  isFloat,
  isLoadable,
  isStorable,
  type LayerChange,
  layOut,
  type OutputLayout,
  storedAs,
  type Vocabulary,
} from '../checkpoint/index.js'
import { WeightsmithError } from '../errors.js'
import type { Method, Scalar, Step } from '../methods/index.js'
import type { NativeProgram, StoreDType } from '../native/border.js'
import { type Merge, type Module, modelsOf, type Parameters, type Recipe } from '../recipe/index.js'
import {
  fused,
  isDerived,
  type Level,
  levelsOf,
  linear,
  type Origin,
  type Part,
  solePart,
  storedType,
} from './derived.js'
import { layerChange } from './layers.js'
import { type View, viewOf } from './modules.js'
import type { Effective } from './parameters.js'
import { stageCheckpoint } from './stages.js'
import { type MadeTensors, prepared, statisticsFor } from './statistics.js'
import { isBuffer, type OutputSource, planSlices, planTensors } from './tensors.js'
import { mapTables, planVocabulary } from './vocabulary.js'

export interface PlannedTensor {
  name: string
  dtype: string
  shape: number[]
  elements: number
  bytes: number
  /** The tensors that are read, in the order the program takes them. */
  origins: Origin[]
  /** Absent: the bytes of the one origin are copied. */
  program?: NativeProgram
  coefficients: number[]
  /** Keys the random numbers, where that is not the name. */
  key?: string | undefined
  /** What the recipe comes to here. Absent: no method has a say, as for integers. */
  parameters?: Effective | undefined
}

export interface MergePlan {
  /** In the order of the network. */
  tensors: PlannedTensor[]
  layout: OutputLayout
  /** Model whose config and processors the output gets. */
  donor: Checkpoint
  /** The type most of the output's weights are stored as. */
  dtype?: StoreDType
  /** Modules whose layers the recipe moves. */
  layers: LayerChange[]
  /** Rows of the tables of tokens, where the recipe chooses a vocabulary. */
  vocabulary?: number
  /** Whose tokenizer the output gets. */
  tokenizer?: { folder: string; extra: AddedToken[] }
  /** Tensors to make before the merge. */
  levels: Level[]
  notes: string[]
}

export interface PlanOptions {
  dtype?: StoreDType | undefined
  shardSize: number
}

export function planMerge(
  recipe: Recipe,
  checkpoints: ReadonlyMap<string, Checkpoint>,
  options: PlanOptions,
): MergePlan {
  const known = new Map(checkpoints)
  const made: MadeTensors = new Map()
  for (const [name, stage] of recipe.stages) {
    const { sources, ...about } = planTensorsOf(stage, known)
    const tensors = sources.map((source) => planTensor(source, stage.dtype, made))
    known.set(name, stageCheckpoint(name, { ...about, tensors, dtype: stage.dtype ?? mainType(tensors) }))
  }
  const planned = planTensorsOf(recipe, known)
  const asked = options.dtype ?? recipe.dtype
  const tensors = planned.sources.map((source) => planTensor(source, asked, made))
  const levels = levelsOf(tensors.flatMap(({ origins }) => origins))
  const staged = levels.reduce((sum, { places }) => sum + places.size, 0)
  if (staged > 0) planned.notes.push(`${staged} tensors are made before the merge, in float32.`)
  const dtype = mainType(tensors)
  return {
    tensors,
    layout: layOut(tensors, options.shardSize),
    donor: planned.donor,
    ...(dtype === undefined ? {} : { dtype }),
    layers: planned.layers,
    ...(planned.vocabulary === undefined ? {} : { vocabulary: planned.vocabulary }),
    ...(planned.tokenizer === undefined ? {} : { tokenizer: planned.tokenizer }),
    levels,
    notes: planned.notes,
  }
}

/** A tensor of the output before its method has said what is made of it. */
interface Planned {
  name: string
  /** What is read; tables of tokens are in the order of the output's vocabulary. */
  origins: Origin[]
  /** Absent: the one origin is copied. */
  merged?: { source: OutputSource; by: Treatment }
}

/** What tensors of one merge have in common. */
interface Treatment {
  method: Method
  /** Names the checkpoints of statistics. */
  checkpointOf(model: string): Checkpoint
  notes: string[]
}

interface PlannedTensors {
  sources: Planned[]
  donor: Checkpoint
  layers: LayerChange[]
  vocabulary?: number
  tokenizer?: Vocabulary | { folder: string; extra: AddedToken[] }
  notes: string[]
}

function planTensorsOf(recipe: Recipe, checkpoints: ReadonlyMap<string, Checkpoint>): PlannedTensors {
  const checkpointOf = (model: string) => {
    const checkpoint = checkpoints.get(model)
    if (checkpoint !== undefined) return checkpoint
    throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `The model ${model} has not been opened.`)
  }
  const notes = [...recipe.notes]
  const first = (recipe.modules[0] ?? recipe).slices[0]?.sources[0]?.model
  const donorName = recipe.base ?? first
  if (donorName === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', 'The recipe has no models.')
  const donor = checkpointOf(donorName)
  const layers: LayerChange[] = []
  const chosen = checkpoints.get(recipe.tokenizer.source) ?? donor
  const vocabulary = planVocabulary(recipe.tokenizer, modelsOf(recipe).map(checkpointOf), chosen)
  const { folder } = chosen
  const files = chosen.vocabulary ?? (folder === undefined ? undefined : { folder, extra: [] })
  const tokenizer = recipe.tokenizer.source === 'none' ? undefined : (vocabulary ?? files)
  const finish = (sources: Planned[]): PlannedTensors => {
    const mapped = vocabulary && mapTables(vocabulary, sources, recipe.base && donor.name, notes)
    return {
      sources: mapped?.sources ?? sources,
      donor,
      layers,
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
    if (merge.sliced) layers.push(layerChange(slices, view?.section))
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
  if (rest.length > 0) notes.push(`${rest.length} tensors of no module are copied from ${donor.name}.`)
  for (const [name, tensor] of rest) sources.push({ name, origins: [{ checkpoint: donor, tensor }] })
  return finish(sources)
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
function topLevelScalars(method: Method, above: Parameters[]): Record<string, Scalar | undefined> {
  const values = method.parameters.map((spec) => {
    const value = above.find((level) => level[spec.name] !== undefined)?.[spec.name] ?? spec.default
    return [spec.name, Array.isArray(value) ? undefined : value]
  })
  return Object.fromEntries(values)
}

function planTensor(
  { name, origins, merged }: Planned,
  asked: StoreDType | undefined,
  made: MadeTensors,
): PlannedTensor {
  const [first] = origins
  if (first === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `Tensor ${name} has no origin.`)
  const { shape } = first.tensor
  const elements = shape.reduce((a, b) => a * b, 1)
  const same = { name, shape, elements }
  const stored = storedType(first.tensor)
  if (!isFloat(stored) || isBuffer(name)) return copyOf(same, first)
  const { step, parameters, statistics } = stepOf(merged)
  const sole = 'copy' in step ? origins[step.copy] : undefined
  // a copy keeps a type that cannot be written by a kernel, unless another one is asked for
  const kept =
    (merged !== undefined && merged.by.method.needsBase !== false) || origins.length > 1 ? storedAs(stored) : stored
  const dtype = asked ?? kept
  // what one program makes is better made in its place than copied there
  const lies = sole !== undefined && !(isDerived(sole.tensor) && solePart(sole.tensor))
  if (lies && sole.tensor.dtype === dtype) return { ...copyOf(same, sole), parameters }
  const computed = asked ?? storedAs(stored)
  const given: Omit<Part, 'first' | 'elements' | 'key'> & { key?: string } =
    'copy' in step
      ? { program: linear, coefficients: [1], origins: origins.slice(step.copy, step.copy + 1) }
      : prepared(step, [...origins, ...statistics], made)
  const { program = linear, coefficients, origins: read, key } = fused(given)
  for (const { tensor, checkpoint } of read) {
    if (!isLoadable(tensor.dtype)) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_DTYPE',
        `Tensor ${tensor.name} of ${checkpoint.name} has the type ${tensor.dtype}, which cannot be computed with ` +
          '(F32, F16, BF16, F64, F8_E4M3 and F8_E5M2 can).',
        { tensor: tensor.name, file: checkpoint.path },
      )
    }
  }
  const bytes = elements * bytesOf(computed)
  return { name, dtype: computed, shape, elements, bytes, origins: read, program, coefficients, key, parameters }
}

/** What the method makes of a tensor, and the tensors of statistics that follow its origins. */
function stepOf(merged: Planned['merged']): { step: Step; parameters?: Effective; statistics: Origin[] } {
  if (merged === undefined) return { step: { copy: 0 }, statistics: [] }
  const { source, by } = merged
  const { slice, name, t, origins } = source
  const parameters = slice.evaluate(name, t)
  const statistics = statisticsFor(by.method, parameters, source, by.checkpointOf, by.notes)
  const shape = origins[0]?.tensor.shape ?? []
  const base = slice.bases > 0
  const step = by.method.step({ ...parameters, shape, base, statistics: statistics.length > 0 })
  return { step, parameters, statistics }
}

function copyOf(same: Pick<PlannedTensor, 'name' | 'shape' | 'elements'>, origin: Origin): PlannedTensor {
  const { dtype, begin, end } = origin.tensor
  return { ...same, dtype, bytes: end - begin, origins: [origin], coefficients: [] }
}

function mainType(tensors: PlannedTensor[]): StoreDType | undefined {
  const bytes = new Map<StoreDType, number>()
  for (const tensor of tensors) {
    if (isStorable(tensor.dtype)) bytes.set(tensor.dtype, (bytes.get(tensor.dtype) ?? 0) + tensor.elements)
  }
  return [...bytes].sort((a, b) => b[1] - a[1])[0]?.[0]
}
