/**
 * `manu`: modality-aware neuron unlearning (arXiv 2502.15910). Neurons of the MLPs that answer more strongly to what is
 * to be forgotten than to what is to be retained become zeros; nothing is trained.
 */

import type { Engine } from '../../engine/engine.js'
import type { LayerwiseOptions } from '../../runtime/index.js'
import type { DryRun } from '../../util/dry_run.js'
import { type Choice, choose, type ModuleScores, score } from './choose.js'
import { compare, evaluate } from './evaluate.js'
import { depthOf, type Measured, measure, modulesOn } from './measure.js'
import { checked, type ManuOptions } from './options.js'
import { checkTargets, write } from './output.js'
import { type ManuAnswers, type ManuForecast, type ManuReport, meanOf } from './report.js'
import { manuBatches, type Stream } from './streams.js'
import { none, Subject } from './subject.js'

/**
 * Throws ERR_WEIGHTSMITH_ARGUMENT for options, for lines that are both to be forgotten and retained, for a stream that
 * is empty while its other half is not, and for an alpha that leaves nothing of a module; ERR_WEIGHTSMITH_INPUT_CHANGED
 * for a `cache` of another run.
 */
export function manu(
  engine: Engine,
  path: string,
  options: ManuOptions & { dryRun: true },
): Promise<DryRun<ManuForecast>>
export function manu(
  engine: Engine,
  path: string,
  options: ManuOptions & { dryRun?: false | undefined },
): Promise<ManuReport>
export function manu(engine: Engine, path: string, options: ManuOptions): Promise<ManuReport | DryRun<ManuForecast>>
export async function manu(
  engine: Engine,
  path: string,
  options: ManuOptions,
): Promise<ManuReport | DryRun<ManuForecast>> {
  const begin = performance.now()
  const subject = await Subject.open(engine, path, checked(options))
  const { alphas, iterations, dryRun } = subject.settings
  await checkTargets(subject)
  if (dryRun === true) return { forecast: await forecast(subject) }

  const before = await evaluate(subject, none)
  // All alphas share the measurement of the model as it is.
  const streams = await measure(subject, none)
  const scores = score(subject, streams)
  const choices: Choice[] = []
  for (const alpha of alphas) {
    let chosen = choose(scores, alpha, undefined)
    for (let round = 1; round < iterations; round++) {
      const without: Measured = await measure(subject, chosen.selected)
      chosen = choose(score(subject, without), alpha, chosen)
    }
    choices.push({ ...chosen, ...(await compare(subject, chosen)) })
  }
  const allowedAlpha = largestAllowed(subject, choices, before)
  await write(subject, choices, allowedAlpha)
  return report(subject, { before, choices, allowedAlpha, scores, total: performance.now() - begin })
}

/** The largest alpha within the limit; undefined where there is no limit, null where none is within it. */
function largestAllowed(
  { settings: { maxRetainDrop } }: Subject,
  choices: readonly Choice[],
  before: ManuAnswers[] | undefined,
): number | null | undefined {
  if (maxRetainDrop === undefined || before === undefined) return undefined
  const fits = choices.filter(
    ({ answers }) => answers && 100 * (meanOf(before, 'retain') - meanOf(answers, 'retain')) <= maxRetainDrop + 1e-9,
  )
  return fits.at(-1)?.alpha ?? null
}

/** What a run would do, and about how long it takes: a pass of each kind of lines is timed. */
async function forecast(subject: Subject): Promise<ManuForecast> {
  const { timings, settings, evaluations } = subject
  const { measured, evaluated, end } = subject.streams
  const model = subject.without(none)
  try {
    subject.forecast = await model.forecast({ mode: 'layerwise', observers: [{ statistics: () => [] }] })
    for (const { kind, rows } of measured.filter(({ set }) => set === 'forget')) {
      const { value: pass } = await manuBatches(model, rows, { end: [], batch: 1 }).next()
      if (pass === undefined) continue
      const own = (stream: Stream) => stream.kind === kind
      const each = async (options: LayerwiseOptions) => {
        // The first pass compiles kernels.
        await model.layerwisePass([pass.tokens], options)
        const begin = performance.now()
        await model.layerwisePass([pass.tokens], options)
        return (performance.now() - begin) / pass.tokens.length
      }
      const depth = depthOf(modulesOn(subject, kind))
      timings.measure += (await each({ depth })) * subject.count(measured.filter(own), []) * settings.iterations
      if (evaluations > 0)
        timings.evaluate +=
          (await each({ losses: () => undefined })) * subject.count(evaluated.filter(own), end) * evaluations
    }
  } finally {
    await model.close()
  }
  return about(subject, timings.measure + timings.evaluate)
}

/** What a forecast and a report say alike. */
function about(subject: Subject, milliseconds: number): ManuForecast {
  return {
    ...{ model: subject.path, mode: subject.settings.mode },
    streams: subject.streams.measured.map((stream) => ({
      ...{ set: stream.set, kind: stream.kind, lines: stream.rows.length },
      tokens: subject.count([stream], []),
    })),
    modules: subject.candidates.map(({ name, tower, layer, neurons }) => ({ name, tower, layer, neurons })),
    notes: subject.notes,
    partitions: subject.forecast.partitions,
    deviceBytes: subject.forecast.bytes,
    device: subject.engine.device.name,
    milliseconds,
    timings: subject.timings,
  }
}

function report(
  subject: Subject,
  found: {
    before?: ManuAnswers[] | undefined
    choices: readonly Choice[]
    allowedAlpha?: number | null | undefined
    scores: ModuleScores
    total: number
  },
): ManuReport {
  const { before, choices, allowedAlpha, scores, total } = found
  const common = about(subject, total)
  const modules = subject.candidates.map((module, i) => ({
    ...(common.modules[i] ?? module),
    selected: choices.map(({ selected }) => selected.get(module)?.length ?? 0),
    limited: scores.get(module)?.limited ?? 0,
  }))
  return {
    ...common,
    modules,
    limited: modules.reduce((sum, { limited }) => sum + limited, 0),
    ...(before && { before }),
    choices: choices.map(({ selected: _, ...choice }) => choice),
    ...(allowedAlpha === undefined ? {} : { allowedAlpha }),
  }
}
