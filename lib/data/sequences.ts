/** Lines of a data set as whole sequences. What a model cannot take is named by its line. */

import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import type { Checkpoint } from '../checkpoint/index.js'
import type { Engine } from '../engine/engine.js'
import { type Model, rowsOf } from '../runtime/index.js'
import type { Whole } from './batching.js'
import { checkIds, ImageLoader, idsOf, type Line, readDataLines } from './lines.js'
import { openTokenizer } from './tokenizer.js'

export interface Data {
  sequences: Whole[]
  /** Of the file. */
  sha256: string
}

export interface DataOptions {
  file: string
  /** Folder or file of images. */
  images?: string | undefined
  /** Number of lines, chosen by the seed; all by default. */
  limit?: number | undefined
  seed: number
}

/**
 * Every line as <prompt><answer><end>, or as its text. Throws ERR_WEIGHTSMITH_ARGUMENT for lines with ids that the
 * vocabulary does not have, or more tokens than the context.
 */
export async function readSequences(
  engine: Engine,
  { model, checkpoint }: { model: Model; checkpoint: Checkpoint },
  { file, images, limit, seed }: DataOptions,
): Promise<Data> {
  const tokenizer = await openTokenizer(checkpoint)
  const { spec } = model
  const all = (await readDataLines(file, tokenizer)).flatMap((line) => piecesOf(line, spec.context))
  const lines = sampleLines(all, limit, seed)
  const loader = await ImageLoader.open(engine, { model, checkpoint }, { file, lines, root: images })
  const sequences: Whole[] = []
  for (const line of lines) {
    const ids = idsOf(line)
    checkIds({ spec, checkpoint }, ids, line.where)
    const length = rowsOf(spec, ids)
    const prompt = length - line.answer.length - line.end.length
    sequences.push({ sequence: await loader.sequence(ids, line), length, prompt })
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

/** Some of the lines, in their order. */
export function sampleLines<T>(lines: readonly T[], limit: number | undefined, seed: number): readonly T[] {
  if (limit === undefined || limit >= lines.length) return lines
  const rank = (i: number) => createHash('sha256').update(`${seed} ${i}`).digest('hex')
  const ranked = lines.map((_, i) => ({ i, rank: rank(i) })).sort((a, b) => (a.rank < b.rank ? -1 : 1))
  const chosen = new Set(ranked.slice(0, limit).map(({ i }) => i))
  return lines.filter((_, i) => chosen.has(i))
}
