/** `weightsmith lora mix`. */

import { type Command, Option } from 'commander'
import { type MixOptions, mixAdapters, mixReadings } from '../adapters/mix.js'
import { signal } from './interrupt.js'
import { forecastText, reportText, written } from './lora_combine.js'
import { list, real } from './options.js'
import { type Common, printResult, verb, withEngine } from './verb.js'

export function addLoraMix(lora: Command): void {
  const mix = verb(
    lora,
    'mix',
    'make one adapter of a mixture of LoRA experts with fixed gates',
    'weightsmith lora mix ./mixed --adapter ./expert-0 ./expert-3 --gates 0.7 0.3',
  )
    .argument('<out>', 'the folder to write')
    .addOption(list('--adapter <path...>', 'folders of the experts', (word) => [word]).makeOptionMandatory())
    .addOption(
      list('--gates <number...>', 'the gate of each expert', (word) => [real('gates', word)]).makeOptionMandatory(),
    )
    .addOption(
      new Option('--mix <reading>', 'what gates weight: A and B (factor), or what each expert gives (output)')
        .choices(mixReadings)
        .default('factor'),
    )
  written(mix).action(run)
}

async function run(
  out: string,
  { json, device, memory, adapter, ...flags }: Common & { adapter: string[] } & Omit<MixOptions, 'out'>,
): Promise<void> {
  const common: Common = { json, device, memory }
  const done = await withEngine('mix', common, (engine, progress) =>
    mixAdapters(engine, adapter, { ...flags, out, signal, onProgress: progress.show }),
  )
  printResult(done, { report: reportText, forecast: forecastText }, common)
}
