/** `weightsmith eval`. */

import { type Command, Option } from 'commander'
import {
  type EvalForecast,
  type EvalOptions,
  type EvalReport,
  type EvalSetReport,
  evalMetrics,
  evaluate,
} from '../eval/evaluate.js'
import { evalPage } from '../report/index.js'
import type { ModelFit } from '../runtime/memory_fit.js'
import { bytes, count, milliseconds, percent, shapedName, table } from './format.js'
import { signal } from './interrupt.js'
import {
  depth,
  device,
  dryRun,
  images,
  json,
  memory,
  noBias,
  report,
  type ShapeFlags,
  shapeFrom,
  strategy,
  wholeNumber,
  width,
} from './options.js'
import { type Common, printResult, type Reported, verb, withEngine, writeReport } from './verb.js'

export function addEval(program: Command): void {
  verb(
    program,
    'eval',
    'measure a model on prompts and answers: loss, perplexity, exact match or multiple choice',
    'weightsmith eval ./merged --data test.jsonl --metric exact-match',
  )
    .argument('<model>', 'a folder or org/name in the local cache; model+adapter adds a LoRA adapter')
    .requiredOption(
      '--data <file...>',
      '.jsonl files with one {"prompt": ..., "answer": ...} per line, joined as they are; "image" is optional; choice needs "choices"; nll and ppl also take {"text": ...}',
    )
    .addOption(images())
    .addOption(new Option('--metric <name>', 'the metric').choices(evalMetrics).default('nll'))
    .addOption(
      wholeNumber(
        '--max-tokens',
        'maximum number of tokens to generate, end token included (default: length of the longest answer)',
      ),
    )
    .addOption(wholeNumber('--window', 'tokens of a text that the model sees at once (default: its context length)'))
    .addOption(wholeNumber('--stride', 'tokens by which the window advances (default: one window)'))
    .addOption(wholeNumber('--limit', 'use only the first N lines of each file'))
    .option('--out <file>', 'write the result of every line to this .jsonl file')
    .addOption(strategy())
    .addOption(depth())
    .addOption(width())
    .addOption(noBias())
    .addOption(dryRun())
    .addOption(report())
    .addOption(memory())
    .addOption(device())
    .addOption(json())
    .action(run)
}

async function run(model: string, flags: Common & Reported & EvalOptions & ShapeFlags): Promise<void> {
  const options = shapeFrom(flags)
  const lines: Readonly<Record<string, unknown>>[] = []
  const found = await withEngine('eval', flags, (engine, progress) =>
    evaluate(engine, model, {
      ...options,
      signal,
      onProgress: progress.show,
      ...(flags.report !== undefined && { onLine: (line) => lines.push(line) }),
    }),
  )
  if (!('forecast' in found)) await writeReport(flags, () => evalPage(found, lines))
  printResult(found, { report: text, forecast: forecastText }, flags)
}

function forecastText(forecast: EvalForecast): string {
  const { metric, sets, milliseconds: time } = forecast
  return [
    `Would measure ${metric} of ${shapedName(forecast)}: about ${milliseconds(time)}, ${place(forecast)}`,
    '',
    table(
      ['data', 'examples', 'tokens', 'time'],
      sets.map((set) => [set.data, count(set.examples), count(set.tokens), milliseconds(set.milliseconds)]),
    ),
    ...forecast.notes,
  ].join('\n')
}

function text(report: EvalReport): string {
  const { metric, sets } = report
  const shown = (value: number | undefined) =>
    value === undefined ? '-' : metric === 'exact-match' || metric === 'choice' ? percent(value) : value.toFixed(6)
  const columns: [name: string, of: (set: EvalSetReport) => string][] = [
    ['data', ({ data }) => data],
    ['examples', ({ examples }) => count(examples)],
    ['tokens', ({ tokens }) => count(tokens)],
    [metric, ({ value }) => shown(value)],
  ]
  if (metric === 'choice') columns.push(['per byte', ({ normalized }) => shown(normalized)])
  if (sets.some(({ answers }) => answers !== undefined)) columns.push(['answers', ({ answers }) => shown(answers)])
  if (sets.some(({ bitsPerByte }) => bitsPerByte !== undefined)) {
    columns.push(['bits per byte', ({ bitsPerByte }) => bitsPerByte?.toFixed(6) ?? '-'])
  }
  return [
    `${metric} of ${shapedName(report)}, ${milliseconds(report.milliseconds)}, ${place(report)}`,
    '',
    table(
      columns.map(([name]) => name),
      sets.map((set) => columns.map(([, of]) => of(set))),
    ),
    ...report.notes,
  ].join('\n')
}

function place({ partitions, deviceBytes, device }: ModelFit): string {
  return `${partitions === 1 ? '' : `${partitions} partitions in turn, `}${bytes(deviceBytes)} of ${device}`
}
