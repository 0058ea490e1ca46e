/**
 * The main job: a recipe and a folder in, a checkpoint out. Everything that can be refused is refused before the
 * first byte is written; afterwards, whatever ends the run early leaves nothing under the final name.
 */

import { createHash } from 'node:crypto'
import { basename, join } from 'node:path'
import {
  auxiliaryFiles,
  type Checkpoint,
  checkDisk,
  checkOutput,
  digest,
  inputsOf,
  isStorable,
  largestAuxiliary,
  type Manifest,
  type ManifestInput,
  manifestName,
  modelCard,
  openCheckpoint,
  outputConfig,
  readSmall,
  refuseChanged,
  Stage,
  torchName,
  type Unfinished,
} from './checkpoint/index.js'
import { WeightsmithError } from './errors.js'
import type { NativeAddon, NativeDevice, NativeProgress, NativeReport } from './native/border.js'
import { type MergePlan, parseBytes, planMerge, toNative } from './plan/index.js'
import { loadRecipe, parseDType, type Recipe, type RecipeInput, resolveModel } from './recipe/index.js'

export interface MergeContext {
  addon: Pick<NativeAddon, 'readHeader' | 'readIndex' | 'sha256File' | 'lockFile'>
  /** Needed unless `dryRun`. */
  device?: NativeDevice
  /** Of the package; goes to the manifest and the model card. */
  version: string
}

export type Checksum = 'full' | 'outputs' | 'none'

export interface MergeProgress extends NativeProgress {
  stage: 'run' | 'finish'
}

export interface MergeOptions {
  /** Folder of the result. */
  out: string
  /** Type of the result; goes before `out_dtype` and `dtype` of the recipe. */
  dtype?: string | undefined
  /** Largest size of a file: bytes, or a text such as `5GB` (the default). */
  shardSize?: number | string | undefined
  /** Memory for tiles: bytes, or a text such as `1GiB` (the default). */
  memory?: number | string | undefined
  /** Of the random numbers of DARE and IMM. Defaults to 0. */
  seed?: number | undefined
  /** Plan and check, but write nothing. */
  dryRun?: boolean | undefined
  /** Replace a folder that is there already, and discard an unfinished output. */
  overwrite?: boolean | undefined
  /**
   * Continue the unfinished output of a run that was interrupted; where there is none, begin. Inputs, recipe, seed,
   * type and shard size have to be the same, or the merge rejects with ERR_WEIGHTSMITH_INPUT_CHANGED or _RESUME.
   */
  resume?: boolean | undefined
  /**
   * Bytes written between two notes on disk of what is finished, from which `resume` goes on: bytes, or a text such as
   * `256MiB` (the default). A note is taken every 2 s too.
   */
  journalEvery?: number | string | undefined
  /** SHA-256 of the outputs (default), of inputs too (`full`), or of nothing. */
  checksum?: Checksum | undefined
  /** Fail when the result holds NaN or infinite values. */
  checkFinite?: boolean | undefined
  signal?: AbortSignal | undefined
  onProgress?: ((progress: MergeProgress) => void) | undefined
  /** Make sure the result is on disk before the promise settles. Defaults to true. */
  sync?: boolean | undefined
  /** Folder that relative paths of a recipe object start from; a recipe file's paths start from its own folder. */
  folder?: string | undefined
}

export interface MergeReport {
  out: string
  dryRun: boolean
  method: string
  determinism: 'exact' | 'tolerance'
  seed: number
  /** Type of most weights, by PyTorch's name. */
  dtype: string
  tensors: { total: number; computed: number; copied: number }
  parameters: number
  files: { name: string; size: number; sha256?: string }[]
  bytes: number
  /** What was accepted and changes nothing, and what was decided on the way. */
  notes: string[]
  /** Tensors with NaN or infinite values that were computed, and how many. */
  nonFinite: { tensor: string; count: number }[]
  /** Absent in a dry run. `resumed`: tensors that an earlier run had finished, whose inputs were not read again. */
  run?: Pick<NativeReport, 'time' | 'bytesRead' | 'bytesWritten' | 'tiles' | 'resumed'> & { adapter: string }
  /** What a dry run would do, tensor by tensor. */
  plan?: PlanRow[]
}

export interface PlanRow {
  tensor: string
  dtype: string
  shape: number[]
  file: string
  /** Kernels in order; empty for a copy of bytes. */
  kernels: string[]
  inputs: string[]
  coefficients: number[]
}

export async function merge(
  context: MergeContext,
  source: string | RecipeInput,
  options: MergeOptions,
): Promise<MergeReport> {
  const settings = checkOptions(options)
  const { signal } = options
  throwIfAborted(signal)
  const recipe = await loadRecipe(source, options.folder)
  const checkpoints = await openModels(context, recipe)
  throwIfAborted(signal)
  const plan = planMerge(recipe, checkpoints, settings)
  const target = await checkOutput(options.out, [...new Set(checkpoints.values())], options.overwrite === true)
  const tokenizer = recipe.tokenizer === 'none' ? undefined : (checkpoints.get(recipe.tokenizer) ?? plan.donor)
  await checkDisk(target, plan.layout.bytes)
  if (options.dryRun) return { ...summary(plan, recipe, target, settings.seed), plan: planRows(plan) }
  const { device } = context
  if (device === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_DISPOSED', 'A merge needs an open device.')

  const stage = await Stage.create(context.addon, target, describeRun(context, recipe, plan, checkpoints, settings), {
    sync: settings.sync,
    resume: options.resume === true,
    overwrite: options.overwrite === true,
    journalEvery: settings.journalEvery,
  })
  try {
    throwIfAborted(signal)
    const { folder, journal } = stage
    const native = toNative(plan, join, { ...settings, folder, journal, checksum: settings.checksum !== 'none' })
    let latest: NativeProgress | undefined
    const result = await runJob(device, native, signal, (event) => {
      latest = event
      options.onProgress?.({ ...event, stage: 'run' })
    })
    const nonFinite = result.nonFiniteJobs.map(({ job, count }) => ({ tensor: native.jobs[job]?.name ?? '', count }))
    if (options.checkFinite && result.nonFinite > 0) throw notFinite(result.nonFinite, nonFinite)
    if (latest) options.onProgress?.({ ...latest, stage: 'finish' })

    const files: MergeReport['files'] = plan.layout.files.map(({ name, size }, i) => {
      const sha256 = result.checksums[i]
      return sha256 && settings.checksum !== 'none' ? { name, size, sha256 } : { name, size }
    })
    const write = async (name: string, data: string | Uint8Array) => {
      await stage.write(name, data)
      const size = Buffer.byteLength(data)
      files.push(settings.checksum === 'none' ? { name, size } : { name, size, sha256: sha256Of(data) })
    }
    if (plan.layout.index !== undefined) await write('model.safetensors.index.json', plan.layout.index)
    if (plan.donor.config !== undefined) {
      await write('config.json', json(outputConfig(plan.donor.config, plan.dtype, plan.layers)))
    }
    for (const { from, name } of await auxiliaryFiles(plan.donor, tokenizer))
      await write(name, await readSmall(from, largestAuxiliary))
    await write('README.md', modelCard(basename(target), recipe, settings.seed, context.version))
    const inputs = await describeInputs(context, checkpoints, settings.checksum === 'full')
    await refuseChanged(checkpoints.values())
    throwIfAborted(signal)
    const manifest: Manifest = {
      format: 1,
      versions: { weightsmith: context.version },
      recipe: recipe.input,
      seed: settings.seed,
      dtype: typeName(plan),
      adapter: pickAdapter(device),
      inputs,
      outputs: files,
    }
    await stage.write(manifestName, json(manifest))
    await stage.publish()
    const { time, bytesRead, bytesWritten, tiles, resumed } = result
    const run = { time, bytesRead, bytesWritten, tiles, resumed, adapter: device.adapter.name }
    return { ...summary(plan, recipe, target, settings.seed), dryRun: false, files, nonFinite, run }
  } catch (error) {
    const partial = await stage.fail(error)
    if (partial !== undefined && error instanceof WeightsmithError) error.partial = partial
    throw error
  }
}

function checkOptions(options: MergeOptions) {
  const { out, seed = 0, checksum = 'outputs', sync = true, shardSize = 5e9, memory = 2 ** 30 } = options
  const { journalEvery = 2 ** 28 } = options
  if (typeof out !== 'string' || out === '') throw argument('out', 'the path of a folder', out)
  if (!Number.isSafeInteger(seed) || seed < 0) throw argument('seed', 'a whole number from 0 to 2^53 - 1', seed)
  if (!['full', 'outputs', 'none'].includes(checksum)) throw argument('checksum', 'full, outputs or none', checksum)
  const dtype = options.dtype === undefined ? undefined : parseDType(options.dtype)
  if (options.dtype !== undefined && dtype === undefined) {
    throw argument('dtype', 'float32, float16 or bfloat16', options.dtype)
  }
  return {
    dtype,
    seed,
    checksum,
    sync,
    shardSize: parseBytes(shardSize, 'shard size'),
    memory: parseBytes(memory, 'memory'),
    journalEvery: parseBytes(journalEvery, 'bytes between two notes'),
  }
}

function argument(name: string, expected: string, found: unknown): WeightsmithError {
  return new WeightsmithError(
    'ERR_WEIGHTSMITH_ARGUMENT',
    `The option ${name} should be ${expected}, but "${String(found)}" was found.`,
  )
}

/** Opens each model once, by its name in the recipe; two names of one folder share a checkpoint. */
async function openModels(context: MergeContext, recipe: Recipe): Promise<Map<string, Checkpoint>> {
  const names = new Set(recipe.slices.flatMap((slice) => slice.sources.map(({ model }) => model)))
  if (recipe.base !== undefined) names.add(recipe.base)
  for (const { name, type } of recipe.method.parameters) {
    const model = type === 'model' ? recipe.parameters[name] : undefined
    if (typeof model === 'string') names.add(model)
  }
  const opened = new Map<string, Checkpoint>()
  const byPath = new Map<string, Checkpoint>()
  for (const name of names) {
    const path = await resolveModel(name, recipe.folder)
    const checkpoint = byPath.get(path) ?? (await openCheckpoint(context.addon, path, name))
    byPath.set(path, checkpoint)
    opened.set(name, checkpoint)
  }
  return opened
}

/** Everything that decides about the bytes of the weights. */
function describeRun(
  context: MergeContext,
  recipe: Recipe,
  plan: MergePlan,
  checkpoints: ReadonlyMap<string, Checkpoint>,
  { seed, shardSize }: { seed: number; shardSize: number },
): Unfinished {
  const rows = plan.tensors.map(({ name, dtype, shape, origins, program, coefficients }) => [
    [name, dtype, shape, program, coefficients, plan.layout.places.get(name)],
    origins.map(({ checkpoint, tensor }) => [checkpoint.files[tensor.file]?.path, tensor.begin, tensor.dtype]),
  ])
  return {
    format: 1,
    version: context.version,
    recipe: recipe.input,
    seed,
    dtype: typeName(plan),
    shardSize,
    plan: digest(rows),
    inputs: inputsOf(checkpoints.values()),
  }
}

async function runJob(
  device: NativeDevice,
  plan: Parameters<NativeDevice['run']>[0],
  signal: AbortSignal | undefined,
  onProgress: (event: NativeProgress) => void,
): Promise<NativeReport> {
  const job = device.run(plan, onProgress)
  const abort = () => job.abort()
  signal?.addEventListener('abort', abort, { once: true })
  if (signal?.aborted) abort()
  try {
    return await job.done
  } finally {
    signal?.removeEventListener('abort', abort)
  }
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (!signal?.aborted) return
  throw new WeightsmithError('ERR_WEIGHTSMITH_ABORTED', 'The merge was aborted.', { cause: signal.reason })
}

function notFinite(total: number, tensors: MergeReport['nonFinite']): WeightsmithError {
  const [first] = tensors
  return new WeightsmithError(
    'ERR_WEIGHTSMITH_NON_FINITE',
    `The result holds ${total} NaN or infinite values in ${tensors.length} tensors; the first is ${first?.tensor} with ` +
      `${first?.count} of them.`,
    { tensor: first?.tensor },
  )
}

async function describeInputs(
  context: MergeContext,
  checkpoints: ReadonlyMap<string, Checkpoint>,
  hash: boolean,
): Promise<ManifestInput[]> {
  const inputs: ManifestInput[] = []
  for (const [model, { files }] of checkpoints) {
    const described: ManifestInput['files'] = []
    for (const { path, name, size, modified, headerHash } of files) {
      const file = { name, size, mtimeMs: modified, headerHash }
      described.push(hash ? { ...file, sha256: await context.addon.sha256File(path) } : file)
    }
    inputs.push({ model, files: described })
  }
  return inputs
}

function pickAdapter({ adapter }: NativeDevice): Manifest['adapter'] {
  const { name, type, backend, driver } = adapter
  return { name, type, backend, driver }
}

function summary(plan: MergePlan, recipe: Recipe, out: string, seed: number): MergeReport {
  const copied = plan.tensors.filter((tensor) => tensor.program === undefined).length
  return {
    out,
    dryRun: true,
    method: recipe.method.name,
    determinism: recipe.method.determinism,
    seed,
    dtype: typeName(plan),
    tensors: { total: plan.tensors.length, computed: plan.tensors.length - copied, copied },
    parameters: plan.tensors.reduce((sum, tensor) => sum + tensor.elements, 0),
    files: plan.layout.files.map(({ name, size }) => ({ name, size })),
    bytes: plan.layout.bytes,
    notes: plan.notes,
    nonFinite: [],
  }
}

function planRows(plan: MergePlan): PlanRow[] {
  return plan.tensors.map(({ name, dtype, shape, program, origins, coefficients }) => ({
    tensor: name,
    dtype,
    shape,
    file: plan.layout.files[plan.layout.places.get(name)?.file ?? 0]?.name ?? '',
    kernels: program?.kernels.map(({ kernel }) => kernel) ?? [],
    inputs: origins.map(({ checkpoint, tensor }) => `${checkpoint.name}:${tensor.name}`),
    coefficients,
  }))
}

function typeName({ dtype, tensors }: MergePlan): string {
  return dtype !== undefined && isStorable(dtype) ? torchName(dtype) : (tensors[0]?.dtype ?? 'float32')
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`
}

function sha256Of(data: string | Uint8Array): string {
  return createHash('sha256').update(data).digest('hex')
}
