/**
 * The lines of MANU: four streams that are measured (forget and retain, with images and without), and the sets that are
 * evaluated.
 */

import type { Checkpoint } from '../../checkpoint/index.js'
import {
  type Batch,
  ImageLoader,
  type Line,
  openTokenizer,
  packed,
  placed,
  readLines,
  sampleLines,
} from '../../data/index.js'
import type { Engine } from '../../engine/engine.js'
import { type Model, rowsOf } from '../../runtime/index.js'
import { misuse } from '../../util/errors.js'

export const sets = ['forget', 'retain', 'utility'] as const
export type SetName = (typeof sets)[number]
export const kinds = ['multimodal', 'text'] as const
export type Kind = (typeof kinds)[number]

export interface Row extends Line {
  loader: ImageLoader
}

/** Lines of one set and kind. */
export interface Stream {
  set: SetName
  kind: Kind
  rows: readonly Row[]
}

export interface Sources {
  forget: readonly string[]
  retain: readonly string[]
  utility?: readonly string[] | undefined
  images?: string | undefined
}

export interface Streams {
  /** Forget and retain; as many lines of a kind to retain as to forget. */
  measured: Stream[]
  evaluated: Stream[]
  /** Ids after an answer. */
  end: number[]
}

/**
 * Lines with an image are multimodal. Where lines of a file say to which split they belong, `train` is measured and
 * `test` is evaluated. Throws ERR_WEIGHTSMITH_ARGUMENT where forget and retain share a line, or one of them alone has
 * none of a kind.
 */
export async function readStreams(
  engine: Engine,
  { model, checkpoint }: { model: Model; checkpoint: Checkpoint },
  sources: Sources,
  { seed, limit }: { seed: number; limit?: number | undefined },
): Promise<Streams> {
  const tokenizer = await openTokenizer(checkpoint)
  const all = new Map<SetName, Row[]>()
  for (const set of sets) {
    const rows: Row[] = []
    for (const file of sources[set] ?? []) {
      const lines = await readLines(file, tokenizer)
      const loader = await ImageLoader.open(engine, { model, checkpoint }, { file, lines, root: sources.images })
      rows.push(...lines.map((line) => ({ ...line, loader })))
    }
    all.set(set, rows)
  }
  refuseShared(all.get('forget') ?? [], all.get('retain') ?? [])
  const of = (set: SetName, kind: Kind, split: string) =>
    ofSplit(
      (all.get(set) ?? []).filter(({ image }) => (image === undefined) === (kind === 'text')),
      split,
    )

  const measured = kinds.flatMap((kind) => {
    const [forget, retain] = [of('forget', kind, 'train'), of('retain', kind, 'train')]
    if (forget.length === 0 && retain.length === 0) return []
    const empty = forget.length === 0 ? 'forget' : retain.length === 0 ? 'retain' : undefined
    if (empty !== undefined) {
      throw misuse(`The ${kind} stream of the lines to ${empty} is empty, while the other one has lines.`)
    }
    return [
      { set: 'forget' as const, kind, rows: forget },
      { set: 'retain' as const, kind, rows: sampleLines(retain, forget.length, seed) },
    ]
  })
  if (measured.length === 0) throw misuse('There are no lines to forget and none to retain.')
  const evaluated = sets.flatMap((set) =>
    kinds.flatMap((kind) => {
      const rows = sampleLines(of(set, kind, 'test'), limit, seed)
      return rows.length === 0 ? [] : [{ set, kind, rows }]
    }),
  )
  return { measured, evaluated, end: tokenizer.ends.slice(0, 1) }
}

function ofSplit(rows: readonly Row[], split: string): readonly Row[] {
  return rows.filter((row) => row.split === undefined || row.split === split)
}

function refuseShared(forget: readonly Row[], retain: readonly Row[]): void {
  const key = ({ image, prompt, answer }: Row) => JSON.stringify([image, prompt, answer])
  const known = new Map(forget.map((row) => [key(row), row]))
  const shared = retain.filter((row) => known.has(key(row)))
  const [first] = shared
  if (first === undefined) return
  throw misuse(
    `${shared.length} lines are both to be forgotten and to be retained; the first is ${known.get(key(first))?.where}, which ` +
      `is ${first.where} too.`,
  )
}

/** A batch, with where its images lie. */
export interface ManuBatch extends Batch {
  /** Rows of the tower, an image each. */
  images: { first: number; length: number }[]
}

/** Rows that lines take, `end` behind each. */
export function lengthOf(model: Model, { prompt, answer }: Line, end: readonly number[]): number {
  return rowsOf(model.spec, [...prompt, ...answer, ...end])
}

/**
 * Batches of lines, as many as the model takes at a time; images are read when their batch comes. `batch` neighbours
 * stay together.
 */
export async function* manuBatches(
  model: Model,
  rows: readonly Row[],
  { end, batch }: { end: readonly number[]; batch: number },
): AsyncGenerator<ManuBatch> {
  const rowsOf = (row: Row) => lengthOf(model, row, end)
  for (const own of packed(rows, { rowsOf, limit: model.batchTokens, together: batch }))
    yield await pack(model, own, end)
}

async function pack(model: Model, rows: readonly Row[], end: readonly number[]): Promise<ManuBatch> {
  const idsOf = ({ prompt, answer }: Row) => [...prompt, ...answer, ...end]
  const sequences = await Promise.all(rows.map((row) => row.loader.sequence(idsOf(row), row)))
  const each = model.spec.vision?.stack.attention.sequenceLength ?? 0
  const lines = placed(
    rows.map((row) => {
      const length = lengthOf(model, row, end)
      return { length, prompt: length - row.answer.length - end.length }
    }),
  )
  const seen = rows.filter(({ image }) => image !== undefined)
  const images = seen.map((_, i) => ({ first: i * each, length: each }))
  return { tokens: model.pack(sequences), lines, images }
}
