/** `weightsmith explain`. */

import type { Command } from 'commander'
import { type ExplainOptions, explain } from '../merge/explain.js'
import type { ForecastGroup, MergeForecast } from '../merge/forecast.js'
import { bytes, count, milliseconds, parameters, plural, table } from './format.js'
import { device, dtype, json, memory, shardSize } from './options.js'
import { type Common, print, verb, withEngine } from './verb.js'

const shownModules = 3
const shownGroups = 60

export function addExplain(program: Command): void {
  verb(
    program,
    'explain',
    'show what a recipe would do and what it would cost in memory, disk and time',
    'weightsmith explain ties.yml --memory 4GiB',
  )
    .argument('<recipe>', 'the recipe file')
    .argument('[out]', 'the folder that the output would go to; checked as merge does')
    .addOption(dtype())
    .addOption(shardSize())
    .addOption(memory())
    .option('--measure', 'measure the disk and the kernels now instead of using what doctor measured')
    .addOption(device())
    .addOption(json())
    .action(run)
}

async function run(
  recipe: string,
  out: string | undefined,
  { measure, ...flags }: Common & ExplainOptions & { measure?: boolean },
): Promise<void> {
  const options = { ...flags, out }
  const found = measure
    ? await withEngine('explain', flags, (engine) => explain(engine, recipe, options))
    : await explain(recipe, options)
  print(found, text, flags)
}

function text(report: MergeForecast): string {
  const { tensors, disk } = report
  const rows = report.groups
    .slice(0, shownGroups)
    .map((group) => [
      group.layers || '-',
      modules(group.modules),
      count(group.tensors),
      group.dtype,
      group.kernels.join(' > ') || 'copy',
      String(group.passes),
      values(group),
    ])
  const more = report.groups.length - rows.length
  const most = Math.max(1, ...report.groups.map(({ passes }) => passes))
  return [
    `Method ${report.method} (${report.determinism}): ${parameters(report.parameters)} parameters in ${report.dtype}, ` +
      `${plural(tensors.computed, 'tensor')} computed, ${count(tensors.copied)} copied.`,
    '',
    table(['layers', 'tensors of', 'count', 'dtype', 'kernels', 'passes', 'parameters'], rows),
    ...(more > 0 ? [`... and ${more} more (--json has all).`] : []),
    '',
    `Reads ${bytes(report.bytesRead)} in ${most === 1 ? 'one pass' : `up to ${most} passes`}, writes ${bytes(report.bytesWritten)}.`,
    `Memory: slots take ${bytes(report.deviceBytes)} of ${bytes(report.memory)}, besides the process and its driver.`,
    `Disk of ${disk.folder}: ${bytes(disk.needed)} needed, ${bytes(disk.free)} free${disk.free < disk.needed ? '; that is not enough' : ''}.`,
    ...timeText(report),
    ...report.sources,
    ...report.notes.map((note) => `Note: ${note}`),
  ].join('\n')
}

/** Nothing where nothing was measured. */
export function timeText({ milliseconds: least, timings }: MergeForecast): string[] {
  if (least === undefined || timings === undefined) return []
  const { read, compute, write } = timings
  return [
    `Time: ${milliseconds(least)} to ${milliseconds(read + compute + write)} (reading ${milliseconds(read)}, kernels ` +
      `${milliseconds(compute)}, writing ${milliseconds(write)}; these overlap).`,
  ]
}

function modules(names: string[]): string {
  const more = names.length - shownModules
  return `${names.slice(0, shownModules).join(', ')}${more > 0 ? ` and ${count(more)} more` : ''}`
}

/** `weight 0.6 0.4, density 0.5, lambda 1`: one value where all models share it. */
function values({ parameters }: ForecastGroup): string {
  if (parameters === undefined) return '-'
  const shown = (value: unknown) => (typeof value === 'number' ? String(Number(value.toPrecision(4))) : String(value))
  const names = new Set(parameters.models.flatMap((model) => Object.keys(model)))
  const own = [...names].map((name) => {
    const each = parameters.models.map((model) => shown(model[name]))
    return `${name} ${each.every((value) => value === each[0]) ? each[0] : each.join(' ')}`
  })
  const shared = Object.entries(parameters.global).flatMap(([name, value]) =>
    value === undefined ? [] : [`${name} ${shown(value)}`],
  )
  return [...own, ...shared].join(', ')
}
