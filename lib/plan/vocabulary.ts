/** Tables that have a row a token. */

/** Whether the first axis of a tensor counts tokens: embedding and output head. */
export function isVocabulary(name: string): boolean {
  return /(^|\.)(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|lm_head|embed_out)\.(weight|bias)$/.test(name)
}
