/** `weightsmith merge`. */

import type { Command } from 'commander'
import { explain } from '../merge/explain.js'
import type { MergeForecast } from '../merge/forecast.js'
import type { MergeOptions, MergeReport } from '../merge/index.js'
import { merge } from '../merge/merge.js'
import { timeText } from './explain.js'
import { bytes, count, milliseconds, parameters, plural, shownRows, table } from './format.js'
import { signal } from './interrupt.js'
import { checksum, device, dryRun, dtype, json, memory, overwrite, seed, shardSize } from './options.js'
import { type Common, printResult, verb, withEngine } from './verb.js'

export function addMerge(program: Command): void {
  verb(
    program,
    'merge',
    "merge checkpoints by a recipe (YAML with mergekit's keys)",
    'weightsmith merge ties.yml merged --dtype bfloat16',
  )
    .argument('<recipe>', 'the recipe file')
    .argument('<out>', 'the folder to write')
    .addOption(dtype())
    .addOption(shardSize())
    .addOption(memory())
    .addOption(seed('random seed of the methods that drop entries'))
    .addOption(device())
    .addOption(dryRun('check everything and show the plan, write nothing'))
    .addOption(overwrite('replace an existing output folder, and discard an unfinished one'))
    .option('--resume', 'continue an interrupted run; start from scratch if there is none')
    .option('--journal-every <size>', 'record progress for --resume every so many bytes written (default: 256MiB)')
    .addOption(checksum())
    .option('--check-finite', 'fail if the result has NaN or infinite values')
    .addOption(json())
    .action(run)
}

async function run(
  recipe: string,
  out: string,
  { dryRun, ...flags }: Common & Omit<MergeOptions, 'out'>,
): Promise<void> {
  // A forecast needs no device, so that a dry run works anywhere.
  const found = dryRun
    ? { forecast: await explain(recipe, { ...flags, out }) }
    : await withEngine('merge', flags, (engine, progress) =>
        merge(engine, recipe, { ...flags, dryRun, out, signal, onProgress: progress.show }),
      )
  printResult(found, { report: text, forecast: forecastText }, flags)
}

function forecastText(forecast: MergeForecast): string {
  const { plan, sweep } = forecast
  const rows = plan
    .slice(0, shownRows)
    .map((row) => [
      row.tensor,
      row.dtype,
      row.shape.join('x'),
      row.kernels.join(' > ') || 'copy',
      row.coefficients.map((value) => Number(value.toPrecision(4))).join(' '),
    ])
  return [
    ...headText('Would write', forecast),
    `Reads ${bytes(forecast.bytesRead)}; buffers take ${bytes(forecast.deviceBytes)} of ${bytes(forecast.memory)}.`,
    ...timeText(forecast),
    ...(sweep ? [`Outputs: ${sweep.join(', ')}.`] : []),
    '',
    table(['tensor', 'dtype', 'shape', 'kernels', 'coefficients'], rows),
    ...(plan.length > rows.length ? [`... and ${plan.length - rows.length} more (--json has all).`] : []),
    ...forecast.notes.map((note) => `Note: ${note}`),
  ].join('\n')
}

function headText(done: string, report: MergeReport | MergeForecast): string[] {
  const { tensors } = report
  return [
    `${done} ${report.out}: ${plural(report.files.length, 'file')}, ${bytes(report.bytesWritten)} of weights, ` +
      `${parameters(report.parameters)} parameters in ${report.dtype}.`,
    `Method ${report.method} with seed ${report.seed}: ${plural(tensors.computed, 'tensor')} computed, ` +
      `${count(tensors.copied)} copied.`,
  ]
}

function text(report: MergeReport): string {
  const { read, compute, cpuSteps, write, wait, sync } = report.timings
  const lines = headText('Wrote', report)
  if (report.resumed > 0) {
    lines.push(`Resumed: ${plural(report.resumed, 'tensor')} were already written by an earlier run.`)
  }
  lines.push(
    `Took ${milliseconds(report.milliseconds)} on ${report.device}; busy: read ${milliseconds(read)}, compute ` +
      `${milliseconds(compute)}, CPU steps ${milliseconds(cpuSteps)}, write ${milliseconds(write)}, wait ${milliseconds(wait)}, ` +
      `sync ${milliseconds(sync)}.`,
  )
  if (report.sweep) lines.push(`Outputs: ${report.sweep.map(({ label }) => label).join(', ')}.`)
  for (const { tensor, count: values } of report.nonFinite) {
    lines.push(`Warning: ${tensor} holds ${plural(values, 'NaN or infinite value')}.`)
  }
  for (const note of report.notes) lines.push(`Note: ${note}`)
  return lines.join('\n')
}
