/**
 * Many merges through one engine. Jobs that name the same models run next to each other and share their headers; a few
 * run at a time, so that the files of one are handled while another computes; and finished outputs reach the disk in
 * groups, because the first fsync of a group pays for all. A job that fails leaves the others alone.
 */

import { stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { manifestName, readManifest, type Stage } from './checkpoint/index.js'
import type { Engine } from './engine.js'
import { codeOf, messageOf, WeightsmithError } from './errors.js'
import { type BatchJob, type NamedJob, readJobs } from './jobs.js'
import {
  checkOptions,
  describeInputs,
  type MergeOptions,
  type PreparedMerge,
  prepareMerge,
  stageMerge,
  typeName,
} from './merge.js'
import { Models } from './models.js'
import type { NativeAddon } from './native/border.js'
import { loadRecipe, type Recipe } from './recipe/index.js'
import { version } from './version.js'

/** Of every job, where the job itself says nothing. */
type Shared = 'dtype' | 'shardSize' | 'memory' | 'seed' | 'overwrite' | 'checksum' | 'checkFinite' | 'sync' | 'signal'

export interface BatchOptions extends Pick<MergeOptions, Shared> {
  /** Folder that the results are made in, one folder a job. */
  out: string
  /** Jobs under way at a time. Kernels run one after the other; reading and writing overlap. Defaults to 4. */
  jobs?: number | undefined
  /** Skip jobs whose output is complete and was made from the same recipe, seed and inputs. */
  resume?: boolean | undefined
  /** Folder that relative paths of job objects start from; those of a file of jobs start from its own folder. */
  folder?: string | undefined
  /** Called when a job has ended. */
  onJob?: ((result: BatchResult, progress: { done: number; total: number }) => void) | undefined
}

export interface BatchResult {
  name: string
  out: string
  status: 'merged' | 'skipped' | 'failed'
  /** Of the result's weights; 0 where nothing was merged. */
  bytes: number
  /** Without the wait for the group that it reaches the disk with. */
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
  bytes: number
  milliseconds: number
}

/**
 * Runs the jobs of a list, of a `.jsonl` file (a job a line) or of a folder of recipes. Failures of jobs are in the
 * report; it rejects where the whole cannot go on: misuse, an aborted signal, a closed engine. What was finished
 * until then stays.
 */
export async function batch(engine: Engine, source: string | BatchJob[], options: BatchOptions): Promise<BatchReport> {
  const { jobs: parallel = 4, signal } = options
  if (!Number.isSafeInteger(parallel) || parallel < 1) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_ARGUMENT',
      `The option jobs should be a whole number from 1, but "${parallel}" was found.`,
    )
  }
  checkOptions(options)
  const start = performance.now()
  const jobs = await readJobs(source, options.folder ?? process.cwd())
  const run = await engine.use(async ({ addon }) => new Run(engine, addon, jobs, options))
  const queue = (await inGroups(jobs))[Symbol.iterator]()
  const work = async () => {
    for (const { job, recipe } of queue) {
      if (run.ended !== undefined || signal?.aborted) return
      await run.job(job, recipe)
    }
  }
  await Promise.all(Array.from({ length: parallel }, work))
  await run.commits.flush()
  const report = run.report(performance.now() - start)
  if (run.ended !== undefined) throw run.ended
  if (signal?.aborted) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_ABORTED',
      `The batch was aborted; ${report.jobs.length} of its ${jobs.length} jobs had ended and stay as they are.`,
      { cause: signal.reason },
    )
  }
  return report
}

interface LoadedJob {
  job: NamedJob
  /** Or why there is none. */
  recipe: Recipe | { error: unknown }
}

/** Jobs with the same models one after the other, groups in the order of their first job. */
async function inGroups(jobs: NamedJob[]): Promise<LoadedJob[]> {
  const groups = new Map<string, LoadedJob[]>()
  for (const job of jobs) {
    const recipe = await loadRecipe(job.recipe, job.folder).catch((error: unknown) => ({ error }))
    const key = 'error' in recipe ? '' : modelsKey(recipe)
    const group = groups.get(key)
    if (group === undefined) groups.set(key, [{ job, recipe }])
    else group.push({ job, recipe })
  }
  return [...groups.values()].flat()
}

function modelsKey({ base, slices, folder }: Recipe): string {
  return JSON.stringify([folder, base, ...new Set(slices.flatMap(({ sources }) => sources.map(({ model }) => model)))])
}

class Run {
  readonly commits: Commits
  /** What ends the whole batch: the engine is closed. */
  ended: unknown
  private readonly out: string
  private readonly models: Models
  private readonly results = new Map<NamedJob, BatchResult>()

  constructor(
    private readonly engine: Engine,
    addon: NativeAddon,
    private readonly jobs: NamedJob[],
    private readonly options: BatchOptions,
  ) {
    this.out = resolve(options.out)
    this.models = new Models(addon)
    this.commits = new Commits(addon, this.out, options)
  }

  /** Settles when the job is merged, skipped or failed, except for the wait for its group. Never rejects. */
  async job(job: NamedJob, recipe: LoadedJob['recipe']): Promise<void> {
    const start = performance.now()
    const settle = (outcome: Pick<BatchResult, 'status' | 'bytes' | 'error'>) => {
      const milliseconds = performance.now() - start
      this.settle(job, { name: job.name, out: join(this.out, job.name), ...outcome, milliseconds })
    }
    const fail = (error: unknown) => {
      const code = codeOf(error)
      if (code === 'ERR_WEIGHTSMITH_DISPOSED') this.ended = error
      else if (code !== 'ERR_WEIGHTSMITH_ABORTED') settle({ status: 'failed', bytes: 0, error: described(error, code) })
    }
    try {
      if ('error' in recipe) throw recipe.error
      const staged = await this.merge(job, recipe)
      if (staged === undefined) return settle({ status: 'skipped', bytes: 0 })
      const { stage, report } = staged
      const files = [...report.files.map(({ name }) => name), manifestName]
      const merged = { status: 'merged', bytes: report.bytes } as const
      await this.commits.add({ stage, files, bytes: report.bytes, done: () => settle(merged), fail })
    } catch (error) {
      fail(error)
    }
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
      bytes: jobs.reduce((sum, { bytes }) => sum + bytes, 0),
      milliseconds,
    }
  }

  /** Undefined where there is nothing left to do. */
  private merge(job: NamedJob, recipe: Recipe) {
    const { dtype, seed } = this.options
    const out = join(this.out, job.name)
    const options = { ...this.options, dtype: job.dtype ?? dtype, seed: job.seed ?? seed, out, sync: false }
    return this.engine.use(async ({ addon, device, memory }) => {
      const settings = checkOptions({ memory, ...options })
      const prepared = await prepareMerge({ addon, models: this.models }, recipe, {
        ...settings,
        signal: options.signal,
      })
      if (options.resume && (await isMerged(addon, out, prepared, settings.seed))) return undefined
      return stageMerge({ addon, device, version }, prepared, { memory, ...options })
    })
  }

  private settle(job: NamedJob, result: BatchResult): void {
    this.results.set(job, result)
    this.options.onJob?.(result, { done: this.results.size, total: this.jobs.length })
  }
}

function described(error: unknown, code: string | undefined): NonNullable<BatchResult['error']> {
  return { ...(code === undefined ? {} : { code }), message: messageOf(error) }
}

/** Whether an output is complete and is what this merge would make; its bytes are not read (`verify` does that). */
async function isMerged(addon: NativeAddon, out: string, prepared: PreparedMerge, seed: number): Promise<boolean> {
  const manifest = await readManifest(out).catch(() => undefined)
  if (manifest === undefined) return false
  const { recipe, checkpoints, plan } = prepared
  const facts = (inputs: unknown) =>
    JSON.stringify(inputs, (key, value: unknown) => (key === 'sha256' ? undefined : value))
  const inputs = await describeInputs({ addon }, checkpoints, false)
  const same =
    manifest.seed === seed &&
    manifest.dtype === typeName(plan) &&
    JSON.stringify(manifest.recipe) === JSON.stringify(recipe.input) &&
    facts(manifest.inputs) === facts(inputs)
  if (!same) return false
  for (const { name, size } of manifest.outputs) {
    const info = await stat(join(out, name)).catch(() => undefined)
    if (info?.size !== size) return false
  }
  return true
}

interface Commit {
  stage: Stage
  files: string[]
  bytes: number
  done(): void
  fail(error: unknown): void
}

/** Gives outputs their final names in groups: everything of a group is on disk before one of them is renamed. */
class Commits {
  private static readonly most = { outputs: 64, bytes: 2 ** 28 }
  private waiting: Commit[] = []
  private bytes = 0
  private last: Promise<void> = Promise.resolve()

  constructor(
    private readonly addon: NativeAddon,
    private readonly folder: string,
    private readonly options: Pick<BatchOptions, 'overwrite' | 'sync'>,
  ) {}

  /** Settles at once, or with the group that the output completes. */
  async add(commit: Commit): Promise<void> {
    this.waiting.push(commit)
    this.bytes += commit.bytes
    if (this.waiting.length >= Commits.most.outputs || this.bytes >= Commits.most.bytes) await this.flush()
  }

  flush(): Promise<void> {
    const group = this.waiting
    this.waiting = []
    this.bytes = 0
    this.last = this.last.then(() => this.commit(group))
    return this.last
  }

  private async commit(group: Commit[]): Promise<void> {
    if (group.length === 0) return
    // One that fails to reach the disk must not fail the others: then each goes alone.
    const together = await this.sync(group).then(
      () => true,
      () => false,
    )
    const renamed: Commit[] = []
    for (const commit of group) {
      try {
        if (!together) await this.sync([commit])
        await commit.stage.publish(this.options.overwrite === true)
        renamed.push(commit)
      } catch (error) {
        await commit.stage.discard()
        commit.fail(error)
      }
    }
    try {
      if (this.options.sync !== false) await this.addon.syncFiles([this.folder])
      for (const commit of renamed) commit.done()
    } catch (error) {
      for (const commit of renamed) commit.fail(error)
    }
  }

  private async sync(group: Commit[]): Promise<void> {
    if (this.options.sync === false) return
    const paths = group.flatMap(({ stage, files }) => [...files.map((name) => join(stage.folder, name)), stage.folder])
    await this.addon.syncFiles(paths)
  }
}
