/** Lines of a data set as whole sequences, in batches. What a model cannot take is named by its line. */

import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import type { Checkpoint } from '../checkpoint/index.js'
import type { Engine } from '../engine/engine.js'
import { type Model, rowsOf, type Sequence, type Token } from '../runtime/index.js'
import { checkIds, idsOf, type Line, readDataLines, Sight } from './lines.js'
import { openText } from './text.js'

/** Lines of data that go through the model together, as rows of a pass; `prompt` of them are the prompt's. */
export interface Batch {
  tokens: Token[]
  lines: { first: number; length: number; prompt: number }[]
}

interface Whole {
  sequence: Sequence
  length: number
  prompt: number
}

export interface Data {
  sequences: Whole[]
  /** Of the file. */
  sha256: string
}

export interface DataOptions {
  file: string
  /** Folder or file of images. */
  images?: string | undefined
  /** So many lines, chosen by the seed; all by default. */
  samples?: number | undefined
  seed: number
}

/**
 * Every line as <prompt><answer><end>, or as its text. Throws ERR_WEIGHTSMITH_ARGUMENT for lines with ids that the vocabulary does not
 * have, or more tokens than the context.
 */
export async function readSequences(
  engine: Engine,
  { model, checkpoint }: { model: Model; checkpoint: Checkpoint },
  { file, images, samples, seed }: DataOptions,
): Promise<Data> {
  const text = await openText(checkpoint)
  const { spec } = model
  const all = (await readDataLines(file, text)).flatMap((line) => piecesOf(line, spec.context))
  const lines = pick(all, samples, seed)
  const sight = await Sight.open(engine, { model, checkpoint }, { file, lines, root: images })
  const sequences: Whole[] = []
  for (const line of lines) {
    const ids = idsOf(line)
    checkIds({ spec, checkpoint }, ids, line.where)
    const length = rowsOf(spec, ids)
    const prompt = length - line.answer.length - line.end.length
    sequences.push({ sequence: await sight.sequence(ids, line), length, prompt })
  }
  const sha256 = createHash('sha256')
    .update(await readFile(file))
    .digest('hex')
  return { sequences, sha256 }
}

/** A text that is longer than the context is several lines. */
function piecesOf(line: Line, context: number): Line[] {
  const { prompt, bytes } = line
  if (bytes === undefined || prompt.length <= context) return [line]
  return Array.from({ length: Math.ceil(prompt.length / context) }, (_, i) => ({
    ...line,
    prompt: prompt.slice(i * context, (i + 1) * context),
  }))
}

/** Neighbours together, as many as a pass of the model takes. */
export function batchesOf(model: Model, sequences: readonly Whole[]): Batch[] {
  const packed: Whole[][] = []
  let room = 0
  for (const whole of sequences) {
    room -= whole.length
    if (room < 0 || packed.length === 0) {
      packed.push([])
      room = model.tokens - whole.length
    }
    packed.at(-1)?.push(whole)
  }
  return packed.map((batch) => {
    let first = 0
    const lines = batch.map(({ length, prompt }) => {
      first += length
      return { first: first - length, length, prompt }
    })
    return { tokens: model.pack(batch.map(({ sequence }) => sequence)), lines }
  })
}

/** Some of the lines, in their order. */
export function pick<T>(lines: readonly T[], samples: number | undefined, seed: number): readonly T[] {
  if (samples === undefined || samples >= lines.length) return lines
  const rank = (i: number) => createHash('sha256').update(`${seed} ${i}`).digest('hex')
  const ranked = lines.map((_, i) => ({ i, rank: rank(i) })).sort((a, b) => (a.rank < b.rank ? -1 : 1))
  const chosen = new Set(ranked.slice(0, samples).map(({ i }) => i))
  return lines.filter((_, i) => chosen.has(i))
}
