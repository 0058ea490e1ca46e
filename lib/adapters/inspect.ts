/**
 * `lora inspect`: what an adapter is, what it changes and by how much, and what may go wrong with it. Norms and
 * singular values of s (B A) come from the triangles of QR factorisations of B and Aᵀ, which are r × r: the product
 * itself is never computed.
 */

import {
  type Checkpoint,
  type CheckpointTensor,
  openCheckpoint,
  quantisationNamed,
  resolveModel,
  tiesEmbeddings,
} from '../checkpoint/index.js'
import type { Engine } from '../engine/engine.js'
import { type Adapter, type LowRank, readAdapter } from '../lora/index.js'
import { findWeight, tieOf } from '../merge/plan/index.js'
import type { NativeAddon } from '../native/border.js'
import type { Host } from '../native/host.js'
import { untilDone } from '../native/job.js'
import { loadAddon } from '../native/load.js'
import { misuse, throwIfAborted } from '../util/errors.js'
import { byteProgress, type ProgressEvent } from '../util/progress.js'

export interface InspectAdapterOptions {
  /** The model it is for: weights are compared with what the adapter adds to them. */
  base?: string | undefined
  /** What norms of the base are computed on; needed with `base`. */
  engine?: Engine | undefined
  signal?: AbortSignal | undefined
  onProgress?: ((event: ProgressEvent) => void) | undefined
}

/** A low-rank change of one weight. */
export interface AdapterModule {
  /** Name of the weight, as the adapter has it. */
  weight: string
  outputs: number
  inputs: number
  rank: number
  /** What the scale comes from: s r, or s √r of rsLoRA; of mlx-lm s itself. */
  alpha: number
  scale: number
  /** Type of A and B, by their safetensors names. */
  dtype: string
  /** ‖s B A‖, Frobenius; of experts that of all together. */
  norm: number
  /** ‖s B A‖ / ‖W‖; absent without a base, or where the base lacks the weight. */
  relative?: number
  /** exp of the entropy of the singular values as shares of their sum (Roy and Vetterli 2007); 0 for no change. */
  effectiveRank: number
  /** Matrices of a stack of experts. */
  experts?: number
}

export interface AdapterInspection {
  adapter: string
  format: Adapter['format']
  /** The model it was trained on, as its config names it. */
  base?: string
  /** Elements of all its tensors. */
  parameters: number
  modules: AdapterModule[]
  /** Tensors that replace those of the model. */
  replaced: { tensor: string; shape: number[]; dtype: string }[]
  /** Biases that it adds to. */
  biases: string[]
  /** Tables of tokens of which it replaces rows, and how many. */
  tokens: { tensor: string; rows: number }[]
  /** What is special about it, by the keys of its config. */
  features: string[]
  /** Modules that the config names and the file lacks, and modules of the file that the config does not name. */
  unmatched: { named: string[]; held: string[] }
  /** Tensors with NaN or infinite values. */
  nonFinite: string[]
  /** Why it cannot be folded; empty where it can be. */
  obstacles: string[]
  /** What may go wrong where it is used. */
  hazards: string[]
}

/**
 * Says what a LoRA adapter holds: a folder as PEFT or mlx-lm saves them, or its name in the local Hugging Face cache.
 * Throws ERR_WEIGHTSMITH_FORMAT for what is no adapter or contradicts itself.
 */
export async function inspectAdapter(path: string, options: InspectAdapterOptions = {}): Promise<AdapterInspection> {
  const { base, engine, signal, onProgress } = options
  if (base !== undefined && engine === undefined) throw misuse('A comparison with the base needs an engine.')
  const addon = loadAddon()
  const adapter = await readAdapter(addon, await resolveModel(path, process.cwd()), path)
  const model =
    base === undefined ? undefined : await openCheckpoint(addon, await resolveModel(base, process.cwd()), base)
  const norms =
    model === undefined || engine === undefined
      ? new Map<string, number>()
      : await engine.use((host) => normsOf(host, model, adapter, options))
  const nonFinite: string[] = []
  const modules: AdapterModule[] = []
  const total = adapter.matrices.reduce((sum, { a, b }) => sum + (a.end - a.begin) + (b.end - b.begin), 0)
  let done = 0
  for (const matrix of adapter.matrices) {
    throwIfAborted(signal, 'The inspection')
    modules.push(await moduleOf(addon, adapter, matrix, norms.get(matrix.target), nonFinite))
    done += matrix.a.end - matrix.a.begin + (matrix.b.end - matrix.b.begin)
    onProgress?.({ phase: 'read', done, total, unit: 'bytes', item: matrix.target })
  }
  return {
    adapter: path,
    format: adapter.format,
    ...(adapter.base === undefined ? {} : { base: adapter.base }),
    parameters: [...adapter.checkpoint.tensors.values()].reduce((sum, { shape }) => sum + count(shape), 0),
    modules,
    replaced: [...adapter.replaced].map(([tensor, { shape, dtype }]) => ({ tensor, shape, dtype })),
    biases: [...adapter.biases.keys()],
    tokens: [...adapter.tokens].map(([tensor, { ids }]) => ({ tensor, rows: ids.length })),
    features: adapter.features,
    unmatched: unmatched(adapter),
    nonFinite,
    obstacles: adapter.obstacles,
    hazards: hazardsOf(adapter, modules, model, norms),
  }
}

async function moduleOf(
  addon: NativeAddon,
  { checkpoint, features, format }: Adapter,
  matrix: LowRank,
  weightNorm: number | undefined,
  nonFinite: string[],
): Promise<AdapterModule> {
  const { target, a, b, rank, scale, experts = 1, stacked = false, turned } = matrix
  const inputs = a.shape.at(-1) ?? 0
  const outputs = (stacked ? b.shape[1] : b.shape[0]) ?? 0
  const stored = (tensor: CheckpointTensor) => ({
    ...{ path: checkpoint.files[tensor.file]?.path ?? '', begin: tensor.begin },
    ...{ elements: count(tensor.shape), dtype: tensor.dtype },
  })
  const found = await addon.lowRankValues(stored(a), stored(b), { outputs, rank, inputs, experts, stacked })
  const values = [...found.values]
  const sound = [found.finiteA, found.finiteB]
  for (const [i, tensor] of [a, b].entries()) if (!sound[i]) nonFinite.push(tensor.name)
  const norm = sound.every(Boolean) ? Math.abs(scale) * Math.hypot(...values) : Number.NaN
  const swapped = format === 'mlx-lm' && turned
  return {
    weight: target,
    outputs: swapped ? inputs : outputs,
    inputs: swapped ? outputs : inputs,
    rank,
    alpha: format === 'mlx-lm' ? scale : features.includes('use_rslora') ? scale * Math.sqrt(rank) : scale * rank,
    scale,
    dtype: a.dtype === b.dtype ? a.dtype : `${a.dtype} and ${b.dtype}`,
    norm,
    ...(weightNorm === undefined || weightNorm === 0 ? {} : { relative: norm / weightNorm }),
    effectiveRank: effectiveRank(values),
    ...(experts > 1 ? { experts } : {}),
  }
}

function effectiveRank(values: number[]): number {
  const sum = values.reduce((total, value) => total + value, 0)
  if (sum === 0) return 0
  return Math.exp(-values.reduce((total, value) => total + (value > 0 ? (value / sum) * Math.log(value / sum) : 0), 0))
}

/** ‖W‖ of the weights that the adapter changes, by their names in the adapter. */
async function normsOf(
  { device, memory }: Host,
  base: Checkpoint,
  adapter: Adapter,
  { signal, onProgress }: InspectAdapterOptions,
): Promise<Map<string, number>> {
  const tie = tieOf(base)
  const found = adapter.matrices.flatMap(({ target }) => {
    const tensor = findWeight(target, base, tie)?.tensor
    return tensor === undefined || count(tensor.shape) === 0 ? [] : [{ target, tensor }]
  })
  if (found.length === 0) return new Map()
  const jobs = found.map(({ target, tensor }) => ({
    name: target,
    program: 0,
    elements: count(tensor.shape),
    inputs: [{ place: tensor.file, offset: tensor.begin, dtype: tensor.dtype }],
    variants: [{ coefficients: [] }],
  }))
  const plan = {
    inputs: base.files.map(({ path, size }) => ({ path, size })),
    outputs: [],
    programs: [{ kernels: [{ kernel: 'gram', writes: 1, constants: { BASE: 0 } }] }],
    ...{ jobs, memory, seed: 0, checksum: false, sync: false },
  }
  const job = device.run(plan, (counts) => onProgress?.(byteProgress('compare', counts)))
  const { results } = await untilDone(job, signal)
  return new Map(
    found.map(({ target }, i) => {
      const partials = new Float32Array(Uint32Array.from(results[i] ?? []).buffer)
      return [target, Math.sqrt(partials.reduce((sum, partial) => sum + partial, 0))]
    }),
  )
}

function unmatched(adapter: Adapter): AdapterInspection['unmatched'] {
  const held = [adapter.replaced, adapter.biases, adapter.tokens].flatMap((map) => [...map.keys()])
  const weights = [...adapter.matrices.map(({ target }) => target), ...held]
  const modules = weights.map((key) => key.replace(/\.[^.]+$/, ''))
  const fits = (module: string, weight: string, name: string) =>
    [module, weight].some((own) => own === name || own.endsWith(`.${name}`))
  return {
    named: adapter.named.filter((name) => !modules.some((module, i) => fits(module, weights[i] ?? '', name))),
    held:
      adapter.named.length === 0
        ? []
        : [
            ...new Set(
              modules.filter((module, i) => !adapter.named.some((name) => fits(module, weights[i] ?? '', name))),
            ),
          ],
  }
}

function hazardsOf(
  adapter: Adapter,
  modules: AdapterModule[],
  base: Checkpoint | undefined,
  norms: ReadonlyMap<string, number>,
): string[] {
  const hazards: string[] = []
  const has = (...features: string[]) => features.filter((feature) => adapter.features.includes(feature))
  const patterns = has('rank_pattern', 'alpha_pattern')
  const scales = new Set(modules.map(({ scale }) => scale))
  if (patterns.length > 0 && scales.size > 1) {
    hazards.push(`It sets ${patterns.join(' and ')}, which some servers ignore; fold it, or combine it to one scale.`)
  }
  if (has('use_rslora').length > 0) {
    hazards.push(
      'It sets use_rslora (alpha / √r), and programs that ignore it take a scale that is √r times too small.',
    )
  }
  const start = adapter.matrices.find((matrix) => matrix.start !== undefined)?.start
  if (start !== undefined) {
    hazards.push(`It began as a part of the base (${start}): on any other model, or added as it is, it is wrong.`)
  }
  const quantised = /(bnb-)?4bit|8bit|gptq|awq|int4|int8/i.exec(adapter.base ?? '')
  const said = base?.config && quantisationNamed(base.config)
  if (quantised !== null || said !== undefined) {
    const model = said === undefined ? adapter.base : base?.name
    hazards.push(
      `It was trained on a quantised model (${model}); on the weights before quantisation it is near, not equal.`,
    )
  }
  const ends = adapter.matrices.filter(({ target }) => /(^|\.)(embed_tokens|wte|lm_head)\.weight$/.test(target))
  if (base !== undefined && ends.length > 0 && tiesEmbeddings(base)) {
    hazards.push(
      `${base.name} has one table for embedding and head, and it changes ${ends[0]?.target}; fold it with --untie.`,
    )
  }
  // A base may store experts one by one, under names of their own.
  const absent =
    base === undefined
      ? []
      : adapter.matrices.filter(({ target, experts }) => experts === undefined && !norms.has(target))
  if (absent.length > 0) {
    hazards.push(
      `${base?.name} has no tensor ${absent[0]?.target}${absent.length > 1 ? `, and lacks ${absent.length - 1} more` : ''}.`,
    )
  }
  const still = modules.filter(({ norm }) => norm === 0)
  if (still.length > 0) {
    hazards.push(
      `It changes nothing in ${still.length === modules.length ? 'any module' : `${still.length} modules, such as ${still[0]?.weight}`}.`,
    )
  }
  return hazards
}

function count(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1)
}
