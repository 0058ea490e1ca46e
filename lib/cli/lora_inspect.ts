/** `weightsmith lora inspect`. */

import type { Command } from 'commander'
import { type AdapterInspection, inspectAdapter } from '../adapters/inspect.js'
import { parameters, percent, plural, shownRows, table } from './format.js'
import { signal } from './interrupt.js'
import { device, json, memory } from './options.js'
import { type Common, print, verb, withEngine } from './verb.js'

export function addLoraInspect(lora: Command): void {
  verb(
    lora,
    'inspect',
    'show what an adapter changes, by how much, and what may go wrong with it',
    'weightsmith lora inspect ./adapter --base ./model',
  )
    .argument('<adapter>', 'a folder as PEFT or mlx-lm saves it, or its name in the local Hugging Face cache')
    .option('--base <model>', 'compare each change with the weight of this model')
    .addOption(memory())
    .addOption(device())
    .addOption(json())
    .action(run)
}

async function run(adapter: string, { base, ...flags }: Common & { base?: string }): Promise<void> {
  const report =
    base === undefined
      ? await inspectAdapter(adapter, { signal })
      : await withEngine('inspect', flags, (engine, progress) =>
          inspectAdapter(adapter, { base, engine, signal, onProgress: progress.show }),
        )
  print(report, text, flags)
}

function text(report: AdapterInspection): string {
  const { modules, replaced, biases, tokens, features, unmatched, nonFinite, obstacles, hazards } = report
  const compared = modules.some(({ relative }) => relative !== undefined)
  const rows = modules
    .slice(0, shownRows)
    .map((row) => [
      row.weight,
      `${row.outputs}x${row.inputs}${row.experts === undefined ? '' : ` x${row.experts}`}`,
      ...[String(row.rank), figure(row.alpha), figure(row.scale), row.dtype, figure(row.norm)],
      ...(compared ? [row.relative === undefined ? '' : percent(row.relative)] : []),
      figure(row.effectiveRank),
    ])
  const lists: [string, string[]][] = [
    ['Replaces whole tensors', replaced.map(({ tensor }) => tensor)],
    ['Adds to biases', biases],
    ['Replaces rows', tokens.map(({ tensor, rows }) => `${tensor} (${plural(rows, 'token')})`)],
    ['Sets', features],
    ['Its config names, but it lacks', unmatched.named],
    ['It has, but its config does not name', unmatched.held],
    ['NaN or infinite values in', nonFinite],
  ]
  return [
    `${report.adapter}: a LoRA adapter of ${report.format}, ${parameters(report.parameters)} parameters` +
      `${report.base === undefined ? '' : `, trained on ${report.base}`}.`,
    ...(rows.length === 0
      ? []
      : [
          '',
          table(
            [
              ...['weight', 'shape', 'rank', 'alpha', 'scale', 'dtype', '‖sBA‖'],
              ...(compared ? ['of ‖W‖'] : []),
              'effective rank',
            ],
            rows,
          ),
          ...(modules.length > rows.length ? [`... and ${modules.length - rows.length} more (--json has all).`] : []),
          '',
        ]),
    ...lists.flatMap(([what, words]) => (words.length === 0 ? [] : [`${what}: ${words.join(', ')}.`])),
    ...hazards.map((hazard) => `Note: ${hazard}`),
    ...(obstacles.length === 0
      ? ['It can be folded into its model.']
      : obstacles.map((obstacle) => `It cannot be folded: ${obstacle}.`)),
  ].join('\n')
}

function figure(value: number): string {
  return String(Number(value.toPrecision(3)))
}
