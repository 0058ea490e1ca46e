/** Models whose embedding is their output head too, and what it takes to tell the two apart. */

import { type Checkpoint, type CheckpointTensor, textConfig, tiesEmbeddings } from '../../checkpoint/index.js'

/** An embedding that is the output head too: its name, and that of the head where it is stored by itself. */
export interface Tie {
  table: string
  head: string
}

export function tieOf(base: Checkpoint): Tie | undefined {
  const names = [...base.tensors.keys()]
  const table = names.find((key) => /(^|\.)(embed_tokens|wte|word_embeddings)\.weight$/.test(key))
  const stored = names.find((key) => /(^|\.)(lm_head|embed_out)\.weight$/.test(key))
  // A model without a config that stores no head may be either; whoever takes the two apart asks for one.
  const tied = base.config === undefined ? stored === undefined : tiesEmbeddings(base)
  if (table === undefined || !tied) return undefined
  return {
    table,
    head: stored ?? (table.startsWith('language_model.') ? 'language_model.lm_head.weight' : 'lm_head.weight'),
  }
}

export function untied(config: Record<string, unknown>): Record<string, unknown> {
  const out = structuredClone(config)
  for (const holder of [out, textConfig(out)]) holder.tie_word_embeddings = false
  return out
}

/** The tensor that the base model takes for this one. */
export function weightOf(key: string, base: Checkpoint, tie: Tie | undefined): CheckpointTensor | undefined {
  return base.tensors.get(key === tie?.head ? tie.table : key)
}
