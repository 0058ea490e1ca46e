/**
 * Output heads that are the embedding: a config says so, or leaves it to what the class of its model does by default.
 */

import { type Checkpoint, type CheckpointTensor, textConfig } from './open.js'

/**
 * Types of models whose head is tied where config.json says nothing (transformers 4.57, whose configs leave out what is
 * the default; of decoders whose head is an lm_head). All others are untied then.
 */
const tiedByDefault: ReadonlySet<unknown> = new Set([
  ...['bloom', 'cohere', 'cohere2', 'ctrl', 'ernie4_5', 'ernie4_5_moe', 'falcon', 'falcon_mamba', 'gemma', 'gemma2'],
  ...[
    'gemma3',
    'gemma3_text',
    'gemma3n',
    'gemma3n_text',
    'gpt2',
    'gpt-sw3',
    'gpt_bigcode',
    'gpt_neo',
    'jetmoe',
    'lfm2',
  ],
  ...['mamba', 'mpt', 'opt', 'recurrent_gemma', 'smollm3', 'starcoder2', 'vaultgemma', 'xglm', 'zamba', 'zamba2'],
])

/** Whether the output head is the embedding, and therefore need not be stored. */
export function tiesEmbeddings({ config }: Pick<Checkpoint, 'config'>): boolean {
  if (config === undefined) return false
  const text = textConfig(config)
  return (config.tie_word_embeddings ?? text.tie_word_embeddings ?? tiedByDefault.has(text.model_type)) === true
}

export function isHead(name: string): boolean {
  return /(^|\.)lm_head\.weight$/.test(name)
}

const embedding = /(^|\.)(embed_tokens|wte|word_embeddings|embed_in)\.weight$/

export function storesEmbedding({ tensors }: Pick<Checkpoint, 'tensors'>): boolean {
  return [...tensors.keys()].some((name) => embedding.test(name))
}

/**
 * What a model has for the head of this name: the embedding that it is tied to, whatever copy is stored, or its own.
 */
export function headOf(checkpoint: Checkpoint, name: string): CheckpointTensor | undefined {
  const tied = tiesEmbeddings(checkpoint) ? embeddingOf(checkpoint) : undefined
  return tied ?? checkpoint.tensors.get(name)
}

/** The table of the language model. T5 scales what its head reads where it is tied, so no table stands for its head. */
function embeddingOf({ tensors, stack, config }: Checkpoint): CheckpointTensor | undefined {
  if (config?.is_encoder_decoder === true) return undefined
  const found = [...tensors].filter(([name]) => embedding.test(name))
  const parent = stack?.replace(/[^.]+$/, '')
  const beside = found.find(([name]) => parent !== undefined && name.replace(/[^.]+\.weight$/, '') === parent)
  return (beside ?? (found.length === 1 ? found[0] : undefined))?.[1]
}
