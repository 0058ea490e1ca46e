/**
 * Many merges through one engine. Jobs that name the same models run next to each other and share their headers; a few
 * run at a time, so that the files of one are handled while another computes; and finished outputs reach the disk in
 * groups, because the first fsync of a group pays for all. A job that fails leaves the others alone.
 */

import { join, resolve } from 'node:path'
import { manifestName } from '../../checkpoint/index.js'
import { readMeasurements } from '../../engine/bandwidth.js'
import type { Engine } from '../../engine/engine.js'
import type { NativeAddon } from '../../native/border.js'
import type { DryRun } from '../../util/dry_run.js'
import { codeOf, messageOf, throwIfAborted, WeightsmithError, wrongOption } from '../../util/errors.js'
import type { ProgressEvent } from '../../util/progress.js'
import { forecastMerge, type MergeForecast } from '../forecast.js'
import {
  checkOptions,
  checkTargets,
  type MergeOptions,
  Models,
  type PreparedMerge,
  prepareMerge,
  stageMerge,
  type Target,
} from '../index.js'
import type { Recipe } from '../recipe/index.js'
import { type BatchJob, Commits, inGroups, isMerged, type LoadedJob, type NamedJob, readJobs } from './index.js'

/** Of every job, where the job itself says nothing. */
type Shared =
  | ('dtype' | 'shardSize' | 'memory' | 'seed' | 'dryRun' | 'overwrite')
  | ('checksum' | 'checkFinite' | 'sync' | 'signal')

export interface BatchOptions extends Pick<MergeOptions, Shared> {
  /** Folder that the results are made in, one folder a job. */
  out: string
  /** Jobs under way at a time. Kernels run one after the other; reading and writing overlap. Defaults to 4. */
  jobs?: number | undefined
  /** Skip jobs whose output is complete and was made from the same recipe, seed and inputs. */
  resume?: boolean | undefined
  /** Folder that relative paths of job objects start from; those of a file of jobs start from its own folder. */
  folder?: string | undefined
  /** Called with every job that has ended, in the order of their ends. */
  onJob?: ((result: BatchResult) => void) | undefined
  /** Jobs that have ended, of all; `item` is the last of them. */
  onProgress?: ((event: ProgressEvent) => void) | undefined
}

export interface BatchResult {
  name: string
  out: string
  status: 'merged' | 'skipped' | 'failed'
  /** Of the result's files of weights; 0 where nothing was merged. */
  bytesWritten: number
  /** Its share of the time of the jobs that it read its inputs with; without the wait for the disk. */
  milliseconds: number
  /** Of a failed job; `code` is absent where the error is not this package's. */
  error?: { code?: string; message: string }
}

export interface BatchReport {
  out: string
  /** In the order of the jobs. */
  jobs: BatchResult[]
  merged: number
  skipped: number
  failed: number
  /** Of the inputs: jobs that run together read them once. */
  bytesRead: number
  /** Of all results' files of weights. */
  bytesWritten: number
  milliseconds: number
}

/** A job as a dry run sees it. */
export interface BatchPlan extends Pick<BatchResult, 'name' | 'out' | 'bytesWritten' | 'error'> {
  /** What would become of it; a job may fail later too. */
  status: 'merge' | 'skip' | 'fail'
}

export interface BatchForecast {
  out: string
  /** In the order of the jobs. */
  jobs: BatchPlan[]
  merge: number
  skip: number
  fail: number
  /** Of the inputs: jobs that run together read them once. */
  bytesRead: number
  bytesWritten: number
  /** Bytes that the buffers of the largest job take. */
  deviceBytes: number
  device: string
  /** An estimate: the sum over jobs that run together. Absent where nothing was measured. */
  milliseconds?: number
}

/**
 * Runs the jobs of a list, of a `.jsonl` file (a job a line) or of a folder of recipes. Failures of jobs are in the
 * report; it rejects where the whole cannot go on: misuse, an aborted signal, a closed engine. What was finished
 * until then stays.
 */
export function batch(
  engine: Engine,
  source: string | BatchJob[],
  options: BatchOptions & { dryRun: true },
): Promise<DryRun<BatchForecast>>
export function batch(
  engine: Engine,
  source: string | BatchJob[],
  options: BatchOptions & { dryRun?: false | undefined },
): Promise<BatchReport>
export function batch(
  engine: Engine,
  source: string | BatchJob[],
  options: BatchOptions,
): Promise<BatchReport | DryRun<BatchForecast>>
export async function batch(
  engine: Engine,
  source: string | BatchJob[],
  options: BatchOptions,
): Promise<BatchReport | DryRun<BatchForecast>> {
  const { jobs: parallel = 4, signal } = options
  if (!Number.isSafeInteger(parallel) || parallel < 1) {
    throw wrongOption('jobs', 'a whole number from 1', parallel)
  }
  checkOptions(options)
  const start = performance.now()
  const jobs = await readJobs(source, options.folder ?? process.cwd())
  const run = await engine.use(async ({ addon }) => new Run(engine, addon, jobs, options))
  const groups = await inGroups(jobs)
  if (options.dryRun) return { forecast: await run.forecast(groups) }
  const queue = groups[Symbol.iterator]()
  const work = async () => {
    for (const group of queue) {
      if (run.ended !== undefined || signal?.aborted) return
      await run.group(group)
    }
  }
  await Promise.all(Array.from({ length: parallel }, work))
  await run.commits.flush()
  const report = run.report(performance.now() - start)
  if (run.ended !== undefined) throw run.ended
  if (signal?.aborted) {
    const error = new WeightsmithError(
      'ERR_WEIGHTSMITH_ABORTED',
      `The batch was aborted; ${report.jobs.length} of its ${jobs.length} jobs had ended and stay as they are.`,
      { cause: signal.reason },
    )
    if (report.merged > 0) error.partial = report.out
    throw error
  }
  return report
}

interface ReadyJob {
  job: NamedJob
  prepared: PreparedMerge
}

class Run {
  readonly commits: Commits
  /** What ends the whole batch: the engine is closed. */
  ended: unknown
  private readonly out: string
  private readonly models: Models
  private readonly results = new Map<NamedJob, BatchResult>()
  private bytesRead = 0

  constructor(
    private readonly engine: Engine,
    private readonly addon: NativeAddon,
    private readonly jobs: NamedJob[],
    private readonly options: BatchOptions,
  ) {
    this.out = resolve(options.out)
    this.models = new Models(addon)
    this.commits = new Commits(addon, this.out, options.sync !== false)
  }

  /** Settles when the jobs are merged, skipped or failed, except for the wait for their commit. Never rejects. */
  async group(jobs: LoadedJob[]): Promise<void> {
    const start = performance.now()
    const ready: ReadyJob[] = []
    for (const { job, recipe } of jobs) {
      try {
        if ('error' in recipe) throw recipe.error
        const prepared = await this.prepare(job, recipe)
        if (prepared === undefined) this.settle(job, start, { status: 'skipped', bytesWritten: 0 })
        else ready.push({ job, prepared })
      } catch (error) {
        this.fail(job, start, error)
      }
    }
    if (ready.length > 1 && (await this.together(ready, start))) return
    for (const one of ready) {
      const begun = ready.length > 1 ? performance.now() : start
      if (this.ended !== undefined || this.options.signal?.aborted) return
      try {
        await this.merge([one], begun)
      } catch (error) {
        this.fail(one.job, begun, error)
      }
    }
  }

  /** Whether one read of the inputs served all jobs; a job that is refused must not take the others with it. */
  private together(jobs: ReadyJob[], start: number): Promise<boolean> {
    return this.merge(jobs, start).then(
      () => true,
      () => false,
    )
  }

  report(milliseconds: number): BatchReport {
    const jobs = this.jobs.flatMap((job) => this.results.get(job) ?? [])
    const count = (status: BatchResult['status']) => jobs.filter((job) => job.status === status).length
    return {
      out: this.out,
      jobs,
      merged: count('merged'),
      skipped: count('skipped'),
      failed: count('failed'),
      bytesRead: this.bytesRead,
      bytesWritten: jobs.reduce((sum, { bytesWritten }) => sum + bytesWritten, 0),
      milliseconds,
    }
  }

  /** What the jobs would do; nothing is written. */
  async forecast(groups: readonly LoadedJob[][]): Promise<BatchForecast> {
    const { device, slots } = this.engine
    const { maxStorageBufferBindingSize: maxBinding = 2 ** 27 } = device.limits
    const about = { known: await readMeasurements(), limits: { maxBinding, slots } }
    const plans = new Map<NamedJob, BatchPlan>()
    const costs: MergeForecast[] = []
    for (const group of groups) {
      const outputs: Target[] = []
      let first: ReadyJob | undefined
      for (const { job, recipe } of group) {
        throwIfAborted(this.options.signal, 'The batch')
        const note = (plan: Pick<BatchPlan, 'status' | 'bytesWritten' | 'error'>) =>
          plans.set(job, { name: job.name, out: join(this.out, job.name), ...plan })
        try {
          if ('error' in recipe) throw recipe.error
          const prepared = await this.prepare(job, recipe)
          if (prepared === undefined) {
            note({ status: 'skip', bytesWritten: 0 })
            continue
          }
          const { outputs: own } = await checkTargets(prepared, this.optionsOf(job))
          note({ status: 'merge', bytesWritten: own.reduce((sum, { plan }) => sum + plan.layout.bytes, 0) })
          outputs.push(...own)
          first ??= { job, prepared }
        } catch (error) {
          note({ status: 'fail', bytesWritten: 0, error: described(error, codeOf(error)) })
        }
      }
      if (first === undefined) continue
      const { checkpoints } = first.prepared
      const options = this.optionsOf(first.job)
      costs.push(await forecastMerge(this.addon, { checkpoints, outputs }, options, about))
    }
    const jobs = this.jobs.flatMap((job) => plans.get(job) ?? [])
    const count = (status: BatchPlan['status']) => jobs.filter((job) => job.status === status).length
    const times = costs.flatMap(({ milliseconds }) => milliseconds ?? [])
    return {
      out: this.out,
      jobs,
      merge: count('merge'),
      skip: count('skip'),
      fail: count('fail'),
      bytesRead: costs.reduce((sum, { bytesRead }) => sum + bytesRead, 0),
      bytesWritten: jobs.reduce((sum, { bytesWritten }) => sum + bytesWritten, 0),
      deviceBytes: Math.max(0, ...costs.map(({ deviceBytes }) => deviceBytes)),
      device: device.name,
      ...(times.length === costs.length && { milliseconds: times.reduce((a, b) => a + b, 0) }),
    }
  }

  private optionsOf(job: NamedJob): MergeOptions {
    const { dtype, seed, onProgress: _, memory = this.engine.memory, ...shared } = this.options
    const out = join(this.out, job.name)
    // An unfinished output of a large job is continued, by the same batch too where jobs go on one by one.
    const resume = this.options.resume === true || this.options.overwrite !== true
    return { ...shared, memory, dtype: job.dtype ?? dtype, seed: job.seed ?? seed, out, sync: false, resume }
  }

  /** Undefined where there is nothing left to do. */
  private async prepare(job: NamedJob, recipe: Recipe): Promise<PreparedMerge | undefined> {
    const options = this.optionsOf(job)
    const prepared = await prepareMerge(this.models, recipe, options)
    const { resume = false } = this.options
    return resume && (await isMerged(this.addon, prepared, options.seed ?? 0)) ? undefined : prepared
  }

  private async merge(jobs: ReadyJob[], start: number): Promise<void> {
    const [first] = jobs
    if (first === undefined) return
    const prepared = { ...first.prepared, outputs: jobs.flatMap((job) => job.prepared.outputs) }
    const { outputs, run } = await this.engine.use(({ addon, device }) =>
      stageMerge({ addon, device }, prepared, this.optionsOf(first.job)),
    )
    this.bytesRead += run.bytesRead
    let next = 0
    for (const { job, prepared: own } of jobs) {
      const staged = outputs.slice(next, next + own.outputs.length)
      next += own.outputs.length
      const bytes = staged.reduce((sum, { plan }) => sum + plan.layout.bytes, 0)
      const milliseconds = (performance.now() - start) / jobs.length
      await this.commits.add({
        outputs: staged.map(({ stage, files }) => ({ stage, files: [...files.map(({ name }) => name), manifestName] })),
        bytes,
        done: () => this.finish(job, { status: 'merged', bytesWritten: bytes, milliseconds }),
        fail: (error) => this.fail(job, start, error),
      })
    }
  }

  private fail(job: NamedJob, start: number, error: unknown): void {
    const code = codeOf(error)
    if (code === 'ERR_WEIGHTSMITH_DISPOSED') this.ended = error
    else if (code !== 'ERR_WEIGHTSMITH_ABORTED') {
      this.settle(job, start, { status: 'failed', bytesWritten: 0, error: described(error, code) })
    }
  }

  private settle(job: NamedJob, start: number, outcome: Pick<BatchResult, 'status' | 'bytesWritten' | 'error'>): void {
    this.finish(job, { ...outcome, milliseconds: performance.now() - start })
  }

  private finish(job: NamedJob, outcome: Omit<BatchResult, 'name' | 'out'>): void {
    const result = { name: job.name, out: join(this.out, job.name), ...outcome }
    this.results.set(job, result)
    this.options.onJob?.(result)
    const { size: done } = this.results
    this.options.onProgress?.({ phase: 'merge', done, total: this.jobs.length, unit: 'jobs', item: job.name })
  }
}

function described(error: unknown, code: string | undefined): NonNullable<BatchResult['error']> {
  return { ...(code === undefined ? {} : { code }), message: messageOf(error) }
}
