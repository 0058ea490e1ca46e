/** The metrics: what a loaded model makes of a data set. */

import { packed } from '../data/batching.js'
import type { ImageLoader, Line, Tokenizer } from '../data/index.js'
import { generateIds } from '../generation/generate_ids.js'
import { type Model, type PackedToken, rowsOf, type TokenSequence } from '../runtime/index.js'
import { isGreedyMatch } from './exact_match.js'
import type { Asked, DataSet, Piece, Question } from './sets.js'

/** Ids of a prompt or text that are shown of a line. */
const shownIds = 64

export interface Measured {
  tokens: number
  value: number
  answers?: number
  bitsPerByte?: number
  normalized?: number
  /** What came out for every line. */
  lines: Record<string, unknown>[]
}

export interface EvalJob {
  model: Model
  tokenizer: Tokenizer
  loader: ImageLoader
  check: () => void
  /** Called with the lines that are done. */
  step: (done: number) => void
}

export function measure(work: EvalJob, set: DataSet): Promise<Measured> {
  switch (set.kind) {
    case 'losses':
      return losses(work, set.lines, set.pieces)
    case 'matches':
      return matches(work, set.lines, set.most)
    case 'choices':
      return choices(work, set.questions)
  }
}

/** Mean losses over all tokens and over those of answers. */
async function losses(
  { model, tokenizer, loader, check, step }: EvalJob,
  lines: readonly Line[],
  pieces: readonly Piece[],
): Promise<Measured> {
  const results = lines.map(({ prompt }) => {
    return { prompt: tokenizer.decode(prompt.slice(0, shownIds)), nll: 0, tokens: 0, answer_nll: 0, answer_tokens: 0 }
  })
  const add = (batch: readonly Piece[], tokens: readonly PackedToken[], nll: Float32Array) => {
    let at = 0
    for (const { line, ids, first, answer } of batch) {
      const result = results[line]
      const length = rowsOf(model.spec, ids)
      // Row t has the loss of token t + 1, if that is to be predicted.
      for (let t = first; t < length && result !== undefined; t++) {
        if (tokens[at + t]?.target === undefined) continue
        const loss = nll[at + t] ?? 0
        result.nll += loss
        result.tokens++
        if (t < answer) continue
        result.answer_nll += loss
        result.answer_tokens++
      }
      at += length
    }
    step((batch.at(-1)?.line ?? 0) + 1)
  }
  const pack = async (batch: readonly Piece[]) => {
    const sequences = batch.map(async ({ ids, line }) => loader.sequence(ids, lines[line] ?? { where: '' }))
    const tokens = model.pack(await Promise.all(sequences))
    let at = -1
    for (const { ids, next } of batch) {
      at += rowsOf(model.spec, ids)
      const last = tokens[at]
      if (last !== undefined) last.target = next
    }
    return tokens
  }
  const batches = packed(pieces, { rowsOf: ({ ids }) => rowsOf(model.spec, ids), limit: model.batchTokens })
  // All together, so that a model larger than the memory is read once; but images are held for one batch at a time.
  for (const walked of loader.isEmpty ? [batches] : batches.map((batch) => [batch])) {
    const tokens: PackedToken[][] = []
    for (const batch of walked) tokens.push(await pack(batch))
    await model.layerwisePass(tokens, {
      check,
      losses: (number, nll) => add(walked[number] ?? [], tokens[number] ?? [], nll),
    })
  }
  const total = (of: (result: (typeof results)[number]) => number) => sum(results.map(of))
  const tokens = total((line) => line.tokens)
  const nll = total((line) => line.nll)
  const answered = total((line) => line.answer_tokens)
  const bytes = lines.every((line) => line.bytes !== undefined) ? sum(lines.map((line) => line.bytes ?? 0)) : 0
  return {
    tokens,
    value: nll / tokens,
    ...(answered > 0 && { answers: total((line) => line.answer_nll) / answered }),
    ...(bytes > 0 && { bitsPerByte: nll / Math.LN2 / bytes }),
    lines: results,
  }
}

/** Share of the lines whose greedy continuation is the answer. */
async function matches(
  { model, tokenizer, loader, check, step }: EvalJob,
  lines: readonly Asked[],
  most: number,
): Promise<Measured> {
  const ends = new Set(tokenizer.ends)
  const results: { prompt: string; answer: string; text: string; ended: boolean; right: boolean }[] = []
  let tokens = 0
  let done = 0
  const rows = ({ prompt }: Asked) => rowsOf(model.spec, prompt) + most
  // Images are read for a batch at a time.
  for (const batch of loader.isEmpty ? [lines] : packed(lines, { rowsOf: rows, limit: model.batchTokens })) {
    const prompts = await Promise.all(batch.map((line) => loader.sequence(line.prompt, line)))
    const continuations = await generateIds(model, prompts, {
      maxTokens: most,
      eosTokenIds: ends,
      check,
      onEnd: () => step(++done),
    })
    for (const [i, { prompt, answer, whole }] of batch.entries()) {
      const { ids = [], ended = false } = continuations[i] ?? {}
      const right = isGreedyMatch(tokenizer, { prompt, whole }, { ids, ended })
      const shown = tokenizer.decode(prompt.slice(0, shownIds))
      results.push({ prompt: shown, answer, text: tokenizer.decode(ids, prompt), ended, right })
      tokens += ids.length
    }
  }
  return { tokens, value: results.filter(({ right }) => right).length / lines.length, lines: results }
}

/** Share of the questions whose likeliest option is the answer, as the losses are and a byte of the option. */
async function choices({ model, loader, check, step }: EvalJob, questions: readonly Question[]): Promise<Measured> {
  const all = questions.flatMap(({ options, image, where }, question) =>
    options.map(({ prompt, answer }) => ({ prompt, answer, image, where, question })),
  )
  const rows = (prompt: readonly number[]) => rowsOf(model.spec, prompt)
  const pack = async (batch: typeof all) => {
    const known = new Map<number, Promise<TokenSequence>>()
    const sequences = batch.map(async (option) => {
      // The options of a question share its image.
      const seen = known.get(option.question) ?? loader.sequence(option.prompt, option)
      known.set(option.question, seen)
      const prompt = await seen
      return 'ids' in prompt
        ? { ...prompt, ids: [...option.prompt, ...option.answer] }
        : [...option.prompt, ...option.answer]
    })
    const tokens = model.pack(await Promise.all(sequences))
    // Only the tokens before those of an option are asked, and come first: a large vocabulary costs more than a block.
    const asked: PackedToken[] = []
    let at = 0
    for (const { prompt, answer } of batch) {
      const begin = at + rows(prompt) - 1
      asked.push(...tokens.slice(begin, begin + answer.length))
      at = begin + 1 + answer.length
    }
    const first = new Set(asked)
    return { batch, first: asked.length, tokens: [...asked, ...tokens.filter((token) => !first.has(token))] }
  }
  const found: number[] = []
  let tokens = 0
  const batches = packed(all, {
    rowsOf: ({ prompt, answer }) => rows(prompt) + answer.length,
    limit: model.batchTokens,
  })
  // As for losses: all together, but with images a batch at a time.
  for (const walked of loader.isEmpty ? [batches] : batches.map((batch) => [batch])) {
    const work: Awaited<ReturnType<typeof pack>>[] = []
    for (const batch of walked) work.push(await pack(batch))
    await model.layerwisePass(
      work.map((own) => own.tokens),
      {
        check,
        wanted: (number) => ({ outputs: work[number]?.first }),
        losses: (number, nll) => {
          let row = 0
          for (const { answer } of work[number]?.batch ?? []) {
            found.push(sum(nll.subarray(row, row + answer.length)))
            row += answer.length
          }
          tokens += row
          step(all[found.length]?.question ?? questions.length)
        },
      },
    )
  }
  let next = 0
  const results = questions.map(({ prompt, options, answer }) => {
    const own = options.map(() => found[next++] ?? 0)
    const picked = smallest(own)
    const normalized = smallest(own.map((loss, i) => loss / Buffer.byteLength(options[i]?.text ?? ' ')))
    const choices = options.map(({ text }) => text)
    return { prompt, choices, answer, losses: own, picked, picked_normalized: normalized, right: picked === answer }
  })
  const share = (of: (line: (typeof results)[number]) => boolean) => results.filter(of).length / results.length
  return {
    tokens,
    value: share(({ right }) => right),
    normalized: share((line) => line.picked_normalized === line.answer),
    lines: results,
  }
}

function smallest(values: readonly number[]): number {
  return values.indexOf(Math.min(...values))
}

function sum(values: Iterable<number>): number {
  let total = 0
  for (const value of values) total += value
  return total
}
