/** `weightsmith lora extract`. */

import type { Command } from 'commander'
import { type ExtractForecast, type ExtractOptions, type ExtractReport, extractAdapter } from '../adapters/extract.js'
import { evaluate } from '../eval/evaluate.js'
import { extractPage } from '../report/index.js'
import { bytes, milliseconds, parameters, percent, plural, shownRows, table } from './format.js'
import { signal } from './interrupt.js'
import { device, dryRun, json, memory, overwrite, realNumber, report, seed, wholeNumber } from './options.js'
import { type Common, printResult, type Reported, verb, withEngine, writeReport } from './verb.js'

export function addLoraExtract(lora: Command): void {
  verb(
    lora,
    'extract',
    'make an adapter of what training has changed in a model',
    'weightsmith lora extract ./base ./tuned ./adapter --energy 0.9 --rank 128',
  )
    .argument('<base>', 'the model that was trained')
    .argument('<tuned>', 'what came of it')
    .argument('<out>', 'the folder of the adapter')
    .addOption(wholeNumber('--rank', 'rank of every module (default: 16), or with the options below the most of it'))
    .addOption(realNumber('--energy', 'the smallest ranks that keep this share of the squared norm of each difference'))
    .addOption(realNumber('--tolerance', 'the smallest ranks that leave at most this share of the norm'))
    .addOption(wholeNumber('--budget', 'parameters of all factors together, spent where they keep most'))
    .option(
      '--data <file>',
      'compare the loss of the base with the adapter on these lines with that of the tuned model',
    )
    .option('--dtype <type>', 'how factors are stored: float32, float16 or bfloat16', 'float32')
    .addOption(seed('seed of the random signs that the range of a difference is found by'))
    .addOption(overwrite())
    .addOption(dryRun('check everything, but compute and write nothing'))
    .addOption(report())
    .addOption(memory())
    .addOption(device())
    .addOption(json())
    .action(run)
}

async function run(
  base: string,
  tuned: string,
  out: string,
  {
    json,
    device,
    memory,
    report,
    data,
    ...options
  }: Common & Reported & { data?: string } & Omit<ExtractOptions, 'out'>,
): Promise<void> {
  const flags = { json, device, memory, report } as Common & Reported
  const found = await withEngine('extract', flags, async (engine, progress) => {
    const onProgress = progress.show
    const done = await extractAdapter(engine, base, tuned, { ...options, out, signal, onProgress })
    if (data === undefined || 'forecast' in done) return done
    const lossOf = async (model: string) => (await evaluate(engine, model, { data, signal, onProgress })).sets[0]?.value
    return { ...done, loss: { tuned: await lossOf(tuned), adapted: await lossOf(`${base}+${out}`) } }
  })
  if (!('forecast' in found)) await writeReport(flags, () => extractPage(found))
  printResult(found, { report: text, forecast: forecastText }, flags)
}

/** Losses in nats a token, where there are data. */
type Compared = ExtractReport & { loss?: { tuned: number | undefined; adapted: number | undefined } }

function forecastText({ base, tuned, linears, others, bytesRead, device }: ExtractForecast): string {
  return (
    `Would compare ${plural(linears, 'linear')} and ${plural(others, 'other tensor')} of ${tuned} with ${base}, and ` +
    `read at least ${bytes(bytesRead)}, on ${device}.`
  )
}

function text(report: Compared): string {
  const { modules, saved, unchanged, dropped, norm, residual } = report
  const left = norm === 0 ? 0 : residual / norm
  const lines = [
    `${report.out}: ${plural(modules.length, 'module')} as factors of ${parameters(report.parameters)} parameters, ` +
      `${bytes(report.bytesWritten)}, in ${milliseconds(report.milliseconds)} on ${report.device}.`,
    `They leave ${percent(left)} of the norm of what has changed (${residual.toPrecision(4)} of ${norm.toPrecision(4)}).`,
    '',
    table(
      ['module', 'rank', '‖Δ‖', 'kept energy', 'residual', 'relative'],
      modules
        .slice(0, shownRows)
        .map((module) => [
          module.module,
          String(module.rank),
          module.norm.toExponential(3),
          percent(module.energy),
          module.residual.toExponential(3),
          (module.residual / module.norm).toExponential(2),
        ]),
    ),
  ]
  if (modules.length > shownRows) lines.push(`and ${modules.length - shownRows} more; --json has all.`)
  for (const { module, reason } of saved) lines.push(`${module} is kept whole: ${reason}.`)
  if (dropped.length > 0) lines.push(`The budget leaves nothing for ${dropped.join(', ')}.`)
  if (unchanged.length > 0) lines.push(`${plural(unchanged.length, 'tensor')} unchanged: ${unchanged.join(', ')}.`)
  const { loss } = report
  if (loss !== undefined) {
    lines.push(`Loss: ${loss.adapted?.toFixed(4)} with the adapter, ${loss.tuned?.toFixed(4)} of the tuned model.`)
  }
  return lines.join('\n')
}
