/** `weightsmith lora`, a verb with verbs of its own. */

import type { Command } from 'commander'
import { addLoraCombine } from './lora_combine.js'
import { addLoraExtract } from './lora_extract.js'
import { addLoraFold } from './lora_fold.js'
import { addLoraInspect } from './lora_inspect.js'
import { addLoraMix } from './lora_mix.js'
import { addLoraResize } from './lora_resize.js'

export function addLora(program: Command): void {
  const lora = program
    .command('lora')
    .description('LoRA adapters: inspect them, fold them into models, and make others of them')
  addLoraInspect(lora)
  addLoraExtract(lora)
  addLoraFold(lora)
  addLoraCombine(lora)
  addLoraResize(lora)
  addLoraMix(lora)
}
