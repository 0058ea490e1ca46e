/** `weightsmith lora mix`. */

import { type Command, Option } from 'commander'
import { foldMixture, type MixOptions, mixAdapters, mixReadings } from '../adapters/mix.js'
import { signal } from './interrupt.js'
import { forecastText, reportText, written } from './lora_combine.js'
import { forecastText as foldForecastText, reportText as foldText } from './lora_fold.js'
import { list, real } from './options.js'
import { type Common, printResult, verb, withEngine } from './verb.js'

export function addLoraMix(lora: Command): void {
  const mix = verb(
    lora,
    'mix',
    'make one adapter of a mixture of LoRA experts with fixed gates',
    'weightsmith lora mix ./mixed --adapter ./expert-0 ./expert-3 --gates 0.7 0.3',
  )
    .argument('<out>', 'the folder to write: of the adapter, or with --base of a model')
    .addOption(list('--adapter <path...>', 'folders of the experts', (word) => [word]).makeOptionMandatory())
    .addOption(
      list('--gates <number...>', 'the gate of each expert', (word) => [real('gates', word)]).makeOptionMandatory(),
    )
    .option('--base <model>', 'fold the mixture into this model, and write that')
    .addOption(
      new Option('--mix <reading>', 'what gates weight: A and B (factor), or what each expert gives (output)')
        .choices(mixReadings)
        .default('factor'),
    )
  written(mix).action(run)
}

async function run(
  out: string,
  {
    json,
    device,
    memory,
    adapter,
    base,
    ...flags
  }: Common & { adapter: string[]; base?: string } & Omit<MixOptions, 'out'>,
): Promise<void> {
  const common: Common = { json, device, memory }
  if (base !== undefined) {
    const folded = await withEngine('mix', common, (engine, progress) =>
      foldMixture(engine, base, adapter, { ...flags, out, signal, onProgress: progress.show }),
    )
    return printResult(folded, { report: foldText, forecast: foldForecastText }, common)
  }
  const done = await withEngine('mix', common, (engine, progress) =>
    mixAdapters(engine, adapter, { ...flags, out, signal, onProgress: progress.show }),
  )
  printResult(done, { report: reportText, forecast: forecastText }, common)
}
