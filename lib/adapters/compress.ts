/**
 * The best factors of a rank for an update that has more: the singular value decomposition in float64. A sum of
 * products is never formed: with B = Q R and Aᵀ = P S the singular values of B A are those of the small matrix R Sᵀ,
 * and its vectors times Q and P are the update's.
 */

import type { NativeAddon } from '../native/border.js'
import type { Host } from '../native/host.js'
import { type Array32, product, turned } from './device.js'
import type { Factors } from './factors.js'
import { signs } from './sketch.js'

/** How many singular values are kept: the fewest that `energy` or `tolerance` asks for, and at most `rank`. */
export interface Target {
  rank?: number | undefined
  /** Share of the sum of squares of the update, above 0 and up to 1. */
  energy?: number | undefined
  /** Norm of what is lost over that of the update, from 0 and below 1. */
  tolerance?: number | undefined
}

export interface Compressed extends Factors {
  rank: number
  /** Frobenius norm of the update, and of what is lost of it before A and B are rounded. */
  norm: number
  lost: number
}

/** Of a matrix [rows, columns]. */
interface Size {
  rows: number
  columns: number
}

type Linalg = Pick<NativeAddon, 'thinQr' | 'smallSvd'>

/**
 * B [rows, rank] and A [rank, columns], of any rank, as factors of a lower one; `beyond`: squared norm of a part of the
 * update that they do not have.
 */
export async function compressProduct(
  host: Host,
  { a, b }: Factors,
  { rows, columns }: Size,
  target: Target,
  signal: AbortSignal | undefined,
  beyond = 0,
): Promise<Compressed> {
  const rank = a.length / columns
  const left = await orthogonal(host.addon, b, rows, rank)
  const right = await orthogonal(host.addon, turned(a, rank, columns), columns, rank)
  // R Sᵀ, of at most rank x rank numbers
  const inner = new Float64Array(left.rows * right.rows)
  for (let i = 0; i < left.rows; i++) {
    for (let j = 0; j < right.rows; j++) {
      let dot = 0
      for (let k = 0; k < rank; k++) dot += (left.r[i * rank + k] ?? 0) * (right.r[j * rank + k] ?? 0)
      inner[i * right.rows + j] = dot
    }
  }
  const { u, s, v } = await host.addon.smallSvd(inner, left.rows, right.rows)
  const cut = cutOf(s, target, beyond)
  const kept = { rank: cut.rank, values: s.length }
  const outer = columnsOf(u, left.rows, s, kept)
  const across = columnsOf(v, right.rows, s, kept)
  const sideB = left.q && product(host, [left.q, outer], { rows, rank: left.rows, columns: cut.rank }, signal)
  const sideA =
    right.q && product(host, [right.q, across], { rows: columns, rank: right.rows, columns: cut.rank }, signal)
  return { ...cut, b: (await sideB) ?? outer, a: turned((await sideA) ?? across, columns, cut.rank) }
}

/** Up to so many rows or columns a whole matrix is decomposed in less than a second. */
const mostExact = 512
/** The rank that is tried first where energy or tolerance decide on it. */
const firstGuess = 32
/** Columns of a sketch beyond the rank, and how often it is multiplied by D Dᵀ: it loses 1 % more than the best. */
const spare = (rank: number) => Math.max(16, Math.ceil(rank / 2))
const rounds = 2

/**
 * An update D [rows, columns] itself as factors. Of a large one only the leading part is found (Halko, Martinsson and
 * Tropp, arXiv 0909.4061), of twice the rank until that is enough; `name` keys the random numbers.
 */
export async function compressMatrix(
  host: Host,
  matrix: Array32,
  size: Size,
  target: Target,
  { name, signal }: { name: string; signal: AbortSignal | undefined },
): Promise<Compressed> {
  const { rows, columns } = size
  const least = Math.min(rows, columns)
  const decided = target.energy === undefined && target.tolerance === undefined
  const most = target.rank ?? least
  for (let rank = decided ? most : Math.min(firstGuess, most); least > mostExact; rank = Math.min(2 * rank, most)) {
    if (2 * (rank + spare(rank)) > least) break
    const found = await sketched(host, matrix, size, target, { rank, name, signal })
    if (found.rank <= rank) return found
  }
  const { u, s, v } = await host.addon.smallSvd(matrix, rows, columns)
  const cut = cutOf(s, target)
  const kept = { rank: cut.rank, values: s.length }
  return { ...cut, b: columnsOf(u, rows, s, kept), a: turned(columnsOf(v, columns, s, kept), columns, cut.rank) }
}

/** The leading part of D, good up to `rank`; what the sketch does not reach counts as lost. */
async function sketched(
  host: Host,
  matrix: Array32,
  { rows, columns }: Size,
  target: Target,
  { rank, name, signal }: { rank: number; name: string; signal: AbortSignal | undefined },
): Promise<Compressed> {
  const width = rank + spare(rank)
  const across = turned(matrix, rows, columns)
  const orthonormal = async (array: Array32, height: number) =>
    Float32Array.from((await host.addon.thinQr(array, height, width)).q)
  const times = (x: Array32) => product(host, [matrix, x], { rows, rank: columns, columns: width }, signal)
  const timesAcross = (x: Array32) => product(host, [across, x], { rows: columns, rank: rows, columns: width }, signal)
  let q = await orthonormal(await times(signs(columns, width, name, 0)), rows)
  for (let round = 0; round < rounds; round++) {
    q = await orthonormal(await times(await orthonormal(await timesAcross(q), columns)), rows)
  }
  const factors = { b: q, a: turned(await timesAcross(q), columns, width) }
  const beyond = Math.max(0, squares(matrix) - squares(factors.a))
  const found = await compressProduct(host, factors, { rows, columns }, target, signal, beyond)
  // a small difference of large sums says little
  const rest = await product(host, [found.b, found.a], { rows, rank: found.rank, columns, scale: -1 }, signal, matrix)
  return { ...found, norm: Math.sqrt(squares(matrix)), lost: Math.sqrt(squares(rest)) }
}

function squares(array: Array32): number {
  let sum = 0
  for (const value of array) sum += value * value
  return sum
}

/**
 * A matrix [rows, columns] as Q [rows, n] times R [n, columns]; one that is wider than high is its own R, and Q is
 * the identity (absent).
 */
async function orthogonal(addon: Linalg, matrix: Array32, rows: number, columns: number) {
  if (rows < columns) return { q: undefined, r: Float64Array.from(matrix), rows }
  const { q, r } = await addon.thinQr(matrix, rows, columns)
  return { q: Float32Array.from(q), r, rows: columns }
}

/** The first columns of U or V [rows, values], each times the root of its singular value: A and B share the scale. */
function columnsOf(
  matrix: Float64Array,
  rows: number,
  s: Float64Array,
  { rank, values }: { rank: number; values: number },
): Array32 {
  const roots = s.subarray(0, rank).map(Math.sqrt)
  const result = new Float32Array(rows * rank)
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < rank; j++) result[i * rank + j] = (matrix[i * values + j] ?? 0) * (roots[j] ?? 0)
  }
  return result
}

/** How many of the descending singular values are kept, and what that loses beside what lies beyond all of them. */
function cutOf(s: Float64Array, { rank: most, energy, tolerance }: Target, beyond = 0) {
  // lost[k]: sum of squares from value k on, the small ones first
  const lost = new Float64Array(s.length + 1)
  lost[s.length] = beyond
  for (let k = s.length - 1; k >= 0; k--) lost[k] = (lost[k + 1] ?? 0) + (s[k] ?? 0) ** 2
  const total = lost[0] ?? 0
  let rank = Math.min(most ?? s.length, s.length)
  const share = energy !== undefined ? 1 - energy : tolerance !== undefined ? tolerance ** 2 : undefined
  if (share !== undefined) {
    const fewest = lost.findIndex((rest) => rest <= share * total)
    rank = Math.min(rank, fewest < 0 ? s.length : Math.max(1, fewest))
  }
  return { rank, norm: Math.sqrt(total), lost: Math.sqrt(lost[rank] ?? 0) }
}
