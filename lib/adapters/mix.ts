/**
 * A mixture of LoRA experts at fixed gates g, as one adapter. There are two readings (AmoebaLLM's code and its paper):
 * the gates weight A and B, so that the update is Σᵢⱼ gᵢ gⱼ Bᵢ Aⱼ with every B times every A, or they weight what each
 * expert gives, Σ gᵢ Bᵢ Aᵢ.
 */

import type { Checkpoint, CheckpointFile, CheckpointTensor } from '../checkpoint/index.js'
import type { Engine } from '../engine/engine.js'
import type { Adapter, LowRank } from '../lora/index.js'
import type { Host } from '../native/host.js'
import type { DryRun } from '../util/dry_run.js'
import { misuse, throwIfAborted } from '../util/errors.js'
import { plural } from '../util/plural.js'
import {
  type AdapterForecast,
  type AdapterOptions,
  type AdapterReport,
  type Combination,
  concatenated,
  makeAdapter,
  ranksOf,
  recipeOf,
  shared,
} from './combine.js'
import { weightedSum } from './device.js'
import { type Factors, readFactors } from './factors.js'
import { checkAdapters, type FoldForecast, type FoldOptions, type FoldReport, foldOpened } from './fold.js'
import { type JoinedModule, openUnion, type Union } from './union.js'

export const mixReadings = ['factor', 'output'] as const

export interface MixOptions extends AdapterOptions {
  /** One an adapter, from 0; a router's add up to 1. An adapter whose gate is 0 is left out. */
  gates: readonly number[]
  /** `factor`: gates weight A and B, which have to have equal ranks and scales; `output`: B A. Defaults to `factor`. */
  mix?: (typeof mixReadings)[number] | undefined
}

/** Throws ERR_WEIGHTSMITH_ARGUMENT. */
function checkGates(adapters: readonly string[], { gates, mix = 'factor' }: Pick<MixOptions, 'gates' | 'mix'>): void {
  if (!mixReadings.includes(mix)) throw misuse(`There is no mixture "${mix}"; there are ${mixReadings.join(' and ')}.`)
  if (gates.length !== adapters.length) {
    throw misuse(`There are ${plural(adapters.length, 'adapter')}, but ${plural(gates.length, 'gate')}.`)
  }
  const wrong = gates.find((gate) => !(Number.isFinite(gate) && gate >= 0))
  if (wrong !== undefined) throw misuse(`A gate is ${wrong}, but gates are from 0.`)
}

function sumNotes(gates: readonly number[]): string[] {
  const sum = gates.reduce((a, b) => a + b, 0)
  if (Math.abs(sum - 1) <= 1e-3) return []
  return [`The gates add up to ${Number(sum.toPrecision(6))}; those of a router add up to 1.`]
}

const combinationOf = (mix: MixOptions['mix']) => (mix === 'output' ? concatenated : factorMixed)

/** Mixes adapters into one. Rejects as `combineAdapters` does. */
export function mixAdapters(
  engine: Engine,
  adapters: readonly string[],
  options: MixOptions & { dryRun: true },
): Promise<DryRun<AdapterForecast>>
export function mixAdapters(
  engine: Engine,
  adapters: readonly string[],
  options: MixOptions & { dryRun?: false | undefined },
): Promise<AdapterReport>
export function mixAdapters(
  engine: Engine,
  adapters: readonly string[],
  options: MixOptions,
): Promise<AdapterReport | DryRun<AdapterForecast>>
export async function mixAdapters(
  engine: Engine,
  adapters: readonly string[],
  options: MixOptions,
): Promise<AdapterReport | DryRun<AdapterForecast>> {
  const { gates, mix = 'factor' } = options
  checkGates(adapters, options)
  const weighted = adapters.map((adapter, i) => ({ adapter, weight: gates[i] ?? 0 }))
  const made = await makeAdapter(engine, weighted, options, {
    recipe: { mix: { adapters, ...recipeOf(options) } },
    about: `It mixes ${plural(adapters.length, 'adapter')} by fixed gates.`,
    method: `mix (${mix})`,
    each: combinationOf(mix),
    upper: mix === 'output' ? ranksOf : (module) => mixable(module).rank,
  })
  const { notes } = 'forecast' in made ? made.forecast : made
  notes.push(...sumNotes(gates))
  return made
}

export interface FoldMixtureOptions extends Omit<FoldOptions, 'adapters'>, Pick<MixOptions, 'gates' | 'mix'> {}

/**
 * Folds a mixture into a model: the same bytes as `mixAdapters` and then `foldAdapters` give, without the adapter
 * between them. Rejects as these two do.
 */
export function foldMixture(
  engine: Engine,
  model: string,
  adapters: readonly string[],
  options: FoldMixtureOptions & { dryRun: true },
): Promise<DryRun<FoldForecast>>
export function foldMixture(
  engine: Engine,
  model: string,
  adapters: readonly string[],
  options: FoldMixtureOptions & { dryRun?: false | undefined },
): Promise<FoldReport>
export function foldMixture(
  engine: Engine,
  model: string,
  adapters: readonly string[],
  options: FoldMixtureOptions,
): Promise<FoldReport | DryRun<FoldForecast>>
export async function foldMixture(
  engine: Engine,
  model: string,
  adapters: readonly string[],
  { gates, mix, ...options }: FoldMixtureOptions,
): Promise<FoldReport | DryRun<FoldForecast>> {
  checkGates(adapters, { gates, mix })
  const { signal, dryRun = false } = options
  const weighted = checkAdapters(adapters.map((adapter, i) => ({ adapter, weight: gates[i] ?? 0 })))
  const mixed = await engine.use(async (host) => {
    const union = await openUnion(host.addon, weighted)
    return mixture(host, union, combinationOf(mix), dryRun, signal)
  })
  const found = await foldOpened(engine, model, { adapters: weighted, mix: mix ?? 'factor', opened: [mixed] }, options)
  const { notes } = 'forecast' in found ? found.forecast : found
  notes.push(...sumNotes(gates))
  return found
}

/** The mixture as an adapter in memory; for a dry run without values. */
async function mixture(
  host: Host,
  union: Union,
  each: Combination,
  dryRun: boolean,
  signal: AbortSignal | undefined,
): Promise<Adapter> {
  const { checkpoints, modules, turned } = union
  const files = checkpoints.flatMap((checkpoint) => checkpoint.files)
  /** A tensor of one of the adapters as one of all files. */
  const taken = (checkpoint: Checkpoint, tensor: CheckpointTensor): CheckpointTensor => {
    const before = checkpoints.slice(0, checkpoints.indexOf(checkpoint))
    return { ...tensor, file: tensor.file + before.reduce((sum, one) => sum + one.files.length, 0) }
  }
  const held: CheckpointFile[] = []
  const hold = (name: string, values: Float32Array<ArrayBuffer>, shape: number[]): CheckpointTensor => {
    const [path, memory] = [`the mixture's ${name}`, new Uint8Array(values.buffer)]
    const file = { path, name: path, size: memory.length, modified: 0, identity: path, headerHash: '', memory }
    held.push(file)
    return { name, file: files.length + held.length - 1, dtype: 'F32', shape, begin: 0, end: memory.length }
  }
  const matrices: LowRank[] = []
  for (const module of modules) {
    throwIfAborted(signal, 'The mixture')
    const { outputs, inputs, embedding, terms } = module
    const made = await each(host, module, signal)
    const { rank } = made
    const { a, b } = dryRun
      ? { a: new Float32Array(rank * inputs), b: new Float32Array(outputs * rank) }
      : 'later' in made
        ? await made.later()
        : made
    const below = terms.find(({ matrix }) => matrix.below !== undefined)
    matrices.push({
      target: `${module.module}.weight`,
      a: hold(`A of ${module.module}`, a, [rank, inputs]),
      b: hold(`B of ${module.module}`, b, [outputs, rank]),
      ...{ rank, scale: 1, turned: embedding, embedding },
      ...(below?.matrix.below && { below: taken(below.checkpoint, below.matrix.below) }),
    })
  }
  const [first] = checkpoints
  const path = checkpoints.map(({ path }) => path).join(' and ')
  const checkpoint: Checkpoint = { name: path, path, files: [...files, ...held], tensors: new Map(), stacks: new Map() }
  return {
    ...{ format: 'PEFT', checkpoint: first === undefined ? checkpoint : { ...first, ...checkpoint }, matrices, turned },
    replaced: new Map([...union.replaced].map(([name, { checkpoint, tensor }]) => [name, taken(checkpoint, tensor)])),
    ...{ biases: new Map(), tokens: new Map(), named: [], features: [], obstacles: [] },
  }
}

/** The rank and scale that all adapters have in a module; throws ERR_WEIGHTSMITH_ARGUMENT where they differ. */
function mixable(module: JoinedModule): { rank: number; scale: number } {
  const { terms } = module
  const scale = terms[0]?.matrix.scale ?? 1
  const other = terms.find(({ matrix }) => matrix.scale !== scale)
  if (other === undefined) return { rank: shared(module), scale }
  throw misuse(
    `The adapters have the scales ${scale} and ${other.matrix.scale} in ${module.module}, and gates can weight A and B ` +
      'only where scales are equal; take the mixture "output".',
    { tensor: other.matrix.a.name },
  )
}

/** Σ gᵢ Aᵢ times the scale, and Σ gᵢ Bᵢ. */
function factorMixed(host: Host, module: JoinedModule, signal: AbortSignal | undefined) {
  const { rank, scale } = mixable(module)
  const { terms } = module
  const later = async (): Promise<Factors> => {
    const read: Factors[] = []
    for (const { checkpoint, matrix } of terms) read.push(await readFactors(host, checkpoint, matrix, { signal }))
    const gates = terms.map(({ weight }) => weight)
    const sum = (of: 'a' | 'b', factor: number) => {
      const values = read.map((own) => own[of])
      return weightedSum(
        host,
        values,
        gates.map((gate) => gate * factor),
        signal,
      )
    }
    return { a: await sum('a', scale), b: await sum('b', 1) }
  }
  return { rank, later }
}
