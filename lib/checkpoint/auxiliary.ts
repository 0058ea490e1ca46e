/** The files beside the weights: configuration, tokenizer, processors. They are copied; only the config is edited. */

import { readdir } from 'node:fs/promises'
import type { StoreDType } from '../native/border.js'
import { torchName } from './dtypes.js'
import { inside } from './inside.js'
import { type Checkpoint, layerKey, textConfig } from './open.js'

const modelFiles = /^(generation_config|(image_|video_)?(pre)?processor_config)\.json$/
const tokenizerFiles =
  /^(tokenizer.*\.(json|model)|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|(spiece|sentencepiece.*)\.model|chat_template.*\.(json|jinja))$/

export interface Copy {
  from: string
  name: string
}

/** What to copy: model files of `model`, tokenizer and template of `tokenizer`. */
export async function auxiliaryFiles(model: Checkpoint, tokenizer: Checkpoint | undefined): Promise<Copy[]> {
  const pick = async (checkpoint: Checkpoint | undefined, pattern: RegExp) => {
    const { folder } = checkpoint ?? {}
    if (folder === undefined) return []
    const names = (await readdir(folder)).filter((name) => pattern.test(name)).sort()
    return Promise.all(names.map(async (name) => ({ from: await inside(folder, name), name })))
  }
  return [...(await pick(model, modelFiles)), ...(await pick(tokenizer, tokenizerFiles))]
}

/** The output's config: the model's own, with the type and the number of layers of the output. */
export function outputConfig(
  config: Record<string, unknown>,
  dtype: StoreDType | undefined,
  layers: { count: number; kinds?: unknown[] } | undefined,
): Record<string, unknown> {
  const out = structuredClone(config)
  const text = textConfig(out)
  if (dtype !== undefined) {
    for (const holder of new Set([out, text])) {
      for (const key of ['torch_dtype', 'dtype']) if (typeof holder[key] === 'string') holder[key] = torchName(dtype)
    }
    if (out.torch_dtype === undefined && out.dtype === undefined) out.torch_dtype = torchName(dtype)
  }
  if (layers !== undefined) {
    const found = layerKey(out)
    if (found) found.holder[found.key] = layers.count
    if (layers.kinds !== undefined) text.layer_types = layers.kinds
  }
  return out
}
