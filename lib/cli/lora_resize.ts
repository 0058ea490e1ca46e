/** `weightsmith lora resize`. */

import type { Command } from 'commander'
import { type ResizeOptions, resizeAdapter } from '../adapters/resize.js'
import { signal } from './interrupt.js'
import { forecastText, ranked, reportText, written } from './lora_combine.js'
import { type Common, printResult, verb, withEngine } from './verb.js'

export function addLoraResize(lora: Command): void {
  const resize = verb(
    lora,
    'resize',
    'give a LoRA adapter the rank it needs, and show what that loses',
    'weightsmith lora resize ./adapter ./small --energy 0.99 --rank 16',
  )
    .argument('<adapter>', 'the folder of the adapter')
    .argument('<out>', 'the folder to write')
  written(ranked(resize)).action(run)
}

async function run(
  adapter: string,
  out: string,
  { json, device, memory, ...flags }: Common & Omit<ResizeOptions, 'out'>,
): Promise<void> {
  const common: Common = { json, device, memory }
  const done = await withEngine('resize', common, (engine, progress) =>
    resizeAdapter(engine, adapter, { ...flags, out, signal, onProgress: progress.show }),
  )
  printResult(done, { report: reportText, forecast: forecastText }, common)
}
