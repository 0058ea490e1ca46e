/**
 * `train`: a model learns from examples, as an adapter or with its own weights. The order of everything follows from
 * the seed, so a run that was interrupted and goes on ends with the same bytes as one that was not.
 */

import { createHash } from 'node:crypto'
import { mkdir, realpath, stat } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { foldAdapters } from '../adapters/fold.js'
import { type Checkpoint, checkOutput, inputsOf, parseDType } from '../checkpoint/index.js'
import { contains } from '../checkpoint/inside.js'
import { ResumePoint } from '../checkpoint/resume/index.js'
import type { Engine } from '../engine/engine.js'
import { version } from '../native/version.js'
import { factorNames, TrainableModel, type TrainableOptions, trainingTimes } from '../runtime/index.js'
import { checkpointOf, modelOf } from '../runtime/open_model.js'
import type { DryRun } from '../util/dry_run.js'
import { aborted, codeOf, misuse, WeightsmithError, writeFailed, wrongOption } from '../util/errors.js'
import { type BatchPlan, planBatches, type TrainingExample, type TrainingSource, type TrainingStep } from './batches.js'
import { readTrainingData, type TrainingFile, type TrainingFileReport } from './examples.js'
import { nonFiniteTensor } from './finite.js'
import { openLog, type TrainingDetails, type TrainingLog, type TrainingLogLine } from './log.js'
import type { MicroBatchAt, Objective } from './objective.js'
import { type Settings, settingsOf, type TrainOptions } from './options.js'
import { type OutputOptions, type Written, writeAdapter, writeCheckpoint } from './output.js'
import { rateSchedule } from './schedule.js'
import { type AdapterStart, adapterToGoOnFrom, freshAdapter } from './start.js'
import { type Best, type Progress, restoreState, saveState } from './state.js'
import { adapterTargets, fullTargets } from './targets.js'
import {
  besideTeacher,
  findTeacher,
  isTeacherFile,
  openTeacher,
  type Teacher,
  type TeacherSource,
  taughtBy,
  teacherForecast,
  teacherInputs,
} from './teacher.js'

/** What is known before training begins. */
export interface TrainForecast {
  model: string
  method: 'lora' | 'full'
  device: string
  /** Elements that are trained. */
  parameters: number
  /** Matrices with an adapter, or tensors that are trained. */
  trained: number
  /** Bytes on the device. */
  deviceBytes: number
  /** Bytes that the process takes beside them, such as compiled kernels: what a micro-batch has made it hold. */
  hostBytes: number
  /** Bytes of weights that are read for every micro-batch, because they do not stay on the device. */
  bytesReadPerPass: number
  steps: number
  epochs: number
  examples: number
  /** Of all steps together. */
  tokens: number
  /** Estimated from one layer and two on this device, as it was just then. */
  milliseconds: number
  data: TrainingFileReport[]
}

/** What is known without a micro-batch. */
type KnownForecast = Omit<TrainForecast, 'milliseconds' | 'hostBytes'>

export interface TrainHeldOut {
  file: string
  /** Mean losses of its targets, in nats: before the first step, the best one and the last. */
  first: number
  best: number
  bestStep: number
  last: number
}

export interface TrainReport extends KnownForecast {
  out: string
  /** Also written, with the adapter folded in. */
  folded?: string
  /** Mean losses of the targets of the first and of the last step, in nats. */
  loss: { first: number; last: number }
  heldOut?: TrainHeldOut
  /** Whether the data held out have ended it before its last step. */
  endedEarly: boolean
  /** The step whose state was written. */
  kept: number
  /** The step that it went on after, where it was resumed. */
  resumedAfter?: number
  bytesWritten: number
  /** Of this run, with reading and writing. */
  milliseconds: number
  tokensPerSecond: number
}

const what = 'The training'

/**
 * Trains a model on examples. Throws ERR_WEIGHTSMITH_ARGUMENT for options that contradict each other or are out of
 * range, for data without anything to predict and targets that match no module, _OUT_OF_MEMORY where the model does not
 * fit, _NON_FINITE where a loss or a gradient is NaN or infinite, _RESUME for the resume point of another run, and what
 * `readTrainingData` and the writing of outputs throw.
 */
export function train(
  engine: Engine,
  model: string,
  options: TrainOptions & { dryRun: true },
): Promise<DryRun<TrainForecast>>
export function train(
  engine: Engine,
  model: string,
  options: TrainOptions & { dryRun?: false | undefined },
): Promise<TrainReport>
export function train(
  engine: Engine,
  model: string,
  options: TrainOptions,
): Promise<TrainReport | DryRun<TrainForecast>>
export async function train(
  engine: Engine,
  model: string,
  options: TrainOptions,
): Promise<TrainReport | DryRun<TrainForecast>> {
  return trainFor(engine, model, options)
}

/** Trains a model for an objective of its own. */
export async function trainFor(
  engine: Engine,
  model: string,
  options: TrainOptions,
  objective?: Objective,
): Promise<TrainReport | DryRun<TrainForecast>> {
  const begin = performance.now()
  const prepared = await prepare(engine, model, options, objective)
  const known = await forecastOf(engine, prepared)
  if (options.dryRun === true) {
    return { forecast: { ...known, ...(await tried(engine, prepared, options, objective)) } }
  }
  const run = await new Training(engine, prepared, options, objective).run()
  const milliseconds = performance.now() - begin
  return { ...known, ...run, milliseconds }
}

/** Everything that is decided before the first step. */
interface Prepared {
  name: string
  checkpoint: Checkpoint
  settings: Settings
  plan: BatchPlan
  reports: TrainingFileReport[]
  /** Hash of all ids, in their order, and of which are to be predicted. */
  ids: string
  heldOut: { file: string; ids: string; batches: TrainingStep } | undefined
  teacher: TeacherSource | undefined
  trainable: TrainableOptions
  adapters: AdapterStart[]
  parameters: number
  rateOf: (step: number) => number
  dtype: 'F32' | 'F16' | 'BF16'
}

async function prepare(
  engine: Engine,
  name: string,
  options: TrainOptions,
  objective: Objective | undefined,
): Promise<Prepared> {
  const settings = settingsOf(options)
  const dtype = parseDType(options.dtype ?? 'float32')
  if (dtype === undefined) throw wrongOption('dtype', 'float32, float16 or bfloat16', options.dtype)
  const { method, rank, rslora, dora, dropout, alpha, seed, batch, tokens, loss } = settings
  const checkpoint = await checkpointOf(engine, name)
  const { spec } = modelOf(engine, checkpoint, {})
  const { maxLength = Math.min(tokens, spec.context), steps, epochs } = options
  const subject = { spec, checkpoint }
  const scale = rslora ? alpha / Math.sqrt(rank) : alpha / rank
  const experts = objective?.experts === undefined ? {} : { experts: objective.experts }
  const { adapter } = options
  const earlier = adapter === undefined ? undefined : await engine.use((host) => adapterToGoOnFrom(host, spec, adapter))
  await checkPlaces(options, earlier === undefined ? [checkpoint] : [checkpoint, earlier.checkpoint])
  const adapters =
    method === 'full'
      ? []
      : (earlier?.starts ??
        adapterTargets(spec, options, name).map((weight) =>
          freshAdapter(spec, { weight, rank, scale, dora, ...experts }, seed),
        ))
  const reading = { loss, maxLength, signal: options.signal, onProgress: options.onProgress }
  const data = await readTrainingData(subject, filesOf(options.data), reading)
  const plan = planBatches(data.sources, { batch, tokens, seed, steps, epochs })
  const rateOf = rateSchedule(settings, plan.steps)
  const held = options.heldOut
  const heldOut =
    held === undefined
      ? undefined
      : heldOutOf(held, (await readTrainingData(subject, [{ file: held }], reading)).sources, tokens)
  const tensors = method === 'full' ? fullTargets(spec, options) : []
  const sizeOf = (tensor: string) => (spec.tensors.get(tensor) ?? []).reduce((a, b) => a * b, 1)
  const parameters =
    tensors.reduce((sum, tensor) => sum + sizeOf(tensor), 0) +
    adapters.reduce((sum, { weight, a, b, dora, experts = 1 }) => {
      return sum + experts * (a.length + b.length) + (dora ? (spec.tensors.get(weight)?.[0] ?? 0) : 0)
    }, 0)
  const lost = dropout > 0 ? { dropout: { share: dropout, seed } } : {}
  const taughtOf = { sources: data.sources, mask: settings.teacherMask, vocabulary: spec.vocabulary }
  const teacher = options.teacher === undefined ? undefined : await findTeacher(engine, options.teacher, taughtOf)
  if (teacher !== undefined && 'checkpoint' in teacher) await checkPlaces(options, [teacher.checkpoint])
  const trainable = {
    tokens,
    tensors,
    adapters,
    ...lost,
    ...(teacher && { teacher: taughtBy(teacher) }),
    ...objective?.trainable,
  }
  return {
    ...{ name, checkpoint, settings, plan, heldOut, teacher, trainable, adapters, parameters, rateOf, dtype },
    ...{ reports: data.reports, ids: hashOf(data.sources) },
  }
}

/** The data held out, in the batches that it is measured in. */
function heldOutOf(file: string, sources: readonly TrainingSource[], tokens: number): Prepared['heldOut'] {
  const batch = sources.reduce((sum, { examples }) => sum + examples.length, 0)
  const batches = planBatches(sources, { batch, tokens, seed: 0, shuffle: false }).stepAt(0)
  return { file, batches, ids: hashOf(sources) }
}

/** SHA-256 of what a model sees of data, however it is stored. */
function hashOf(sources: readonly TrainingSource[]): string {
  const hash = createHash('sha256')
  for (const { examples, share } of sources) {
    hash.update(`${examples.length} examples, share ${share}\n`)
    for (const { ids, targets } of examples) hash.update(Uint32Array.from([ids.length, ...ids])).update(targets)
  }
  return hash.digest('hex')
}

function filesOf(data: TrainOptions['data']): TrainingFile[] {
  const files = typeof data === 'string' ? [data] : data
  return files.map((file) => (typeof file === 'string' ? { file } : file))
}

/** The resume point of a run. */
const placeOf = ({ out }: TrainOptions) => `${resolve(out)}.resume`

/**
 * Refuses what would destroy something, before any work. What a run that goes on has written at its end may be
 * replaced.
 */
async function checkPlaces(options: TrainOptions, inputs: Checkpoint[]): Promise<void> {
  const { out, fold, log, data, heldOut, teacher, overwrite = false, resume = false } = options
  const unfinished = resume && (await stat(placeOf(options)).catch(() => undefined)) !== undefined
  const folders = fold === undefined ? [out] : [out, fold]
  for (const folder of folders) await checkOutput(folder, inputs, { overwrite: overwrite || unfinished })
  if (fold !== undefined && (contains(resolve(out), resolve(fold)) || contains(resolve(fold), resolve(out)))) {
    throw misuse(`The adapter ${out} and the folded model ${fold} overlap; choose folders beside each other.`)
  }
  if (log === undefined) return
  const inside = folders.find((folder) => contains(resolve(folder), resolve(log)))
  if (inside !== undefined) throw misuse(`The log ${log} lies in the output ${inside}; choose a place outside of it.`)
  const known = teacher !== undefined && isTeacherFile(teacher) ? [teacher] : []
  const files = [...filesOf(data).map(({ file }) => file), ...(heldOut === undefined ? [] : [heldOut]), ...known]
  const models = inputs.flatMap(({ files }) => files.map(({ path }) => path))
  const real = (path: string) => realpath(path).catch(() => resolve(path))
  const place = await real(log)
  for (const file of [...files, ...models]) {
    if ((await real(file)) === place) throw misuse(`The log ${log} is a file that is read; choose another name.`)
  }
}

async function forecastOf(engine: Engine, prepared: Prepared): Promise<KnownForecast> {
  const { name, checkpoint, settings, plan, reports, trainable, adapters, parameters } = prepared
  const teacher = await teacherForecast(engine, prepared.teacher, trainable.tokens)
  const use = besideTeacher(engine, teacher.bytes)
  const own = await TrainableModel.forecast(use, checkpoint, besideOf(prepared, teacher.bytes))
  const [bytes, bytesReadPerPass] = [own.bytes + teacher.bytes, own.bytesReadPerPass + teacher.bytesReadPerPass]
  const each = reports.reduce((sum, { tokens }) => sum + tokens, 0) / plan.examples
  const { steps, stepsPerEpoch } = plan
  const left = Math.min((steps % stepsPerEpoch) * settings.batch, plan.examples)
  const tokens = Math.round(each * (Math.floor(steps / stepsPerEpoch) * plan.examples + left))
  return {
    ...{
      model: name,
      method: settings.method,
      device: engine.device.name,
      parameters,
      deviceBytes: bytes,
      bytesReadPerPass,
    },
    trained: settings.method === 'full' ? (trainable.tensors?.length ?? 0) : adapters.length,
    ...{ steps, epochs: steps / stepsPerEpoch, examples: plan.examples, tokens },
    data: reports,
  }
}

/** Tokens of the micro-batch that is timed, at most: more take as much longer. */
const timedTokens = 512

/** Steps that say how many micro-batches there are, and how long. */
const sampledSteps = 8

/**
 * Milliseconds of all steps, and of measuring data held out, by a micro-batch of middling length; and what the process
 * holds after it.
 */
async function tried(
  engine: Engine,
  prepared: Prepared,
  options: TrainOptions,
  objective: Objective | undefined,
): Promise<Pick<TrainForecast, 'milliseconds' | 'hostBytes'>> {
  const { learn, measure } = objective?.passes ?? { learn: 1, measure: 1 }
  const { checkpoint, plan, trainable, heldOut, teacher } = prepared
  const steps = Array.from({ length: Math.min(sampledSteps, plan.steps) }, (_, step) => plan.stepAt(step))
  const batches = steps.flatMap(({ microBatches }) => microBatches)
  const mean = batches.reduce((sum, batch) => sum + tokensOf(batch), 0) / batches.length
  const off = (batch: readonly TrainingExample[]) => Math.abs(tokensOf(batch) - mean)
  const sequences = timed(batches.reduce((best, batch) => (off(batch) < off(best) ? batch : best)))
  const { bytes } = await teacherForecast(engine, teacher, trainable.tokens)
  const use = besideTeacher(engine, bytes)
  const { tapes } = await TrainableModel.forecast(use, checkpoint, trainable)
  const times = await trainingTimes(use, checkpoint, trainable, { sequences, tapes })
  let asked = 0
  if (teacher !== undefined && 'checkpoint' in teacher) {
    const alone = { tokens: trainable.tokens }
    const of = await trainingTimes((work) => engine.use(work), teacher.checkpoint, alone, { sequences, tapes: 1 })
    asked = of.forward
  }
  const every = options.heldOutEvery ?? Math.max(1, Math.ceil(plan.steps / 10))
  const measured = heldOut === undefined ? 0 : (1 + Math.ceil(plan.steps / every)) * heldOut.batches.tokens
  const { compile, forward, both, update, hostBytes } = times
  const microBatches = (plan.steps * batches.length) / steps.length
  const own = tokensOf(sequences)
  const passes = ((learn * both + asked) * microBatches * mean + measure * forward * measured) / own
  return { milliseconds: compile + passes + update * plan.steps, hostBytes }
}

const tokensOf = (batch: readonly TrainingExample[]) => batch.reduce((sum, { ids }) => sum + ids.length, 0)

/** The first sequences of a micro-batch that have no more tokens together than are timed; of a longer one a part. */
function timed(batch: readonly TrainingExample[]): TrainingExample[] {
  let left = timedTokens
  return batch.flatMap((example) => {
    if (left < 2) return []
    const [ids, targets] = [example.ids.slice(0, left), example.targets.slice(0, left)]
    left -= ids.length
    return [{ ...example, ids, targets }]
  })
}

/** What is trained, with the teacher that takes a part of the memory. */
function besideOf({ trainable, teacher }: Prepared, bytes: number): TrainableOptions {
  const beside = teacher !== undefined && 'checkpoint' in teacher && { name: teacher.checkpoint.name, bytes }
  return { ...trainable, ...(beside && { beside }) }
}

/** What a run adds to what was known before. */
type Ran = Omit<TrainReport, keyof KnownForecast | 'milliseconds'> & { tokens: number }

/** One run, from its first step or from a resume point to its output. */
class Training {
  private progress: Progress = { step: 0, tokens: 0, worse: 0, losses: { first: 0, last: 0 }, ended: false }
  private best: Best | undefined
  private teacher: Teacher | undefined
  /** The step whose state is saved. */
  private saved = -1
  /** Whether an output that is there is replaced: it was asked for, or this run has written it at its end. */
  private mayReplace: boolean

  constructor(
    private readonly engine: Engine,
    private readonly prepared: Prepared,
    private readonly options: TrainOptions,
    private readonly objective: Objective | undefined,
  ) {
    this.mayReplace = options.overwrite ?? false
  }

  async run(): Promise<Ran> {
    const { engine, prepared, options } = this
    const { checkpoint, settings } = prepared
    const { overwrite = false, resume = false } = options
    const { teacher } = prepared
    const { tokens: batchTokens } = prepared.trainable
    const { bytes } = await teacherForecast(engine, teacher, batchTokens)
    const check = () => {
      if (options.signal?.aborted) throw aborted(options.signal, what)
    }
    const asked = { ...besideOf(prepared, bytes), check }
    const model = await TrainableModel.open(besideTeacher(engine, bytes), checkpoint, asked)
    let log: TrainingLog | undefined
    try {
      const place = placeOf(options)
      await mkdir(dirname(place), { recursive: true }).catch((cause) => {
        throw writeFailed(place, cause)
      })
      if (teacher !== undefined) {
        const { teacherShare: share, teacherMask: mask, teacherLoss } = settings
        const teaching = { share, mask, divergence: teacherLoss === 'kl' }
        this.teacher = await openTeacher(engine, teacher, { tokens: batchTokens, teaching, check })
      }
      const inputs = [...inputsOf([checkpoint]), ...(teacher === undefined ? [] : teacherInputs(teacher))]
      const run = { verb: this.objective?.verb ?? 'train', facts: this.facts(model), inputs }
      const point = await ResumePoint.open(place, run, { resume, overwrite })
      if (point.resumed) {
        const before = await engine.use(({ addon }) => restoreState(addon, point, model))
        this.progress = before.progress
        this.best = before.best
        this.mayReplace ||= before.progress.ended
      } else {
        for (const [name, values] of this.start()) await model.write(name, values)
      }
      for (const folder of [options.out, options.fold ?? options.out]) {
        await checkOutput(folder, [checkpoint], { overwrite: this.mayReplace })
      }
      const after = point.resumed ? this.progress.step : undefined
      this.saved = after ?? -1
      // A run that was killed before its first resume point begins anew.
      log = await this.openLog(after, overwrite || resume)
      const begin = performance.now()
      const tokensBefore = this.progress.tokens
      let seconds: number
      let ended: Awaited<ReturnType<Training['end']>>
      try {
        await this.steps(model, point, log)
        seconds = (performance.now() - begin) / 1e3
        ended = await this.end(model, point, log)
      } catch (error) {
        // A run that is aborted goes on from its last whole step; one that has failed from the last that was saved.
        const stopped = codeOf(error) === 'ERR_WEIGHTSMITH_ABORTED' && !this.progress.ended
        if (stopped && this.progress.step > this.saved) await this.save(model, point, log)
        throw this.named(error, place)
      }
      const { step, tokens, best, losses, held } = this.progress
      const { heldOut } = prepared
      const kept = settings.keep === 'best' && best !== undefined ? best.step : step
      return {
        ...ended,
        loss: losses,
        tokens,
        ...(heldOut && held && best
          ? { heldOut: { file: heldOut.file, ...held, best: best.loss, bestStep: best.step } }
          : {}),
        endedEarly: step < prepared.plan.steps,
        kept,
        ...(after === undefined ? {} : { resumedAfter: after }),
        tokensPerSecond: (tokens - tokensBefore) / Math.max(1e-9, seconds),
      }
    } finally {
      await log?.close()
      await this.teacher?.close()
      await model.close()
    }
  }

  /** First values of what does not begin as it is stored. */
  private start(): Iterable<readonly [name: string, values: Float32Array]> {
    const { adapters } = this.prepared
    if (this.objective !== undefined) return this.objective.start(adapters)
    return adapters.flatMap(({ weight, a, b, magnitude }) => {
      const names = factorNames(weight)
      const lengths = magnitude === undefined ? [] : [[names.magnitude, magnitude] as const]
      return [[names.a, a] as const, [names.b, b] as const, ...lengths]
    })
  }

  /** Everything that decides about the result. */
  private facts(model: TrainableModel): Record<string, unknown> {
    const { settings, plan, ids, heldOut, adapters, trainable, dtype } = this.prepared
    const { heldOutEvery, patience, adapter } = this.options
    return {
      'version of Weightsmith': version,
      ...settings,
      ...{ dtype, steps: plan.steps, heldOutEvery, patience, adapter: adapter && resolve(adapter) },
      'set of data, or shares of it': ids,
      'set of data held out': heldOut?.ids,
      'set of modules': adapters.map(({ weight, rank, scale }) => [weight, rank, scale]),
      'set of tensors': trainable.tensors,
      'set of kernel forms': model.forms,
      ...this.objective?.facts,
      ...this.objective?.sets,
    }
  }

  private async openLog(after: number | undefined, overwrite: boolean): Promise<TrainingLog | undefined> {
    const { log } = this.options
    if (log === undefined) return undefined
    return openLog(log, { after, measured: this.progress.held?.step, overwrite })
  }

  private async steps(model: TrainableModel, point: ResumePoint, log: TrainingLog | undefined): Promise<void> {
    const { plan, settings, rateOf, heldOut } = this.prepared
    const { signal, onProgress, saveEvery = 100, patience } = this.options
    const every = this.options.heldOutEvery ?? Math.max(1, Math.ceil(plan.steps / 10))
    // A run that was stopped before it has measured does that first.
    const measure = async () => {
      const { step, held } = this.progress
      if (heldOut === undefined || step === held?.step || (step % every !== 0 && step !== plan.steps)) return
      await this.measure(heldOut, model, log)
      if (patience !== undefined && this.progress.worse >= patience) this.progress.ended = true
    }
    if (!this.progress.ended) await measure()
    const begin = performance.now()
    let tokensHere = 0
    while (this.progress.step < plan.steps && !this.progress.ended) {
      if (signal?.aborted) throw aborted(signal, what)
      const number = this.progress.step + 1
      const { microBatches, targets, tokens, epoch } = plan.stepAt(this.progress.step)
      let loss = 0
      const subnets: TrainingDetails[] = []
      for (const [microBatch, batch] of microBatches.entries()) {
        const own = batch.reduce((sum, example) => sum + example.targets.reduce((a, b) => a + b, 0), 0)
        const scale = settings.normalise === 'targets' ? 1 / targets : 1 / (own * microBatches.length)
        const at = { step: number, microBatch, scale }
        const learned = this.objective
          ? await this.objective.learn(model, batch, at)
          : await this.learn(model, batch, at)
        loss += learned.loss
        subnets.push(...learned.details)
      }
      if (!Number.isFinite(loss)) throw await this.notFinite(number, `its loss is ${loss}`, model)
      const gradientNorm = await model.gradientNorm()
      if (!Number.isFinite(gradientNorm)) {
        const [tensor] = await model.nonFinite()
        throw notFinite(
          number,
          tensor ? `the gradient of ${tensor} is not finite` : 'its gradient is too large',
          tensor,
        )
      }
      const rate = rateOf(this.progress.step)
      const { beta1, beta2, eps, decay, clip } = settings
      await model.step({
        ...{ rate, beta1, beta2, eps },
        decay: (name) => (isMatrix(model, name) ? decay : 0),
        clip: clip > 0 ? Math.min(1, clip / (gradientNorm + 1e-6)) : 1,
        dense: this.objective?.dense,
      })
      const losses = { first: number === 1 ? loss : this.progress.losses.first, last: loss }
      this.progress = { ...this.progress, step: number, tokens: this.progress.tokens + tokens, losses }
      const details = subnets.length > 0 ? { subnets } : {}
      await this.note(log, { step: number, epoch, loss, gradientNorm, rate, tokens, targets, ...details })
      tokensHere += tokens
      const seconds = (performance.now() - begin) / 1e3
      const left = ((plan.steps - number) * tokens * seconds) / tokensHere
      onProgress?.({
        ...{ phase: 'train', done: number, total: plan.steps, unit: 'steps' },
        item: `loss ${loss.toFixed(4)}${ofSubnets(subnets)}, ${(tokensHere / seconds).toFixed(0)} tokens/s, ${left.toFixed(0)} s left`,
      })
      await measure()
      if (number % saveEvery === 0 && number < plan.steps) await this.save(model, point, log)
    }
  }

  /** Adds the gradient of a micro-batch. */
  private async learn(model: TrainableModel, batch: readonly TrainingExample[], { scale, ...draw }: MicroBatchAt) {
    const losses = await model.run(batch, scale, draw, await this.teacher?.says(batch))
    return { loss: scale * sumOf(losses), details: [] }
  }

  /** The loss of the data held out, and whether it is the best so far. */
  private async measure(
    { batches: { microBatches, targets } }: NonNullable<Prepared['heldOut']>,
    model: TrainableModel,
    log: TrainingLog | undefined,
  ): Promise<void> {
    const { settings } = this.prepared
    const { step, best } = this.progress
    let sum = 0
    for (const batch of microBatches) {
      if (this.options.signal?.aborted) throw aborted(this.options.signal, what)
      sum += this.objective ? await this.objective.measure(model, batch) : sumOf(await model.run(batch))
    }
    const loss = sum / targets
    if (!Number.isFinite(loss)) throw await this.notFinite(step, `the loss of the data held out is ${loss}`, model)
    this.progress.held = { step, first: this.progress.held?.first ?? loss, last: loss }
    if (best === undefined || loss < best.loss) {
      this.progress = { ...this.progress, best: { step, loss }, worse: 0 }
      if (settings.keep === 'best') {
        this.best = new Map()
        for (const name of model.learned) this.best.set(name, await model.read(name))
      }
    } else this.progress = { ...this.progress, worse: this.progress.worse + 1 }
    await this.note(log, { step, heldOutLoss: loss })
  }

  /** The error of a loss that is NaN or infinite, with the first weights that are, where there are any. */
  private async notFinite(step: number, why: string, model: TrainableModel): Promise<WeightsmithError> {
    for (const name of model.learned) {
      if ((await model.read(name)).every(Number.isFinite)) continue
      return notFinite(step, `${why}, as ${name} is not finite`, name)
    }
    const tensor = await nonFiniteTensor(this.prepared.checkpoint)
    if (tensor === undefined) return notFinite(step, why)
    return notFinite(step, `${why}, as the model's ${tensor} is not finite`, tensor)
  }

  private async note(log: TrainingLog | undefined, line: TrainingLogLine): Promise<void> {
    await log?.write(line)
    this.options.onLine?.(line)
  }

  private async save(model: TrainableModel, point: ResumePoint, log: TrainingLog | undefined): Promise<void> {
    await log?.sync()
    await saveState(point, model, this.progress, this.best)
    this.saved = this.progress.step
  }

  /** Writes what is kept, and forgets the resume point. */
  private async end(
    model: TrainableModel,
    point: ResumePoint,
    log: TrainingLog | undefined,
  ): Promise<Written & { folded?: string }> {
    const { engine, prepared, options } = this
    const { settings, adapters, checkpoint, name, dtype, plan } = prepared
    this.progress = { ...this.progress, ended: true }
    await this.save(model, point, log)
    if (settings.keep === 'best') for (const [tensor, values] of this.best ?? []) await model.write(tensor, values)
    const { signal, onProgress } = options
    const overwrite = this.mayReplace
    const shown = { ...settings, steps: plan.steps, data: prepared.reports.map(({ file }) => file) }
    const output: OutputOptions = {
      ...{ out: options.out, seed: settings.seed, signal, onProgress },
      overwrite,
      recipe: { train: name, ...shown, ...this.objective?.facts },
      about: `Trained on ${plan.examples} examples in ${this.progress.step} steps.`,
    }
    const written = await engine.use((host) =>
      this.objective !== undefined
        ? this.objective.write(host, model, adapters, { ...output, dtype })
        : settings.method === 'full'
          ? writeCheckpoint(host, model, checkpoint, output)
          : writeAdapter(host, model, adapters, { ...output, dtype, rslora: settings.rslora }),
    )
    const folded = options.fold
    if (folded !== undefined) {
      await foldAdapters(engine, name, { adapters: [options.out], out: folded, overwrite, signal })
    }
    await point.remove()
    const { out, bytesWritten } = written
    return { out, bytesWritten, ...(folded === undefined ? {} : { folded }) }
  }

  /** The error of a run that can be gone on with, where there is a resume point. */
  private named(error: unknown, place: string): unknown {
    if (error instanceof WeightsmithError && this.saved >= 0) error.partial = place
    return error
  }
}

/** Losses of the subnets of a step, for the line of progress. */
function ofSubnets(subnets: readonly TrainingDetails[]): string {
  if (subnets.length === 0) return ''
  const each = subnets.map(({ depth, width, loss }) => `${depth}x${+width.toFixed(3)} ${loss.toFixed(2)}`)
  return ` (${each.slice(-4).join(', ')})`
}

/** Factors of adapters are matrices too. */
function isMatrix(model: TrainableModel, name: string): boolean {
  const shape = model.spec.tensors.get(name)
  return shape === undefined || shape.length > 1
}

/** In float64, in order. */
function sumOf(values: Float32Array): number {
  let sum = 0
  for (const value of values) sum += value
  return sum
}

function notFinite(step: number, why: string, tensor?: string): WeightsmithError {
  return new WeightsmithError(
    'ERR_WEIGHTSMITH_NON_FINITE',
    `${what} stopped at step ${step}: ${why}. A lower learning rate or stronger clipping may help.`,
    { tensor },
  )
}
