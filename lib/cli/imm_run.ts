/** `weightsmith imm run`. */

import type { Command } from 'commander'
import { immPage, immTables } from '../report/index.js'
import { type ImmForecast, type ImmOptions, type ImmReport, imm } from '../workflows/imm/loop.js'
import { bytes, milliseconds, plural, table } from './format.js'
import { signal } from './interrupt.js'
import { device, dryRun, json, memory, overwrite, report, wholeNumber } from './options.js'
import { type Common, printResult, type Reported, verb, withEngine, writeReport } from './verb.js'

export function addRounds(group: Command): void {
  verb(
    group,
    'run',
    'improve a model in rounds: train it on its own correct answers, then merge it with the original',
    'weightsmith imm run examples/imm/config.yml improved --report imm.html',
  )
    .argument('<config>', 'a YAML file with the keys model, questions, generate, filter, train, merge and evaluate')
    .argument('<out>', 'the folder to write: data, models and report of every round')
    .addOption(wholeNumber('--rounds', 'number of rounds (default: that of the config, or 3)'))
    .option('--resume', 'continue an interrupted run at the step where it stopped; start one if there is none')
    .addOption(overwrite('discard the run in the folder and start again'))
    .addOption(dryRun())
    .addOption(report())
    .addOption(memory())
    .addOption(device())
    .addOption(json())
    .action(run)
}

async function run(config: string, out: string, flags: Common & Reported & Omit<ImmOptions, 'out'>): Promise<void> {
  const { rounds, resume, overwrite, dryRun } = flags
  const done = await withEngine('imm', flags, (engine, progress) =>
    imm(engine, config, {
      ...{ out, rounds, resume, overwrite, dryRun, signal },
      onProgress: (event) =>
        progress.show({ ...event, item: `round ${event.round} of ${event.rounds}, ${event.phase}` }),
    }),
  )
  if (!('forecast' in done)) await writeReport(flags, () => immPage(done))
  printResult(done, { report: text, forecast: forecastText }, flags)
}

function forecastText({ model, rounds, questions, bytesPerRound, out }: ImmForecast): string {
  return (
    `Would start with ${model} and ${plural(questions, 'question')} per round, for ${plural(rounds, 'round')}; a round takes ` +
    `about ${bytes(bytesPerRound)} of disk in ${out}.`
  )
}

function text(report: ImmReport): string {
  const { accuracy, collapse } = immTables(report)
  const shown = ({ head, rows }: typeof accuracy) =>
    table(
      [...head],
      rows.map((row) => row.map(String)),
    )
  return [
    shown(accuracy),
    ...(collapse.rows.length === 0 ? [] : ['', shown(collapse)]),
    '',
    `The ${report.policy} model is that of round ${report.chosen}: ${report.model}. It ${report.rounds.at(-1)?.decision}.`,
    `Took ${milliseconds(report.milliseconds)} on ${report.device}.`,
  ].join('\n')
}
