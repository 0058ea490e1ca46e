/** `weightsmith imm analyze`. */

import type { Command } from 'commander'
import { type AnalyzeForecast, type AnalyzeOptions, type AnalyzeReport, analyze } from '../compare/analyze.js'
import { analysisPage } from '../report/index.js'
import { bytes, milliseconds, percent, plural, table } from './format.js'
import { signal } from './interrupt.js'
import { device, dryRun, json, memory, report } from './options.js'
import { type Common, printResult, type Reported, verb, withEngine, writeReport } from './verb.js'

export function addAnalyze(imm: Command): void {
  verb(
    imm,
    'analyze',
    'compare where models have changed with how important those layers are to their base',
    'weightsmith imm analyze ./base ./round-1 ./round-2 --data train.jsonl --report analysis.html',
  )
    .argument('<base>', 'the model they were trained from')
    .argument('<improved...>', 'the models to compare with it')
    .option(
      '--data <file>',
      'measure layer importance on this .jsonl file, one {"prompt": ..., "answer": ...} per line',
    )
    .option(
      '--scores <file>',
      'take layer importance from this score file of the base (methods ablation, bi) instead of --data',
    )
    .addOption(dryRun())
    .addOption(report())
    .addOption(memory())
    .addOption(device())
    .addOption(json())
    .action(run)
}

async function run(base: string, improved: string[], flags: Common & Reported & AnalyzeOptions): Promise<void> {
  const { data, scores, dryRun } = flags
  const found = await withEngine('analyze', flags, (engine, progress) =>
    analyze(engine, base, improved, { data, scores, dryRun, signal, onProgress: progress.show }),
  )
  if (!('forecast' in found)) await writeReport(flags, () => analysisPage(found))
  printResult(found, { report: text, forecast: forecastText }, flags)
}

function forecastText({ partitions = 0, tokens = 0, ...forecast }: AnalyzeForecast): string {
  const { base, tensors, bytesRead, deviceBytes, device, milliseconds: time } = forecast
  const passes = partitions > 1 ? `, in ${partitions} partitions` : ''
  const compared = `compare ${plural(tensors, 'tensor')} with`
  const work =
    partitions === 0
      ? `${compared} ${base}`
      : `measure the importance of the layers of ${base} on ${plural(tokens, 'token')}${passes}, and ${compared} it`
  return `Would ${work}, ${bytes(bytesRead)}: about ${milliseconds(time)}, within ${bytes(deviceBytes)} of ${device}.`
}

function text({ base, data, importance, models, device, ...report }: AnalyzeReport): string {
  const short = (path: string) => path.replace(/^.*[\\/](?=.)/, '')
  const names = models.map(({ model }) => short(model))
  const lines = [
    `${plural(models.length, 'model')} against ${base}${data === undefined ? '' : `, importance on ${data}`}, in ` +
      `${milliseconds(report.milliseconds)} on ${device}.`,
    '',
    table(
      [
        'layer',
        ...importance.map(({ name }) => name),
        ...names.flatMap((name) => [`${name} |Δ|`, '‖Δ‖/‖A‖', 'changed']),
      ],
      (models[0]?.layers ?? []).map(({ layer }, i) => [
        String(layer),
        ...importance.map(({ values }) => (values[i] ?? 0).toFixed(4)),
        ...models.flatMap(({ layers }) => {
          const change = layers[i]
          return [
            change?.meanAbs.toExponential(3) ?? '-',
            change?.relative?.toFixed(4) ?? '-',
            change === undefined ? '-' : percent(change.changed),
          ]
        }),
      ]),
    ),
    '',
    table(
      ['module', ...names.map((name) => `${name} |Δ|`)],
      (models[0]?.diff.modules ?? []).map(({ module }) => [
        module,
        ...models.map(
          ({ diff }) => diff.modules.find((other) => other.module === module)?.meanAbs.toExponential(3) ?? '-',
        ),
      ]),
    ),
  ]
  if (importance.length === 0) {
    lines.push('', 'Pass --data or --scores to compare the change with the importance of the layers.')
    return lines.join('\n')
  }
  const rho = (value: number | null) => value?.toFixed(3) ?? '-'
  lines.push(
    '',
    table(
      ['model', 'importance', 'ρ |Δ|', 'ρ ‖Δ‖/‖A‖', 'ρ changed', 'top layers', 'their share', 'uniform'],
      models.flatMap(({ against }, i) =>
        against.map(({ importance: name, spearman, top, mass, uniform }) => [
          names[i] ?? '',
          name,
          rho(spearman.meanAbs),
          rho(spearman.relative),
          rho(spearman.changed),
          top.join(', '),
          percent(mass),
          percent(uniform),
        ]),
      ),
    ),
    '',
    'ρ below zero: the layers that matter most have changed least. Quantities that merely grow with depth correlate too.',
  )
  return lines.join('\n')
}
