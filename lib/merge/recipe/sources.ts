/** What goes into a merge: models or slices, each with its layers and parameters. */

import type { MergeMethod } from '../methods/index.js'
import { entry as entryOf, fail, knownKeys, list, modelName } from './checks.js'
import { checkParameters } from './parameters.js'
import type { Parameters } from './values.js'

export interface Source {
  model: string
  /** First layer and the one after the last; absent: all of them. */
  range?: readonly [number, number]
  /** What the names of the module's tensors start with in this model, where that has to be said. */
  prefix?: string
  parameters: Parameters
  /** Where the source stands in the recipe. */
  path: string
}

export interface Slice {
  sources: Source[]
  parameters: Parameters
  /** Goes before the base of the recipe. */
  base?: string
}

/** What is merged, and how. `models` has become one slice without layer ranges. */
export interface Merge {
  method: MergeMethod
  base?: string
  slices: Slice[]
  /** Whether layers are moved (`slices`). */
  sliced: boolean
  parameters: Parameters
}

interface How {
  method: MergeMethod
  base: string | undefined
  modular: boolean
}

/** Models or slices of `entry`, which is the recipe or one of its modules (`modular`). */
export function checkSources(
  entry: Record<string, unknown>,
  at: string,
  how: How,
  notes: string[],
): Pick<Merge, 'slices' | 'sliced'> {
  const { method, base, modular } = how
  const inside = at === '' ? '' : `${at}.`
  const named = modular ? ['prefix'] : []
  if (entry.models !== undefined && entry.slices !== undefined) fail(at, 'either models or slices', 'both')
  if (entry.slices === undefined) {
    const path = `${inside}models`
    const sources = list(entry.models, path, 'a list of models (or slices)').map((value, i) => {
      const { layer_range: range, ...found } = entryOf(value, `${path}[${i}]`, 'a mapping with model and parameters')
      if (range !== undefined) {
        notes.push(`${path}[${i}].layer_range changes nothing: models are merged whole, and slices take ranges.`)
      }
      knownKeys(found, `${path}[${i}]`, ['model', 'parameters', ...named], notes)
      return checkSource(found, `${path}[${i}]`, method, notes)
    })
    noTwins(sources)
    const one = method.needsBase === false && method.models.max > 1 ? unlisted(base, sources) : undefined
    if (one !== undefined) sources.push({ model: one, parameters: {}, path: `${path}[${sources.length}] (base_model)` })
    const slice = { sources, parameters: {} }
    checkCount(method, base, slice, path)
    noteBase(how, [slice], notes)
    return { slices: [slice], sliced: false }
  }
  const slices = list(entry.slices, `${inside}slices`, 'a list of slices').map((value, i): Slice => {
    const path = `${inside}slices[${i}]`
    const found = entryOf(value, path, 'a mapping with sources and parameters')
    knownKeys(found, path, ['sources', 'parameters', 'base_model'], notes)
    const sources = list(found.sources, `${path}.sources`, 'a list of sources').map((source, j) => {
      const at = `${path}.sources[${j}]`
      const inner = entryOf(source, at, 'a mapping with model and layer_range')
      knownKeys(inner, at, ['model', 'layer_range', 'parameters', ...named], notes)
      return { ...checkSource(inner, at, method, notes), range: checkRange(inner.layer_range, `${at}.layer_range`) }
    })
    noTwins(sources)
    sameLength(sources)
    const own = found.base_model === undefined ? undefined : modelName(found.base_model, `${path}.base_model`)
    const slice = {
      sources,
      parameters: checkParameters(found.parameters, `${path}.parameters`, method, 'slice', notes),
      ...(own === undefined ? {} : { base: own }),
    }
    checkCount(method, own ?? base, slice, `${path}.sources`)
    if (own !== undefined && method.needsBase === false) {
      notes.push(`${path}.base_model changes nothing: method ${method.name} has no base.`)
    }
    return slice
  })
  const empty = slices.findIndex(
    ({ sources: [first] }) => first?.range !== undefined && first.range[0] === first.range[1],
  )
  if (empty >= 0) {
    if (slices.every(({ sources: [first] }) => first?.range?.[0] === first?.range?.[1])) {
      fail(`${inside}slices`, 'slices with at least one layer', 'none')
    }
    notes.push(`${inside}slices[${empty}] has no layers.`)
  }
  noteBase(how, slices, notes)
  return { slices, sliced: true }
}

/** The base that no source names. Methods without a base take it as one more model, as mergekit does. */
function unlisted(base: string | undefined, sources: Source[]): string | undefined {
  return sources.some(({ model }) => model === base) ? undefined : base
}

/** Says of a base that is neither a base nor a model what it is; in a module it has what is in none, too. */
function noteBase({ method, base, modular }: How, slices: Slice[], notes: string[]): void {
  const sources = slices.flatMap((slice) => slice.sources)
  if (modular || method.needsBase !== false || unlisted(base, sources) === undefined) return
  notes.push(`base_model gives config and tokenizer alone: method ${method.name} has no base.`)
}

function checkSource(entry: Record<string, unknown>, path: string, method: MergeMethod, notes: string[]): Source {
  return {
    model: modelName(entry.model, `${path}.model`),
    ...(entry.prefix === undefined ? {} : { prefix: checkPrefix(entry.prefix, `${path}.prefix`) }),
    parameters: checkParameters(entry.parameters, `${path}.parameters`, method, 'model', notes),
    path,
  }
}

export function checkPrefix(value: unknown, path: string): string {
  return typeof value === 'string' ? value : fail(path, "the start of tensors' names, such as language_model.", value)
}

function checkRange(range: unknown, path: string): [number, number] {
  if (Array.isArray(range) && range.length === 2) {
    const [first, end] = range.map((one) => (typeof one === 'string' && /^\d+$/.test(one) ? Number(one) : one))
    if (Number.isSafeInteger(first) && Number.isSafeInteger(end) && first >= 0 && first <= end) return [first, end]
  }
  return fail(path, 'two whole numbers, the first layer and the one after the last', range)
}

function sameLength(sources: Source[]): void {
  const length = ({ range }: Source) => (range === undefined ? 0 : range[1] - range[0])
  const [first] = sources
  const other = first && sources.find((source) => length(source) !== length(first))
  if (other === undefined) return
  const expected = `${length(first)} layers like the first source of the slice`
  fail(`${other.path}.layer_range`, expected, `${length(other)} layers`)
}

function noTwins(sources: Source[]): void {
  for (const [i, source] of sources.entries()) {
    const twin = sources.findIndex((other) => other.model === source.model && `${other.range}` === `${source.range}`)
    if (twin !== i) fail(`${source.path}.model`, `a model other than that of ${sources[twin]?.path}`, source.model)
  }
}

function checkCount(method: MergeMethod, base: string | undefined, slice: Slice, path: string): void {
  if (method.needsBase === true && base === undefined) {
    fail('base_model', `a model, because method ${method.name} needs one`, undefined)
  }
  const models = method.needsBase ? slice.sources.filter((s) => s.model !== base) : slice.sources
  const { min, max } = method.models
  if (models.length >= min && models.length <= max) return
  const wanted = min === max ? `exactly ${min}` : `${min} to ${max}`
  const beside = method.needsBase && base !== undefined ? ` besides the base ${base}` : ''
  fail(path, `${wanted} model${max === 1 ? '' : 's'}${beside} for method ${method.name}`, `${models.length}`)
}
