/**
 * Iterative model merging (arXiv 2503.02103): a model learns from its own right answers, and after every round is
 * merged with what it was, so that it does not lose the rest. The loop is `run` below; what it calls is in steps.ts.
 */

import { stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import { inputsOf, openCheckpoint, resolveModel } from '../../checkpoint/index.js'
import { readExamples } from '../../data/index.js'
import type { Engine } from '../../engine/engine.js'
import type { DryRun } from '../../util/dry_run.js'
import { throwIfAborted, WeightsmithError } from '../../util/errors.js'
import type { ProgressEvent } from '../../util/progress.js'
import { type ImmConfig, readConfig, type Settings } from './config.js'
import { Ledger } from './ledger.js'
import {
  evaluateStep,
  filterStep,
  generateStep,
  type ImmEvaluation,
  type ImmFilteredSamples,
  mergeStep,
  type Run,
  trainStep,
} from './steps.js'

export interface ImmOptions {
  /** Folder of the run: every round's data, models and report. */
  out: string
  /** Goes before the config's. */
  rounds?: number | undefined
  /** Go on with the run in the folder, at the step it stopped in; where there is none, begin. */
  resume?: boolean | undefined
  /** Begin again where a run is. */
  overwrite?: boolean | undefined
  /** Check everything and forecast the cost, but write nothing. */
  dryRun?: boolean | undefined
  signal?: AbortSignal | undefined
  onProgress?: ((event: ImmProgress) => void) | undefined
  /** After every round, the original as round 0. */
  onRound?: ((report: ImmRoundReport) => void) | undefined
}

export interface ImmProgress extends ProgressEvent {
  round: number
  rounds: number
  /** The step of the round. */
  phase: 'generate' | 'filter' | 'train' | 'merge' | 'evaluate'
}

export interface ImmRoundReport {
  round: number
  /** The merged model; of round 0 the original. */
  model: string
  data?: ImmFilteredSamples
  evaluation: ImmEvaluation
  /** What the trained model was before the merge. */
  trained?: { model: string; evaluation: ImmEvaluation }
  /** What was decided after it, and why. */
  decision: string
}

export interface ImmForecast {
  out: string
  /** The original model. */
  model: string
  rounds: number
  policy: 'last' | 'best'
  questions: number
  /** Bytes that a round takes on disk: the trained model and the merged one. */
  bytesPerRound: number
}

export interface ImmReport {
  out: string
  /** The result. */
  model: string
  /** The round it is of; 0 is the original. */
  chosen: number
  policy: 'last' | 'best'
  questions: number
  rounds: ImmRoundReport[]
  device: string
  milliseconds: number
}

/**
 * Runs IMM. Throws ERR_WEIGHTSMITH_RECIPE for a config that is not valid, ERR_WEIGHTSMITH_COMMAND for a command that
 * fails, and what the verbs it is made of throw; errors after which the same call can go on have `partial`, the folder.
 */
export function imm(
  engine: Engine,
  config: string | ImmConfig,
  options: ImmOptions & { dryRun: true },
): Promise<DryRun<ImmForecast>>
export function imm(
  engine: Engine,
  config: string | ImmConfig,
  options: ImmOptions & { dryRun?: false | undefined },
): Promise<ImmReport>
export function imm(
  engine: Engine,
  config: string | ImmConfig,
  options: ImmOptions,
): Promise<ImmReport | DryRun<ImmForecast>>
export async function imm(
  engine: Engine,
  config: string | ImmConfig,
  options: ImmOptions,
): Promise<ImmReport | DryRun<ImmForecast>> {
  const begin = performance.now()
  const settings = await readConfig(config)
  if (options.rounds !== undefined) settings.rounds = options.rounds
  const out = resolve(options.out)
  const original = await resolveModel(settings.model, settings.folder)
  const { policy } = settings
  const { questions, bytesPerRound, inputs } = await plan(engine, settings, original)
  if (options.dryRun) {
    return { forecast: { out, model: original, rounds: settings.rounds, policy, questions, bytesPerRound } }
  }
  const ledger = await engine.use(({ addon }) =>
    Ledger.open(addon, out, {
      config: asData(settings),
      inputs,
      resume: options.resume === true,
      overwrite: options.overwrite === true,
    }),
  )
  try {
    const rounds = await run(engine, { settings, original, ledger, options })
    const chosen = settings.policy === 'best' ? bestOf(rounds) : rounds.length - 1
    const model = rounds[chosen]?.model ?? original
    await ledger.finish({ model, chosen })
    const { name: device } = engine.device
    return { out, model, chosen, policy, questions, rounds, device, milliseconds: performance.now() - begin }
  } catch (error) {
    if (error instanceof WeightsmithError) error.partial = out
    throw error
  } finally {
    ledger.close()
  }
}

interface Work {
  settings: Settings
  original: string
  ledger: Ledger
  options: ImmOptions
}

/** The loop: W is the working model, S what it becomes by training on its own right answers, M0 the original. */
async function run(engine: Engine, { settings, original, ledger, options }: Work): Promise<ImmRoundReport[]> {
  const signal = options.signal ?? new AbortController().signal
  const reports: ImmRoundReport[] = []
  const trained: string[] = []
  let working = original
  for (let round = 0; round <= settings.rounds; round++) {
    const folder = await ledger.round(round)
    const step = <T>(name: ImmProgress['phase'], work: (run: Run) => Promise<T>, note: string = name) =>
      ledger.step(round, note, async () => {
        throwIfAborted(signal, 'The run')
        const onProgress = (event: Omit<ProgressEvent, 'phase'>) =>
          options.onProgress?.({ ...event, phase: name, round, rounds: settings.rounds })
        onProgress({ done: 0, total: 0, unit: 'examples' })
        return work({ engine, settings, original, signal, onProgress })
      })

    let data: ImmFilteredSamples | undefined
    if (round > 0) {
      await step('generate', (run) => generateStep(run, working, round, folder))
      data = await step('filter', (run) => filterStep(run, folder))
      trained.push(await step('train', (run) => trainStep(run, working, round, folder)))
      working = await step('merge', (run) => mergeStep(run, trained, folder))
    }
    const evaluation = await step('evaluate', (run) => evaluateStep(run, working, true))
    const report: ImmRoundReport = { round, model: working, evaluation, decision: '' }
    if (data !== undefined) report.data = data
    const improved = trained.at(-1)
    if (improved !== undefined) {
      const before = await step('evaluate', (run) => evaluateStep(run, improved, false), 'evaluate trained')
      report.trained = { model: improved, evaluation: before }
    }
    reports.push(report)
    const ended = isOver(reports, settings)
    report.decision = ended ?? (round === 0 ? 'begins' : 'goes on')
    options.onRound?.(report)
    if (ended !== undefined) break
  }
  return reports
}

/** Why the run ends with the last of these rounds, if it does. */
function isOver(reports: readonly ImmRoundReport[], { rounds, patience }: Settings): string | undefined {
  const round = reports.length - 1
  const since = round - bestOf(reports)
  if (patience !== undefined && since >= patience) {
    return `ends: no better validation accuracy since round ${round - since}`
  }
  return round === rounds ? `ends: round ${round} of ${rounds}` : undefined
}

/** The first of the rounds with the best validation accuracy. */
function bestOf(reports: readonly ImmRoundReport[]): number {
  const values = reports.map(({ evaluation }) => evaluation.valid ?? 0)
  return values.indexOf(Math.max(...values))
}

/** Looks at all that the run will need. */
async function plan(engine: Engine, settings: Settings, original: string) {
  const { questions, limit, evaluate, merge } = settings
  const asked = await readExamples(questions, limit)
  const sets = [...evaluate.id, ...evaluate.ood, evaluate.valid, merge.importance?.data]
  for (const file of sets) if (file !== undefined) await readExamples(file)
  if (merge.pretrained !== undefined) await resolveModel(merge.pretrained, settings.folder)
  const checkpoint = await engine.use(({ addon }) => openCheckpoint(addon, original, original))
  const elements = [...checkpoint.tensors.values()].reduce(
    (sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1),
    0,
  )
  const sizes = await Promise.all(checkpoint.files.map(({ path }) => stat(path)))
  const own = sizes.reduce((sum, { size }) => sum + size, 0)
  return { questions: asked.length, bytesPerRound: own + 4 * elements, inputs: inputsOf([checkpoint]) }
}

/** What decides about a run, as data: a function is only known to be one. */
function asData(settings: Settings): Record<string, unknown> {
  return JSON.parse(
    JSON.stringify(settings, (_, value: unknown) => (typeof value === 'function' ? 'a function' : value)),
  ) as Record<string, unknown>
}
