/** Lines of a data set as whole sequences, in batches. What a model cannot take is named by its line. */

import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import type { Checkpoint } from './checkpoint/index.js'
import type { Engine } from './engine.js'
import { WeightsmithError } from './errors.js'
import { type Model, rowsOf, type Sequence } from './forward/index.js'
import { readLines, Sight } from './lines.js'
import type { Batch } from './score/index.js'
import { openText } from './text.js'

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
 * Every line as <prompt><answer><end>. Throws ERR_WEIGHTSMITH_ARGUMENT for lines with ids that the vocabulary does not
 * have, or more tokens than the context.
 */
export async function readData(
  engine: Engine,
  { model, checkpoint }: { model: Model; checkpoint: Checkpoint },
  { file, images, samples, seed }: DataOptions,
): Promise<Data> {
  const text = await openText(checkpoint)
  const lines = pick(await readLines(file, text), samples, seed)
  const sight = await Sight.open(engine, { model, checkpoint }, { file, lines, root: images })
  const { spec } = model
  const sequences: Whole[] = []
  for (const line of lines) {
    const end = text.ends.slice(0, 1)
    const ids = [...line.prompt, ...line.answer, ...end]
    const length = rowsOf(spec, ids)
    const refuse = (what: string) => {
      throw new WeightsmithError('ERR_WEIGHTSMITH_ARGUMENT', `${line.where} ${what}.`, { file })
    }
    const wrong = ids.find((id) => id >= spec.vocabulary)
    if (wrong !== undefined) {
      refuse(
        `has the id ${wrong}, but ${checkpoint.name} knows 0 to ${spec.vocabulary - 1}: its tokenizer is of another model`,
      )
    }
    if (length > spec.context) {
      refuse(`has ${length} tokens, but the context of ${checkpoint.name} has ${spec.context}`)
    }
    const prompt = length - line.answer.length - end.length
    sequences.push({ sequence: await sight.sequence(ids, line), length, prompt })
  }
  const sha256 = createHash('sha256')
    .update(await readFile(file))
    .digest('hex')
  return { sequences, sha256 }
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
