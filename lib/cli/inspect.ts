/** `weightsmith inspect`. */

import type { Command } from 'commander'
import { type InspectReport, inspect } from '../checkpoint/inspect.js'
import { inspectStrategy } from '../workflows/amoeba/index.js'
import { inspectionText } from './amoeba_strategy.js'
import { bytes, count, parameters, plural, shownRows, table } from './format.js'
import { json } from './options.js'
import { type Common, print, verb } from './verb.js'

export function addInspect(program: Command): void {
  verb(
    program,
    'inspect',
    'list the tensors, dtypes, shapes, shards and config of a checkpoint, or what a strategy file holds',
    'weightsmith inspect ./merged',
  )
    .argument('<checkpoint>', 'a folder, a .safetensors or strategy file, or org/name in the local cache')
    .addOption(json())
    .action(run)
}

async function run(checkpoint: string, flags: Common): Promise<void> {
  const strategy = await inspectStrategy(checkpoint)
  if (strategy !== undefined) print(strategy, inspectionText, flags)
  else print(await inspect(checkpoint), text, flags)
}

function text(report: InspectReport): string {
  const lines = [
    `${report.path}: ${parameters(report.parameters)} parameters, ${plural(report.tensors.length, 'tensor')}, ` +
      `${bytes(report.size)} in ${plural(report.files.length, 'file')}.`,
    ...report.stacks.map(
      ({ name, layers, main }) => `${name}: ${plural(layers, 'layer')}${main ? '' : ' (not the language model)'}.`,
    ),
    ...(report.tiedEmbeddings ? ['Embeddings are tied.'] : []),
    '',
    table(
      ['dtype', 'tensors', 'parameters', 'bytes'],
      report.dtypes.map((row) => [row.dtype, count(row.tensors), count(row.parameters), bytes(row.size)]),
    ),
    '',
    table(
      ['file', 'tensors', 'bytes'],
      report.files.map((file) => [file.name, count(file.tensors), bytes(file.size)]),
    ),
    '',
    table(
      ['tensor', 'dtype', 'shape', 'bytes'],
      report.tensors.slice(0, shownRows).map((t) => [t.name, t.dtype, t.shape.join('x'), bytes(t.size)]),
    ),
  ]
  const more = report.tensors.length - shownRows
  if (more > 0) lines.push(`... and ${more} more (--json has all).`)
  for (const note of report.notes) lines.push(`Note: ${note}`)
  const { config } = report
  if (config) {
    const shown = Object.entries(config).filter(([, value]) => typeof value !== 'object' || value === null)
    lines.push('', 'config.json', ...shown.map(([key, value]) => `  ${key}: ${String(value)}`))
  }
  return lines.join('\n')
}
