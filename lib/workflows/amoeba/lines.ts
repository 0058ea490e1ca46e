/**
 * Lines that tell how good a model is: which of their tokens are asked for, and what is made of the answers. What is
 * right is counted in whole numbers, so that ties are ties; losses are added up in float64 in the order of the lines.
 */

import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import type { Checkpoint } from '../../checkpoint/index.js'
import {
  checkIds,
  ImageLoader,
  openTokenizer,
  packed,
  pairOf,
  readChoices,
  readIfThere,
  readLines,
  readSequences,
  sampleLines,
} from '../../data/index.js'
import type { Engine } from '../../engine/engine.js'
import { type Model, type PackedToken, rowsOf, type TokenSequence } from '../../runtime/index.js'
import type { DepthMetric, StrategyData } from '../../subnets/index.js'

/** A sequence of `length` tokens, of which those from `asked` on are asked for. */
export interface Asked {
  sequence: TokenSequence
  length: number
  asked: number
  /** Of which line it is, from 0, and whether it is the right one of its options. */
  line: number
  right: boolean
}

export interface AskedLines {
  data: StrategyData
  /** In the order of the lines. */
  items: Asked[]
}

export interface LinesOptions {
  file: string
  metric: DepthMetric
  /** Lines of the file, chosen by the seed; all by default. */
  limit: number | undefined
  seed: number
  images: string | undefined
}

interface Subject {
  model: Model
  checkpoint: Checkpoint
}

/**
 * Lines of `{"prompt": ..., "answer": ...}`; of `{"prompt": ..., "choices": [...], "answer": ...}`, of which `accuracy`
 * compares the losses of the options, and other metrics read the right one; or, for `nll` alone, of `{"text": ...}`.
 * Throws ERR_WEIGHTSMITH_ARGUMENT with the number of a line that is none of them, or that the model cannot take.
 */
export async function readAsked(engine: Engine, subject: Subject, options: LinesOptions): Promise<AskedLines> {
  const { file, metric } = options
  if (await hasChoices(file)) return readQuestions(engine, subject, options)
  // Refuses texts by their numbers.
  if (metric !== 'nll') await readLines(file, await openTokenizer(subject.checkpoint))
  const { sequences, sha256 } = await readSequences(engine, subject, options)
  const items = sequences.map(({ sequence, length, prompt }, line) => {
    return { sequence, length, asked: prompt < length ? prompt : 1, line, right: true }
  })
  return { items, data: { file, sha256, ...countOf(items) } }
}

async function readQuestions(
  engine: Engine,
  { model, checkpoint }: Subject,
  { file, metric, limit, seed, images }: LinesOptions,
): Promise<AskedLines> {
  const { spec } = model
  const tokenizer = await openTokenizer(checkpoint)
  const chosen = sampleLines(await readChoices(file), limit, seed)
  const lines = chosen.map((question) => ({ ...question, where: `Line ${question.line} of ${file}` }))
  const loader = await ImageLoader.open(engine, { model, checkpoint }, { file, lines, root: images })
  const items: Asked[] = []
  for (const [line, question] of lines.entries()) {
    for (const [i, choice] of question.choices.entries()) {
      const right = i === question.answer
      if (!right && metric !== 'accuracy') continue
      const { prompt, answer } = pairOf(tokenizer, question.prompt, choice, question.where)
      const ids = [...prompt, ...answer]
      checkIds({ spec, checkpoint }, ids, question.where)
      const length = rowsOf(spec, ids)
      items.push({ sequence: await loader.sequence(ids, question), length, asked: length - answer.length, line, right })
    }
  }
  const sha256 = createHash('sha256')
    .update(await readFile(file))
    .digest('hex')
  return { items, data: { file, sha256, ...countOf(items) } }
}

/** Whether the first line of a file is a question with choices. */
async function hasChoices(file: string): Promise<boolean> {
  const first = ((await readIfThere(file)) ?? '').split('\n').find((line) => line.trim() !== '')
  try {
    return (JSON.parse(first ?? '') as Record<string, unknown> | null)?.choices !== undefined
  } catch {
    return false
  }
}

function countOf(items: readonly Asked[]): Pick<StrategyData, 'examples' | 'tokens'> {
  return {
    examples: new Set(items.map(({ line }) => line)).size,
    tokens: items.reduce((sum, { length }) => sum + length, 0),
  }
}

/** The lines without wrong options. */
export function rightOnes({ data, items }: AskedLines): AskedLines {
  const right = items.filter((item) => item.right)
  return { data: { ...data, ...countOf(right) }, items: right }
}

/** Sequences that go through the model together; the first `asked` tokens are those whose next one is asked for. */
export interface AskedBatch {
  tokens: PackedToken[]
  asked: number
  /** How many of them are of each sequence. */
  counts: number[]
}

/** Batches of as many tokens as the model takes. The head, which may cost more than a block, runs on what is asked. */
export function askedBatches(model: Model, items: readonly Asked[]): AskedBatch[] {
  return packed(items, { rowsOf: ({ length }) => length, limit: model.batchTokens }).map((batch) => {
    const tokens = model.pack(batch.map(({ sequence }) => sequence))
    let end = 0
    const rows = batch.map(({ length, asked }) => {
      const own = tokens.slice(end + asked - 1, end + length - 1)
      end += length
      return own.filter(({ target }) => target !== undefined)
    })
    const first = new Set(rows.flat())
    return {
      tokens: [...first, ...tokens.filter((token) => !first.has(token))],
      asked: first.size,
      counts: rows.map(({ length }) => length),
    }
  })
}

/** What a model says to the lines, batch after batch. */
export class Answers {
  private readonly losses: number[] = []
  private readonly hits: number[] = []
  private readonly counts: number[] = []

  constructor(private readonly items: readonly Asked[]) {}

  add({ tokens, counts }: AskedBatch, nll: Float32Array, best: Uint32Array): void {
    let row = 0
    for (const count of counts) {
      let [loss, hits] = [0, 0]
      for (const end = row + count; row < end; row++) {
        loss += nll[row] ?? 0
        if (best[row] === tokens[row]?.target) hits++
      }
      this.losses.push(loss)
      this.hits.push(hits)
      this.counts.push(count)
    }
  }

  /** A metric over all lines. */
  value(metric: DepthMetric): number {
    const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0)
    if (metric === 'nll') return sum(this.losses) / sum(this.counts)
    if (metric === 'token-accuracy') return sum(this.hits) / sum(this.counts)
    const best = new Map<number, number>()
    for (const [i, { line }] of this.items.entries()) {
      const other = best.get(line)
      if (other === undefined || (this.losses[i] ?? 0) < (this.losses[other] ?? 0)) best.set(line, i)
    }
    const options = this.items.length > best.size
    const isRight = (i: number) => (options ? this.items[i]?.right : this.hits[i] === this.counts[i])
    return [...best.values()].filter(isRight).length / best.size
  }
}
