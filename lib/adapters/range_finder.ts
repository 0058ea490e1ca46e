/**
 * The leading singular values and vectors of a difference that is too large for an SVD of its own: a randomised range
 * finder with two power iterations (Halko, Martinsson and Tropp, Finding structure with randomness, algorithm 4.4).
 * Products with the difference run on the device; what is orthonormalised or factorised is thin, in float64 on the CPU.
 */

import type { Host } from '../native/host.js'
import type { Factors } from './factors.js'
import { signs } from './sketch.js'
import type { Difference } from './thin_products.js'

/** Power iterations: with these and the oversampling below, the residual is within 1 % of the best. */
const iterations = 2

export interface LeadingFactors {
  /** Singular values, descending. */
  values: Float64Array
  /** Whether these are all of them, from an SVD of the whole difference. */
  exact: boolean
  /** A [rank, columns] and B [rows, rank] of the leading ones, whose roots are shared between the two. */
  factors(rank: number): Promise<Factors>
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
    return {
      values: s,
      exact: true,
      factors: async (rank) => ({ a: across(v, columns, s, rank), b: Float32Array.from(down(u, rows, s, rank)) }),
    }
  }
  let q = await addon.orthonormal(await difference.times(signs(columns, width, name, seed), width), rows, width)
  for (let i = 0; i < iterations; i++) {
    const z = await addon.orthonormal(await difference.transposedTimes(q, width), columns, width)
    q = await addon.orthonormal(await difference.times(z, width), rows, width)
  }
  // D is about Q (Dᵀ Q)ᵀ, with Q as the device has it.
  const { u, s, v } = await addon.smallSvd(await difference.transposedTimes(q, width), columns, width)
  return {
    values: s.slice(0, rank),
    exact: false,
    factors: async (rank) => ({
      a: across(u, columns, s, rank),
      b: await addon.thinProduct(q, down(v, width, s, rank), rows, width, rank),
    }),
  }
}

/** Columns of the sketch: the rank and what is drawn beyond it, in whole vectors. */
export function sketchWidth(rank: number): number {
  return 4 * Math.ceil((rank + Math.max(16, rank / 2)) / 4)
}

/** Whether an SVD of the whole is as cheap as a sketch. */
export function isSmall(rows: number, columns: number, rank: number): boolean {
  return Math.min(rows, columns) <= 4 * sketchWidth(rank)
}

/** The first columns of U [rows, values], times the roots of their values. */
function down(u: Float64Array, rows: number, values: Float64Array, rank: number): Float64Array {
  const [width, roots] = [u.length / rows, values.map(Math.sqrt)]
  const result = new Float64Array(rows * rank)
  for (let i = 0; i < rows; i++) {
    for (let k = 0; k < rank; k++) result[i * rank + k] = (u[i * width + k] ?? 0) * (roots[k] ?? 0)
  }
  return result
}

/** The transpose of that. */
function across(v: Float64Array, columns: number, values: Float64Array, rank: number): Float32Array<ArrayBuffer> {
  const [width, roots] = [v.length / columns, values.map(Math.sqrt)]
  const result = new Float32Array(rank * columns)
  for (let j = 0; j < columns; j++) {
    for (let k = 0; k < rank; k++) result[k * columns + j] = (v[j * width + k] ?? 0) * (roots[k] ?? 0)
  }
  return result
}
