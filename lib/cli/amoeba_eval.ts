/** `weightsmith amoeba eval`. */

import { type Command, Option } from 'commander'
import { shapesPage } from '../report/index.js'
import {
  type AmoebaEvalForecast,
  type AmoebaEvalOptions,
  type AmoebaEvalReport,
  type AmoebaShape,
  amoebaEval,
  shapeMetrics,
} from '../workflows/amoeba/index.js'
import { bytes, count, milliseconds, percent, plural, table } from './format.js'
import { signal } from './interrupt.js'
import {
  device,
  dryRun,
  images,
  json,
  list,
  memory,
  overwrite,
  report,
  share,
  wholeNumber,
  wholeNumbers,
} from './options.js'
import { type Common, printResult, type Reported, verb, withEngine, writeReport } from './verb.js'

export function addAmoebaEval(amoeba: Command): void {
  verb(
    amoeba,
    'eval',
    'accuracy, loss and size of shapes of a model, which are run without being cut',
    'weightsmith amoeba eval ./base --strategy base.strategy --adapter ./amoeba --data test.jsonl --depths 20-32 --report shapes.html',
  )
    .argument('<model>', 'a folder or org/name in the local cache')
    .requiredOption('--strategy <file>', 'the strategy file of the model')
    .requiredOption(
      '--data <file...>',
      '.jsonl files with one {"prompt": ..., "answer": ...} per line; choice needs "choices"; nll also takes {"text": ...}',
    )
    .addOption(images())
    .option('--adapter <folder>', 'a mixture of experts, or a LoRA adapter, to run beside the model')
    .addOption(
      list(
        '--depths <numbers...>',
        'numbers of blocks, and ranges of them, such as 20-32 (default: all of the strategy)',
        wholeNumbers('depths'),
      ),
    )
    .addOption(
      list(
        '--widths <shares...>',
        'shares of the parameters of heads and neurons, such as 1 7/8 (default: all of the strategy)',
        share('widths'),
      ),
    )
    .addOption(new Option('--metric <name>', 'the metric').choices(shapeMetrics).default('exact-match'))
    .option('--no-bias', 'leave out the biases that stand for what is removed')
    .addOption(
      wholeNumber(
        '--max-tokens',
        'maximum number of tokens to generate, end token included (default: length of the longest answer)',
      ),
    )
    .addOption(wholeNumber('--limit', 'use only the first N lines of each file'))
    .option('--out <file>', 'write the result of every shape to this .jsonl file')
    .option('--resume', 'continue an interrupted run with the same options and --out; start if there is none')
    .addOption(dryRun('check everything and estimate the cost, but run no data'))
    .addOption(overwrite('discard what an interrupted run has left'))
    .addOption(report())
    .addOption(memory())
    .addOption(device())
    .addOption(json())
    .action(run)
}

async function run(model: string, flags: Common & Reported & AmoebaEvalOptions): Promise<void> {
  const found = await withEngine('eval', flags, (engine, progress) =>
    amoebaEval(engine, model, { ...flags, signal, onProgress: progress.show }),
  )
  if (!('forecast' in found)) await writeReport(flags, () => shapesPage(found))
  printResult(found, { report: text, forecast: forecastText }, flags)
}

const sizes = ({ depth, width, parameters, bytes: size }: AmoebaShape) => [
  String(depth),
  String(Number(width.toPrecision(4))),
  count(parameters),
  bytes(size),
]
const head = ['blocks', 'width', 'parameters', 'size']

function forecastText(forecast: AmoebaEvalForecast): string {
  const { shapes, milliseconds: time, notes } = forecast
  return [
    `Would measure ${subject(forecast)}: about ${milliseconds(time)}, ${place(forecast)}`,
    '',
    table(head, shapes.map(sizes)),
    ...notes,
  ].join('\n')
}

function text(report: AmoebaEvalReport): string {
  const { metric, shapes, notes } = report
  return [
    `Measured ${subject(report)}, in ${milliseconds(report.milliseconds)}, ${place(report)}`,
    '',
    table(
      [...head, ...(metric === 'nll' ? [] : [metric]), 'loss'],
      shapes.map((shape) => [
        ...sizes(shape),
        ...(shape.accuracy === undefined ? [] : [percent(shape.accuracy)]),
        shape.loss.toFixed(4),
      ]),
    ),
    ...notes,
  ].join('\n')
}

function subject({ model, adapter, shapes, examples }: Omit<AmoebaEvalForecast, 'shapes'> & { shapes: unknown[] }) {
  const with_ = adapter === undefined ? '' : ` with ${adapter}`
  return `${plural(shapes.length, 'shape')} of ${model}${with_} on ${plural(examples, 'line')}`
}

function place({ partitions, deviceBytes, device }: Pick<AmoebaEvalForecast, 'partitions' | 'deviceBytes' | 'device'>) {
  return `${partitions === 1 ? '' : `${partitions} partitions in turn, `}${bytes(deviceBytes)} of ${device}`
}
