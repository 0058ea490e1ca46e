/**
 * The leading singular values and vectors of a difference that is too large for an SVD of its own: a randomised range
 * finder with two power iterations (Halko, Martinsson and Tropp, Finding structure with randomness, algorithm 4.4).
 * Products with the difference run on the device; what is orthonormalised or factorised is thin, in float64 on the CPU.
 */

import type { Host } from '../native/host.js'
import { signs } from './sketch.js'
import type { Difference } from './thin_products.js'

/** Power iterations: with these and the oversampling below, the residual is within 1 % of the best. */
const iterations = 2

export interface LeadingFactors {
  /** Singular values, descending. */
  values: Float64Array
  /** Left vectors [rows, values], right ones [columns, values]. */
  left: Float64Array
  right: Float64Array
  /** Whether these are all of them, from an SVD of the whole difference. */
  exact: boolean
}

/** At least `rank` of them, where there are as many. */
export async function leadingFactors(
  { addon }: Pick<Host, 'addon'>,
  difference: Difference,
  rank: number,
  name: string,
  seed: number,
): Promise<LeadingFactors> {
  const { rows, columns } = difference
  const width = sketchWidth(rank)
  if (isSmall(rows, columns, rank)) {
    const { u, s, v } = await addon.smallSvd(await difference.whole(), rows, columns)
    return { values: s, left: u, right: v, exact: true }
  }
  const orthonormal = async (matrix: Float32Array, height: number) => (await addon.thinQr(matrix, height, width)).q
  let q = await orthonormal(await difference.times(signs(columns, width, name, seed), width), rows)
  for (let i = 0; i < iterations; i++) {
    const z = await orthonormal(await difference.transposedTimes(new Float32Array(q), width), columns)
    q = await orthonormal(await difference.times(new Float32Array(z), width), rows)
  }
  // D is about Q (Dᵀ Q)ᵀ, with Q as the device has it.
  const z = await difference.transposedTimes(new Float32Array(q), width)
  const { u, s, v } = await addon.smallSvd(z, columns, width)
  return { values: s.slice(0, rank), left: times(q, v, rows, width, rank), right: first(u, width, rank), exact: false }
}

/** Columns of the sketch: the rank and what is drawn beyond it, in whole vectors. */
export function sketchWidth(rank: number): number {
  return 4 * Math.ceil((rank + Math.max(16, rank / 2)) / 4)
}

/** Whether an SVD of the whole is as cheap as a sketch. */
export function isSmall(rows: number, columns: number, rank: number): boolean {
  return Math.min(rows, columns) <= 4 * sketchWidth(rank)
}

/** Q [rows, width] times the first columns of V [width, width]. */
function times(q: Float64Array, v: Float64Array, rows: number, width: number, count: number): Float64Array {
  const result = new Float64Array(rows * count)
  for (let i = 0; i < rows; i++) {
    for (let k = 0; k < width; k++) {
      const x = q[i * width + k] ?? 0
      for (let j = 0; j < count; j++) result[i * count + j] = (result[i * count + j] ?? 0) + x * (v[k * width + j] ?? 0)
    }
  }
  return result
}

/** The first columns of a matrix of this width. */
export function first(matrix: Float64Array, width: number, count: number): Float64Array {
  const rows = matrix.length / width
  const result = new Float64Array(rows * count)
  for (let i = 0; i < rows; i++) result.set(matrix.subarray(i * width, i * width + count), i * count)
  return result
}
