/** The formulas of a forward pass in float64, straight from their definitions. Matrices are row-major. */

import { math } from '../math.js'

export type Values = ArrayLike<number>

export function build(length: number, value: (i: number) => number): Float64Array {
  return Float64Array.from({ length }, (_, i) => value(i))
}

export const at = (values: Values, i: number) => values[i]!

export function sum(count: number, term: (i: number) => number): number {
  let total = 0
  for (let i = 0; i < count; i++) total += term(i)
  return total
}

/** `y[t, n] = sum_k x[t, k] W[n, k]`. */
export function gemm(x: Values, weight: Values, [rows, columns, inner]: [number, number, number]): Float64Array {
  return build(rows * columns, (i) => {
    const [t, n] = [math.floor(i / columns), i % columns]
    return sum(inner, (k) => at(x, t * inner + k) * at(weight, n * inner + k))
  })
}

/** A [rank, inner] and B [columns, rank], as PEFT stores them. */
export interface LowRank {
  a: Values
  b: Values
  scale: number
  rank: number
}

/** `y = scale (x Aᵀ) Bᵀ`: what a LoRA adapter adds to rows [rows, columns]. */
export function lora(
  x: Values,
  { a, b, scale, rank }: LowRank,
  [rows, columns, inner]: [number, number, number],
): Float64Array {
  return gemm(gemm(x, a, [rows, rank, inner]), b, [rows, columns, rank]).map((value) => scale * value)
}

/** Norms of the rows of `W + scale B A`, [columns]. */
export function doraNorms(weight: Values, { a, b, scale, rank }: LowRank): Float64Array {
  const columns = b.length / rank
  const inner = weight.length / columns
  return build(columns, (n) => {
    const merged = (k: number) =>
      at(weight, n * inner + k) + scale * sum(rank, (r) => at(b, n * rank + r) * at(a, r * inner + k))
    return math.sqrt(sum(inner, (k) => merged(k) ** 2))
  })
}

/** `y = magnitude / norms * (x Wᵀ + scale (x Aᵀ) Bᵀ)`, a column each; a bias would come after it. */
export function dora(
  x: Values,
  weight: Values,
  adapter: LowRank & { magnitude: Values; norms?: Values },
  shape: [number, number, number],
): Float64Array {
  const { magnitude, norms = doraNorms(weight, adapter) } = adapter
  const added = lora(x, adapter, shape)
  const columns = shape[1]
  return gemm(x, weight, shape).map(
    (value, i) => (at(magnitude, i % columns) / at(norms, i % columns)) * (value + added[i]!),
  )
}

/**
 * `(x - m) / sqrt(mean((x - m)^2) + eps) * (weight + plus)`; `m` is the mean of the row where it is centered, else 0.
 */
export function norm(
  x: Values,
  weight: Values,
  { eps, centered = false, plus = 0 }: { eps: number; centered?: boolean; plus?: number },
): Float64Array {
  const width = weight.length
  return build(x.length, (i) => {
    const row = math.floor(i / width) * width
    const m = centered ? sum(width, (k) => at(x, row + k)) / width : 0
    const mean = sum(width, (k) => (at(x, row + k) - m) ** 2) / width
    return ((at(x, i) - m) / math.sqrt(mean + eps)) * (at(weight, i % width) + plus)
  })
}

/** Rotate-half: `x cos + rotate(x) sin`, with `rotate(x) = (-x of the second half, x of the first)`. */
export function rope(x: Values, positions: Values, frequencies: Values, heads: number): Float64Array {
  const half = frequencies.length
  const size = 2 * half
  return build(x.length, (i) => {
    const angle = at(positions, math.floor(i / (heads * size))) * at(frequencies, i % half)
    const rotated = i % size < half ? -at(x, i + half) : at(x, i - half)
    return at(x, i) * math.cos(angle) + rotated * math.sin(angle)
  })
}

/**
 * Softmax over the keys that each token sees (rows `first` to `last` of k and v), with `heads / numKvHeads` heads a KV
 * head.
 */
export function attention(
  { q, k, v }: { q: Values; k: Values; v: Values },
  sees: { first: number; last: number }[],
  { heads, numKvHeads, size }: { heads: number; numKvHeads: number; size: number },
): Float64Array {
  const y = new Float64Array(q.length)
  for (const [t, { first, last }] of sees.entries()) {
    for (let head = 0; head < heads; head++) {
      const group = math.floor((head * numKvHeads) / heads)
      const own = (t * heads + head) * size
      const key = (row: number) => (row * numKvHeads + group) * size
      const scores = build(
        last - first + 1,
        (j) => sum(size, (i) => at(q, own + i) * at(k, key(first + j) + i)) / math.sqrt(size),
      )
      const most = scores.reduce((a, b) => math.max(a, b))
      const weights = scores.map((score) => math.exp(score - most))
      const total = sum(weights.length, (j) => weights[j]!)
      for (let i = 0; i < size; i++) {
        y[own + i] = sum(weights.length, (j) => weights[j]! * at(v, key(first + j) + i)) / total
      }
    }
  }
  return y
}

/** The power series, which float64 carries to 4; from there on erf is 1 within 2e-8. */
export function erf(x: number): number {
  if (math.abs(x) > 4) return math.sign(x)
  let term = x
  let total = x
  for (let n = 1; n < 100; n++) {
    term *= (-x * x) / n
    total += term / (2 * n + 1)
  }
  return (2 / math.sqrt(math.PI)) * total
}

export const sigmoid = (x: number) => 1 / (1 + math.exp(-x))

export const activations = {
  silu: (x: number) => x * sigmoid(x),
  gelu: (x: number) => (x / 2) * (1 + erf(x / math.SQRT2)),
  gelu_tanh: (x: number) => (x / 2) * (1 + math.tanh(math.sqrt(2 / math.PI) * (x + 0.044715 * x ** 3))),
  quick_gelu: (x: number) => x * sigmoid(1.702 * x),
  relu: (x: number) => math.max(x, 0),
}

/** `log(sum(exp(logits))) - logits[target]`, a row. */
export function crossEntropy(logits: Values, targets: Values): Float64Array {
  const width = logits.length / targets.length
  return build(targets.length, (t) => {
    const row = build(width, (i) => at(logits, t * width + i))
    const most = row.reduce((a, b) => math.max(a, b))
    return math.log(sum(width, (i) => math.exp(row[i]! - most))) - (row[at(targets, t)]! - most)
  })
}

/**
 * What kernel `column_stats` leaves: shift, sums of the distances from it and of their squares, of |v| and v², and how
 * many |v| are above tau.
 */
export function columnStats(
  x: Values,
  groups: number[][],
  { width, tau, limit }: { width: number; tau: number; limit: number },
): Float64Array {
  const clamped = (row: number, column: number) => math.min(limit, math.max(-limit, at(x, row * width + column)))
  return Float64Array.from(
    groups.flatMap((rows) => {
      const of = (term: (value: number, shift: number) => number) =>
        Array.from({ length: width }, (_, column) =>
          sum(rows.length, (i) => term(clamped(rows[i]!, column), clamped(rows[0]!, column))),
        )
      return [
        Array.from({ length: width }, (_, column) => (rows.length === 0 ? 0 : clamped(rows[0]!, column))),
        of((value, shift) => value - shift),
        of((value, shift) => (value - shift) ** 2),
        of((value) => math.abs(value)),
        of((value) => value ** 2),
        of((value) => (math.abs(value) > tau ? 1 : 0)),
      ].flat()
    }),
  )
}

/** `xᵀx` over some rows. */
export function gram(x: Values, rows: number[], width: number): Float64Array {
  return build(width * width, (i) => {
    const [a, b] = [math.floor(i / width), i % width]
    return sum(rows.length, (r) => at(x, rows[r]! * width + a) * at(x, rows[r]! * width + b))
  })
}

/** `(a·a, a·d, d·d)` with `d = b - a`, a row. */
export function residualDelta(a: Values, b: Values, width: number): Float64Array {
  return build((3 * a.length) / width, (i) => {
    const row = math.floor(i / 3) * width
    const from = (k: number) => at(a, row + k)
    const step = (k: number) => at(b, row + k) - from(k)
    const terms = [(k: number) => from(k) ** 2, (k: number) => from(k) * step(k), (k: number) => step(k) ** 2]
    return sum(width, terms[i % 3]!)
  })
}

/** `sum |W[o, i]|` and `sum W[o, i]²` over o, an input i. */
export function weightSums(weight: Values, inputs: number): Float64Array {
  return build(2 * inputs, (i) =>
    sum(weight.length / inputs, (o) => {
      const w = math.abs(at(weight, o * inputs + math.floor(i / 2)))
      return i % 2 === 0 ? w : w ** 2
    }),
  )
}

/**
 * What top-k and then top-p leave of softmax(logits / temperature), as probabilities that are 0 for the rest: the
 * `topK` largest (0: all; equals of the last stay), and of these the fewest largest whose share reaches `topP`.
 */
export function kept(logits: Values, { temperature, topK, topP }: Record<'temperature' | 'topK' | 'topP', number>) {
  const all = Array.from(logits)
  const most = math.max(...all)
  const weights = all.map((value) => math.exp((value - most) / temperature))
  const order = [...all.keys()].sort((a, b) => all[b]! - all[a]!)
  const within = (least: number) => weights.map((weight, i) => (all[i]! >= least ? weight : 0))
  const first = within(topK > 0 && topK < all.length ? all[order[topK - 1]!]! : Number.NEGATIVE_INFINITY)
  const total = sum(first.length, (i) => first[i]!)
  let reached = 0
  const last = order.find((i) => {
    reached += first[i]!
    return reached >= topP * total
  })
  const left = topP < 1 ? within(all[last!]!).map((weight, i) => math.min(weight, first[i]!)) : first
  const share = sum(left.length, (i) => left[i]!)
  return left.map((weight) => weight / share)
}
