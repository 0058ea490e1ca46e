/** The lines of MANU: four streams that are measured (forget and retain, with images and without), and the sets that are asked. */

import type { Checkpoint } from '../../checkpoint/index.js'
import { type Line, openText, pick, readLines, Sight } from '../../data/index.js'
import type { Engine } from '../../engine/engine.js'
import { type Model, rowsOf, type Token } from '../../runtime/index.js'
import { misuse } from '../../util/errors.js'

export const sets = ['forget', 'retain', 'utility'] as const
export type SetName = (typeof sets)[number]
export const kinds = ['multimodal', 'text'] as const
export type Kind = (typeof kinds)[number]

export interface Row extends Line {
  sight: Sight
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
  asked: Stream[]
  /** Ids after an answer. */
  end: number[]
}

/**
 * Lines with an image are multimodal. Where lines of a file say to which split they belong, `train` is measured and `test` is
 * asked. Throws ERR_WEIGHTSMITH_ARGUMENT where forget and retain share a line, or one of them alone has none of a kind.
 */
export async function readStreams(
  engine: Engine,
  { model, checkpoint }: { model: Model; checkpoint: Checkpoint },
  sources: Sources,
  { seed, askLines }: { seed: number; askLines?: number | undefined },
): Promise<Streams> {
  const text = await openText(checkpoint)
  const all = new Map<SetName, Row[]>()
  for (const set of sets) {
    const rows: Row[] = []
    for (const file of sources[set] ?? []) {
      const lines = await readLines(file, text)
      const sight = await Sight.open(engine, { model, checkpoint }, { file, lines, root: sources.images })
      rows.push(...lines.map((line) => ({ ...line, sight })))
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
      { set: 'retain' as const, kind, rows: pick(retain, forget.length, seed) },
    ]
  })
  if (measured.length === 0) throw misuse('There are no lines to forget and none to retain.')
  const asked = sets.flatMap((set) =>
    kinds.flatMap((kind) => {
      const rows = pick(of(set, kind, 'test'), askLines, seed)
      return rows.length === 0 ? [] : [{ set, kind, rows }]
    }),
  )
  return { measured, asked, end: text.ends.slice(0, 1) }
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

/** Lines that go through the model together. */
export interface Pass {
  tokens: Token[]
  /** Rows of the pass, and how many of them are of prompts. */
  lines: { first: number; length: number; prompt: number }[]
  /** Rows of the tower, an image each. */
  images: { first: number; length: number }[]
}

/** Rows that lines take, `end` behind each. */
export function lengthOf(model: Model, { prompt, answer }: Line, end: readonly number[]): number {
  return rowsOf(model.spec, [...prompt, ...answer, ...end])
}

/**
 * Passes over lines, as many as the model takes at a time; images are read when their pass comes. `batch` neighbours stay
 * together, and the pass ends with a whole batch.
 */
export async function* passesOf(
  model: Model,
  rows: readonly Row[],
  { end, batch }: { end: readonly number[]; batch: number },
): AsyncGenerator<Pass> {
  let waiting: Row[] = []
  let room = model.tokens
  for (let from = 0; from < rows.length; from += batch) {
    const next = rows.slice(from, from + batch)
    const length = next.reduce((sum, row) => sum + lengthOf(model, row, end), 0)
    if (length > room && waiting.length > 0) {
      yield await pack(model, waiting, end)
      waiting = []
      room = model.tokens
    }
    waiting.push(...next)
    room -= length
  }
  if (waiting.length > 0) yield await pack(model, waiting, end)
}

async function pack(model: Model, rows: readonly Row[], end: readonly number[]): Promise<Pass> {
  const idsOf = ({ prompt, answer }: Row) => [...prompt, ...answer, ...end]
  const sequences = await Promise.all(rows.map((row) => row.sight.sequence(idsOf(row), row)))
  const each = model.spec.vision?.stack.attention.sequenceLength ?? 0
  let first = 0
  const lines = rows.map((row) => {
    const length = lengthOf(model, row, end)
    first += length
    return { first: first - length, length, prompt: length - row.answer.length - end.length }
  })
  const seen = rows.filter(({ image }) => image !== undefined)
  const images = seen.map((_, i) => ({ first: i * each, length: each }))
  return { tokens: model.pack(sequences), lines, images }
}
