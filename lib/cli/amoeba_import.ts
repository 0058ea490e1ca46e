/** `weightsmith amoeba import`. */

import { type Command, Option } from 'commander'
import { type AmoebaImportOptions, type AmoebaImportReport, amoebaImport } from '../workflows/amoeba/import.js'
import { depthMetrics } from '../workflows/amoeba/index.js'
import { count, table } from './format.js'
import { json } from './options.js'
import { type Common, print, verb } from './verb.js'

export function addAmoebaImport(amoeba: Command): void {
  verb(
    amoeba,
    'import',
    "turn the strategy of AmoebaLLM's release into a strategy file; it is a pickle, of which nothing is executed. To make a " +
      'strategy of a model, use amoeba strategy',
    'weightsmith amoeba import ./dp_selection_strategy.npy ./llama-2-7b --out llama.strategy',
  )
    .argument('<file>', 'dp_selection_strategy.npy')
    .argument('<model>', 'the model that it was made for')
    .requiredOption('--out <file>', 'the strategy file to write')
    .addOption(
      new Option('--metric <name>', 'what its numbers are, which the file does not say')
        .choices([...depthMetrics])
        .default('accuracy'),
    )
    .addOption(json())
    .action(async (file: string, model: string, { json, ...options }: Common & AmoebaImportOptions) =>
      print(await amoebaImport(file, model, options), text, { ...(json && { json }) }),
    )
}

function text({ file, out, layers, least, widths, notes }: AmoebaImportReport): string {
  const rows = widths.map(({ ratio, groups, neurons }) => [String(ratio), count(groups), count(neurons)])
  return [
    `Read ${file}: depths of ${least} to ${layers} blocks, and these widths.`,
    table(['width', 'KV groups', 'neurons'], rows),
    ...notes,
    `Wrote ${out}.`,
  ].join('\n')
}
