/** `weightsmith lora`, a verb with verbs of its own. */

import type { Command } from 'commander'
import { addLoraExtract } from './lora_extract.js'
import { addLoraFold } from './lora_fold.js'
import { addLoraInspect } from './lora_inspect.js'

export function addLora(program: Command): void {
  const lora = program.command('lora').description('LoRA adapters: inspect, extract and fold them')
  addLoraInspect(lora)
  addLoraExtract(lora)
  addLoraFold(lora)
}
