/**
 * From a YAML file or an object to a recipe that is known to be sound. The keys are mergekit's, so existing recipes
 * run unchanged; what mergekit takes and ignores is accepted and noted, any other unknown key is an error. The checks
 * are by hand because their messages need the method's own parameter list at hand.
 */

import { readFile } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { parseAllDocuments } from 'yaml'
import { parseDType } from '../../checkpoint/index.js'
import type { StoreDType } from '../../native/border.js'
import { codeOf, messageOf, WeightsmithError } from '../../util/errors.js'
import { checkMethod, commandLineKeys, entry, fail, knownKeys, list, modelName, plain, record } from './checks.js'
import { checkModules, type Module } from './modules.js'
import { checkParameters } from './parameters.js'
import { checkSources, type Merge } from './sources.js'
import { expandSweep } from './sweep.js'
import { chatTemplates } from './templates.js'
import { checkTokenizer, type TokenizerInput, type TokenizerPolicy } from './tokenizer.js'
import type { ParameterValue } from './values.js'

type ParametersInput = Record<string, ParameterValue>

export interface ModelInput {
  /** Path, `org/name`, the name of an earlier stage, or one of these with a LoRA adapter: `model+adapter`. */
  model: string
  parameters?: ParametersInput
  /** In a module: what the names of its tensors start with in this model. */
  prefix?: string
}

export interface SliceInput {
  sources: (ModelInput & { layer_range: [number, number] })[]
  parameters?: ParametersInput
  base_model?: string
}

export interface ModuleInput {
  merge_method?: string
  /** What the names of the module's tensors start with; by default its name says that. */
  prefix?: string
  models?: ModelInput[]
  slices?: SliceInput[]
  parameters?: ParametersInput
}

/** A recipe as it is written: mergekit's YAML, or the same as an object. */
export interface RecipeInput {
  merge_method: string
  base_model?: string
  /** One of `models`, `slices` and `modules`. */
  models?: ModelInput[]
  slices?: SliceInput[]
  modules?: Record<string, ModuleInput>
  parameters?: ParametersInput
  dtype?: string
  out_dtype?: string
  /** `base`, `union`, `none`, or one of the models; by default the base's (or first model's) files are copied. */
  tokenizer_source?: string
  tokenizer?: TokenizerInput
  /** `auto`, a built-in name, or a Jinja template. */
  chat_template?: string
  /** How later stages refer to this one. */
  name?: string
  /** Earlier stages, each with a `name`; the documents before the last one of a YAML file. */
  stages?: RecipeInput[]
  /** Parameters with a list of values each: one output for every combination. */
  sweep?: Record<string, ParameterValue[]>
}

/** A checked recipe. With `modules`, these have the slices. */
export interface Recipe extends Merge {
  modules: Module[]
  dtype?: StoreDType
  tokenizer: TokenizerPolicy
  /** `auto`, or the template itself. */
  chatTemplate?: string
  /** Earlier stages, whose results are named like models. */
  stages: ReadonlyMap<string, Recipe>
  /** One recipe an output, where the recipe is a sweep; this one is then the first of them. */
  sweep: { label: string; recipe: Recipe }[]
  /** What was accepted and changes nothing. */
  notes: string[]
  /** As it was written. */
  input: RecipeInput
  /** Folder that relative model paths start from. */
  folder: string
}

const keys = [
  'merge_method',
  'base_model',
  'models',
  'slices',
  'modules',
  'parameters',
  'dtype',
  'out_dtype',
  'tokenizer_source',
  'tokenizer',
  'chat_template',
  'name',
  'stages',
  'sweep',
] as const

/** Reads and checks a recipe; relative model paths start from the file's folder, or from `folder` for an object. */
export async function loadRecipe(source: string | RecipeInput, folder = process.cwd()): Promise<Recipe> {
  if (typeof source !== 'string') return checkRecipe(source, resolve(folder))
  const file = resolve(folder, source)
  let text: string
  try {
    text = await readFile(file, 'utf8')
  } catch (cause) {
    const missing = codeOf(cause) === 'ENOENT'
    throw new WeightsmithError(
      missing ? 'ERR_WEIGHTSMITH_NOT_FOUND' : 'ERR_WEIGHTSMITH_IO_READ',
      missing ? `There is no recipe ${file}.` : `The recipe ${file} cannot be read: ${messageOf(cause)}.`,
      { cause, file },
    )
  }
  return checkRecipe(parseYaml(text, file), dirname(file))
}

/**
 * One document is the recipe; of several, the last is the result and the others are its stages, as in mergekit-multi.
 */
function parseYaml(text: string, file: string): unknown {
  let documents: unknown[]
  try {
    documents = [...parseAllDocuments(text, { merge: true })].map((document) => {
      if (document.errors[0] !== undefined) throw document.errors[0]
      return document.toJS() as unknown
    })
  } catch (cause) {
    // The first line says what and where; the lines after it draw the place.
    const message = messageOf(cause).trim().split('\n', 1)[0]?.replace(/[:.]$/, '')
    throw new WeightsmithError('ERR_WEIGHTSMITH_RECIPE', `The recipe ${file} is not valid YAML: ${message}.`, {
      cause,
      file,
    })
  }
  const stages = documents.filter((document) => document !== null)
  // mergekit-multi takes the documents in any order; the one without a name is the result
  const unnamed = stages.findIndex((stage) => typeof stage === 'object' && stage !== null && !('name' in stage))
  const [last] = stages.splice(unnamed < 0 ? -1 : unnamed, 1)
  if (stages.length === 0) return last ?? null
  return { ...record(last, 'the last document', 'a recipe'), stages }
}

/** Checks a recipe that is already in memory. Touches no file. */
export function checkRecipe(raw: unknown, folder: string): Recipe {
  plain(raw)
  const top = record(raw, '', 'a mapping with merge_method and models or slices')
  if (top.sweep === undefined) return checkOne(top, folder)
  const sweep = expandSweep(top).map(({ label, recipe }) => ({ label, recipe: checkOne(recipe, folder) }))
  const [first] = sweep
  if (first === undefined) return fail('sweep', 'at least one value', [])
  // every key of it has just been checked against the type
  return { ...first.recipe, sweep, input: top as unknown as RecipeInput }
}

function checkOne(raw: Record<string, unknown>, folder: string): Recipe {
  const notes: string[] = []
  const top = withoutOptions(entry(raw, '', 'a mapping'), notes)
  refuseMixture(top)
  knownKeys(top, '', keys, notes)
  const method = checkMethod(top.merge_method, 'merge_method')
  const base = top.base_model === undefined ? undefined : modelName(top.base_model, 'base_model')
  const given = (['models', 'slices', 'modules'] as const).filter((key) => top[key] !== undefined)
  if (given.length > 1) fail('', 'either models or slices (or modules)', given.length === 2 ? 'both' : 'all three')
  const modules = top.modules === undefined ? [] : checkModules(top.modules, { method, base }, notes)
  const sources =
    modules.length > 0 ? { slices: [], sliced: false } : checkSources(top, '', { method, base, modular: false }, notes)
  const parameters = checkParameters(top.parameters, 'parameters', method, 'top', notes)
  const dtype = checkDType(top.dtype, 'dtype')
  const outDType = checkDType(top.out_dtype, 'out_dtype') ?? dtype
  const merge = { method, ...(base === undefined ? {} : { base }), ...sources, parameters }
  const stages = checkStages(top.stages, folder)
  const models = new Set(modelsOf({ ...merge, modules }))
  const template = checkTemplate(top.chat_template)
  if (top.name !== undefined) stageName(top.name, 'name')
  const read = new Set([...models, ...[...stages.values()].flatMap(modelsOf)])
  for (const name of stages.keys()) if (!read.has(name)) notes.push(`Stage ${name} changes nothing: no other reads it.`)
  return {
    ...merge,
    modules,
    ...(outDType === undefined ? {} : { dtype: outDType }),
    tokenizer: checkTokenizer(top, models, notes),
    ...(template === undefined ? {} : { chatTemplate: template }),
    stages,
    sweep: [],
    notes: [...[...stages].flatMap(([name, stage]) => stage.notes.map((note) => `Stage ${name}: ${note}`)), ...notes],
    // every key of it has just been checked against the type
    input: raw as unknown as RecipeInput,
    folder,
  }
}

function withoutOptions(top: Record<string, unknown>, notes: string[]): Record<string, unknown> {
  const options = Object.keys(top).filter((key) => commandLineKeys.has(key))
  for (const key of options) notes.push(`${key} changes nothing: it is an option of mergekit's command line.`)
  return Object.fromEntries(Object.entries(top).filter(([key]) => !commandLineKeys.has(key)))
}

/** Recipes of mergekit-moe, which have no method, deserve a sentence of their own. */
function refuseMixture(top: Record<string, unknown>): void {
  const key = ['experts', 'gate_mode', 'shared_experts'].find((name) => top[name] !== undefined)
  if (key === undefined) return
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_RECIPE',
    `The recipe is one of mergekit-moe (it has ${key}), which makes a mixture of experts of several models; that is not ` +
      'offered, but a mixture that mergekit-moe has made can be merged like any other model.',
  )
}

/** Every model the recipe names, in order and once; not those of its stages. */
export function modelsOf(recipe: Pick<Recipe, keyof Merge | 'modules'>): string[] {
  const names = new Set<string>()
  if (recipe.base !== undefined) names.add(recipe.base)
  for (const merge of [...recipe.modules, recipe]) {
    for (const slice of merge.slices) {
      if (slice.base !== undefined) names.add(slice.base)
      for (const { model } of slice.sources) names.add(model)
    }
    for (const { name, type, scope } of merge.method.parameters) {
      const model = type === 'model' && scope === 'global' ? merge.parameters[name] : undefined
      if (typeof model === 'string') names.add(model)
    }
  }
  return [...names]
}

/** The statistics that parameters of models name, once each. */
export function statisticsOf(recipe: Pick<Recipe, keyof Merge | 'modules'>): string[] {
  const names = new Set<string>()
  for (const merge of [...recipe.modules, recipe]) {
    const levels = [merge, ...merge.slices, ...merge.slices.flatMap(({ sources }) => sources)]
    for (const { name, type, scope } of merge.method.parameters) {
      if (type !== 'model' || scope !== 'model') continue
      for (const { parameters } of levels) if (typeof parameters[name] === 'string') names.add(parameters[name])
    }
  }
  return [...names]
}

/** Stages in an order in which each comes after those it reads. */
function checkStages(raw: unknown, folder: string): Map<string, Recipe> {
  const checked = new Map<string, Recipe>()
  if (raw === undefined || raw === null) return checked
  for (const [i, value] of list(raw, 'stages', 'a list of recipes').entries()) {
    const entry = record(value, `stages[${i}]`, 'a recipe with a name')
    const name = stageName(entry.name, `stages[${i}].name`)
    if (checked.has(name)) fail(`stages[${i}].name`, 'a name of its own', name)
    for (const key of ['stages', 'sweep', 'chat_template']) {
      if (entry[key] !== undefined) fail(`stages[${i}].${key}`, 'given for the last stage only', entry[key])
    }
    try {
      checked.set(name, checkOne(entry, folder))
    } catch (error) {
      if (!(error instanceof WeightsmithError)) throw error
      throw new WeightsmithError(error.code, `Stage ${name}: ${error.message}`, { cause: error })
    }
  }
  const sorted = new Map<string, Recipe>()
  const visit = (name: string, recipe: Recipe, waiting: string[]): void => {
    if (sorted.has(name)) return
    if (waiting.includes(name)) fail('stages', 'stages that do not read one another in a circle', name)
    for (const model of modelsOf(recipe)) {
      const stage = checked.get(model)
      if (stage !== undefined) visit(model, stage, [...waiting, name])
    }
    sorted.set(name, recipe)
  }
  for (const [name, recipe] of checked) visit(name, recipe, [])
  return sorted
}

/** mergekit's rule: what has no braces is a name. */
function checkTemplate(value: unknown): string | undefined {
  if (value === undefined || value === null || value === '') return undefined
  const text = typeof value === 'string' ? (chatTemplates.get(value) ?? value) : undefined
  if (text === 'auto' || (text?.includes('{') && text.length >= 20)) return text
  return fail('chat_template', `auto, ${[...chatTemplates.keys()].join(', ')} or a Jinja template`, value)
}

function stageName(value: unknown, path: string): string {
  if (typeof value === 'string' && /^[\w][\w.-]*$/.test(value)) return value
  return fail(path, 'a name of letters, digits, dots, hyphens and underscores', value)
}

function checkDType(value: unknown, path: string): StoreDType | undefined {
  if (value === undefined || value === null) return undefined
  const dtype = typeof value === 'string' ? parseDType(value) : undefined
  return dtype ?? fail(path, 'float32, float16 or bfloat16', value)
}
