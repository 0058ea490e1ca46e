/** What a model learns of a teacher's predictions: at which tokens, how much, and where these come from. */

import type { NativeWork } from '../../native/border.js'

/** A sequence of ids, and which of them are to be predicted from those before them; the first one never is. */
export interface TrainingSequence {
  ids: ArrayLike<number>
  targets: ArrayLike<number | boolean>
}

/**
 * Tokens at which a teacher is learned: `shifted`, those that predict a target; `own-label`, those that are a target
 * themselves (as AmoebaLLM's release has it), so that nobody teaches the first id of an answer, but what follows its
 * end.
 */
export type TeacherMask = 'shifted' | 'own-label'

/** Logits that are known of every token: all of them, or the `top` ones. */
export interface KnownLogits {
  top: number
}

/** A token at which a loss is taken. */
export interface LossRow {
  position: number
  /** The id that it should predict. */
  target: number | undefined
  taught: boolean
}

/** How a teacher counts. */
export interface Teaching {
  /** Of the loss, above 0 and at most 1; the targets count for the rest. */
  share: number
  mask: TeacherMask
  /** Whether the loss is less the entropy of the teacher: its divergence, with the same gradient. */
  divergence: boolean
}

/** Logits [count, top], the largest of each row 0, and their ids where they are not all. */
export interface KnownRows {
  logits: Float32Array<ArrayBuffer>
  ids?: Uint32Array<ArrayBuffer> | undefined
}

/**
 * What a teacher says at the loss rows of a batch: what its head is applied to, from `normed` of the teacher; what is
 * known of its logits, some rows at a time; or what a pass of the model itself has kept.
 */
export type Taught = Teaching &
  (
    | { normed: Float32Array<ArrayBuffer> }
    | { kept: true }
    | { rows: (from: number, count: number) => Promise<KnownRows> }
  )

/** The tokens of a sequence at which a loss is taken. `mask`: of a teacher. */
export function lossRowsOf({ ids, targets }: TrainingSequence, mask?: TeacherMask): LossRow[] {
  const rows: LossRow[] = []
  for (let position = 0; position < ids.length; position++) {
    const target = targets[position + 1] ? ids[position + 1] : undefined
    const taught = mask === 'own-label' ? Boolean(targets[position]) : mask !== undefined && target !== undefined
    if (target !== undefined || taught) rows.push({ position, target, taught })
  }
  return rows
}

/** What of the loss of each row is its target's, and what the teacher's. */
export function sharesOf(rows: readonly LossRow[], share: number): Float32Array<ArrayBuffer> {
  return Float32Array.from(
    rows.flatMap(({ target, taught }) => [target === undefined ? 0 : 1 - share, taught ? share : 0]),
  )
}

/** What writes `count` rows from row `from` on of logits that are known. */
export async function knownRows(
  taught: Taught,
  to: { ids: number; values: number },
  { from, count }: { from: number; count: number },
): Promise<NativeWork['writes']> {
  if (!('rows' in taught)) return []
  const { logits, ids } = await taught.rows(from, count)
  const write = (
    buffer: number,
    { buffer: memory, byteOffset, byteLength }: Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>,
  ) => ({
    ...{ buffer, offset: 0 },
    memory: new Uint8Array(memory, byteOffset, byteLength),
  })
  return [write(to.values, logits), ...(ids === undefined ? [] : [write(to.ids, ids)])]
}
