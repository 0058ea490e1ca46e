/** Pruning in float64, straight from the definitions. */

import { math } from '../math.js'

/** Zeros in place of the `goes` elements of least |x| * norm in each group, of equal ones the first. */
export function sparse(
  x: ArrayLike<number>,
  { size, goes, columns, norms }: { size: number; goes: number; columns: number; norms?: ArrayLike<number> },
): Float64Array {
  const result = Float64Array.from(x)
  const score = (i: number) => math.abs(math.fround(x[i]! * (norms === undefined ? 1 : norms[i % columns]!)))
  for (let begin = 0; begin < x.length; begin += size) {
    const order = Array.from({ length: size }, (_, i) => begin + i).sort((a, b) => score(a) - score(b) || a - b)
    for (const i of order.slice(0, goes)) result[i] = 0
  }
  return result
}

/**
 * SparseGPT as published: H = G + 0.01 mean(diag G) I, U the upper Cholesky factor of H⁻¹; blocks of 128 columns, in
 * each the int(share n) weights of least (w / U_jj)² go (or of each `of` columns all but `stay`), and w_k -= (w_j /
 * U_jj) U_jk.
 */
export function sparseGpt(
  weights: ArrayLike<number>,
  gram: ArrayLike<number>,
  inputs: number,
  { share = 0, pattern }: { share?: number; pattern?: { stay: number; of: number } },
): Float64Array {
  const rows = weights.length / inputs
  const w = Float64Array.from(weights)
  const u = inverseFactor(gram, inputs)
  const diagonal = (j: number) => u[j * inputs + j]!
  const score = (r: number, j: number) => (w[r * inputs + j]! / diagonal(j)) ** 2
  const remove = (r: number, j: number, end: number) => {
    const error = w[r * inputs + j]! / diagonal(j)
    for (let k = j; k < end; k++) w[r * inputs + k]! -= error * u[j * inputs + k]!
    w[r * inputs + j] = 0
    return error
  }
  for (let first = 0; first < inputs; first += 128) {
    const end = math.min(inputs, first + 128)
    const all = Array.from({ length: rows * (end - first) }, (_, i) => ({
      r: i % rows,
      j: first + math.floor(i / rows),
    }))
    const goes = new Set(
      pattern === undefined
        ? all
            .sort((a, b) => score(a.r, a.j) - score(b.r, b.j))
            .slice(0, math.floor(share * all.length))
            .map(({ r, j }) => r * inputs + j)
        : [],
    )
    for (let r = 0; r < rows; r++) {
      for (let j = first; j < end; j++) {
        if (pattern !== undefined && j % pattern.of === 0) {
          const group = Array.from({ length: pattern.of }, (_, i) => j + i).sort((a, b) => score(r, a) - score(r, b))
          for (const k of group.slice(0, pattern.of - pattern.stay)) goes.add(r * inputs + k)
        }
        if (goes.has(r * inputs + j)) remove(r, j, inputs)
      }
    }
  }
  return w
}

/** Upper U with (G + 0.01 mean(diag G) I)⁻¹ = Uᵀ U, by Gauss-Jordan and Cholesky. */
export function inverseFactor(gram: ArrayLike<number>, n: number): Float64Array {
  let mean = 0
  for (let i = 0; i < n; i++) mean += gram[i * n + i]! / n
  const a = Float64Array.from({ length: n * n }, (_, i) => gram[i]! + (i % (n + 1) === 0 ? 0.01 * mean : 0))
  const inverse = Float64Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? 1 : 0))
  for (let p = 0; p < n; p++) {
    const pivot = a[p * n + p]!
    for (let k = 0; k < n; k++) {
      a[p * n + k]! /= pivot
      inverse[p * n + k]! /= pivot
    }
    for (let i = 0; i < n; i++) {
      const factor = a[i * n + p]!
      if (i === p || factor === 0) continue
      for (let k = 0; k < n; k++) {
        a[i * n + k]! -= factor * a[p * n + k]!
        inverse[i * n + k]! -= factor * inverse[p * n + k]!
      }
    }
  }
  const u = new Float64Array(n * n)
  for (let j = 0; j < n; j++) {
    for (let k = j; k < n; k++) {
      let sum = inverse[j * n + k]!
      for (let i = 0; i < j; i++) sum -= u[i * n + j]! * u[i * n + k]!
      u[j * n + k] = k === j ? math.sqrt(sum) : sum / u[j * n + j]!
    }
  }
  return u
}

/**
 * Kernels obs and carry: w[in, rows] with a block of columns pruned by a mask or a pattern; u: its rows of the factor.
 */
export function surgeon(
  weights: ArrayLike<number>,
  u: ArrayLike<number>,
  mask: ArrayLike<number>,
  { rows, inputs, first, count, stay, of }: Record<'rows' | 'inputs' | 'first' | 'count' | 'stay' | 'of', number>,
): Float64Array {
  const w = Float64Array.from(weights)
  for (let r = 0; r < rows; r++) {
    const score = (j: number) => (w[(first + j) * rows + r]! / u[j * inputs + first + j]!) ** 2
    let goes = new Set<number>()
    for (let j = 0; j < count; j++) {
      if (of > 0 && j % of === 0) {
        const group = Array.from({ length: of }, (_, i) => j + i).sort((a, b) => score(a) - score(b))
        goes = new Set(group.slice(0, of - stay))
      }
      const stays = of > 0 ? !goes.has(j) : mask[j * rows + r] === 1
      if (stays) continue
      const error = w[(first + j) * rows + r]! / u[j * inputs + first + j]!
      for (let k = first + j; k < inputs; k++) w[k * rows + r]! -= error * u[j * inputs + k]!
      w[(first + j) * rows + r] = 0
    }
  }
  return w
}
