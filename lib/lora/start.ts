/**
 * The factors that an adapter of PiSSA or OLoRA began with. Training takes s (B₀ A₀) from the base and adds s (B A),
 * and only B and A are saved, so folding needs the start again. It is the same for whoever computes it, but for
 * rounding: the leading part of an SVD, or of a QR factorisation (peft/tuners/lora/layer.py, pissa_init and
 * olora_init).
 */

import { WeightsmithError } from '../util/errors.js'
import type { Start } from './adapter.js'

/** Factorisations in float64, on the thread pool; see lib/native/border.ts. */
export interface Linalg {
  thinQr(matrix: Float64Array, rows: number, columns: number): Promise<{ q: Float64Array; r: Float64Array }>
  smallSvd(
    matrix: Float64Array,
    rows: number,
    columns: number,
  ): Promise<{ u: Float64Array; s: Float64Array; v: Float64Array }>
}

export interface StartOptions {
  /** Of the weight as it is stored. */
  rows: number
  columns: number
  /** It is stored as [in, out]. */
  transposed: boolean
  rank: number
  scale: number
}

/** Side of the largest square whose SVD is computed here; the time grows with its cube. */
const largestSvd = 2048

/** Throws ERR_WEIGHTSMITH_FORMAT for a weight that has no such start, or one that is too large for an SVD. */
export function refuseStart(start: Start, { rows, columns, rank }: StartOptions): void {
  const size = Math.min(rows, columns)
  if (rank > size) throw tooLarge(`rank ${rank} of a weight of ${rows} × ${columns}`)
  if (start === 'pissa' && size > largestSvd) {
    throw tooLarge(
      `the leading part of a weight of ${rows} × ${columns}, and ${largestSvd} is the largest side that is offered`,
    )
  }
}

/** A₀ [r, in] and B₀ [out, r] of a weight that `refuseStart` has let pass. */
export async function startOf(
  linalg: Linalg,
  start: Start,
  stored: Float64Array,
  { rows, columns, transposed, rank, scale }: StartOptions,
): Promise<{ a: Float32Array; b: Float32Array }> {
  const weight = transposed ? transpose(stored, rows, columns) : stored
  const [out, inputs] = transposed ? [columns, rows] : [rows, columns]
  const [a, b] = await (start === 'olora'
    ? qrStart(linalg, weight, out, inputs, rank)
    : svdStart(linalg, weight, out, inputs, rank, scale))
  return { a, b }
}

async function qrStart(
  linalg: Linalg,
  weight: Float64Array,
  out: number,
  inputs: number,
  rank: number,
): Promise<[Float32Array<ArrayBuffer>, Float32Array<ArrayBuffer>]> {
  const first = new Float64Array(out * rank)
  for (let i = 0; i < out; i++) first.set(weight.subarray(i * inputs, i * inputs + rank), i * rank)
  const { q } = await linalg.thinQr(first, out, rank)
  // The first rows of R are those of Qᵀ W.
  const a = new Float64Array(rank * inputs)
  for (let i = 0; i < out; i++) {
    for (let k = 0; k < rank; k++) {
      const factor = q[i * rank + k] ?? 0
      for (let j = 0, at = k * inputs, from = i * inputs; j < inputs; j++) {
        a[at + j] = (a[at + j] ?? 0) + factor * (weight[from + j] ?? 0)
      }
    }
  }
  return [Float32Array.from(a), Float32Array.from(q)]
}

async function svdStart(
  linalg: Linalg,
  weight: Float64Array,
  out: number,
  inputs: number,
  rank: number,
  scale: number,
): Promise<[Float32Array<ArrayBuffer>, Float32Array<ArrayBuffer>]> {
  const size = Math.min(out, inputs)
  const { u, s, v } = await linalg.smallSvd(weight, out, inputs)
  const a = new Float32Array(rank * inputs)
  const b = new Float32Array(out * rank)
  for (let k = 0; k < rank; k++) {
    const root = Math.sqrt((s[k] ?? 0) / Math.abs(scale))
    for (let j = 0; j < inputs; j++) a[k * inputs + j] = root * (v[j * size + k] ?? 0)
    for (let i = 0; i < out; i++) b[i * rank + k] = Math.sign(scale) * root * (u[i * size + k] ?? 0)
  }
  return [a, b]
}

function transpose(matrix: Float64Array, rows: number, columns: number): Float64Array {
  const out = new Float64Array(matrix.length)
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) out[j * rows + i] = matrix[i * columns + j] ?? 0
  return out
}

function tooLarge(what: string): WeightsmithError {
  return new WeightsmithError(
    'ERR_WEIGHTSMITH_FORMAT',
    `The adapter began as ${what}; let PEFT convert it to a plain one (path_initial_model_for_weight_conversion).`,
  )
}
