/** Batches: neighbours go through the model together, in their order, as many as it takes at a time. */

import type { Model, PackedToken, TokenSequence } from '../runtime/index.js'

/** A line in a batch: its first row, how many there are, and how many of them are of the prompt. */
export interface BatchLine {
  first: number
  length: number
  prompt: number
}

export interface Batch {
  tokens: PackedToken[]
  lines: BatchLine[]
}

/** A line that takes `length` rows, of which `prompt` are the prompt's. */
export interface Whole {
  sequence: TokenSequence
  length: number
  prompt: number
}

/**
 * Neighbours of up to `limit` rows in all; what is larger alone is a batch of its own. Every `together` neighbours stay
 * in one batch, which ends with a whole group of them.
 */
export function packed<T>(
  items: readonly T[],
  { rowsOf, limit, together = 1 }: { rowsOf: (item: T) => number; limit: number; together?: number },
): T[][] {
  const batches: T[][] = []
  let room = 0
  for (let from = 0; from < items.length; from += together) {
    const group = items.slice(from, from + together)
    const rows = group.reduce((sum, item) => sum + rowsOf(item), 0)
    room -= rows
    if (room < 0 || batches.length === 0) {
      batches.push([])
      room = limit - rows
    }
    batches.at(-1)?.push(...group)
  }
  return batches
}

/** Where lines lie in a batch that they are packed into one after the other. */
export function placed(lines: readonly Pick<BatchLine, 'length' | 'prompt'>[]): BatchLine[] {
  let end = 0
  return lines.map(({ length, prompt }) => {
    end += length
    return { first: end - length, length, prompt }
  })
}

/** Sequences in batches that a model takes. */
export function batchesOf(model: Model, sequences: readonly Whole[]): Batch[] {
  return packed(sequences, { rowsOf: ({ length }) => length, limit: model.batchTokens }).map((batch) => ({
    tokens: model.pack(batch.map(({ sequence }) => sequence)),
    lines: placed(batch),
  }))
}
