/** `weightsmith score`. */

import type { Command } from 'commander'
import { scorePage } from '../report/index.js'
import { scoreMethods } from '../score/index.js'
import { openScores, type ScoreForecast, type ScoreOptions, type ScoreReport, score } from '../score/score.js'
import { bytes, milliseconds, plural } from './format.js'
import { signal } from './interrupt.js'
import {
  device,
  dryRun,
  images,
  json,
  list,
  memory,
  overwrite,
  realNumber,
  report,
  seed,
  wholeNumber,
  wholeNumbers,
} from './options.js'
import { type Common, printResult, type Reported, verb, withEngine, writeReport } from './verb.js'

export function addScore(program: Command): void {
  verb(
    program,
    'score',
    'measure the importance of layers, neurons, heads and weights, for prune',
    'weightsmith score ./base --methods flap bi --data train.jsonl --out base.scores',
  )
    .argument('<model>', 'a folder or org/name in the local cache')
    .requiredOption('--methods <names...>', `one or more of ${[...scoreMethods.keys()].join(', ')}`)
    .option('--data <file>', 'a .jsonl file with one {"prompt": ..., "answer": ...} or {"text": ...} per line')
    .addOption(images())
    .option('--out <file>', 'the score file to write')
    .addOption(list('--layers <numbers...>', 'layers to measure, such as 0-3 7 (default: all)', wholeNumbers('layers')))
    .addOption(realNumber('--tau', 'activation threshold on |x|').default(0.1))
    .addOption(wholeNumber('--batch-tokens', 'tokens per forward pass (default: 1024)'))
    .addOption(wholeNumber('--limit', 'number of data lines to use, chosen by the seed (default: all)'))
    .addOption(seed('random seed of the choice of lines'))
    .addOption(memory())
    .addOption(device())
    .option('--resume', 'continue an interrupted run with the same options; start from scratch if there is none')
    .addOption(dryRun())
    .addOption(overwrite('replace an existing score file, or discard an unfinished one'))
    .addOption(report())
    .addOption(json())
    .action(run)
}

async function run(model: string, flags: Common & Reported & ScoreOptions): Promise<void> {
  const done = await withEngine('score', flags, async (engine, progress) => {
    const found = await score(engine, model, { ...flags, signal, onProgress: progress.show })
    if (!('forecast' in found)) {
      await writeReport(flags, async () => scorePage(found, await openScores(engine, found.out)))
    }
    return found
  })
  printResult(done, { report: text, forecast: forecastText }, flags)
}

function forecastText(forecast: ScoreForecast): string {
  return (
    `Would measure ${subject(forecast)}: about ${milliseconds(forecast.milliseconds)}, ${place(forecast)}; ` +
    `${bytes(forecast.bytesWritten)} of scores.`
  )
}

function text(report: ScoreReport): string {
  return (
    `Measured ${subject(report)} in ${milliseconds(report.milliseconds)}, ${place(report)}; ` +
    `${bytes(report.bytesWritten)} of scores in ${report.out}.`
  )
}

function subject({ methods, model, layers, examples, tokens }: ScoreForecast): string {
  const data = examples === 0 ? '' : ` on ${plural(examples, 'line')} with ${plural(tokens, 'token')}`
  return `${methods.join(', ')} of ${model}, ${plural(layers.length, 'layer')}${data}`
}

function place({ partitions, deviceBytes, device }: ScoreForecast): string {
  return `${partitions === 1 ? 'the model' : `${partitions} partitions in turn, each`} within ${bytes(deviceBytes)} of ${device}`
}
