/**
 * Which tensors an output has and which tensors of the inputs each one is made from. Layers are renumbered where the
 * recipe stacks slices; models that do not fit together are refused by the name of the first tensor that shows it.
 */

import {
  type Checkpoint,
  type CheckpointTensor,
  headOf,
  isComputed,
  isFloat,
  isHead,
  layerOf,
  standsBehindLayers,
  storesEmbedding,
  tiesEmbeddings,
} from '../../checkpoint/index.js'
import { WeightsmithError } from '../../util/errors.js'
import { plural } from '../../util/plural.js'
import { sameShape, storedType } from './derived.js'
import type { Origin } from './planned.js'
import type { PlannedSlice } from './slices.js'
import { isVocabulary } from './vocabulary.js'

export interface OutputSource {
  name: string
  origins: Origin[]
  /** Position among the layers, 0 to 1; 0 for what stands before them or behind them, as in mergekit from 0.1 on. */
  t: number
  slice: PlannedSlice
  /** A head, where the donor's is its embedding. */
  untied?: boolean
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
  const sorted = sorting()
  const some: InSome = { kept: new Set(), left: new Set() }
  const how: Outside = { sorted, donor, notes, anyRows, some }
  const before = outside(first, (name) => !standsBehindLayers(name), how)
  const behind = outside(last, standsBehindLayers, how)
  const stacked: OutputSource[] = []
  let index = 0
  for (const slice of slices) {
    for (let k = 0; k < slice.count; k++, index++) stacked.push(...layer(slice, k, index, sorted, some))
    if (!sliced) refuseDeeper(slice)
  }
  noteSome(some, referenceOf(first).checkpoint, notes)
  return [...before, ...stacked, ...behind]
}

/** Names of tensors that are no weights and that not every model has. */
interface InSome {
  /** The first model has them. */
  kept: Set<string>
  /** The first model has none of them. */
  left: Set<string>
}

function noteSome({ kept, left }: InSome, { name }: Checkpoint, notes: string[]): void {
  const say = (names: Set<string>, what: string) => {
    const [one] = names
    if (one === undefined) return
    const several = `${plural(names.size, 'tensor')}, such as ${one}, are no weights`
    notes.push(`${names.size === 1 ? `Tensor ${one} is no weight` : several} and not in every model: ${what}.`)
  }
  say(kept, `copied from ${name}`)
  say(left, `left out, because ${name} has none`)
}

/** What tensors outside of the layers are planned with. */
interface Outside {
  sorted: Sort
  donor: Checkpoint
  notes: string[]
  anyRows: boolean
  some: InSome
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
  { sorted, donor, notes, anyRows, some }: Outside,
): OutputSource[] {
  const { checkpoint: reference } = referenceOf(slice)
  const ours = (checkpoint: Checkpoint) =>
    // other stacks, such as a vision tower, come with the tensors before the layers
    orderOf(checkpoint).outside.filter((name) => wanted(layerOf(name) === undefined ? name : ''))
  const names = new Set(ours(reference))
  for (const { checkpoint } of slice.inputs.slice(1)) {
    for (const name of ours(checkpoint)) {
      if (isHead(name)) names.add(name)
      else if (!reference.tensors.has(name)) leave(name, checkpoint.tensors.get(name), reference, checkpoint, some)
    }
  }
  // The head of an untied donor is made, though all models may have their embeddings for it.
  if (!tiesEmbeddings(donor)) for (const name of ours(donor)) if (isHead(name)) names.add(name)
  const sources: OutputSource[] = []
  for (const name of sorted(names)) {
    const inputs = slice.inputs.map(({ checkpoint }) => ({ checkpoint, tensor: checkpoint.tensors.get(name) }))
    if (isHead(name)) {
      const head = planHead(name, inputs, donor, notes, anyRows)
      if (head !== undefined) sources.push({ ...head, t: 0, slice })
      continue
    }
    const at = layerOf(name)
    const depth = at === undefined ? 0 : (reference.stacks.get(at.stack) ?? 1)
    const t = at === undefined ? 0 : positionOf(at.index, depth)
    sources.push({ name, origins: originsOf(name, inputs, anyRows, some), t, slice })
  }
  return sources
}

/**
 * The head, unless all models have the embedding for it; where only some have, it is made of those and the others' own.
 */
function planHead(
  name: string,
  inputs: Input[],
  donor: Checkpoint,
  notes: string[],
  anyRows: boolean,
): Pick<OutputSource, 'name' | 'origins' | 'untied'> | undefined {
  const tied = inputs.filter(({ checkpoint }) => tiesEmbeddings(checkpoint))
  // A stored copy would come out different from the embedding: drops are drawn by name, gradients go by depth.
  const copies = storesEmbedding(donor) || inputs.some(({ tensor }) => tensor === undefined)
  if (tiesEmbeddings(donor) && tied.length === inputs.length) {
    if (copies) {
      notes.push(`${name} is left out: config.json ties it to the embedding.`)
      return undefined
    }
    return { name, origins: originsOf(name, inputs, anyRows) }
  }
  const heads = inputs.map(({ checkpoint }) => ({ checkpoint, tensor: headOf(checkpoint, name) }))
  const without = heads.find(({ tensor }) => tensor === undefined)
  if (without !== undefined) {
    throw missing(name, without.checkpoint, heads.find(({ tensor }) => tensor)?.checkpoint ?? donor)
  }
  if (tied.length > 0) {
    const names = tied.map(({ checkpoint }) => checkpoint.name).join(', ')
    notes.push(
      `${name} is a tensor of its own in the output; that of ${names} is the embedding, to which it is tied there.`,
    )
  }
  return { name, origins: originsOf(name, heads, anyRows), untied: tiesEmbeddings(donor) }
}

/** Tensors of one layer: the `k`-th of the slice, the `index`-th of the output. */
function layer(slice: PlannedSlice, k: number, index: number, sorted: Sort, some: InSome): OutputSource[] {
  const reference = referenceOf(slice)
  const { stack } = reference.checkpoint
  const layers = slice.inputs.map(({ checkpoint, first }) => ({ checkpoint, parts: layerParts(checkpoint, first + k) }))
  const known = layerParts(reference.checkpoint, reference.first + k)
  for (const { checkpoint, parts } of layers) {
    for (const [rest, tensor] of parts) {
      if (!known.has(rest)) leave(tensor.name, tensor, reference.checkpoint, checkpoint, some)
    }
  }
  const t = positionOf(k, slice.count)
  return sorted(known.keys()).map((rest) => {
    const inputs = layers.map(({ checkpoint, parts }) => ({ checkpoint, tensor: parts.get(rest) }))
    const origins = originsOf(`${stack}.${reference.first + k}.${rest}`, inputs, false, some)
    return { name: `${stack}.${index}.${rest}`, origins, t, slice }
  })
}

/** Tensors of a checkpoint by where they stand. */
interface Order {
  /** Of the main stack, by number: tensors by their names within the layer. */
  layers: Map<number, Map<string, CheckpointTensor>>
  /** Names of all others. */
  outside: string[]
}

const orders = new WeakMap<Checkpoint, Order>()

function orderOf(checkpoint: Checkpoint): Order {
  const known = orders.get(checkpoint)
  if (known !== undefined) return known
  const order: Order = { layers: new Map(), outside: [] }
  for (const [name, tensor] of checkpoint.tensors) {
    const at = layerOf(name)
    if (at === undefined || at.stack !== checkpoint.stack) {
      order.outside.push(name)
      continue
    }
    const parts = order.layers.get(at.index) ?? new Map<string, CheckpointTensor>()
    order.layers.set(at.index, parts.set(at.rest, tensor))
  }
  orders.set(checkpoint, order)
  return order
}

function layerParts(checkpoint: Checkpoint, index: number): ReadonlyMap<string, CheckpointTensor> {
  return orderOf(checkpoint).layers.get(index) ?? new Map()
}

/** Without slices all layers are merged, so no model may have more of them. */
function refuseDeeper(slice: PlannedSlice): void {
  const { checkpoint: reference } = referenceOf(slice)
  for (const { checkpoint } of slice.inputs) {
    const extra = [...layerParts(checkpoint, slice.count).values()][0]
    if (extra !== undefined) throw missing(extra.name, reference, checkpoint)
  }
}

/** An input of a tensor that may lack it. */
type Input = Pick<Origin, 'checkpoint'> & { tensor: CheckpointTensor | undefined }

function originsOf(name: string, inputs: Input[], anyRows = false, some?: InSome): Origin[] {
  const [reference] = inputs
  const origins: Origin[] = []
  const free = reference?.tensor !== undefined && isBuffer(reference.tensor)
  for (const { checkpoint, tensor } of inputs) {
    if (tensor === undefined) {
      if (free) {
        some?.kept.add(name)
        continue
      }
      throw missing(name, checkpoint, reference?.checkpoint ?? checkpoint)
    }
    // what the first model computes in its way need not be as long in the others
    if (origins.length > 0 && isComputed(tensor)) continue
    origins.push({ checkpoint, tensor })
    const first = origins[0]?.tensor
    if (first !== undefined && !sameShape(tensor.shape, first.shape)) {
      if (isVocabulary(name) && sameShape(tensor.shape.slice(1), first.shape.slice(1))) {
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

/**
 * A tensor that the first model lacks: left out if it is no weight. Throws ERR_WEIGHTSMITH_MISSING_TENSOR for a weight.
 */
function leave(
  name: string,
  tensor: CheckpointTensor | undefined,
  reference: Checkpoint,
  checkpoint: Checkpoint,
  some: InSome,
): void {
  if (tensor === undefined || !isBuffer(tensor)) throw missing(name, reference, checkpoint)
  some.left.add(name)
}

/** Whether a tensor is no weight, so that a model may do without it. */
function isBuffer(tensor: CheckpointTensor): boolean {
  return isComputed(tensor) || !isFloat(storedType(tensor))
}

/** A single layer counts as the last one, as in mergekit. */
function positionOf(index: number, count: number): number {
  return count > 1 ? index / (count - 1) : 1
}

type Sort = (names: Iterable<string>) => string[]

/** Sorts by name, numbers by value: expert 2 before expert 10. Layers have the same names, whose keys it keeps. */
function sorting(): Sort {
  const keys = new Map<string, string>()
  const keyOf = (name: string) => {
    const key = keys.get(name) ?? name.replace(/\d+/g, (digits) => digits.padStart(8, '0'))
    keys.set(name, key)
    return key
  }
  return (names) =>
    [...names]
      .map((name) => ({ name, key: keyOf(name) }))
      .sort((a, b) => (a.key < b.key ? -1 : 1))
      .map(({ name }) => name)
}
