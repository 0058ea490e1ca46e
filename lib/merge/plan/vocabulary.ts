/**
 * Whose tokens the output's tables have, where models have different vocabularies: those of the base, of one model, or
 * of all of them, and such as the recipe adds.
 */

import type { AddedToken, Checkpoint, Vocabulary } from '../../checkpoint/index.js'
import { WeightsmithError } from '../../util/errors.js'
import type { TokenizerPolicy } from '../recipe/index.js'

/** Whether the first axis of a tensor counts tokens: embedding and output head. */
export function isVocabulary(name: string): boolean {
  return /(^|\.)(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|lm_head|embed_out)\.(weight|bias)$/.test(name)
}

export interface OutputVocabulary extends Vocabulary {
  /** Rows a table would have without padding. */
  size: number
  /** Vocabulary of models that come without one. */
  assumed: ReadonlyMap<string, number>
  policy: TokenizerPolicy
}

/** The vocabulary of the output; undefined where the recipe leaves vocabularies alone. */
export function planVocabulary(
  policy: TokenizerPolicy,
  models: Checkpoint[],
  source: Checkpoint,
): OutputVocabulary | undefined {
  if (!policy.explicit || policy.source === 'none') return undefined
  const first = source.vocabulary
  if (first === undefined) {
    if (policy.source !== 'union' && policy.tokens.size === 0 && policy.multiple === undefined) return undefined
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_NOT_FOUND',
      `The recipe's tokenizer needs the vocabulary of ${source.name}, but its folder has no tokenizer.json.`,
      { file: source.path },
    )
  }
  const ids = new Map(first.ids)
  const extra = new Map(first.extra.map((token) => [token.content, token]))
  let next = 1 + max(ids.values())
  const add = (token: AddedToken | string) => {
    const entry =
      typeof token === 'string'
        ? { content: token, single_word: false, lstrip: false, rstrip: false, normalized: true, special: false }
        : token
    const id = ids.get(entry.content) ?? next++
    ids.set(entry.content, id)
    extra.set(entry.content, { ...entry, id })
  }
  if (policy.source === 'union') {
    const others = models.flatMap(({ vocabulary }) => vocabulary ?? [])
    for (const other of others) {
      const sorted = [...other.ids].sort((a, b) => a[1] - b[1])
      for (const [token] of sorted) if (!ids.has(token) && !other.added.has(token)) add(token)
    }
    for (const other of others) {
      for (const [content, token] of other.added) if (!first.added.has(content) && !extra.has(content)) add(token)
    }
  }
  for (const token of policy.tokens.keys()) if (!ids.has(token)) add(token)
  return {
    ids,
    added: first.added,
    folder: first.folder,
    extra: [...extra.values()],
    size: next,
    assumed: first.ids,
    policy,
  }
}

function max(values: Iterable<number>): number {
  let most = -1
  for (const value of values) most = Math.max(most, value)
  return most
}
