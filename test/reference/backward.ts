/**
 * The formulas of a backward pass and of an optimizer in float64, straight from their definitions. `g` is the gradient
 * of what the forward function of forward.ts returns, and has its shape; results have the shape of the inputs that they
 * are gradients of. Matrices are row-major.
 */

import { math } from '../math.js'
import {
  activations,
  at,
  build,
  dora as doraForward,
  doraNorms,
  erf,
  gemm,
  type LowRank,
  sigmoid,
  sum,
  type Values,
} from './forward.js'

export type Shape = [rows: number, columns: number, inner: number]
export type Activation = keyof typeof activations

/** `dx[t, k] = sum_n g[t, n] W[n, k]`. */
export function gemmInput(g: Values, weight: Values, [rows, columns, inner]: Shape): Float64Array {
  return build(rows * inner, (i) => {
    const [t, k] = [math.floor(i / inner), i % inner]
    return sum(columns, (n) => at(g, t * columns + n) * at(weight, n * inner + k))
  })
}

/** `dW[n, k] = sum_t g[t, n] x[t, k]`. */
export function gemmWeight(g: Values, x: Values, [rows, columns, inner]: Shape): Float64Array {
  return build(columns * inner, (i) => {
    const [n, k] = [math.floor(i / inner), i % inner]
    return sum(rows, (t) => at(g, t * columns + n) * at(x, t * inner + k))
  })
}

/** Of a bias that every row of `width` columns gets. */
export function columnSums(g: Values, width: number): Float64Array {
  return build(width, (i) => sum(g.length / width, (t) => at(g, t * width + i)))
}

/**
 * With `xh = (x - m) r`, `r = 1 / sqrt(mean((x - m)^2) + eps)` and `q = (weight + plus) g`, a row:
 * `dx = r (q - mean(q) - xh mean(q xh))`, without `mean(q)` where m is 0; `dweight = sum g xh` over the rows.
 */
export function norm(
  g: Values,
  x: Values,
  weight: Values,
  { eps, centered = false, plus = 0 }: { eps: number; centered?: boolean; plus?: number },
): { x: Float64Array; weight: Float64Array } {
  const width = weight.length
  const result = { x: new Float64Array(x.length), weight: new Float64Array(width) }
  const mean = (of: (i: number) => number) => sum(width, of) / width
  for (let row = 0; row < x.length; row += width) {
    const m = centered ? mean((i) => at(x, row + i)) : 0
    const r = 1 / math.sqrt(mean((i) => (at(x, row + i) - m) ** 2) + eps)
    const xh = build(width, (i) => (at(x, row + i) - m) * r)
    const q = build(width, (i) => (at(weight, i) + plus) * at(g, row + i))
    const level = centered ? mean((i) => q[i]!) : 0
    const slope = mean((i) => q[i]! * xh[i]!)
    for (let i = 0; i < width; i++) {
      result.x[row + i] = r * (q[i]! - level - xh[i]! * slope)
      result.weight[i]! += at(g, row + i) * xh[i]!
    }
  }
  return result
}

/** The rotation by the opposite angles. */
export function rope(g: Values, positions: Values, frequencies: Values, heads: number): Float64Array {
  const half = frequencies.length
  const size = 2 * half
  return build(g.length, (i) => {
    const angle = at(positions, math.floor(i / (heads * size))) * at(frequencies, i % half)
    const other = i % size < half ? at(g, i + half) : -at(g, i - half)
    return at(g, i) * math.cos(angle) + other * math.sin(angle)
  })
}

/**
 * With `P = softmax(scale q k)` and `dP = g v`, a token and a head: `dS = P (dP - sum P dP)`, `dq = scale dS k`; and
 * for each row of keys, over all tokens that see it and all heads of its KV head, `dk = sum scale dS q` and
 * `dv = sum P g`. A token that sees no key gives 0.
 */
export function attention(
  g: Values,
  { q, k, v }: { q: Values; k: Values; v: Values },
  sees: { first: number; last: number }[],
  { heads, numKvHeads, size }: { heads: number; numKvHeads: number; size: number },
): { q: Float64Array; k: Float64Array; v: Float64Array } {
  const result = { q: new Float64Array(q.length), k: new Float64Array(k.length), v: new Float64Array(v.length) }
  const scale = 1 / math.sqrt(size)
  for (const [t, { first, last }] of sees.entries()) {
    const count = math.max(0, last + 1 - first)
    for (let head = 0; head < heads; head++) {
      const group = math.floor((head * numKvHeads) / heads)
      const own = (t * heads + head) * size
      const key = (j: number) => ((first + j) * numKvHeads + group) * size
      const scores = build(count, (j) => scale * sum(size, (i) => at(q, own + i) * at(k, key(j) + i)))
      const most = math.max(...scores)
      const weights = scores.map((score) => math.exp(score - most))
      const total = sum(count, (j) => weights[j]!)
      const p = weights.map((weight) => weight / total)
      const dp = build(count, (j) => sum(size, (i) => at(g, own + i) * at(v, key(j) + i)))
      const level = sum(count, (j) => p[j]! * dp[j]!)
      for (let j = 0; j < count; j++) {
        const ds = scale * p[j]! * (dp[j]! - level)
        for (let i = 0; i < size; i++) {
          result.q[own + i]! += ds * at(k, key(j) + i)
          result.k[key(j) + i]! += ds * at(q, own + i)
          result.v[key(j) + i]! += p[j]! * at(g, own + i)
        }
      }
    }
  }
  return result
}

/** `f'(x)`; that of relu is 0 at 0. */
export const activationSlopes: Record<Activation, (x: number) => number> = {
  silu: (x) => sigmoid(x) * (1 + x * sigmoid(-x)),
  gelu: (x) => (1 + erf(x / math.SQRT2)) / 2 + (x * math.exp((-x * x) / 2)) / math.sqrt(2 * math.PI),
  gelu_tanh: (x) => {
    const t = math.tanh(math.sqrt(2 / math.PI) * (x + 0.044715 * x ** 3))
    return (1 + t) / 2 + (x / 2) * (1 - t * t) * math.sqrt(2 / math.PI) * (1 + 0.134145 * x * x)
  },
  quick_gelu: (x) => sigmoid(1.702 * x) * (1 + 1.702 * x * sigmoid(-1.702 * x)),
  relu: (x) => (x > 0 ? 1 : 0),
}

/** Of `y = f(x)`. */
export function activation(kind: Activation, g: Values, x: Values): Float64Array {
  return build(g.length, (i) => at(g, i) * activationSlopes[kind](at(x, i)))
}

/** Of `f(x) * y`. */
export function glu(kind: Activation, g: Values, x: Values, y: Values): { x: Float64Array; y: Float64Array } {
  return {
    x: build(g.length, (i) => at(g, i) * activationSlopes[kind](at(x, i)) * at(y, i)),
    y: build(g.length, (i) => at(g, i) * activations[kind](at(x, i))),
  }
}

/** Of a table [vocabulary, width] whose rows are taken by id, times `scale`. */
export function embed(
  g: Values,
  ids: Values,
  { vocabulary, width, scale = 1 }: { vocabulary: number; width: number; scale?: number },
): Float64Array {
  const table = new Float64Array(vocabulary * width)
  for (let i = 0; i < g.length; i++) table[at(ids, math.floor(i / width)) * width + (i % width)]! += scale * at(g, i)
  return table
}

/** The largest logit of the row from `begin` on, `exp(logits - the largest)`, and their sum. */
function exponentials(logits: Values, begin: number, width: number) {
  const row = build(width, (i) => at(logits, begin + i))
  const most = row.reduce((a, b) => math.max(a, b))
  const values = row.map((value) => math.exp(value - most))
  return { most, values, total: sum(width, (i) => values[i]!) }
}

/**
 * `scale * (softmax - onehot)`, a row; every row has a target. That of the target is minus the sum of the others, since
 * `p - 1` cancels where p is near 1.
 */
export function crossEntropy(logits: Values, targets: Values, scale: number): Float64Array {
  const width = logits.length / targets.length
  const result = new Float64Array(logits.length)
  for (let t = 0; t < targets.length; t++) {
    const { values, total } = exponentials(logits, t * width, width)
    const target = at(targets, t)
    const others = sum(width, (i) => (i === target ? 0 : values[i]!))
    for (let i = 0; i < width; i++) {
      result[t * width + i] = (scale * (i === target ? -others : values[i]!)) / total
    }
  }
  return result
}

/** `-sum p log q` with p the softmax of the teacher's logits and q that of the student's, a row. */
export function distillationLoss(student: Values, teacher: Values, width: number): Float64Array {
  return build(student.length / width, (t) => {
    const [q, p] = [exponentials(student, t * width, width), exponentials(teacher, t * width, width)]
    const logQ = (i: number) => at(student, t * width + i) - q.most - math.log(q.total)
    return -sum(width, (i) => (p.values[i]! / p.total) * logQ(i))
  })
}

/** `scale * (softmax(student) - softmax(teacher))`, a row; the teacher is fixed. */
export function distillation(student: Values, teacher: Values, width: number, scale: number): Float64Array {
  const result = new Float64Array(student.length)
  for (let row = 0; row < student.length; row += width) {
    const [q, p] = [exponentials(student, row, width), exponentials(teacher, row, width)]
    for (let i = 0; i < width; i++) result[row + i] = scale * (q.values[i]! / q.total - p.values[i]! / p.total)
  }
  return result
}

/**
 * Of `y = scale (x Aᵀ) Bᵀ`, without the product of the frozen matrix beside it: `u = x Aᵀ`, `dB = scale gᵀ u`,
 * `h = scale g B`, `dA = hᵀ x`, `dx = h A`.
 */
export function lora(
  g: Values,
  x: Values,
  { a, b, scale, rank }: LowRank,
  [rows, columns, inner]: Shape,
): { x: Float64Array; a: Float64Array; b: Float64Array } {
  const u = gemm(x, a, [rows, rank, inner])
  const h = gemmInput(g, b, [rows, columns, rank]).map((value) => scale * value)
  return {
    x: gemmInput(h, a, [rows, rank, inner]),
    a: gemmWeight(h, x, [rows, rank, inner]),
    b: gemmWeight(g, u, [rows, columns, rank]).map((value) => scale * value),
  }
}

/**
 * Of `y = magnitude / norms * (x Wᵀ + scale (x Aᵀ) Bᵀ)`, the frozen matrix with it. The norms of the rows of
 * `W + scale B A` are constants, as PEFT has it.
 */
export function dora(
  g: Values,
  x: Values,
  weight: Values,
  adapter: LowRank & { magnitude: Values },
  shape: Shape,
): { x: Float64Array; a: Float64Array; b: Float64Array; magnitude: Float64Array } {
  const columns = shape[1]
  const norms = doraNorms(weight, adapter)
  const scaled = build(g.length, (i) => (at(g, i) * at(adapter.magnitude, i % columns)) / norms[i % columns]!)
  const ofLora = lora(scaled, x, adapter, shape)
  const unit = doraForward(x, weight, { ...adapter, magnitude: build(columns, () => 1), norms }, shape)
  return {
    ...ofLora,
    x: gemmInput(scaled, weight, shape).map((value, i) => value + ofLora.x[i]!),
    magnitude: columnSums(
      unit.map((value, i) => value * at(g, i)),
      columns,
    ),
  }
}

/** What AdamW keeps of a tensor; `step`: how many steps it has taken. */
export interface AdamwState {
  p: Float64Array
  m: Float64Array
  v: Float64Array
  step: number
}

/**
 * One step of torch.optim.AdamW, in place: `p *= 1 - rate decay` first; `m = beta1 m + (1 - beta1) g`,
 * `v = beta2 v + (1 - beta2) g^2`; `p -= rate m' / (sqrt(v') + eps)` with `m' = m / (1 - beta1^step)`, `v'` likewise.
 */
export function adamw(
  state: AdamwState,
  g: Values,
  { rate, beta1, beta2, eps, decay }: Record<'rate' | 'beta1' | 'beta2' | 'eps' | 'decay', number>,
): void {
  const { p, m, v } = state
  state.step++
  for (let i = 0; i < p.length; i++) {
    m[i] = beta1 * m[i]! + (1 - beta1) * at(g, i)
    v[i] = beta2 * v[i]! + (1 - beta2) * at(g, i) ** 2
    const [mean, square] = [m[i]! / (1 - beta1 ** state.step), v[i]! / (1 - beta2 ** state.step)]
    p[i] = p[i]! * (1 - rate * decay) - (rate * mean) / (math.sqrt(square) + eps)
  }
}

/** Of gradients whose norm over all tensors is `norm`, as clip_grad_norm_ of PyTorch has it. */
export function clipFactor(norm: number, limit: number): number {
  return math.min(1, limit / (norm + 1e-6))
}
