/**
 * One adapter made of several. `cat` puts their factors side by side, which is exact and adds up the ranks. The other
 * methods combine the updates w s B A themselves and give the best factors of a lower rank; what that loses is
 * reported. PEFT's add_weighted_adapter works on A and on B instead, which mixes every B with every A; that is offered
 * apart.
 */

import { checkDisk, checkOutput, parseDType } from '../checkpoint/index.js'
import type { Engine } from '../engine/engine.js'
import type { StoreDType } from '../native/border.js'
import type { Host } from '../native/host.js'
import type { DryRun } from '../util/dry_run.js'
import { misuse, throwIfAborted, wrongOption } from '../util/errors.js'
import { plural } from '../util/plural.js'
import type { ProgressEvent } from '../util/progress.js'
import { type Compressed, compressMatrix, compressProduct, type Target } from './compress.js'
import { product } from './device.js'
import { combineElements, type Elementwise, elementwiseMethods } from './elementwise.js'
import { type Factors, readFactors } from './factors.js'
import { checkAdapters, type WeightedAdapter } from './fold.js'
import { type AdaptedModule, adapterBytes, saveAdapter } from './save.js'
import { type JoinedModule, openUnion, type Term, type Union } from './union.js'

/** What each method makes of the updates of a module; docs/lora.md is written from it. */
export const combinations = {
  cat: 'Σ w s B A, exactly: factors stand side by side, and ranks add up',
  linear: 'the same sum, as the best factors of a lower rank',
  ...elementwiseMethods,
} as const

export type CombineMethod = keyof typeof combinations

export const combineMethods = Object.keys(combinations) as readonly CombineMethod[]

/** What all verbs that write adapters take. */
export interface AdapterOptions {
  /** The folder to write. */
  out: string
  /** How A and B are stored, rounded once: `float32` (the default), `bfloat16` or `float16`. */
  dtype?: string | undefined
  overwrite?: boolean | undefined
  /** Wait until all is on disk before the folder gets its name. Defaults to true. */
  sync?: boolean | undefined
  /** Check everything, but compute and write nothing. */
  dryRun?: boolean | undefined
  signal?: AbortSignal | undefined
  /** Modules that are computed, then bytes that are written. */
  onProgress?: ((event: ProgressEvent) => void) | undefined
}

/** Which rank the result gets; `energy` and `tolerance` exclude each other, and `rank` is the most they give. */
export interface RankOptions {
  /** At least 1. */
  rank?: number | undefined
  /** Share of the squared norm of each update that is kept, above 0 and up to 1. */
  energy?: number | undefined
  /** Norm of what is lost of each update over its norm, from 0 and below 1. */
  tolerance?: number | undefined
}

export interface CombineOptions extends AdapterOptions, RankOptions {
  /** Defaults to `cat`. */
  method?: CombineMethod | undefined
  /** All but cat and linear: share of the elements of each update that is kept, above 0 and up to 1. */
  density?: number | undefined
  /** ties, dare_ties: elect signs by the sum of updates (`total`, the default) or by their number (`frequency`). */
  majority?: 'total' | 'frequency' | undefined
  /**
   * Combine A and B apart, by the roots of their weights, as PEFT's add_weighted_adapter does. It needs equal ranks,
   * and its result is not the combination of the updates. Defaults to false.
   */
  peftCompat?: boolean | undefined
  /** Of the drops of dare_linear and dare_ties. Defaults to 0. */
  seed?: number | undefined
}

/** One module of a result. */
export interface AdapterModuleReport {
  module: string
  rank: number
  /** Frobenius norm of its update, and what the rank loses of it, over that norm. Absent: nothing was compressed. */
  norm?: number
  residual?: number
}

export interface AdapterReport {
  out: string
  adapters: Required<WeightedAdapter>[]
  method: string
  modules: AdapterModuleReport[]
  /** Tensors that were copied as a whole. */
  whole: string[]
  /** Norm of what was lost in all modules over that of all updates, before A and B are rounded; 0: nothing was. */
  residual: number
  dtype: StoreDType
  device: string
  deviceBytes: number
  bytesRead: number
  bytesWritten: number
  milliseconds: number
  notes: string[]
}

export interface AdapterForecast {
  out: string
  adapters: Required<WeightedAdapter>[]
  method: string
  /** How many modules the result changes, and the largest rank it could have in one. */
  modules: number
  rank: number
  dtype: StoreDType
  device: string
  deviceBytes: number
  bytesRead: number
  /** At most. */
  bytesWritten: number
  notes: string[]
}

const what = 'The combination of adapters'

/**
 * Combines adapters in PEFT's format into one, whose scale is 1 in every module. Adapters may change different modules
 * and have different ranks, scales and types. Rejects with ERR_WEIGHTSMITH_FORMAT for adapters that are more than
 * W + s (B A), such as DoRA, or that differ in tensors they have as a whole, with ERR_WEIGHTSMITH_SHAPE_MISMATCH for
 * those of different models, ERR_WEIGHTSMITH_ARGUMENT for options that do not fit, and as `saveAdapter` does for
 * outputs. The same bytes come out on every device.
 */
export function combineAdapters(
  engine: Engine,
  adapters: readonly (string | WeightedAdapter)[],
  options: CombineOptions & { dryRun: true },
): Promise<DryRun<AdapterForecast>>
export function combineAdapters(
  engine: Engine,
  adapters: readonly (string | WeightedAdapter)[],
  options: CombineOptions & { dryRun?: false | undefined },
): Promise<AdapterReport>
export function combineAdapters(
  engine: Engine,
  adapters: readonly (string | WeightedAdapter)[],
  options: CombineOptions,
): Promise<AdapterReport | DryRun<AdapterForecast>>
export async function combineAdapters(
  engine: Engine,
  adapters: readonly (string | WeightedAdapter)[],
  options: CombineOptions,
): Promise<AdapterReport | DryRun<AdapterForecast>> {
  const { method = 'cat', density, majority, peftCompat = false, seed = 0, rank, energy, tolerance } = options
  checkCombine(options)
  const elementwise: Elementwise = {
    ...{ method: method === 'cat' ? 'linear' : method, density: density ?? 1, majority: majority ?? 'total', seed },
    signal: options.signal,
  }
  const target = { rank, energy, tolerance }
  const each: Combination =
    method === 'cat'
      ? concatenated
      : peftCompat
        ? (host, module) => apart(host, module, elementwise)
        : method === 'linear'
          ? (host, module, signal) => summed(host, module, target, signal)
          : (host, module, signal) => elementsCombined(host, module, elementwise, target, signal)
  const name = peftCompat && method !== 'cat' ? `${method} (PEFT)` : method
  return makeAdapter(engine, adapters, options, {
    recipe: { combine: { adapters, ...recipeOf(options) } },
    about: `It combines ${plural(adapters.length, 'adapter')} by the method ${name}.`,
    method: name,
    each,
    upper: (module) =>
      method === 'cat'
        ? ranksOf(module)
        : peftCompat
          ? shared(module)
          : Math.min(upper(module, target), method === 'linear' ? ranksOf(module) : Number.POSITIVE_INFINITY),
  })
}

/** What the result's factors of one module are made of. */
export type Combination = (
  host: Host,
  module: JoinedModule,
  signal: AbortSignal | undefined,
) => Made | Promise<Compressed | (Factors & { rank: number })>

/** Factors that are made when they are written, of a rank that is known before. */
interface Made {
  rank: number
  later(): Promise<Factors>
}

export interface Making {
  recipe: Record<string, unknown>
  about: string
  method: string
  each: Combination
  /** The largest rank a module can get. */
  upper(module: JoinedModule): number
}

/** Opens adapters, makes the factors of each module, and writes what comes of it. */
export async function makeAdapter(
  engine: Engine,
  given: readonly (string | WeightedAdapter)[],
  options: AdapterOptions,
  { recipe, about, method, each, upper }: Making,
): Promise<AdapterReport | DryRun<AdapterForecast>> {
  const { signal, onProgress } = options
  const begin = performance.now()
  const adapters = checkAdapters(given)
  const dtype = parseDType(options.dtype ?? 'float32')
  if (dtype === undefined) throw wrongOption('dtype', 'float32, float16 or bfloat16', options.dtype)
  throwIfAborted(signal, what)
  return engine.use(async (host) => {
    const union = await openUnion(host.addon, adapters)
    const target = await checkOutput(options.out, union.checkpoints, { overwrite: options.overwrite })
    const plain = union.modules.map(({ terms: _, ...module }) => module)
    const { whole, turned, base, task, checkpoints, notes } = union
    const common = { whole, turned, base, task }
    const bytesRead = bytesOf(union)
    const device = host.device.info.name
    const facts = { adapters, method, dtype, device, deviceBytes: host.memory, bytesRead, notes }
    const largest = union.modules.map((module, i) => ({ ...(plain[i] ?? module), rank: upper(module) }))
    const bytesWritten = adapterBytes({ ...common, modules: largest }, dtype)
    if (options.dryRun) {
      await checkDisk(target, bytesWritten)
      const rank = largest.reduce((most, module) => Math.max(most, module.rank), 0)
      return { forecast: { out: target, ...facts, modules: largest.length, rank, bytesWritten } }
    }
    const modules: AdaptedModule[] = []
    const report: AdapterModuleReport[] = []
    let [squares, lost] = [0, 0]
    for (const [i, module] of union.modules.entries()) {
      throwIfAborted(signal, what)
      const made = await each(host, module, signal)
      const { rank } = made
      modules.push({ ...(plain[i] ?? module), rank, factors: () => ('later' in made ? made.later() : made) })
      if ('norm' in made) {
        squares += made.norm ** 2
        lost += made.lost ** 2
        report.push({ module: module.module, rank, norm: made.norm, residual: ratio(made.lost, made.norm) })
      } else report.push({ module: module.module, rank })
      const item = module.module
      onProgress?.({ phase: 'combine', done: i + 1, total: union.modules.length, unit: 'modules', item })
    }
    const saved = await saveAdapter(
      host,
      { ...common, modules },
      { ...options, dtype, inputs: checkpoints, recipe, about },
    )
    return {
      ...{ out: saved.out, ...facts, modules: report, whole: [...whole.keys()] },
      ...{ residual: ratio(Math.sqrt(lost), Math.sqrt(squares)), bytesWritten: saved.bytesWritten },
      milliseconds: performance.now() - begin,
    }
  })
}

const ratio = (part: number, all: number) => (all === 0 ? 0 : part / all)

function bytesOf({ modules, whole }: Union): number {
  let bytes = [...whole.values()].reduce((sum, { size }) => sum + size, 0)
  for (const { below, terms } of modules) {
    bytes += below?.size ?? 0
    for (const { matrix } of terms) for (const { begin, end } of [matrix.a, matrix.b]) bytes += end - begin
  }
  return bytes
}

function checkCombine({ method = 'cat', density, majority, peftCompat, ...ranks }: CombineOptions): void {
  if (!combineMethods.includes(method)) {
    throw misuse(`There is no method "${method}" of combination; there are ${combineMethods.join(', ')}.`)
  }
  checkRanks(ranks)
  const limited = (['rank', 'energy', 'tolerance'] as const).find((key) => ranks[key] !== undefined)
  if (limited !== undefined && method === 'cat') {
    throw misuse(`The method cat keeps all ranks, so it takes no ${limited}; take linear, which combines the same sum.`)
  }
  if (limited !== undefined && peftCompat)
    throw misuse(`PEFT's combination of A and B apart keeps the rank; leave out ${limited}.`)
  const elementwise = Object.hasOwn(elementwiseMethods, method)
  if (elementwise && density === undefined) throw misuse(`The method ${method} needs a density.`)
  if (!elementwise && density !== undefined) throw misuse(`The method ${method} takes no density.`)
  if (density !== undefined && !(density > 0 && density <= 1)) {
    throw misuse(`The density is ${density}, but it is above 0 and at most 1.`)
  }
  if (majority !== undefined && method !== 'ties' && method !== 'dare_ties') {
    throw misuse(`The method ${method} elects no signs, so it takes no majority.`)
  }
}

/** Throws ERR_WEIGHTSMITH_ARGUMENT. */
export function checkRanks({ rank, energy, tolerance }: RankOptions): void {
  if (rank !== undefined && !(Number.isSafeInteger(rank) && rank > 0)) {
    throw misuse(`The rank is ${rank}, but it is a whole number from 1.`)
  }
  if (energy !== undefined && !(energy > 0 && energy <= 1)) {
    throw misuse(`The energy is ${energy}, but it is above 0 and at most 1.`)
  }
  if (tolerance !== undefined && !(tolerance >= 0 && tolerance < 1)) {
    throw misuse(`The tolerance is ${tolerance}, but it is from 0 and below 1.`)
  }
  if (energy !== undefined && tolerance !== undefined) {
    throw misuse('Both energy and tolerance are given, and each of them decides on the rank.')
  }
}

/** The options that decide about the result, for its manifest. */
export function recipeOf<O extends AdapterOptions>({
  out: _,
  overwrite: __,
  sync: ___,
  dryRun: ____,
  signal: _____,
  onProgress: ______,
  ...rest
}: O): Record<string, unknown> {
  return Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined))
}

export function ranksOf({ terms }: JoinedModule): number {
  return terms.reduce((sum, { matrix }) => sum + matrix.rank, 0)
}

/** What `target` can come to; without one, the largest rank that an adapter has there, as in PEFT. */
export function upper(module: JoinedModule, target: Target): number {
  const { rank, energy, tolerance } = limits(module, target)
  const full = Math.min(module.outputs, module.inputs)
  return Math.min(full, (rank ?? (energy ?? tolerance) === undefined) ? (rank ?? full) : full)
}

function limits({ terms }: JoinedModule, target: Target): Target {
  const { rank, energy, tolerance } = target
  if (rank !== undefined || energy !== undefined || tolerance !== undefined) return target
  return { rank: Math.max(...terms.map(({ matrix }) => matrix.rank)) }
}

/** A of the adapters below each other, times weight and scale, and B side by side. */
export function concatenated(host: Host, module: JoinedModule, signal: AbortSignal | undefined): Made {
  return { rank: ranksOf(module), later: () => stacked(host, module, signal) }
}

async function stacked(host: Host, module: JoinedModule, signal: AbortSignal | undefined): Promise<Factors> {
  const { terms, outputs, inputs } = module
  const rank = ranksOf(module)
  const a = new Float32Array(rank * inputs)
  const b = new Float32Array(outputs * rank)
  let first = 0
  for (const { checkpoint, matrix, weight } of terms) {
    const own = await readFactors(host, checkpoint, matrix, { scale: weight * matrix.scale, signal })
    a.set(own.a, first * inputs)
    for (let row = 0; row < outputs; row++) {
      b.set(own.b.subarray(row * matrix.rank, (row + 1) * matrix.rank), row * rank + first)
    }
    first += matrix.rank
  }
  return { a, b }
}

/** The exact sum of the updates, as factors of a lower rank. */
export async function summed(
  host: Host,
  module: JoinedModule,
  target: Target,
  signal: AbortSignal | undefined,
): Promise<Compressed> {
  const { outputs: rows, inputs: columns } = module
  return compressProduct(host, await stacked(host, module, signal), { rows, columns }, limits(module, target), signal)
}

/** The updates as matrices, combined element by element. */
async function elementsCombined(
  host: Host,
  module: JoinedModule,
  elementwise: Elementwise,
  target: Target,
  signal: AbortSignal | undefined,
): Promise<Compressed> {
  const { outputs: rows, inputs: columns, terms } = module
  const updates = []
  for (const { checkpoint, matrix, weight, index } of terms) {
    const { a, b } = await readFactors(host, checkpoint, matrix, { signal })
    const { rank, scale } = matrix
    updates.push({ values: await product(host, [b, a], { rows, rank, columns, scale }, signal), weight, index })
  }
  const matrix = await combineElements(host, updates, module.module, elementwise)
  return compressMatrix(host, matrix, { rows, columns }, limits(module, target), { name: module.module, signal })
}

/** A and B apart, each times the root of weight and scale, and A times their sign: what PEFT does. */
async function apart(host: Host, module: JoinedModule, elementwise: Elementwise): Promise<Factors & { rank: number }> {
  const rank = shared(module)
  const read: (Factors & Pick<Term, 'index'> & { factor: number })[] = []
  for (const { checkpoint, matrix, weight, index } of module.terms) {
    const own = await readFactors(host, checkpoint, matrix, { signal: elementwise.signal })
    read.push({ ...own, index, factor: weight * matrix.scale })
  }
  const side = (of: 'a' | 'b', weightOf: (factor: number) => number) => {
    const updates = read.map((own) => ({ values: own[of], weight: weightOf(own.factor), index: own.index }))
    return combineElements(host, updates, `${module.module}.${of}`, elementwise)
  }
  const a = await side('a', (factor) => Math.sign(factor) * Math.sqrt(Math.abs(factor)))
  return { rank, a, b: await side('b', (factor) => Math.sqrt(Math.abs(factor))) }
}

/** The rank that all adapters have in a module; throws ERR_WEIGHTSMITH_ARGUMENT where they differ. */
export function shared({ module, terms }: JoinedModule): number {
  const [first, ...others] = terms
  const rank = first?.matrix.rank ?? 0
  const other = others.find(({ matrix }) => matrix.rank !== rank)
  if (other === undefined) return rank
  throw misuse(
    `The adapters have the ranks ${rank} and ${other.matrix.rank} in ${module}, and A and B can be combined apart only ` +
      'where ranks are equal.',
    { tensor: other.matrix.a.name },
  )
}
