/** `weightsmith diff`. */

import type { Command } from 'commander'
import { type DiffForecast, type DiffOptions, type DiffReport, type DiffStats, diff } from '../compare/diff.js'
import { diffPage } from '../report/index.js'
import { bytes, milliseconds, parameters, percent, plural, shownRows, table } from './format.js'
import { signal } from './interrupt.js'
import { device, dryRun, json, memory, report } from './options.js'
import { type Common, printResult, type Reported, verb, withEngine, writeReport } from './verb.js'

export function addDiff(program: Command): void {
  verb(
    program,
    'diff',
    'compare two checkpoints: how far B has moved from A, by layer and by module',
    'weightsmith diff ./base ./merged --report diff.html',
  )
    .argument('<a>', 'the checkpoint to compare from, such as the base model')
    .argument('<b>', 'the checkpoint to compare to')
    .addOption(dryRun())
    .addOption(report())
    .addOption(memory())
    .addOption(device())
    .addOption(json())
    .action(run)
}

async function run(a: string, b: string, flags: Common & Reported & DiffOptions): Promise<void> {
  const { dryRun } = flags
  const found = await withEngine('diff', flags, (engine, progress) =>
    diff(engine, a, b, { dryRun, signal, onProgress: progress.show }),
  )
  if (!('forecast' in found)) await writeReport(flags, () => diffPage(found))
  printResult(found, { report: text, forecast: forecastText }, flags)
}

function forecastText({ tensors, bytesRead, deviceBytes, device, milliseconds: time }: DiffForecast): string {
  return (
    `Would compare ${plural(tensors, 'tensor')}, ${bytes(bytesRead)}: about ${milliseconds(time)}, within ${bytes(deviceBytes)} ` +
    `of ${device}.`
  )
}

const head = ['mean |Δ|', '‖Δ‖/‖A‖', '|Δ|>1e-5', 'max |Δ|', 'cosine']

function cells(stats: DiffStats): string[] {
  return [
    stats.meanAbs.toExponential(3),
    stats.relative?.toFixed(5) ?? '-',
    percent(stats.changed),
    stats.maxAbs.toExponential(3),
    stats.cosine?.toFixed(6) ?? '-',
  ]
}

function text(report: DiffReport): string {
  const lines = [
    `A = ${report.a}`,
    `B = ${report.b}`,
    `${plural(report.total.tensors, 'tensor')} compared, ${parameters(report.total.parameters)} parameters, in ` +
      `${milliseconds(report.milliseconds)} on ${report.device}.`,
    '',
    table(
      ['layer', ...head],
      [...report.layers.map((row) => [row.layer, ...cells(row)]), ['all', ...cells(report.total)]],
    ),
    '',
    table(
      ['module', ...head],
      report.modules.map((row) => [row.module, ...cells(row)]),
    ),
  ]
  if (report.total.nonFinite > 0) {
    lines.push('', `Warning: ${plural(report.total.nonFinite, 'NaN or infinite element')} left out of these figures.`)
  }
  for (const { tensor, reason } of report.skipped.slice(0, shownRows)) lines.push(`Not compared: ${tensor} ${reason}.`)
  const more = report.skipped.length - shownRows
  if (more > 0) lines.push(`... and ${more} more (--json has all).`)
  return lines.join('\n')
}
