/**
 * An adapter from two checkpoints: of every linear the leading part of what training has changed, as factors; what has
 * changed besides, exactly as it is.
 */

import {
  type Checkpoint,
  type CheckpointTensor,
  type Content,
  checkOutput,
  cutTensor,
  isComputed,
  isFloat,
  isHead,
  isLoadable,
  moduleOf,
  openCheckpoint,
  parseDType,
  refuseQuantised,
  resolveModel,
} from '../checkpoint/index.js'
import { tiesEmbeddings } from '../checkpoint/ties.js'
import type { Engine } from '../engine/engine.js'
import type { StoreDType } from '../native/border.js'
import type { Host } from '../native/host.js'
import type { DryRun } from '../util/dry_run.js'
import { misuse, throwIfAborted, WeightsmithError, wrongOption } from '../util/errors.js'
import type { ProgressEvent } from '../util/progress.js'
import { elementsOf, type Factors, roundedFactors } from './factors.js'
import { isSmall, type LeadingFactors, leadingFactors, sketchWidth } from './range_finder.js'
import { checkRanks, firstRank, type RankOptions, rankOf, shareBudget } from './ranks.js'
import { saveAdapter } from './save.js'
import { Difference, type DifferenceOptions } from './thin_products.js'

export interface ExtractOptions extends RankOptions {
  /** The folder to write. */
  out: string
  /** How factors are stored: `float32`, `float16` or `bfloat16`. Defaults to `float32`. */
  dtype?: string | undefined
  /** Of the random signs; they also depend on the name of each tensor. Defaults to 0. */
  seed?: number | undefined
  overwrite?: boolean | undefined
  /** Wait until all is on disk before the folder gets its name. Defaults to true. */
  sync?: boolean | undefined
  /** Check everything, but compute and write nothing. */
  dryRun?: boolean | undefined
  signal?: AbortSignal | undefined
  onProgress?: ((event: ProgressEvent) => void) | undefined
}

export interface ExtractedModule {
  /** `model.layers.0.mlp.up_proj` */
  module: string
  outputs: number
  inputs: number
  rank: number
  /** ‖D‖ of the difference D, Frobenius. */
  norm: number
  /** Share of ‖D‖² that the factors keep, as they are stored. */
  energy: number
  /** ‖D - B A‖, with the factors as they are stored. */
  residual: number
  /** Leading singular values of D, descending: those that were computed. */
  spectrum: number[]
  /** Whether these are all of them. */
  whole: boolean
}

export interface ExtractReport {
  base: string
  tuned: string
  out: string
  device: string
  modules: ExtractedModule[]
  /** Modules that the adapter has whole, and why. */
  saved: { module: string; reason: string }[]
  /** Tensors that are the same in both models; the adapter leaves them out. */
  unchanged: string[]
  /** Modules that have changed, but for which the budget had no parameter left. */
  dropped: string[]
  /** Norm of all differences that factors stand for, and of what they leave. */
  norm: number
  residual: number
  /** Of all factors. */
  parameters: number
  bytesWritten: number
  milliseconds: number
}

export interface ExtractForecast {
  base: string
  tuned: string
  /** Linears, which become factors where they have changed. */
  linears: number
  /** Other tensors, which are kept exactly where they have changed. */
  others: number
  /** At least: a spectrum that falls slowly is looked at again. */
  bytesRead: number
  device: string
}

const what = 'The extraction'
/** What uses a difference once its norm is known: range finder or factorisation of the whole, and residual. */
const uses = { sketch: 7, whole: 2 }
/** Modules that are worked on together: while the CPU factorises for one, the device multiplies for the other. */
const atOnce = 2

/**
 * Extracts an adapter that turns `base` into `tuned`, and writes it as PEFT does. Throws ERR_WEIGHTSMITH_ARGUMENT where
 * the models are the same, ERR_WEIGHTSMITH_MISSING_TENSOR or _SHAPE_MISMATCH where they are not of one architecture,
 * ERR_WEIGHTSMITH_NON_FINITE where a difference is NaN or infinite, and what `saveAdapter` throws.
 */
export function extractAdapter(
  engine: Engine,
  base: string,
  tuned: string,
  options: ExtractOptions & { dryRun: true },
): Promise<DryRun<ExtractForecast>>
export function extractAdapter(
  engine: Engine,
  base: string,
  tuned: string,
  options: ExtractOptions & { dryRun?: false | undefined },
): Promise<ExtractReport>
export function extractAdapter(
  engine: Engine,
  base: string,
  tuned: string,
  options: ExtractOptions,
): Promise<ExtractReport | DryRun<ExtractForecast>>
export async function extractAdapter(
  engine: Engine,
  base: string,
  tuned: string,
  options: ExtractOptions,
): Promise<ExtractReport | DryRun<ExtractForecast>> {
  checkRanks(options)
  const { dtype = 'float32', seed = 0, signal } = options
  const type = parseDType(dtype)
  if (type === undefined) throw wrongOption('dtype', 'float32, float16 or bfloat16', dtype)
  if (!Number.isSafeInteger(seed) || seed < 0) throw wrongOption('seed', 'a whole number from 0 to 2^53 - 1', seed)
  throwIfAborted(signal, what)
  return engine.use(async (host) => {
    const open = async (model: string) => openCheckpoint(host.addon, await resolveModel(model, process.cwd()), model)
    const pair = { base: await open(base), tuned: await open(tuned) }
    for (const model of Object.values(pair)) refuseQuantised(model, 'extract from models in float16 or bfloat16')
    await checkOutput(options.out, Object.values(pair), { overwrite: options.overwrite })
    const compared = compare(pair)
    if (options.dryRun) return { forecast: forecast(host, pair, compared, options) }
    return new Extraction(host, pair, compared, options, type, seed).run()
  })
}

interface Pair {
  base: Checkpoint
  tuned: Checkpoint
}

interface Both {
  base: CheckpointTensor
  tuned: CheckpointTensor
}

interface Compared {
  /** Matrices that factors may stand for, by the name of their module. */
  linears: Map<string, Both>
  /** Tensors of one shape that stay whole. */
  others: Both[]
  /** Modules that cannot be the same, and why. */
  other: Map<string, string>
}

const ownerOf = (name: string) => name.replace(/\.[^.]+$/, '')

function compare({ base, tuned }: Pair): Compared {
  const linears = new Map<string, Both>()
  const others: Both[] = []
  const other = new Map<string, string>()
  for (const [name, one] of base.tensors) {
    const two = tuned.tensors.get(name)
    if (two === undefined) {
      if (isComputed(one) || (isHead(name) && tiesEmbeddings(base))) continue
      throw missing(name, base, tuned)
    }
    if (String(one.shape) !== String(two.shape)) {
      if (!grown(name, one, two)) {
        throw new WeightsmithError(
          'ERR_WEIGHTSMITH_SHAPE_MISMATCH',
          `${name} has the shape [${one.shape}] in ${base.name} and [${two.shape}] in ${tuned.name}; only a table of ` +
            'tokens may have grown.',
          { tensor: name },
        )
      }
      other.set(ownerOf(name), `has ${two.shape[0]} rows in place of ${one.shape[0]}`)
      continue
    }
    if (elementsOf(one) === 0 || (isComputed(one) && !isFloat(one.dtype))) continue
    for (const [model, { dtype }] of [
      [base, one],
      [tuned, two],
    ] as const) {
      if (isLoadable(dtype)) continue
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_DTYPE',
        `${name} is stored as ${dtype} in ${model.name}, and an adapter changes floating-point weights only.`,
        { tensor: name },
      )
    }
    if (isLinear(name, one)) linears.set(ownerOf(name), { base: one, tuned: two })
    else others.push({ base: one, tuned: two })
  }
  for (const [name, two] of tuned.tensors) {
    if (base.tensors.has(name) || isComputed(two) || (isHead(name) && tiesEmbeddings(tuned))) continue
    if (!isHead(name)) throw missing(name, tuned, base)
    other.set(ownerOf(name), 'is a head of its own, which the base model has not')
  }
  return { linears, others, other }
}

function missing(name: string, there: Checkpoint, not: Checkpoint): WeightsmithError {
  return new WeightsmithError(
    'ERR_WEIGHTSMITH_MISSING_TENSOR',
    `${name} of ${there.name} is not in ${not.name}; an adapter is extracted from two models of one architecture.`,
    { tensor: name },
  )
}

/** Embeddings and heads are tables of tokens, and stay whole. */
const isTable = (name: string) => ['embed', 'lm_head'].includes(moduleOf(name))

function grown(name: string, one: CheckpointTensor, two: CheckpointTensor): boolean {
  return isTable(name) && one.shape.length === 2 && two.shape.length === 2 && one.shape[1] === two.shape[1]
}

function isLinear(name: string, { shape }: CheckpointTensor): boolean {
  return shape.length === 2 && name.endsWith('.weight') && !isTable(name) && moduleOf(name) !== 'norm'
}

const bytesIn = ({ base, tuned }: Both) => base.end - base.begin + tuned.end - tuned.begin

/** The difference of a module, within its share of the memory. */
function differenceOf(host: Host, { base, tuned }: Pair, both: Both, options: DifferenceOptions = {}): Difference {
  const [one, two] = [
    { checkpoint: base, tensor: both.base },
    { checkpoint: tuned, tensor: both.tuned },
  ]
  const memory = Math.floor(host.memory / atOnce)
  return new Difference({ device: host.device, memory }, two, one, options)
}

/** Columns of the thin matrices that come first. */
function widthOf({ rows, columns }: Pick<Difference, 'rows' | 'columns'>, rank: number): number {
  return isSmall(rows, columns, rank) ? 4 * Math.ceil(Math.min(rows, columns) / 4) : sketchWidth(rank)
}

function bytesToRead(host: Host, pair: Pair, { linears, others }: Compared, options: RankOptions): number {
  const rank = firstRank(options)
  let bytes = others.reduce((sum, both) => sum + bytesIn(both), 0)
  for (const both of linears.values()) {
    const difference = differenceOf(host, pair, both)
    const { rows, columns } = difference
    const reads = difference.reads(uses[isSmall(rows, columns, rank) ? 'whole' : 'sketch'], widthOf(difference, rank))
    // Ranks of a budget are known last, and residuals after them.
    bytes += bytesIn(both) * (reads === 1 && options.budget !== undefined ? 2 : reads)
  }
  return bytes
}

function forecast(host: Host, pair: Pair, compared: Compared, options: RankOptions): ExtractForecast {
  return {
    base: pair.base.name,
    tuned: pair.tuned.name,
    linears: compared.linears.size,
    others: compared.others.length + compared.other.size,
    bytesRead: bytesToRead(host, pair, compared, options),
    device: host.device.info.name,
  }
}

interface Changed {
  module: string
  difference: Difference
  norm: number
  factors: LeadingFactors
  rank: number
}

/** What the adapter has of a module. */
interface Stored {
  report: ExtractedModule
  factors: Factors
}

class Extraction {
  private readonly start = performance.now()
  private readonly total: number
  private readonly unchanged: string[] = []
  private done = 0

  constructor(
    private readonly host: Host,
    private readonly pair: Pair,
    private readonly compared: Compared,
    private readonly options: ExtractOptions,
    private readonly dtype: StoreDType,
    private readonly seed: number,
  ) {
    this.total = bytesToRead(host, pair, compared, options)
  }

  async run(): Promise<ExtractReport> {
    const { host, options } = this
    const saved = await this.changedWhole()
    const linears = [...this.compared.linears].filter(([module]) => !saved.has(module))
    const found = await inOrder(linears, ([module, both]) => this.leading(module, both))
    this.unchanged.push(...linears.flatMap(([, { tuned }], i) => (found[i] === undefined ? [tuned.name] : [])))
    const changed = found.filter((one) => one !== undefined)
    if (changed.length === 0 && saved.size === 0) {
      const { base, tuned } = this.pair
      throw misuse(`${tuned.name} is the same as ${base.name}: there is nothing to extract.`)
    }
    if (options.budget !== undefined) {
      const priced = changed.map(({ factors, rank, difference: { rows, columns } }) => ({
        values: factors.values.subarray(0, rank),
        cost: rows + columns,
      }))
      const ranks = shareBudget(priced, options.budget)
      for (const [i, one] of changed.entries()) one.rank = ranks[i] ?? 0
    }
    const kept = changed.filter(({ rank }) => rank > 0)
    const stored = await inOrder(kept, (one) => one.stored ?? this.store(one))
    const modules = stored.map(({ report }) => report)
    const factors = new Map(stored.map(({ report, factors }) => [report.module, factors]))
    const written = await this.save(modules, factors, saved)
    const sum = (of: (module: ExtractedModule) => number) => Math.hypot(...modules.map(of))
    return {
      ...{ base: this.pair.base.name, tuned: this.pair.tuned.name, out: written.out, device: host.device.info.name },
      modules,
      saved: [...saved].map(([module, reason]) => ({ module, reason })),
      unchanged: this.unchanged,
      dropped: changed.filter(({ rank }) => rank === 0).map(({ module }) => module),
      norm: sum(({ norm }) => norm),
      residual: sum(({ residual }) => residual),
      parameters: modules.reduce((all, { rank, outputs, inputs }) => all + rank * (outputs + inputs), 0),
      bytesWritten: written.bytesWritten,
      milliseconds: performance.now() - this.start,
    }
  }

  private difference(both: Both): Difference {
    const onRead = (bytes: number) => {
      this.done = Math.min(this.total, this.done + bytes)
      const { done, total } = this
      this.options.onProgress?.({ phase: 'extract', done, total, unit: 'bytes', item: both.tuned.name })
    }
    return differenceOf(this.host, this.pair, both, { signal: this.options.signal, onRead })
  }

  /** Modules that the adapter has whole, and why. */
  private async changedWhole(): Promise<Map<string, string>> {
    const saved = new Map(this.compared.other)
    for (const both of this.compared.others) {
      const { name } = both.tuned
      if (saved.has(ownerOf(name))) continue
      if ((await this.difference(both).norm()) === 0) {
        this.unchanged.push(name)
        continue
      }
      const owner = ownerOf(name)
      const beside = this.compared.linears.has(owner) ? ', so its weight is not made of factors' : ''
      saved.set(owner, `${name.slice(owner.length + 1)} has changed${beside}`)
    }
    // A head that reads the table has to change with it: PEFT keeps the old one otherwise.
    const { base, tuned } = this.pair
    const table = [...saved.keys()].find((module) => /(^|\.)embed_tokens$/.test(module))
    if (table !== undefined && tiesEmbeddings(base) && tiesEmbeddings(tuned)) {
      saved.set('lm_head', `is tied to ${table}`)
    }
    return saved
  }

  private async leading(module: string, both: Both): Promise<(Changed & { stored?: Stored }) | undefined> {
    const { host, options, seed } = this
    const difference = this.difference(both)
    try {
      const norm = await difference.load(widthOf(difference, firstRank(options)))
      if (norm === 0) return undefined
      for (let rank = firstRank(options); ; rank *= 2) {
        const most = Math.min(rank, options.rank ?? rank)
        const factors = await leadingFactors(host, difference, most, both.tuned.name, seed)
        const known = rankOf(factors.values, norm, factors.exact, options)
        if (known === undefined) continue
        const changed = { module, difference, norm, factors, rank: known }
        return options.budget === undefined ? { ...changed, stored: await this.store(changed) } : changed
      }
    } finally {
      await difference.release()
    }
  }

  private async store(changed: Changed): Promise<Stored> {
    const { host, dtype, options } = this
    const { module, difference, norm, rank, factors } = changed
    const { rows: outputs, columns: inputs } = difference
    const pair = await factors.factors(rank)
    const stored = await roundedFactors(host, [pair.a, pair.b], dtype, module, options.signal)
    const [a = pair.a, b = pair.b] = stored
    try {
      const residual = await difference.residual(a, b)
      const report = {
        ...{ module, outputs, inputs, rank, norm, residual },
        energy: Math.max(0, 1 - (residual / norm) ** 2),
        spectrum: [...factors.values],
        whole: factors.exact,
      }
      return { report, factors: { a, b } }
    } finally {
      await difference.release()
    }
  }

  private async save(modules: ExtractedModule[], factors: Map<string, Factors>, saved: Map<string, string>) {
    const { pair, options, dtype, seed } = this
    const { out, overwrite, sync, signal, onProgress, rank, energy, tolerance, budget } = options
    const rules = { rank, energy, tolerance, budget }
    const given = Object.fromEntries(Object.entries(rules).filter(([, value]) => value !== undefined))
    return saveAdapter(
      this.host,
      {
        modules: modules.map(({ module, rank, outputs, inputs }) => ({
          ...{ module, rank, outputs, inputs },
          factors: () => factors.get(module) ?? { a: new Float32Array(), b: new Float32Array() },
        })),
        whole: wholeTensors(pair.tuned, saved),
        base: pair.base.name,
      },
      {
        ...{ out, dtype, overwrite, sync, signal, onProgress, seed },
        inputs: [pair.base, pair.tuned],
        recipe: {
          extract: {
            ...{ base: pair.base.name, tuned: pair.tuned.name },
            ...(Object.keys(given).length > 0 ? given : { rank: 16 }),
          },
        },
        about: `Extracted: the leading part of what ${pair.tuned.name} changes in ${pair.base.name}.`,
      },
    )
  }
}

/** All tensors of these modules, as the tuned model has them; a tied head is its table. */
function wholeTensors(tuned: Checkpoint, saved: ReadonlyMap<string, string>): Map<string, Content> {
  const whole = new Map<string, Content>()
  for (const [name, tensor] of tuned.tensors) {
    if (!saved.has(ownerOf(name)) || isComputed(tensor) || (isHead(name) && tiesEmbeddings(tuned))) continue
    whole.set(name, cutTensor(tuned, tensor))
    if (/(^|\.)embed_tokens\.weight$/.test(name) && saved.has('lm_head') && tiesEmbeddings(tuned)) {
      whole.set('lm_head.weight', cutTensor(tuned, tensor))
    }
  }
  return whole
}

/** What becomes of each item, a few at a time; fails once all that has begun has ended. */
async function inOrder<T, R>(items: readonly T[], each: (item: T) => R | Promise<R>): Promise<R[]> {
  const results: R[] = []
  let next = 0
  let failed = false
  const work = async () => {
    for (let i = next++; i < items.length && !failed; i = next++) {
      try {
        results[i] = await each(items[i] as T)
      } catch (error) {
        failed = true
        throw error
      }
    }
  }
  const ended = await Promise.allSettled(Array.from({ length: atOnce }, work))
  for (const one of ended) if (one.status === 'rejected') throw one.reason
  return results
}
