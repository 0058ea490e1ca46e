/**
 * Which tensors an output has and which tensors of the inputs each one is made from. Layers are renumbered where the
 * recipe stacks slices; models that do not fit together are refused by the name of the first tensor that shows it.
 */

import {
  type Checkpoint,
  type CheckpointTensor,
  layerOf,
  standsBehindLayers,
  tiesEmbeddings,
} from '../checkpoint/index.js'
import { WeightsmithError } from '../errors.js'
import type { Scalar } from '../methods/index.js'
import type { Merge, Parameters, Slice, Source } from '../recipe/index.js'
import type { Origin } from './derived.js'
import { isVocabulary } from './vocabulary.js'

export interface OutputSource {
  name: string
  origins: Origin[]
  /** Position among the layers, 0 to 1. */
  t: number
  slice: PlannedSlice
}

export interface PlannedSlice {
  /** Input order: bases first. */
  inputs: { checkpoint: Checkpoint; first: number }[]
  /** Parameters of the inputs that are not bases. */
  models: { parameters: Parameters; path: string }[]
  parameters: Parameters
  count: number
}

export interface Roles {
  /** Name of the model that deltas of `imm` start from. */
  pretrained?: string
  globals: Readonly<Record<string, Scalar | undefined>>
  /** The tensors of a model that take part. */
  checkpointOf(source: { model: string; prefix?: string }): Checkpoint
}

/** Inputs and their order, for every slice of a merge. */
export function planSlices(merge: Merge, roles: Roles): PlannedSlice[] {
  return merge.slices.map((slice) => planSlice(merge, roles, slice))
}

interface Role {
  checkpoint: Checkpoint
  range?: readonly [number, number]
  parameters: Parameters
  path: string
}

function planSlice({ method, base: common }: Merge, roles: Roles, slice: Slice): PlannedSlice {
  const given = slice.sources.map((source): Role => ({ ...source, checkpoint: roles.checkpointOf(source) }))
  let bases: Role[] = []
  let models = given
  const baseName = slice.base ?? common
  if (method.needsBase && baseName !== undefined) {
    const base = givenOrImplied(baseName, roles, slice.sources, given)
    models = given.filter((_, i) => slice.sources[i]?.model !== baseName)
    bases = [base]
    if (method.arrange !== undefined) {
      const { pretrained: name, globals } = roles
      const pretrained = name === undefined ? undefined : implied(name, roles, slice.sources, given)
      const arranged = method.arrange({ base, models, globals, ...(pretrained && { pretrained }) })
      bases = arranged.bases
      models = arranged.models
    }
  }
  const inputs = [...bases, ...models].map(({ checkpoint, range, path }) => {
    const layers = layersOf(checkpoint)
    if (range !== undefined && range[1] > layers) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_RECIPE',
        `${path}.layer_range of the recipe ends at layer ${range[1]}, but ${checkpoint.name} has ${layers} layers.`,
      )
    }
    return { checkpoint, first: range?.[0] ?? 0 }
  })
  const [reference] = [...bases, ...models]
  const range = reference?.range
  return {
    inputs,
    models: models.map(({ parameters, path }) => ({ parameters, path })),
    parameters: slice.parameters,
    count: range ? range[1] - range[0] : layersOf(inputs[0]?.checkpoint),
  }
}

function givenOrImplied(name: string, roles: Roles, sources: Source[], given: Role[]): Role {
  return given[sources.findIndex((source) => source.model === name)] ?? implied(name, roles, sources, given)
}

/** A base that a slice does not list takes the layers that all of its sources take. */
function implied(name: string, roles: Roles, sources: Source[], given: Role[]): Role {
  const checkpoint = roles.checkpointOf({ model: name })
  const range = sources[0]?.range
  const other = sources.find((source) => `${source.range}` !== `${range}`)
  if (other !== undefined) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_RECIPE',
      `${other.path}.layer_range of the recipe differs from that of ${sources[0]?.path}, so the layers of ` +
        `${checkpoint.name} have to be given: list it among the sources of the slice.`,
    )
  }
  return { checkpoint, ...(range === undefined ? {} : { range }), parameters: {}, path: given[0]?.path ?? 'models' }
}

function layersOf(checkpoint: Checkpoint | undefined): number {
  return checkpoint?.stack === undefined ? 0 : (checkpoint.stacks.get(checkpoint.stack) ?? 0)
}

/** Every tensor of the output, in the order of the network, with its origins. */
export function planTensors(
  slices: PlannedSlice[],
  donor: Checkpoint,
  sliced: boolean,
  notes: string[],
  /** Whether tables of different vocabularies may meet, because their rows are going to be mapped. */
  anyRows: boolean,
): OutputSource[] {
  const first = slices[0]
  const last = slices.at(-1)
  if (first === undefined || last === undefined) return []
  const before = outside(first, (name) => !standsBehindLayers(name), donor, notes, anyRows)
  const behind = outside(last, standsBehindLayers, donor, notes, anyRows)
  const stacked: OutputSource[] = []
  let index = 0
  for (const slice of slices) {
    for (let k = 0; k < slice.count; k++, index++) stacked.push(...layer(slice, k, index))
    if (!sliced) refuseDeeper(slice)
  }
  return [...before, ...stacked, ...behind]
}

function referenceOf(slice: PlannedSlice): { checkpoint: Checkpoint; first: number } {
  const [reference] = slice.inputs
  if (reference === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', 'A slice has no inputs.')
  return reference
}

/** Tensors outside the main stack of layers. */
function outside(
  slice: PlannedSlice,
  wanted: (name: string) => boolean,
  donor: Checkpoint,
  notes: string[],
  anyRows: boolean,
): OutputSource[] {
  const { checkpoint: reference } = referenceOf(slice)
  const ours = (checkpoint: Checkpoint) =>
    [...checkpoint.tensors.keys()].filter((name) => {
      const at = layerOf(name)
      if (at === undefined) return wanted(name)
      // other stacks, such as a vision tower, come with the tensors before the layers
      return at.stack !== checkpoint.stack && wanted('')
    })
  const names = new Set(ours(reference))
  for (const { checkpoint } of slice.inputs.slice(1)) {
    for (const name of ours(checkpoint)) {
      if (!reference.tensors.has(name) && !leftOut(name, donor)) throw missing(name, reference, checkpoint)
    }
  }
  const sources: OutputSource[] = []
  for (const name of sortNames(names)) {
    const inputs = slice.inputs.map(({ checkpoint }) => ({ checkpoint, tensor: checkpoint.tensors.get(name) }))
    // A stored copy would come out different from the embedding: drops are drawn by name, gradients go by depth.
    if (isHead(name) && tiesEmbeddings(donor) && (storesEmbedding(donor) || inputs.some((input) => !input.tensor))) {
      notes.push(`${name} is left out: config.json ties it to the embedding.`)
      continue
    }
    const at = layerOf(name)
    const depth = at === undefined ? 0 : (reference.stacks.get(at.stack) ?? 1)
    const t = at === undefined ? (standsBehindLayers(name) ? 1 : 0) : positionOf(at.index, depth)
    sources.push({ name, origins: originsOf(name, inputs, anyRows), t, slice })
  }
  return sources
}

/** Tensors of one layer: the `k`-th of the slice, the `index`-th of the output. */
function layer(slice: PlannedSlice, k: number, index: number): OutputSource[] {
  const reference = referenceOf(slice)
  const parts = layerParts(reference.checkpoint, reference.first + k)
  for (const { checkpoint, first } of slice.inputs.slice(1)) {
    for (const [rest, tensor] of layerParts(checkpoint, first + k)) {
      if (!parts.has(rest) && !isBuffer(rest)) throw missing(tensor.name, reference.checkpoint, checkpoint)
    }
  }
  return sortNames(parts.keys()).map((rest) => {
    const inputs = slice.inputs.map(({ checkpoint, first }) => ({
      checkpoint,
      tensor: checkpoint.tensors.get(`${checkpoint.stack}.${first + k}.${rest}`),
    }))
    const name = `${reference.checkpoint.stack}.${index}.${rest}`
    const origins = originsOf(`${reference.checkpoint.stack}.${reference.first + k}.${rest}`, inputs)
    return { name, origins, t: positionOf(k, slice.count), slice }
  })
}

const partsOfLayers = new WeakMap<Checkpoint, Map<number, Map<string, CheckpointTensor>>>()

function layerParts(checkpoint: Checkpoint, index: number): Map<string, CheckpointTensor> {
  let layers = partsOfLayers.get(checkpoint)
  if (layers === undefined) {
    layers = new Map()
    for (const [name, tensor] of checkpoint.tensors) {
      const at = layerOf(name)
      if (at === undefined || at.stack !== checkpoint.stack) continue
      const parts = layers.get(at.index) ?? new Map<string, CheckpointTensor>()
      layers.set(at.index, parts.set(at.rest, tensor))
    }
    partsOfLayers.set(checkpoint, layers)
  }
  return layers.get(index) ?? new Map()
}

/** Without slices all layers are merged, so no model may have more of them. */
function refuseDeeper(slice: PlannedSlice): void {
  const { checkpoint: reference } = referenceOf(slice)
  for (const { checkpoint } of slice.inputs) {
    const extra = [...layerParts(checkpoint, slice.count).values()][0]
    if (extra !== undefined) throw missing(extra.name, reference, checkpoint)
  }
}

function originsOf(
  name: string,
  inputs: { checkpoint: Checkpoint; tensor: CheckpointTensor | undefined }[],
  anyRows = false,
): Origin[] {
  const [reference] = inputs
  const origins: Origin[] = []
  for (const { checkpoint, tensor } of inputs) {
    if (tensor === undefined) {
      // rotary tables that old checkpoints store can be computed, and are the same everywhere
      if (isBuffer(name)) continue
      throw missing(name, checkpoint, reference?.checkpoint ?? checkpoint)
    }
    origins.push({ checkpoint, tensor })
    const first = origins[0]?.tensor
    if (first !== undefined && `${tensor.shape}` !== `${first.shape}`) {
      if (isVocabulary(name) && `${tensor.shape.slice(1)}` === `${first.shape.slice(1)}`) {
        if (anyRows) continue
        throw otherVocabulary(name, origins)
      }
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_SHAPE_MISMATCH',
        `Tensor ${name} has shape [${first.shape.join(', ')}] in ${origins[0]?.checkpoint.name}, but ` +
          `[${tensor.shape.join(', ')}] in ${checkpoint.name}; only models of the same shapes can be merged.`,
        { tensor: name, file: checkpoint.path },
      )
    }
  }
  return origins
}

function otherVocabulary(name: string, [first, ...others]: Origin[]): WeightsmithError {
  const other = others.at(-1)
  return new WeightsmithError(
    'ERR_WEIGHTSMITH_SHAPE_MISMATCH',
    `Tensor ${name} has ${first?.tensor.shape[0]} rows in ${first?.checkpoint.name}, but ${other?.tensor.shape[0]} in ` +
      `${other?.checkpoint.name}: their vocabularies differ. Say which one the output gets with tokenizer_source: base, ` +
      'union or one of the models (or with tokenizer:), and rows are matched by token.',
    { tensor: name, file: other?.checkpoint.path },
  )
}

function missing(name: string, absent: Checkpoint, present: Checkpoint): WeightsmithError {
  return new WeightsmithError(
    'ERR_WEIGHTSMITH_MISSING_TENSOR',
    `Tensor ${name} is in ${present.name}, but not in ${absent.name}; the models to merge need the same tensors.`,
    { tensor: name, file: absent.path },
  )
}

function leftOut(name: string, donor: Checkpoint): boolean {
  return isBuffer(name) || (isHead(name) && tiesEmbeddings(donor))
}

function isHead(name: string): boolean {
  return /(^|\.)lm_head\.weight$/.test(name)
}

function storesEmbedding({ tensors }: Checkpoint): boolean {
  return [...tensors.keys()].some((name) => /(^|\.)(embed_tokens|wte|word_embeddings|embed_in)\.weight$/.test(name))
}

export function isBuffer(name: string): boolean {
  return name.endsWith('rotary_emb.inv_freq')
}

/** A single layer counts as the last one, as in mergekit. */
function positionOf(index: number, count: number): number {
  return count > 1 ? index / (count - 1) : 1
}

/** By name, numbers by value: layer 2 before layer 10. */
function sortNames(names: Iterable<string>): string[] {
  const key = (name: string) => name.replace(/\d+/g, (digits) => digits.padStart(8, '0'))
  return [...names]
    .map((name) => ({ name, key: key(name) }))
    .sort((a, b) => (a.key < b.key ? -1 : 1))
    .map((e) => e.name)
}
