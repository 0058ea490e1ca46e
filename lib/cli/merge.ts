/** `weightsmith merge`. */

import type { Command } from 'commander'
import type { MergeOptions, MergeReport } from '../merge/index.js'
import { describeMerge, openMerge, runMerge } from '../merge/merge.js'
import { loadAddon } from '../native/load.js'
import { bytes, count, milliseconds, parameters, plural, shownRows, table } from './format.js'
import { signal } from './interrupt.js'
import { checksum, device, dryRun, dtype, json, memory, overwrite, seed, shardSize } from './options.js'
import { type Common, print, verb, withEngine } from './verb.js'

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

async function run(recipe: string, out: string, flags: Common & Omit<MergeOptions, 'out'>): Promise<void> {
  const options = { ...flags, out, signal }
  // A plan needs no device: a dry run works anywhere, and a bad recipe or output is refused before one is opened.
  const prepared = await openMerge(loadAddon(), recipe, options)
  const plan = await describeMerge(prepared, options)
  if (flags.dryRun) return print(plan, text, flags)
  const report = await withEngine('merge', flags, (engine, progress) =>
    engine.use((host) => runMerge(host, prepared, { ...options, onProgress: progress.show })),
  )
  print(report, text, flags)
}

function text(report: MergeReport): string {
  const { tensors, run } = report
  const lines = [
    `${report.dryRun ? 'Would write' : 'Wrote'} ${report.out}: ${plural(report.files.length, 'file')}, ` +
      `${bytes(report.bytes)} of weights, ${parameters(report.parameters)} parameters in ${report.dtype}.`,
    `Method ${report.method} with seed ${report.seed}: ${plural(tensors.computed, 'tensor')} computed, ` +
      `${count(tensors.copied)} copied.`,
  ]
  if (run && run.resumed > 0)
    lines.push(`Resumed: ${plural(run.resumed, 'tensor')} were already written by an earlier run.`)
  if (run) {
    const { total, read, compute, write, wait, sync, cpuSteps } = run.time
    lines.push(
      `Took ${milliseconds(total)} on ${run.device}; busy: read ${milliseconds(read)}, compute ${milliseconds(compute)}, ` +
        `CPU steps ${milliseconds(cpuSteps)}, write ${milliseconds(write)}, wait ${milliseconds(wait)}, sync ${milliseconds(sync)}.`,
    )
  }
  if (report.sweep) lines.push(`Outputs: ${report.sweep.map(({ label }) => label).join(', ')}.`)
  if (report.plan) {
    const rows = report.plan
      .slice(0, shownRows)
      .map((row) => [
        row.tensor,
        row.dtype,
        row.shape.join('x'),
        row.kernels.join(' > ') || 'copy',
        row.coefficients.map((value) => Number(value.toPrecision(4))).join(' '),
      ])
    lines.push('', table(['tensor', 'dtype', 'shape', 'kernels', 'coefficients'], rows))
    if (report.plan.length > rows.length)
      lines.push(`... and ${report.plan.length - rows.length} more (--json has all).`)
  }
  for (const { tensor, count: values } of report.nonFinite) {
    lines.push(`Warning: ${tensor} holds ${plural(values, 'NaN or infinite value')}.`)
  }
  for (const note of report.notes) lines.push(`Note: ${note}`)
  return lines.join('\n')
}
