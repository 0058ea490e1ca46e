/**
 * Several adapters seen module by module: which of them change a module, with which weight times which scale. What
 * cannot be weighted is refused by name: an adapter with more than W + s (B A) is not left without it.
 */

import { createHash } from 'node:crypto'
import {
  type Checkpoint,
  type CheckpointTensor,
  type Content,
  cutTensor,
  inside,
  readSmall,
} from '../checkpoint/index.js'
import { adapterConfigName } from '../checkpoint/open.js'
import { resolveModel } from '../checkpoint/resolve.js'
import { largestConfig } from '../checkpoint/small.js'
import { type Adapter, type LowRank, openAdapter } from '../lora/index.js'
import type { NativeAddon } from '../native/border.js'
import { misuse, WeightsmithError } from '../util/errors.js'
import { parseJson } from '../util/json.js'
import { sizeOf } from './factors.js'
import type { WeightedAdapter } from './fold.js'

/** What one adapter adds to a module: weight · scale · B A. */
export interface Term {
  checkpoint: Checkpoint
  matrix: LowRank
  /** Which adapter, from 0. */
  index: number
  weight: number
}

export interface JoinedModule {
  module: string
  outputs: number
  inputs: number
  embedding: boolean
  below?: Content
  /** In the order of the adapters; at least one. */
  terms: Term[]
}

export interface Union {
  checkpoints: Checkpoint[]
  modules: JoinedModule[]
  whole: Map<string, Content>
  /** The tensors behind `whole`. */
  replaced: Map<string, { checkpoint: Checkpoint; tensor: CheckpointTensor }>
  turned: boolean
  base?: string
  task?: string
  notes: string[]
}

type Reader = Pick<NativeAddon, 'readHeader' | 'readIndex'>

/** Opens the adapters. Those with the weight 0 are checked too, and add nothing. */
export async function openUnion(addon: Reader, weighted: readonly Required<WeightedAdapter>[]): Promise<Union> {
  const first = weighted[0]?.adapter
  const opened: Opened[] = []
  for (const { adapter, weight } of weighted) {
    const path = await resolveModel(adapter, process.cwd())
    opened.push({ adapter, weight, opened: await openAdapter(addon, path, adapter), task: await taskOf(path) })
  }
  const notes: string[] = []
  const turned = opened[0]?.opened.turned ?? false
  const modules = new Map<string, JoinedModule>()
  for (const [index, { adapter, weight, opened: found }] of opened.entries()) {
    if (found.turned !== turned) {
      throw misuse(`The adapters ${first} and ${adapter} differ in fan_in_fan_out, so they are for other models.`)
    }
    refuseMore(found, adapter)
    refuseBiases(found, adapter)
    notes.push(...absent(found, adapter))
    for (const matrix of found.matrices) {
      const module = matrix.target.replace(/\.weight$/, '')
      const { outputs, inputs } = sizeOf(matrix)
      const { embedding } = matrix
      const joined = modules.get(module) ?? { module, outputs, inputs, embedding, terms: [] }
      if (joined.outputs !== outputs || joined.inputs !== inputs || joined.embedding !== embedding) {
        throw new WeightsmithError(
          'ERR_WEIGHTSMITH_SHAPE_MISMATCH',
          `The adapter ${adapter} changes ${module} by a matrix [${outputs}, ${inputs}], but another one by ` +
            `[${joined.outputs}, ${joined.inputs}]; they were trained for different models.`,
          { tensor: matrix.b.name, file: found.checkpoint.path },
        )
      }
      if (weight !== 0) joined.terms.push({ checkpoint: found.checkpoint, matrix, index, weight })
      modules.set(module, joined)
    }
  }
  for (const joined of modules.values()) {
    const tables = joined.terms.flatMap(({ checkpoint, matrix }) =>
      matrix.below === undefined ? [] : [cutTensor(checkpoint, matrix.below)],
    )
    const below = await sole(tables, `the table below ${joined.module}`)
    if (below !== undefined) joined.below = below
  }
  const base = opened[0]?.opened.base
  const task = opened[0]?.task
  const others = opened.find((other) => other.opened.base !== base)
  if (others !== undefined) {
    notes.push(
      `${first} was trained on ${base ?? 'a model that it does not name'}, and ${others.adapter} on ` +
        `${others.opened.base ?? 'one that it does not name'}; the result names the first.`,
    )
  }
  return {
    checkpoints: opened.map(({ opened: { checkpoint } }) => checkpoint),
    modules: [...modules.values()].filter(({ terms }) => terms.length > 0),
    whole: await wholeOf(opened),
    replaced: new Map(
      opened.flatMap(({ opened: { checkpoint, replaced } }) =>
        [...replaced].map(([name, tensor]) => [name, { checkpoint, tensor }] as const),
      ),
    ),
    turned,
    ...(base === undefined ? {} : { base }),
    ...(task === undefined ? {} : { task }),
    notes,
  }
}

interface Opened {
  adapter: string
  weight: number
  opened: Adapter
  task: string | undefined
}

/** What the config says of the kind of model, which does not matter to the update. */
async function taskOf(path: string): Promise<string | undefined> {
  const text = await readSmall(await inside(path, adapterConfigName), largestConfig)
  const { task_type: task } = parseJson(text.toString('utf8')) as Record<string, unknown>
  return typeof task === 'string' ? task : undefined
}

/** Refuses what is no W + s (B A) of a matrix: it can be folded into a model, but not weighted with others. */
function refuseMore({ matrices, biases, tokens, checkpoint }: Adapter, adapter: string): void {
  const refuse = (what: string): never => {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_FORMAT',
      `The adapter ${adapter} ${what}, which cannot be combined with others or given another rank; fold it into its base ` +
        'model, and extract an adapter from the result.',
      { file: checkpoint.path },
    )
  }
  for (const { target, magnitude, start, experts } of matrices) {
    if (magnitude !== undefined) refuse(`scales ${target} (DoRA)`)
    if (start !== undefined) refuse(`was begun from a part of ${target} (${start})`)
    if (experts !== undefined || !target.endsWith('.weight')) refuse(`changes ${target}, a parameter of experts`)
  }
  for (const name of biases.keys()) refuse(`adds to ${name} (lora_bias)`)
  for (const name of tokens.keys()) refuse(`replaces rows of ${name} (trainable_token_indices)`)
}

/** A bias that is stored beside factors replaces that of the base, and factors alone cannot say so. */
function refuseBiases({ replaced, matrices, checkpoint }: Adapter, adapter: string): void {
  const adapted = new Set(matrices.map(({ target }) => target.replace(/\.weight$/, '')))
  const bias = [...replaced.keys()].find((name) => adapted.has(name.replace(/\.[^.]+$/, '')))
  if (bias === undefined) return
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_FORMAT',
    `The adapter ${adapter} also replaces ${bias}, which cannot be weighted with factors; fold it into its base model, ` +
      'and extract an adapter from the result.',
    { file: checkpoint.path, tensor: bias },
  )
}

function absent({ named, replaced, matrices }: Adapter, adapter: string): string[] {
  const held = [...replaced.keys(), ...matrices.map(({ target }) => target)].map((key) => key.replace(/\.[^.]+$/, ''))
  const lost = named.filter((name) => !held.some((module) => module === name || module.endsWith(`.${name}`)))
  if (lost.length === 0) return []
  return [`The config of ${adapter} names ${lost.join(', ')}, of which it has no tensor.`]
}

/**
 * Tensors that replace those of the base. Weights of updates of the same tensor T add up to (Σ w) (T - W), which is T
 * again only if they add up to 1.
 */
async function wholeOf(opened: readonly Opened[]): Promise<Map<string, Content>> {
  const found = new Map<string, { weight: number; from: string; contents: Content[] }>()
  for (const {
    adapter,
    weight,
    opened: { checkpoint, replaced },
  } of opened) {
    for (const [name, tensor] of replaced) {
      const entry = found.get(name) ?? { weight: 0, from: adapter, contents: [] }
      entry.weight += weight
      entry.contents.push(cutTensor(checkpoint, tensor))
      found.set(name, entry)
    }
  }
  const whole = new Map<string, Content>()
  for (const [name, { weight, from, contents }] of found) {
    const content = await sole(contents, name)
    if (Math.abs(weight - 1) > 1e-9) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_FORMAT',
        `The adapter ${from} has ${name} as a whole, which a weight of ${weight} cannot be put on; fold the adapters into ` +
          'their base model instead, and merge the results.',
        { tensor: name },
      )
    }
    if (content !== undefined) whole.set(name, content)
  }
  return whole
}

/** The one tensor that all of these are, byte for byte. */
async function sole([first, ...others]: readonly Content[], what: string): Promise<Content | undefined> {
  if (first === undefined || others.length === 0) return first
  const hashed = await hashOf(first)
  for (const other of others) {
    if ((await hashOf(other)) === hashed) continue
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_FORMAT',
      `The adapters differ in ${what}, which they have as a whole; fold them into their base model instead, and merge the results.`,
      { tensor: what },
    )
  }
  return first
}

async function hashOf({ dtype, shape, bytes }: Content): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify([dtype, shape]))
  for await (const part of bytes()) hash.update(part)
  return hash.digest('hex')
}
