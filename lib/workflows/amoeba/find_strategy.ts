/**
 * Stage 1 of AmoebaLLM (arXiv 2411.10606): the strategy of a model. Nothing is trained; what blocks, heads and neurons
 * are worth is measured on lines.
 */

import type { Engine } from '../../engine/engine.js'
import { type DepthStrategy, type Strategy, type StrategyWidth, writeStrategy } from '../../subnets/index.js'
import type { DryRun } from '../../util/dry_run.js'
import { WeightsmithError } from '../../util/errors.js'
import { costOf, searchDepths } from './depth.js'
import { Journal } from './journal.js'
import { askedBatches } from './lines.js'
import { MaskedModel } from './masked_model.js'
import type { AmoebaStrategyForecast, AmoebaStrategyOptions, AmoebaStrategyReport } from './options.js'
import { summaryOf } from './summary.js'
import { Task } from './task.js'
import { chooseWidths, measureWidths } from './widths.js'

/**
 * Finds the blocks that stay at every depth and the heads and neurons that stay at every width, and writes them to a
 * strategy file. Throws ERR_WEIGHTSMITH_ARGUMENT for options, for lines and for a family that it cannot take, and
 * ERR_WEIGHTSMITH_NON_FINITE where no mask of some depth gives a number. What an interrupted run leaves is the
 * `partial` of its error.
 */
export function amoebaStrategy(
  engine: Engine,
  path: string,
  options: AmoebaStrategyOptions & { dryRun: true },
): Promise<DryRun<AmoebaStrategyForecast>>
export function amoebaStrategy(
  engine: Engine,
  path: string,
  options: AmoebaStrategyOptions & { dryRun?: false | undefined },
): Promise<AmoebaStrategyReport>
export function amoebaStrategy(
  engine: Engine,
  path: string,
  options: AmoebaStrategyOptions,
): Promise<AmoebaStrategyReport | DryRun<AmoebaStrategyForecast>>
export async function amoebaStrategy(
  engine: Engine,
  path: string,
  options: AmoebaStrategyOptions,
): Promise<AmoebaStrategyReport | DryRun<AmoebaStrategyForecast>> {
  const begin = performance.now()
  const task = await Task.open(engine, path, options)
  const { out, model } = task
  try {
    if (out === undefined) return { forecast: { ...about(task), milliseconds: await estimate(task) } }
    const journal = await Journal.open(`${out}.resume`, task.facts, options)
    try {
      const { depth, blockPasses } = await findDepths(task, journal)
      const decided = performance.now()
      const widths = await findWidths(task)
      const strategy: Strategy = { ...task.origin, layers: task.search.layers, depth, widths }
      task.check()
      const bytesWritten = await writeStrategy(out, strategy, model.spec)
      await journal.remove()
      const end = performance.now()
      return {
        ...{ ...about(task), blockPasses, out, ...summaryOf(strategy), bytesWritten, milliseconds: end - begin },
        timings: { depth: decided - begin, width: end - decided },
      }
    } catch (error) {
      throw await journal.left(error)
    }
  } finally {
    await model.close()
  }
}

/** The dynamic programme over blocks, on masks that are measured on the lines. */
async function findDepths(
  { engine, model, fit, search, data, check, progress }: Task,
  journal: Journal,
): Promise<{ depth: DepthStrategy; blockPasses: number }> {
  const { order, metric, keepLast, layers } = search
  const total = costOf(search).blockPasses
  const masked = new MaskedModel(model, data, {
    ...{ decided: layers - keepLast, check },
    memory: await engine.use(async ({ memory }) => memory),
    onBlocks: (done) => progress('depth', done, total),
  })
  try {
    const [dense = Number.NaN] = await journal.once(1, async () => [(await masked.measureWhole()).value(metric)])
    const table = await searchDepths(search, dense, async (cells) => {
      // A model that is read part by part is read once for all masks of a row; else a run can be resumed after each.
      const groups = fit.partitions > 1 ? [cells] : cells.map((cell) => [cell])
      const found: number[][] = []
      for (const group of groups) {
        const measure = async () => {
          const answers = await masked.measure(group.map(({ mask }) => mask))
          return answers.map((own) => own.value(metric))
        }
        found.push(await journal.once(group.length, measure))
      }
      return found.flat()
    })
    const [masks = [], values = []] = [table.masks.at(-1), table.values.at(-1)]
    const missing = values.findIndex(Number.isNaN)
    if (missing >= 0) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_NON_FINITE',
        `The ${metric} of ${model.checkpoint.name} with ${layers - missing} blocks is not a number, whichever blocks stay.`,
      )
    }
    return { depth: { order, metric, keepLast, masks, values, table }, blockPasses: masked.blockPasses }
  } finally {
    await masked.close()
  }
}

/** Statistics of heads and neurons from one pass, and what stays of them at each ratio. */
async function findWidths({ engine, model, calibration, widths, check, progress }: Task): Promise<StrategyWidth[]> {
  const measured = await measureWidths(model, calibration.items, {
    check,
    onStep: (done, total) => progress('width', done, total),
  })
  return engine.use((host) => chooseWidths(host, model, measured, widths))
}

/** What a forecast and a report say alike. */
function about({ path, search, widths, data, model, fit }: Task): Omit<AmoebaStrategyForecast, 'milliseconds'> {
  const { layers, keepLast, most, metric, order } = search
  const { examples, tokens } = data.data
  const row = 4 * (model.spec.language.activations.x ?? 0)
  return {
    ...{ model: path, metric, order, layers, minDepth: layers - most, keepLast, widths, examples, tokens },
    ...{ ...costOf(search), waitingBytes: (layers - keepLast) * tokens * row, ...fit },
  }
}

/** One layer on the longest batch, times the layers that all tokens go through, and what is read of a large model. */
async function estimate({ model, fit, search, data, calibration }: Task): Promise<number> {
  const batches = askedBatches(model, data.items)
  const longest = batches.reduce((most, batch) => (batch.tokens.length > most.tokens.length ? batch : most))
  const { run, load } = await model.paceOf(longest.tokens)
  const { layers, keepLast } = search
  const tokens = costOf(search).blockPasses * data.data.tokens + layers * calibration.data.tokens
  const rows = layers - keepLast + 2
  return (run * tokens) / longest.tokens.length + load * fit.bytesReadPerPass * rows
}
