/**
 * The files beside the weights: configuration, tokenizer, processors, and the code of models that bring their own. They
 * are copied; only the config is edited.
 */

import { readdir } from 'node:fs/promises'
import type { StoreDType } from '../native/border.js'
import { torchName } from './dtypes.js'
import { inside } from './inside.js'
import { type Checkpoint, layerKey, textConfig } from './open.js'

const modelFiles = /^(generation_config|(image_|video_)?(pre)?processor_config)\.json$/
const tokenizerFiles =
  /^(tokenizer.*\.(json|model)|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|(spiece|sentencepiece.*)\.model|chat_template.*\.(json|jinja)|.+\.tiktoken|tokenization_.+\.py)$/
/** Of models whose config names it. Nothing of it is run here. */
const code = /^(?!tokenization_).+\.py$/
/** What nobody misses beside a merged model: weights, what training left, what people read, what lies hidden. */
const expected =
  /\.(safetensors|bin|pth?|ckpt|gguf|onnx|h5|msgpack|index\.json|md|png|jpe?g|webp|gif|svg|pdf)$|^(\..*|config\.json|licen[cs]e.*|notice.*|use_policy.*|weightsmith\.json|mergekit_config\.ya?ml|trainer_state\.json|(train|eval|all)_results\.json)$/i

export interface Copy {
  from: string
  name: string
}

/** What to copy: model files of `model`, tokenizer and template of the folder `tokenizer`. */
export async function auxiliaryFiles(model: Checkpoint, tokenizer: string | undefined): Promise<Copy[]> {
  const sampleLines = async (folder: string | undefined, pattern: RegExp) => {
    if (folder === undefined) return []
    const names = (await readdir(folder)).filter((name) => pattern.test(name)).sort()
    return Promise.all(names.map(async (name) => ({ from: await inside(folder, name), name })))
  }
  const own = model.config?.auto_map === undefined ? [] : await sampleLines(model.folder, code)
  return [...(await sampleLines(model.folder, modelFiles)), ...own, ...(await sampleLines(tokenizer, tokenizerFiles))]
}

/** Files and folders of the model that are not among those copied, and that someone may miss. */
export async function filesLeft({ folder }: Checkpoint, copied: readonly Copy[]): Promise<string[]> {
  if (folder === undefined) return []
  const names = new Set(copied.map(({ name }) => name))
  return (await readdir(folder)).filter(
    (name) => !names.has(name) && !expected.test(name) && !tokenizerFiles.test(name),
  )
}

/** What moved layers change in a config. */
export interface LayerChange {
  /** Key of config.json that holds the module's config; absent: the language model. */
  section?: string
  count: number
  /** New values of keys beside the number of layers, such as `layer_types`. */
  lists: Record<string, unknown>
}

export interface ConfigChange {
  dtype: StoreDType | undefined
  layers: LayerChange[]
  /** Rows of the tables of tokens, where they change. */
  vocabulary: number | undefined
  /** The head is no longer the embedding. */
  untied?: boolean | undefined
}

/** The output's config: the model's own, with the type, the layers, the vocabulary and the head of the output. */
export function outputConfig(
  config: Record<string, unknown>,
  { dtype, layers, vocabulary, untied }: ConfigChange,
): Record<string, unknown> {
  const out = structuredClone(config)
  const text = textConfig(out)
  if (dtype !== undefined) {
    for (const holder of new Set([out, text])) {
      for (const key of ['torch_dtype', 'dtype']) if (typeof holder[key] === 'string') holder[key] = torchName(dtype)
    }
    if (out.torch_dtype === undefined && out.dtype === undefined) out.torch_dtype = torchName(dtype)
  }
  if (vocabulary !== undefined) {
    for (const holder of new Set([out, text])) {
      if (typeof holder.vocab_size === 'number' || holder === text) holder.vocab_size = vocabulary
    }
  }
  if (untied) for (const holder of new Set([out, text])) holder.tie_word_embeddings = false
  for (const { section, count, lists } of layers) {
    const part = section === undefined ? out : (out[section] as Record<string, unknown>)
    const found = layerKey(part)
    if (found) found.holder[found.key] = count
    Object.assign(section === undefined ? text : part, lists)
  }
  return out
}
