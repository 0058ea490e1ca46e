/** Greedy generation: prompts go through together, then one token a sequence and pass, until each has ended. */

import type { Model, Sequence } from './model.js'
import type { Token } from './pass.js'

export interface Greedy {
  /** Most ids a continuation has. */
  most: number
  /** Ids that end a continuation; they are not part of it. */
  ends: ReadonlySet<number>
  /** Called before every pass; what it throws ends the work. */
  check?: (() => void) | undefined
}

export interface Continuation {
  ids: number[]
  /** Whether it came to an end within the most it could have. */
  ended: boolean
}

interface Growing extends Continuation {
  start: number
  /** Row of the last token that went through. */
  row: number
}

/** The likeliest next ids of each prompt. The model's cache has to hold the longest prompt and its continuation. */
export async function generate(model: Model, prompts: readonly Sequence[], options: Greedy): Promise<Continuation[]> {
  const results: Continuation[] = []
  const packed = prompts.map((prompt) => model.pack([prompt]))
  for (let first = 0; first < packed.length; ) {
    let rows = 0
    const batch: Token[][] = []
    for (const prompt of packed.slice(first)) {
      rows += prompt.length + options.most
      if (batch.length > 0 && rows > Math.min(model.cache, model.tokens)) break
      batch.push(prompt)
    }
    results.push(...(await generateBatch(model, batch, options)))
    first += batch.length
  }
  return results
}

async function generateBatch(
  model: Model,
  prompts: readonly Token[][],
  { most, ends, check }: Greedy,
): Promise<Continuation[]> {
  const sequences: Growing[] = []
  const tokens: Token[] = []
  let start = 0
  for (const prompt of prompts) {
    const base = start
    tokens.push(...prompt.map(({ row, target: _, ...token }) => ({ ...token, start: base, row: base + row })))
    sequences.push({ ids: [], ended: false, start, row: start + prompt.length - 1 })
    start += prompt.length + most
  }
  let active = sequences
  for (let pass = tokens; active.length > 0; ) {
    check?.()
    const { best } = await model.run(pass)
    const last = new Map(pass.map(({ row }, i) => [row, best[i] ?? 0]))
    active = active.filter((sequence) => {
      const id = last.get(sequence.row) ?? 0
      sequence.ended = ends.has(id)
      if (!sequence.ended) sequence.ids.push(id)
      sequence.row++
      return !sequence.ended && sequence.ids.length < most
    })
    pass = active.map(({ ids, start: base, row }) => ({ id: ids.at(-1) ?? 0, start: base, row }))
  }
  return sequences.map(({ ids, ended }) => ({ ids, ended }))
}
