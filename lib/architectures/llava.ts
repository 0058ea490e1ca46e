/**
 * LLaVA 1.5: the patches of a CLIP vision encoder, taken some layers before its end, go through a projector of two
 * matrices and then stand among the tokens of a language model.
 */

import type { OpSpec } from '../runtime/ops/index.js'
import type { Config, ModelSpec, Subject } from './architecture.js'
import { activationOf, missed, refusal, Tensors } from './build.js'
import { clip } from './clip.js'
import { llama } from './llama.js'

/** What a text_config leaves out; transformers' defaults of LLaMA. */
const defaults = {
  model_type: 'llama',
  vocab_size: 32000,
  hidden_size: 4096,
  intermediate_size: 11008,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  max_position_embeddings: 2048,
  rms_norm_eps: 1e-6,
}

/** By model_type, which every text_config has. */
const texts: Readonly<Record<string, string>> = {
  llama: 'LlamaForCausalLM',
  mistral: 'MistralForCausalLM',
  qwen2: 'Qwen2ForCausalLM',
}

/** Where tensors are: before transformers 4.52 models were nested the other way round. */
function namesOf({ has }: Subject) {
  const encoder = (root: string) =>
    has(`${root}.vision_model.embeddings.class_embedding`) ? `${root}.vision_model` : root
  if (has('model.language_model.embed_tokens.weight')) {
    return {
      text: { model: 'model.language_model.', head: 'lm_head' },
      encoder: encoder('model.vision_tower'),
      projector: 'model.multi_modal_projector',
    }
  }
  return {
    text: { model: 'language_model.model.', head: 'language_model.lm_head' },
    encoder: encoder('vision_tower'),
    projector: 'multi_modal_projector',
  }
}

export function llava(config: Config, subject: Subject): ModelSpec {
  const names = namesOf(subject)
  const text = { ...defaults, ...(config.text_config as Config | undefined) }
  const type = String(text.model_type)
  const architecture = Object.hasOwn(texts, type) ? texts[type] : undefined
  const layer = config.vision_feature_layer ?? -2
  const strategy = config.vision_feature_select_strategy ?? 'default'
  const token = config.image_token_index ?? config.image_token_id
  const kind = activationOf(config.projector_hidden_act ?? 'gelu')
  const biased = config.multimodal_projector_bias !== false

  const tensors = new Tensors()
  const vision = (config.vision_config ?? {}) as Config
  const width = Number(vision.hidden_size ?? 768)
  const hidden = Number(text.hidden_size)
  const final: OpSpec[] = [
    tensors.linear(`${names.projector}.linear_1`, 'x', 'p', [hidden, width], biased),
    { op: 'activation', kind: kind ?? 'gelu', x: 'p' },
    tensors.linear(`${names.projector}.linear_2`, 'p', 'f', [hidden, hidden], biased),
  ]
  const [encoder, lacks] = clip(vision, subject, {
    tensors,
    root: names.encoder,
    final,
    more: { p: hidden, f: hidden },
  })
  const depth = encoder.stack.layers.length
  const layers = typeof layer === 'number' && layer < 0 ? depth + 1 + layer : Number(layer)
  const missing = missed([
    architecture === undefined && `the language model ${type}`,
    kind === undefined && `the activation ${config.projector_hidden_act}`,
    !(Number.isInteger(layers) && layers >= 0 && layers <= depth) && `features of the layers ${layer}`,
    strategy !== 'default' && strategy !== 'full' && `the selection ${strategy} of features`,
    typeof token !== 'number' && 'an image_token_index',
    ...lacks,
  ])
  if (missing.length > 0 || architecture === undefined) throw refusal(missing, subject)
  const language = llama(text, { ...subject, architecture }, names.text)
  return {
    ...language,
    architecture: subject.architecture,
    tensors: new Map([...language.tensors, ...tensors.shapes]),
    vision: {
      stack: encoder.stack,
      channels: encoder.channels,
      size: encoder.size,
      patch: encoder.patch,
      patches: 'patches',
      layers,
      features: 'f',
      skipped: strategy === 'default' ? 1 : 0,
      token: Number(token),
    },
  }
}
