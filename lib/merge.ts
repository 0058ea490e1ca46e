/**
 * The main job: a recipe and a folder in, a checkpoint out. Everything that can be refused is refused before the
 * first byte is written; afterwards, whatever ends the run early leaves nothing under the final name.
 */

import { createHash } from 'node:crypto'
import { basename, join, resolve } from 'node:path'
import {
  auxiliaryFiles,
  type Checkpoint,
  checkDisk,
  checkOutput,
  commonTemplate,
  configText,
  digest,
  editTokenizer,
  inputsOf,
  isStorable,
  largestAuxiliary,
  type Manifest,
  type ManifestInput,
  manifestName,
  modelCard,
  outputConfig,
  readSmall,
  refuseChanged,
  Stage,
  torchName,
  type Unfinished,
} from './checkpoint/index.js'
import { WeightsmithError } from './errors.js'
import { makeLevels } from './levels.js'
import { Models } from './models.js'
import type { NativeAddon, NativeDevice, NativeProgress, NativeReport } from './native/border.js'
import { isDerived, type JointPlan, joinPlans, type MergePlan, parseBytes, planMerge, toNative } from './plan/index.js'
import { loadRecipe, parseDType, type Recipe, type RecipeInput } from './recipe/index.js'

export interface MergeContext {
  addon: Pick<NativeAddon, 'readHeader' | 'readIndex' | 'sha256File' | 'lockFile'>
  /** Needed unless `dryRun`. */
  device?: NativeDevice
  /** Of the package; goes to the manifest and the model card. */
  version: string
  /** Opened models, where merges share them. */
  models?: Models
}

export type Checksum = 'full' | 'outputs' | 'none'

export interface MergeProgress extends NativeProgress {
  /** `prepare`: results of earlier stages and the like, which the merge reads. */
  stage: 'prepare' | 'run' | 'finish'
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
  /** The outputs of a sweep, each in a folder of `out`; `files`, `bytes` and `nonFinite` above are of all of them. */
  sweep?: SweepReport[]
}

/** One output of a sweep. */
export interface SweepReport
  extends Pick<MergeReport, 'out' | 'tensors' | 'parameters' | 'files' | 'bytes' | 'notes' | 'nonFinite'> {
  /** Name of its folder: `t=0.1`. */
  label: string
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

/** What a merge knows before it looks at its output. */
export interface PreparedMerge {
  /** By the models' names in the recipe. */
  checkpoints: ReadonlyMap<string, Checkpoint>
  /** One, or one a point of a sweep; where recipes for the same models run together, those of all. */
  outputs: PlannedOutput[]
}

/** One folder that comes out of a merge: the only one, or one of several. */
export interface PlannedOutput {
  /** In a sweep: name of the folder. */
  label?: string
  recipe: Recipe
  plan: MergePlan
  /** Where it is to be. */
  out: string
}

/** Reads headers and plans; computes and writes nothing. */
export async function prepareMerge(
  context: Pick<MergeContext, 'addon' | 'models'>,
  recipe: Recipe,
  options: MergeOptions,
): Promise<PreparedMerge> {
  const { out, signal } = options
  const settings = checkOptions(options)
  throwIfAborted(signal)
  const checkpoints = await (context.models ?? new Models(context.addon)).open(recipe)
  throwIfAborted(signal)
  const points = recipe.sweep.length > 0 ? recipe.sweep : [{ recipe }]
  const outputs = points.map((point) => ({
    ...point,
    plan: planMerge(point.recipe, checkpoints, settings),
    out: 'label' in point ? join(out, point.label) : out,
  }))
  return { checkpoints, outputs }
}

export async function merge(
  context: MergeContext,
  source: string | RecipeInput,
  options: MergeOptions,
): Promise<MergeReport> {
  const { seed } = checkOptions(options)
  throwIfAborted(options.signal)
  const prepared = await prepareMerge(context, await loadRecipe(source, options.folder), options)
  if (options.dryRun) {
    const { outputs } = await checkTargets(prepared, options)
    const rows = outputs.flatMap(({ plan, label }) => planRows(plan, label))
    return { ...summary(outputs, options.out, seed), plan: rows }
  }
  const { outputs, run } = await stageMerge(context, prepared, options)
  try {
    await publishAll(outputs)
  } catch (error) {
    throw await fail(outputs, error)
  }
  return { ...summary(outputs, options.out, seed), dryRun: false, run }
}

/** Refuses outputs that would mix with an input, destroy something or not fit. */
async function checkTargets(
  { checkpoints, outputs: planned }: PreparedMerge,
  options: MergeOptions,
): Promise<{ outputs: Output[]; joint: JointPlan }> {
  const outputs: Output[] = []
  for (const output of planned) {
    const target = await checkOutput(output.out, [...new Set(checkpoints.values())], options)
    outputs.push({ ...output, target })
  }
  const joint = joinPlans(outputs.map(({ plan }) => plan))
  const bytes = [...outputs.map(({ plan }) => plan.layout.bytes), ...joint.levels.map((level) => level.bytes)]
  const [first] = outputs
  if (first !== undefined) {
    await checkDisk(
      first.target,
      bytes.reduce((a, b) => a + b, 0),
    )
  }
  return { outputs, joint }
}

/** Outputs up to, and without, their final names; inputs that several need are read once. */
export async function stageMerge(
  context: MergeContext,
  prepared: PreparedMerge,
  options: MergeOptions,
): Promise<{ outputs: StagedOutput[]; run: NonNullable<MergeReport['run']> }> {
  const settings = checkOptions(options)
  const { checkpoints } = prepared
  const { signal } = options
  const { outputs, joint } = await checkTargets(prepared, options)
  const { device } = context
  if (device === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_DISPOSED', 'A merge needs an open device.')

  const sizes = outputs.map(({ plan }) => plan.layout.bytes)
  // What takes no longer than a note is rather begun again.
  const noted = sizes.reduce((a, b) => a + b, 0) > settings.journalEvery
  const runs = noted ? outputs.map((output) => describeRun(context, output, checkpoints, settings)) : []
  const journal = { path: '', run: digest(runs), resume: false, every: settings.journalEvery }
  const stages: Stage[] = []
  try {
    for (const [i, { target }] of outputs.entries()) {
      stages.push(
        await Stage.create(context.addon, target, {
          sync: settings.sync,
          resume: options.resume === true,
          overwrite: options.overwrite === true,
          ...(runs[i] && { run: { facts: runs[i], journal } }),
        }),
      )
    }
    throwIfAborted(signal)
    journal.resume = stages.every(({ resumed }) => resumed)
    const folders = stages.map(({ folder }) => folder)
    const made = await makeLevels(joint, { ...settings, folder: folders[0] ?? '' }, (native) =>
      runJob(device, native, signal, (event) => options.onProgress?.({ ...event, stage: 'prepare' })),
    )
    const { memory, places: levels } = made
    const native = toNative(joint, join, {
      ...settings,
      memory,
      folders,
      levels,
      journal: noted ? journal : undefined,
      checksum: settings.checksum !== 'none',
    })
    let latest: NativeProgress | undefined
    const result = await runJob(device, native.plan, signal, (event) => {
      latest = event
      options.onProgress?.({ ...event, stage: 'run' })
    })
    await made.discard()
    const nonFinite = result.nonFiniteJobs.flatMap(({ job, variant, count }) => {
      const owner = native.owners[job]?.[variant]
      return owner === undefined ? [] : [{ plan: owner.plan, tensor: owner.tensor.name, count }]
    })
    if (options.checkFinite && result.nonFinite > 0) throw notFinite(result.nonFinite, nonFinite)
    if (latest) options.onProgress?.({ ...latest, stage: 'finish' })

    const inputs = await describeInputs(context, checkpoints, settings.checksum === 'full')
    const staged: StagedOutput[] = []
    let first = 0
    for (const [i, output] of outputs.entries()) {
      const stage = stages[i]
      if (stage === undefined) continue
      const count = output.plan.layout.files.length
      const checksums = settings.checksum === 'none' ? [] : result.checksums.slice(first, first + count)
      first += count
      const about = { context, device, checkpoints, inputs, seed: settings.seed, checksum: settings.checksum }
      const files = await writeFiles(stage, output, checksums, about)
      const own = nonFinite.filter((found) => found.plan === i).map(({ tensor, count }) => ({ tensor, count }))
      staged.push({ ...output, files, nonFinite: own, stage })
    }
    await refuseChanged(checkpoints.values())
    throwIfAborted(signal)
    const { time, bytesRead, bytesWritten, tiles, resumed } = result
    const run = { time, bytesRead, bytesWritten, tiles, resumed, adapter: device.adapter.name }
    return { outputs: staged, run }
  } catch (error) {
    throw await fail(
      stages.map((stage) => ({ stage })),
      error,
    )
  }
}

/** Gives outputs their final names. The first one has the journal, without which the others cannot be continued. */
export async function publishAll(outputs: { stage: Stage }[]): Promise<void> {
  for (const { stage } of [...outputs].reverse()) await stage.publish()
  for (const { stage } of outputs) await stage.finish()
}

/** Keeps what can be continued or removes all; the error says what is kept. */
export async function fail(outputs: { stage: Stage }[], error: unknown): Promise<unknown> {
  // The first one has the journal, on which it depends whether the others are kept.
  for (const { stage } of [...outputs].reverse()) {
    const partial = await stage.fail(error)
    if (partial !== undefined && error instanceof WeightsmithError) error.partial = partial
  }
  return error
}

interface Output extends PlannedOutput {
  /** `out`, absolute and without links. */
  target: string
}

export interface StagedOutput extends Output, Pick<MergeReport, 'files' | 'nonFinite'> {
  stage: Stage
}

/** The files beside the weights. */
async function writeFiles(
  stage: Stage,
  { recipe, plan, target }: Output,
  checksums: string[],
  about: {
    context: MergeContext
    device: NativeDevice
    checkpoints: ReadonlyMap<string, Checkpoint>
    inputs: ManifestInput[]
    seed: number
    checksum: Checksum
  },
): Promise<MergeReport['files']> {
  const { context, checkpoints, seed, checksum } = about
  const files: MergeReport['files'] = plan.layout.files.map(({ name, size }, i) => {
    const sha256 = checksums[i]
    return sha256 ? { name, size, sha256 } : { name, size }
  })
  const write = async (name: string, data: string | Uint8Array) => {
    await stage.write(name, data)
    const size = Buffer.byteLength(data)
    files.push(checksum === 'none' ? { name, size } : { name, size, sha256: sha256Of(data) })
  }
  if (plan.layout.index !== undefined) await write('model.safetensors.index.json', plan.layout.index)
  const { dtype, layers, vocabulary, donor, tokenizer } = plan
  if (donor.config !== undefined) {
    const config = outputConfig(donor.config, { dtype, layers, vocabulary })
    await write('config.json', await configText(config, donor))
  }
  const { extra = [] } = tokenizer ?? {}
  const { chatTemplate } = recipe
  const folders = [...checkpoints.values()].flatMap(({ folder }) => folder ?? [])
  const template = chatTemplate === 'auto' ? await commonTemplate(folders) : chatTemplate
  for (const { from, name } of await auxiliaryFiles(donor, tokenizer?.folder)) {
    if (template !== undefined && name.startsWith('chat_template')) continue
    await write(name, editTokenizer(name, await readSmall(from, largestAuxiliary), { extra, template }))
  }
  if (template !== undefined) await write('chat_template.jinja', template)
  else if (chatTemplate !== undefined) plan.notes.push('chat_template: auto changes nothing: no model has a template.')
  const models = [...checkpoints.keys()]
  await write('README.md', modelCard(basename(target), { recipe, models, seed, version: context.version }))
  const manifest: Manifest = {
    format: 1,
    versions: { weightsmith: context.version },
    recipe: recipe.input,
    seed,
    dtype: typeName(plan),
    adapter: pickAdapter(about.device),
    inputs: about.inputs,
    outputs: files,
  }
  await stage.write(manifestName, json(manifest))
  return files
}

export function checkOptions(options: MergeOptions) {
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

/** Everything that decides about the bytes of the weights. */
function describeRun(
  context: MergeContext,
  { recipe, plan }: Output,
  checkpoints: ReadonlyMap<string, Checkpoint>,
  { seed, shardSize }: { seed: number; shardSize: number },
): Unfinished {
  const rows = plan.tensors.map(({ name, dtype, shape, origins, program, coefficients }) => [
    [name, dtype, shape, program, coefficients, plan.layout.places.get(name)],
    origins.map(({ checkpoint, tensor }) =>
      isDerived(tensor)
        ? tensor.parts.map((part) => [part.key, part.elements, part.program, part.coefficients])
        : [checkpoint.files[tensor.file]?.path, tensor.begin, tensor.dtype],
    ),
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

export async function describeInputs(
  context: { addon: Pick<NativeAddon, 'sha256File'> },
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

export function pickAdapter({ adapter }: NativeDevice): Manifest['adapter'] {
  const { name, type, backend, driver } = adapter
  return { name, type, backend, driver }
}

/** Of one output, or of all outputs of a sweep. */
function summary(outputs: (Output | StagedOutput)[], out: string, seed: number): MergeReport {
  const reports = outputs.map((output) => describeOutput(output))
  const [first] = outputs
  const [report] = reports
  if (first === undefined || report === undefined) {
    throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', 'A merge has no output.')
  }
  const { method } = first.recipe
  const common = {
    dryRun: true,
    method: method.name,
    determinism: determinismOf(first.recipe),
    seed,
    dtype: typeName(first.plan),
  }
  if (first.label === undefined) {
    const { label: _, ...only } = report
    return { ...common, ...only }
  }
  const { label: _, ...shared } = report
  return {
    ...common,
    ...shared,
    out: resolve(out),
    files: reports.flatMap(({ label = '', files }) =>
      files.map((file) => ({ ...file, name: `${label}/${file.name}` })),
    ),
    bytes: reports.reduce((sum, { bytes }) => sum + bytes, 0),
    notes: [...new Set(reports.flatMap(({ notes }) => notes))],
    nonFinite: reports.flatMap(({ nonFinite }) => nonFinite),
    sweep: reports,
  }
}

function describeOutput(output: Output | StagedOutput): SweepReport {
  const { label, plan, target } = output
  const copied = plan.tensors.filter((tensor) => tensor.program === undefined).length
  const files = 'files' in output ? output.files : plan.layout.files.map(({ name, size }) => ({ name, size }))
  return {
    label: label ?? '',
    out: target,
    tensors: { total: plan.tensors.length, computed: plan.tensors.length - copied, copied },
    parameters: plan.tensors.reduce((sum, tensor) => sum + tensor.elements, 0),
    files,
    bytes: plan.layout.bytes,
    notes: plan.notes,
    nonFinite: 'nonFinite' in output ? output.nonFinite : [],
  }
}

/** Exact only where every part of it is. */
export function determinismOf(recipe: Recipe): 'exact' | 'tolerance' {
  const merges = [
    recipe,
    ...recipe.modules,
    ...[...recipe.stages.values()].flatMap((stage) => [stage, ...stage.modules]),
  ]
  return merges.every(({ method }) => method.determinism === 'exact') ? 'exact' : 'tolerance'
}

function planRows(plan: MergePlan, label?: string): PlanRow[] {
  return plan.tensors.map(({ name, dtype, shape, program, origins, coefficients }) => {
    const file = plan.layout.files[plan.layout.places.get(name)?.file ?? 0]?.name ?? ''
    return {
      tensor: name,
      dtype,
      shape,
      file: label === undefined ? file : `${label}/${file}`,
      kernels: program?.kernels.map(({ kernel }) => kernel) ?? [],
      inputs: origins.map(({ checkpoint, tensor }) => `${checkpoint.name}:${tensor.name}`),
      coefficients,
    }
  })
}

export function typeName({ dtype, tensors }: MergePlan): string {
  return dtype !== undefined && isStorable(dtype) ? torchName(dtype) : (tensors[0]?.dtype ?? 'float32')
}

function json(value: unknown): string {
  return `${JSON.stringify(value, null, 2)}\n`
}

function sha256Of(data: string | Uint8Array): string {
  return createHash('sha256').update(data).digest('hex')
}
