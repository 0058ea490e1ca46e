/** `weightsmith score`. */

import type { Command } from 'commander'
import { scorePage } from '../report/index.js'
import { scoreMethods } from '../score/index.js'
import { openScores, type ScoreOptions, type ScoreReport, score } from '../score/score.js'
import { bytes, milliseconds, plural } from './format.js'
import { signal } from './interrupt.js'
import {
  device,
  dryRun,
  images,
  json,
  memory,
  overwrite,
  realNumber,
  report,
  seed,
  wholeNumber,
  wholeNumbers,
  words,
} from './options.js'
import { type Common, print, type Reported, verb, withEngine, writeReport } from './verb.js'

export function addScore(program: Command): void {
  verb(
    program,
    'score',
    'measure the importance of layers, neurons, heads and weights, for prune',
    'weightsmith score ./base --method flap,bi --data train.jsonl --out base.scores',
  )
    .argument('<model>', 'a folder or org/name in the local cache')
    .requiredOption(
      '--method <names>',
      `one or more of ${[...scoreMethods.keys()].join(', ')}, separated by commas`,
      words,
    )
    .option('--data <file>', 'a .jsonl file with one {"prompt": ..., "answer": ...} or {"text": ...} per line')
    .addOption(images())
    .option('--out <file>', 'the score file to write')
    .option('--layers <list>', 'layers to measure, such as 0-3,7 (default: all)', wholeNumbers('layers'))
    .addOption(realNumber('--tau', 'activation threshold on |x|').default(0.1))
    .addOption(wholeNumber('--tokens', 'tokens per forward pass (default: 1024)'))
    .addOption(wholeNumber('--samples', 'number of data lines to use, chosen by the seed (default: all)'))
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

async function run(
  model: string,
  flags: Common & Reported & Omit<ScoreOptions, 'methods'> & { method: string[] },
): Promise<void> {
  const done = await withEngine('score', flags, async (engine, progress) => {
    const found = await score(engine, model, { ...flags, methods: flags.method, signal, onProgress: progress.show })
    const { out, dryRun } = found
    if (out !== undefined && !dryRun) {
      await writeReport(flags, async () => scorePage(found, await openScores(engine, out)))
    }
    return found
  })
  print(done, text, flags)
}

function text(report: ScoreReport): string {
  const { methods, dryRun, examples, tokens, partitions, deviceBytes } = report
  const what = `${methods.join(', ')} of ${report.model}, ${plural(report.layers.length, 'layer')}`
  const data = examples === 0 ? '' : ` on ${plural(examples, 'line')} with ${plural(tokens, 'token')}`
  const device = `${partitions === 1 ? 'the model' : `${partitions} partitions in turn, each`} within ${bytes(deviceBytes)} of ${report.device}`
  return dryRun
    ? `Would measure ${what}${data}: about ${milliseconds(report.milliseconds)}, ${device}; ${bytes(report.bytesWritten)} of scores.`
    : `Measured ${what}${data} in ${milliseconds(report.milliseconds)}, ${device}; ${bytes(report.bytesWritten)} of scores in ${report.out}.`
}
