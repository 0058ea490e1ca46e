/** `weightsmith amoeba strategy`. */

import { type Command, Option } from 'commander'
import { strategyPage } from '../report/index.js'
import {
  type AmoebaStrategyForecast,
  type AmoebaStrategyOptions,
  type AmoebaStrategyReport,
  amoebaStrategy,
  depthMetrics,
  depthOrders,
  openStrategy,
  type StrategyInspection,
  type StrategySummary,
} from '../workflows/amoeba/index.js'
import { bytes, milliseconds, plural, shownRows, table } from './format.js'
import { signal } from './interrupt.js'
import { device, dryRun, images, json, list, memory, overwrite, report, seed, share, wholeNumber } from './options.js'
import { type Common, printResult, type Reported, verb, withEngine, writeReport } from './verb.js'

export function addStrategy(amoeba: Command): void {
  verb(
    amoeba,
    'strategy',
    'find the blocks that stay at every depth, and the heads and neurons that stay at every width; no training',
    'weightsmith amoeba strategy ./base --data calibration.jsonl --out base.strategy --min-depth 20 --report strategy.html',
  )
    .argument('<model>', 'a folder or org/name in the local cache')
    .requiredOption(
      '--data <file>',
      'a .jsonl file with one {"prompt": ..., "answer": ...} per line, maybe with "choices"; {"text": ...} for nll',
    )
    .addOption(images())
    .option('--calibration <file>', 'a .jsonl file to measure heads and neurons on (default: the data)')
    .option('--out <file>', 'the strategy file to write')
    .addOption(
      new Option('--metric <name>', 'exact answers (or choices), tokens of answers, or loss')
        .choices(depthMetrics)
        .default('accuracy'),
    )
    .addOption(
      new Option('--order <name>', 'which blocks are decided about first').choices(depthOrders).default('deepest'),
    )
    .addOption(wholeNumber('--keep-last', 'number of last blocks that are never removed').default(1))
    .addOption(wholeNumber('--min-depth', 'fewest blocks of a subnet (default: half of them)'))
    .addOption(
      list(
        '--widths <shares...>',
        'shares of the parameters of heads and neurons that stay (default: 1 7/8 3/4 5/8)',
        share('widths'),
      ),
    )
    .addOption(wholeNumber('--limit', 'number of lines of each file to use, chosen by the seed (default: all)'))
    .addOption(seed('random seed of the choice of lines'))
    .addOption(report())
    .addOption(memory())
    .addOption(device())
    .option('--resume', 'continue an interrupted run with the same options; start from scratch if there is none')
    .addOption(dryRun())
    .addOption(overwrite('replace an existing strategy file, or discard an unfinished one'))
    .addOption(json())
    .action(run)
}

async function run(model: string, flags: Common & Reported & AmoebaStrategyOptions): Promise<void> {
  const done = await withEngine('strategy', flags, async (engine, progress) => {
    const found = await amoebaStrategy(engine, model, { ...flags, signal, onProgress: progress.show })
    if (!('forecast' in found)) {
      await writeReport(flags, async () => strategyPage(found, await openStrategy(engine, found.out)))
    }
    return found
  })
  printResult(done, { report: text, forecast: forecastText }, flags)
}

function forecastText(forecast: AmoebaStrategyForecast): string {
  return [
    `Would try ${subject(forecast)}: about ${milliseconds(forecast.milliseconds)}, ${place(forecast)}.`,
    ...forecast.notes.map((note) => `Note: ${note}`),
  ].join('\n')
}

function text(report: AmoebaStrategyReport): string {
  const { depth, width } = report.timings
  return [
    `Tried ${subject(report)}, in ${milliseconds(depth)}; ${place(report)}.`,
    `Measured heads and neurons in ${milliseconds(width)}; wrote ${report.out}, ${bytes(report.bytesWritten)}.`,
    '',
    strategyTables(report),
    ...report.notes.map((note) => `Note: ${note}`),
  ].join('\n')
}

function subject({ cells, model, examples, tokens, blockPasses }: AmoebaStrategyForecast): string {
  const lines = `${plural(examples, 'line')} with ${plural(tokens, 'token')}`
  return `${plural(cells, 'mask')} of ${model} on ${lines}, ${blockPasses} passes through a block`
}

function place({ partitions, deviceBytes, waitingBytes, device }: AmoebaStrategyForecast): string {
  const model = partitions === 1 ? 'the model' : `${partitions} partitions in turn, each`
  return `${model} within ${bytes(deviceBytes)} of ${device}, ${bytes(waitingBytes)} of residual streams kept`
}

/** A strategy file, for people. */
export function inspectionText({ path, model, origin, ...summary }: StrategyInspection): string {
  const { data, calibration, seed, device, weightsmith } = origin
  const lines = ({ file, examples, tokens }: typeof data) =>
    `${file}, ${plural(examples, 'line')} with ${plural(tokens, 'token')}`
  return [
    `${path}: a strategy of AmoebaLLM, ${plural(summary.depths.length, 'depth')} and ` +
      `${plural(summary.kept.length, 'width')} of ${model.name} (${summary.layers} blocks).`,
    `Depths by ${summary.metric} on ${lines(data)}; ${summary.order} blocks first, the last ${summary.keepLast} stay.`,
    `Widths on ${lines(calibration)}; seed ${seed}, on ${device}, by Weightsmith ${weightsmith}.`,
    '',
    strategyTables(summary),
  ].join('\n')
}

function strategyTables({ metric, depths, kept }: StrategySummary): string {
  const value = (number: number) => (metric === 'nll' ? number.toFixed(4) : `${(100 * number).toFixed(1)} %`)
  const layers = kept[0]?.neurons.length ?? 0
  const widths = table(
    ['layer', ...kept.map(({ ratio }) => `width ${Number(ratio.toPrecision(4))}`)],
    Array.from({ length: Math.min(layers, shownRows) }, (_, layer) => [
      String(layer),
      ...kept.map(({ groups, neurons }) => `${groups[layer]} + ${neurons[layer]}`),
    ]),
  )
  return [
    table(
      ['blocks', metric, 'removed'],
      depths.map((own) => [String(own.depth), value(own.value), own.removed.join(' ') || '-']),
    ),
    '',
    'KV groups and neurons that stay:',
    widths,
    ...(layers > shownRows ? [`... and ${layers - shownRows} more layers (--json has all).`] : []),
  ].join('\n')
}
