/**
 * Exact match, in its two forms. Greedy: the model continues the prompt by itself, and all it says is the answer as a
 * text. Teacher-forced: after the reference up to any token of the answer, that token is the most likely one. The
 * second takes one pass; it asks for the reference's own tokens, where the first takes others of the same text too.
 */

import type { Tokenizer } from '../data/index.js'
import type { Continuation } from '../generation/generate_ids.js'
import type { PackedToken } from '../runtime/index.js'

/** `whole`: prompt and answer together, as the tokenizer gives them back. A continuation that was cut is no match. */
export function isGreedyMatch(
  tokenizer: Pick<Tokenizer, 'decode'>,
  { prompt, whole }: { prompt: readonly number[]; whole: string },
  { ids, ended }: Continuation,
): boolean {
  return ended && tokenizer.decode([...prompt, ...ids]) === whole
}

/** Rows of a batch that predict the answer of a line and its end: row t predicts token t + 1. */
export function answerRows({ first, length, prompt }: { first: number; length: number; prompt: number }): number[] {
  return Array.from({ length: length - prompt }, (_, i) => first + prompt - 1 + i)
}

/** `best`: the most likely token of every row. */
export function isTeacherForcedMatch(
  best: ArrayLike<number>,
  tokens: readonly PackedToken[],
  rows: readonly number[],
): boolean {
  return rows.every((row) => best[row] === tokens[row]?.target)
}
