/** `weightsmith lora combine`, and what the verbs that write adapters share. */

import { type Command, Option } from 'commander'
import {
  type AdapterForecast,
  type AdapterReport,
  type CombineOptions,
  combineAdapters,
  combineMethods,
} from '../adapters/combine.js'
import type { WeightedAdapter } from '../adapters/fold.js'
import { bytes, milliseconds, percent, plural, shownRows, table } from './format.js'
import { signal } from './interrupt.js'
import { weighted } from './lora_fold.js'
import { device, dryRun, json, list, memory, overwrite, realNumber, seed, wholeNumber } from './options.js'
import { type Common, printResult, verb, withEngine } from './verb.js'

export function addLoraCombine(lora: Command): void {
  const combine = verb(
    lora,
    'combine',
    'combine LoRA adapters into one',
    'weightsmith lora combine ./both --adapter ./math=0.7 ./code=0.3 --method linear --rank 16',
  )
    .argument('<out>', 'the folder to write')
    .addOption(
      list('--adapter <path=weight...>', 'folders of adapters, each with its weight (default: 1)', (word) => [
        weighted(word),
      ]).makeOptionMandatory(),
    )
    .addOption(
      new Option('--method <name>', 'cat is exact and adds up the ranks; the others keep the rank below')
        .choices(combineMethods)
        .default('cat'),
    )
    .addOption(
      realNumber(
        '--density',
        'ties, dare_linear, dare_ties, magnitude_prune: share of the elements of each update to keep',
        'fraction',
      ),
    )
    .addOption(
      new Option('--majority <how>', 'ties, dare_ties: elect signs by the sum of updates, or by their number').choices([
        'total',
        'frequency',
      ]),
    )
    .option('--peft-compat', "combine A and B apart, as PEFT's add_weighted_adapter does")
    .addOption(seed('random seed of dare_linear and dare_ties'))
  written(ranked(combine, 'the largest of the adapters')).action(run)
}

async function run(
  out: string,
  { json, device, memory, adapter, ...flags }: Common & { adapter: WeightedAdapter[] } & Omit<CombineOptions, 'out'>,
): Promise<void> {
  const common: Common = { json, device, memory }
  const done = await withEngine('combine', common, (engine, progress) =>
    combineAdapters(engine, adapter, { ...flags, out, signal, onProgress: progress.show }),
  )
  printResult(done, { report: reportText, forecast: forecastText }, common)
}

/** Options that decide on the rank. */
export function ranked(command: Command, otherwise?: string): Command {
  const hint = otherwise === undefined ? '' : ` (default: ${otherwise})`
  return command
    .addOption(wholeNumber('--rank', `rank of every module, or with the options below the most of it${hint}`))
    .addOption(realNumber('--energy', 'keep this share of the squared norm of each update', 'fraction'))
    .addOption(realNumber('--tolerance', 'lose at most this share of the norm of each update', 'fraction'))
}

/** Options of a verb that writes an adapter. */
export function written(command: Command): Command {
  return command
    .addOption(new Option('--dtype <type>', 'store A and B as float32 (default), float16 or bfloat16'))
    .addOption(memory())
    .addOption(device())
    .addOption(dryRun())
    .addOption(overwrite('replace an existing output folder'))
    .addOption(json())
}

export function forecastText(forecast: AdapterForecast): string {
  const { out, adapters, method, modules, rank, bytesWritten, notes } = forecast
  return [
    `Would make ${out} of ${plural(adapters.length, 'adapter')} by ${method}: ${plural(modules, 'module')} of rank ` +
      `${rank} at most, ${bytes(bytesWritten)}.`,
    ...notes,
  ].join('\n')
}

export function reportText(report: AdapterReport): string {
  const { out, adapters, method, modules, whole, residual, bytesWritten, notes, device, ...rest } = report
  const ranks = modules.map(({ rank }) => rank)
  const [least, most] = [Math.min(...ranks), Math.max(...ranks)]
  const measured = modules.filter((module) => module.norm !== undefined)
  const worst = [...measured].sort((a, b) => (b.residual ?? 0) - (a.residual ?? 0)).slice(0, shownRows)
  return [
    `Made ${out} of ${plural(adapters.length, 'adapter')} by ${method}: ${plural(modules.length, 'module')} of rank ` +
      `${least === most ? most : `${least} to ${most}`}, ${bytes(bytesWritten)}, in ${milliseconds(rest.milliseconds)} ` +
      `on ${device}.`,
    ...(whole.length > 0 ? [`Copied as a whole: ${whole.join(', ')}.`] : []),
    ...(measured.length > 0
      ? [
          `The ranks lose ${percent(residual)} of the norm of the updates:`,
          table(
            ['module', 'rank', '‖Δ‖', 'lost'],
            worst.map((row) => [
              row.module,
              String(row.rank),
              (row.norm ?? 0).toExponential(3),
              percent(row.residual ?? 0),
            ]),
          ),
          ...(measured.length > worst.length
            ? [`... and ${measured.length - worst.length} more that lose less (--json has all).`]
            : []),
        ]
      : []),
    ...notes,
  ].join('\n')
}
