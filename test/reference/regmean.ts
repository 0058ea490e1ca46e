/** RegMean in float64, by the formula of the paper and of MergeLM: solve (Σ w G) X = Σ w G Wᵀ, off-diagonals scaled. */

import { math } from '../math.js'

type Values = ArrayLike<number>

/** Matrices [out, n], Gram matrices [n, n]. */
export function regmean(
  matrices: readonly Values[],
  grams: readonly Values[],
  { weights, ratio, n }: { weights: readonly number[]; ratio: number; n: number },
): Float64Array {
  const out = (matrices[0]?.length ?? 0) / n
  const scaled = grams.map((gram, i) =>
    Float64Array.from(gram, (g, at) => g * (weights[i] ?? 0) * (math.floor(at / n) === at % n ? 1 : ratio)),
  )
  // Rows: those of Σ G, then those of Σ G Wᵀ.
  const rows = Array.from({ length: n }, (_, r) =>
    Float64Array.from({ length: n + out }, (_, c) => {
      if (c < n) return scaled.reduce((sum, gram) => sum + gram[r * n + c]!, 0)
      return scaled.reduce((sum, gram, i) => {
        for (let j = 0; j < n; j++) sum += gram[r * n + j]! * matrices[i]![(c - n) * n + j]!
        return sum
      }, 0)
    }),
  )
  for (let k = 0; k < n; k++) {
    let best = k
    for (let r = k; r < n; r++) if (math.abs(rows[r]![k]!) > math.abs(rows[best]![k]!)) best = r
    ;[rows[k], rows[best]] = [rows[best]!, rows[k]!]
    for (let r = 0; r < n; r++) {
      if (r === k) continue
      const factor = rows[r]![k]! / rows[k]![k]!
      for (let c = k; c < n + out; c++) rows[r]![c]! -= factor * rows[k]![c]!
    }
  }
  return Float64Array.from({ length: out * n }, (_, at) => {
    const [o, j] = [math.floor(at / n), at % n]
    return rows[j]![n + o]! / rows[j]![j]!
  })
}
