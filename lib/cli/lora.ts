/** `weightsmith lora`, a verb with verbs of its own. */

import type { Command } from 'commander'
import { addLoraCombine } from './lora_combine.js'
import { addLoraMix } from './lora_mix.js'
import { addLoraResize } from './lora_resize.js'

export function addLora(program: Command): void {
  const lora = program.command('lora').description('LoRA adapters in the format of PEFT')
  addLoraCombine(lora)
  addLoraResize(lora)
  addLoraMix(lora)
}
