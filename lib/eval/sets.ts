/** Data sets as a metric takes them: tokenized, and every line checked before the model is loaded. */

import type { ModelSpec } from '../architectures/index.js'
import type { Checkpoint } from '../checkpoint/index.js'
import type { ImageSource } from '../data/images/index.js'
import {
  checkIds,
  type Example,
  idsOf,
  type Line,
  pairOf,
  readChoices,
  readDataLines,
  readExamples,
  type Tokenizer,
} from '../data/index.js'
import { rowsOf } from '../runtime/index.js'

/** What `evaluate` can measure; see `EvalOptions.metric`. */
export const evalMetrics = ['nll', 'ppl', 'exact-match', 'choice'] as const
export type EvalMetric = (typeof evalMetrics)[number]

/** What goes through the model as one sequence. */
export interface Piece {
  /** Which line it is of. */
  line: number
  ids: number[]
  /** The first row whose loss counts, and the first whose loss is one of an answer. */
  first: number
  answer: number
  /** The id after the last one, where it is predicted too. */
  next?: number | undefined
}

export interface Question {
  prompt: string
  image?: ImageSource | undefined
  /** For messages. */
  where: string
  options: { text: string; prompt: number[]; answer: number[] }[]
  /** Which of them is right. */
  answer: number
}

/** A prompt that is to be answered word by word. */
export interface Asked {
  prompt: number[]
  image?: ImageSource | undefined
  /** For messages. */
  where: string
  answer: string
  /** Of prompt and answer together, as the tokenizer gives it back. */
  whole: string
}

/** `longest` and `total`: tokens of sequences. */
export type DataSet = { file: string; examples: number; longest: number; total: number } & (
  | { kind: 'losses'; lines: Line[]; pieces: Piece[] }
  | { kind: 'matches'; lines: Asked[] /** Most ids of a continuation. */; most: number }
  | { kind: 'choices'; questions: Question[] }
)

export interface SetOptions {
  metric: EvalMetric
  limit?: number | undefined
  maxTokens?: number | undefined
  window?: number | undefined
  stride?: number | undefined
}

export async function readSet(
  file: string,
  { tokenizer, spec, checkpoint }: { tokenizer: Tokenizer; spec: ModelSpec; checkpoint: Checkpoint },
  options: SetOptions,
): Promise<DataSet> {
  const { metric, limit, maxTokens } = options
  const check = (ids: number[], where: string) => checkIds({ spec, checkpoint }, ids, where)
  const sized = (lengths: number[]) => ({
    longest: lengths.reduce((most, length) => Math.max(most, length), 0),
    total: lengths.reduce((sum, length) => sum + length, 0),
  })
  if (metric === 'choice') {
    const questions = (await readChoices(file, limit)).map(({ prompt, choices, answer, image, line }) => {
      const where = `Line ${line} of ${file}`
      const options = choices.map((choice) => {
        const pair = pairOf(tokenizer, prompt, choice, where)
        check([...pair.prompt, ...pair.answer], where)
        return { text: choice, ...pair }
      })
      return { prompt, answer, options, image, where }
    })
    const lengths = questions.flatMap(({ options }) =>
      options.map(({ prompt, answer }) => rowsOf(spec, prompt) + answer.length),
    )
    return { kind: 'choices', file, examples: questions.length, ...sized(lengths), questions }
  }
  if (metric === 'exact-match') {
    const examples = await readExamples(file, limit)
    const lines = examples.map(({ prompt, answer, image, line }): Asked => {
      const [ids, where] = [tokenizer.prompt(prompt), `Line ${line} of ${file}`]
      check(ids, where)
      return { prompt: ids, image, where, answer, whole: tokenizer.decode(tokenizer.prompt(prompt + answer)) }
    })
    const longest = (most: number, { prompt, answer }: Example) =>
      Math.max(most, tokenizer.pair(prompt, answer).answer.length)
    const most = maxTokens ?? examples.reduce(longest, 0) + 1
    const lengths = lines.map(({ prompt }) => rowsOf(spec, prompt) + most)
    return { kind: 'matches', file, examples: lines.length, ...sized(lengths), lines, most }
  }
  const { window = spec.context, stride = window } = options
  const lines = await readDataLines(file, tokenizer, limit)
  const pieces = lines.flatMap((line, i) => {
    if (line.bytes !== undefined) {
      check(line.prompt.slice(0, window), line.where)
      return windowsOf(line.prompt, window, stride).map((piece) => ({ ...piece, line: i }))
    }
    const ids = idsOf(line)
    check(ids, line.where)
    const rows = rowsOf(spec, ids)
    return [{ line: i, ids, first: 0, answer: rows - line.answer.length - line.end.length - 1 }]
  })
  const lengths = pieces.map(({ ids }) => rowsOf(spec, ids))
  return { kind: 'losses', file, examples: lines.length, ...sized(lengths), lines, pieces }
}

/**
 * Rolling windows of up to `window` ids over a text, so that every id but the first is predicted once: by the first
 * window all of its ids, by each of the others up to `stride` of them, after as many ids as have room (lm-eval's
 * rolling log-likelihood, where `context_len` is `window - stride + 1`).
 */
export function windowsOf(ids: readonly number[], window: number, stride: number): Omit<Piece, 'line'>[] {
  const pieces: Omit<Piece, 'line'>[] = []
  // Row t predicts id t + 1; those up to id `done` are predicted.
  for (let done = 0, end = 0; done < ids.length - 1; done = end) {
    end = Math.min(ids.length - 1, done + (done === 0 ? window : stride))
    const begin = Math.max(0, end - window)
    pieces.push({ ids: ids.slice(begin, end), first: done - begin, answer: end, next: ids[end] })
  }
  return pieces
}
