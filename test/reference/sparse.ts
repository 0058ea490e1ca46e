/**
 * The sparsifying merges in float64, from their definitions: which elements of each delta stay, and how the deltas
 * become one. Decisions are taken on the f32 numbers that the kernels compare, as in merge.ts.
 */

import { math } from '../math.js'
import { difference, type Values } from './merge.js'

const at = (values: Values, i: number) => values[i] ?? 0
const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0)
const sumF32 = (values: readonly number[]) => values.reduce((a, b) => math.fround(a + math.fround(b)), 0)
const divisor = (value: number) => (math.abs(value) < 1e-8 ? 1 : value)
const norm = (values: Values) => sum(Array.from(values, math.abs))

/** Indices by magnitude, largest first, equal ones by index. */
function byMagnitude(values: Values): Uint32Array {
  const sizes = Float64Array.from(values, math.abs)
  const places = Uint32Array.from(sizes.keys())
  return places.sort((i, j) => at(sizes, j) - at(sizes, i) || i - j)
}

/** Breadcrumbs' mask: the int(gamma n) largest go, of the rest the int(density n) largest stay. */
export function band(values: Values, density: number, gamma: number): boolean[] {
  const kept = new Array<boolean>(values.length).fill(density >= 1)
  if (density >= 1) return kept
  const count = math.trunc(density * values.length)
  const top = math.min(math.trunc(gamma * values.length), values.length - count)
  for (const i of byMagnitude(values).slice(top, top + count)) kept[i] = true
  return kept
}

export type Consensus = 'sum' | 'mergekit' | 'peft' | 'frequency' | 'reference'

export interface Combination {
  weights: readonly number[]
  lambda: number
  normalize: boolean
  consensus: Consensus
  /** Bring the L1 norm of what is left back to that of the whole delta. */
  rescale?: boolean
  /** For `reference`: the sign that wins drawn elections, where it is not this tensor's own majority. */
  majority?: number
}

/** What is left of each delta, `kept[model][element]`, made into one and added to the base. */
export function combine(
  base: Values,
  models: readonly Values[],
  kept: readonly (readonly boolean[])[],
  { weights, lambda, normalize, consensus, rescale = false, majority }: Combination,
): Float64Array {
  const whole = models.map((x) => difference(x, base))
  const rest = whole.map((d, i) => d.map((v, e) => (kept[i]?.[e] ? v : 0)))
  const factors = rest.map((d, i) => (rescale && norm(d) > 0 ? norm(whole[i] ?? d) / norm(d) : 1))
  const scaled = rest.map((d, i) => d.map((v) => v * math.fround(at(weights, i) * at(factors, i))))
  const ballots = (e: number) =>
    rest.map((d, i) => {
      if (consensus === 'mergekit') return math.fround(at(scaled[i] ?? [], e))
      return consensus === 'frequency' ? math.sign(at(d, e)) : at(d, e)
    })
  const drawn = majority ?? (consensus === 'reference' ? majorityOf(rest) : 1)
  return Float64Array.from({ length: base.length }, (_, e) => {
    const values = scaled.map((d) => at(d, e))
    if (consensus === 'sum') {
      return at(base, e) + (lambda * sum(values)) / (normalize ? divisor(sum([...weights])) : 1)
    }
    const votes = ballots(e)
    const winner = math.sign(sumF32(votes)) || drawn
    const agree = votes.map((v) => math.sign(v) === winner)
    const total = sum(values.filter((_, i) => agree[i]))
    if (!normalize) return at(base, e) + lambda * total
    const share =
      consensus === 'mergekit'
        ? divisor(sum(weights.filter((_, i) => agree[i])))
        : math.max(1, agree.filter((yes) => yes).length)
    return at(base, e) + (lambda * total) / share
  })
}

/** The sign that wins most elements of the trimmed deltas; + where both win as many. */
export function majorityOf(trimmed: readonly Values[]): number {
  const signs = Array.from(trimmed[0] ?? [], (_, e) => math.sign(sumF32(trimmed.map((d) => at(d, e)))))
  return sum(signs) < 0 ? -1 : 1
}

/** RAM: the delta of the one model that changed an element, or the mean of those that did. */
export function ram(
  base: Values,
  models: readonly Values[],
  epsilon: number,
  factors?: readonly number[],
): Float64Array {
  const changes = changed(base, models, epsilon)
  return Float64Array.from({ length: base.length }, (_, e) => {
    const by = models.flatMap((x, i) => (changes[i]?.[e] ? [{ d: at(x, e) - at(base, e), i }] : []))
    const [only] = by
    if (only !== undefined && by.length === 1) return at(base, e) + only.d * (factors?.[only.i] ?? 1)
    return at(base, e) + sum(by.map(({ d }) => d)) / math.max(1, by.length)
  })
}

/** The factors of RAM+: 1 + r min(alpha, elements changed with others / elements changed alone). */
export function ramPlusFactors(
  base: Values,
  models: readonly Values[],
  { epsilon, r, alpha }: { epsilon: number; r: number; alpha: number },
): number[] {
  const changes = changed(base, models, epsilon)
  const others = Array.from(base, (_, e) => changes.filter((mine) => mine[e]).length)
  return changes.map((mine) => {
    const shared = mine.filter((yes, e) => yes && at(others, e) > 1).length
    const alone = mine.filter((yes, e) => yes && at(others, e) === 1).length
    return 1 + r * math.min(alpha, shared / math.max(alone, 1e-5))
  })
}

function changed(base: Values, models: readonly Values[], epsilon: number): boolean[][] {
  return models.map((x) => Array.from(difference(x, base), (d) => math.abs(d) > math.fround(epsilon)))
}

/** SCE's selection: of the elements in which the models differ, the int(share k) of the largest variance. */
export function widest(models: readonly Values[], share: number): boolean[] {
  const [first = []] = models
  const spread = Array.from(first, (_, e) => {
    // n^3 times the variance, step by step as the kernels round it
    const from = models.map((x) => difference([at(x, e)], [at(first, e)])[0] ?? 0)
    const total = from.slice(1).reduce((a, b) => math.fround(a + b), 0)
    const square = (v: number) => math.fround(v * v)
    const result = sumF32(from.map((v) => square(math.fround(math.fround(v * models.length) - total))))
    return result < 2 ** -126 ? 0 : result
  })
  const kept = new Array<boolean>(first.length).fill(share >= 1)
  const count = math.trunc(share * spread.filter((v) => v !== 0).length)
  if (share < 1) for (const i of byMagnitude(spread).slice(0, count)) kept[i] = true
  return kept
}

/**
 * SCE: weights from the mean squares of what is selected (small ones count as they are where `exact`), then a mean of
 * what agrees in sign with the sum.
 */
export function sce(base: Values, models: readonly Values[], share: number, exact = false): Float64Array {
  const kept = widest(models, share)
  const deltas = models.map((x) => difference(x, base).map((v, e) => (kept[e] ? v : 0)))
  const squares = deltas.map((d) => sum(Array.from(d, (v) => v * v)) / base.length)
  const small = exact ? sum(squares) === 0 : sum(squares) < 1e-6
  const weights = squares.map((v) => (small ? 1 / models.length : v / sum(squares)))
  return Float64Array.from({ length: base.length }, (_, e) => {
    const values = deltas.map((d) => at(d, e))
    const winner = sumF32(values) >= 0 ? 1 : -1
    const agree = values.map((v) => math.sign(v) === winner)
    const total = sum(values.map((v, i) => (agree[i] ? v * at(weights, i) : 0)))
    const weight = sum(weights.filter((_, i) => agree[i]))
    return at(base, e) + (exact ? (weight > 0 ? total / weight : 0) : total / math.max(1e-6, weight))
  })
}

/** What DELLA keeps of a delta: the draws of DARE against a probability that rises with the rank in the row. */
export function keptByRank(
  values: Values,
  row: number,
  { density, epsilon, words }: { density: number; epsilon: number; words: Uint32Array },
): boolean[] {
  const kept = new Array<boolean>(values.length).fill(false)
  const top = math.fround((row < 2 ? 1 - density : 1 - density + epsilon) * 2 ** 32)
  const step = row < 2 ? 0 : math.fround((2 * epsilon * 2 ** 32) / (row - 1))
  for (let start = 0; start < values.length; start += row) {
    const mine = Array.from({ length: row }, (_, j) => math.abs(at(values, start + j)))
    const order = mine.map((_, j) => j).sort((i, j) => at(mine, i) - at(mine, j) || i - j)
    for (const [rank, j] of order.entries()) {
      const limit = math.max(0, math.fround(top - math.fround(rank * step)))
      kept[start + j] = density >= 1 || at(words, start + j) >= math.trunc(limit)
    }
  }
  return kept
}

/**
 * Arcee Fusion: the model where its importance |d| KL(softmax) reaches median + 1.5 (q3 - q1), else the base.
 * `open`: elements so near to the threshold that f32 decides.
 */
export function fusion(base: Float64Array, model: Float64Array, row: number): { fused: Float64Array; open: number } {
  const importance = new Float64Array(base.length)
  for (let first = 0; first < base.length; first += row) {
    const kl = divergence(base.slice(first, first + row), model.slice(first, first + row))
    for (let i = first; i < first + row; i++) importance[i] = math.abs(at(model, i) - at(base, i)) * kl
  }
  const sorted = importance.toSorted()
  const [q1, median, q3] = [1, 2, 3].map((k) => at(sorted, math.floor((k * (sorted.length - 1)) / 4)))
  const threshold = median! + 1.5 * (q3! - q1!)
  return {
    fused: importance.map((s, i) => (s >= threshold ? at(model, i) : at(base, i))),
    open: importance.filter((s) => s > 0 && math.abs(s - threshold) < 2e-6 * threshold).length,
  }
}

/** Σ p log(p / q) of the softmaxes of a row, each + 1e-8, in terms that are not negative and do not cancel. */
function divergence(base: Float64Array, model: Float64Array): number {
  const logSum = (row: Float64Array) => {
    const top = row.reduce((a, b) => math.max(a, b), Number.NEGATIVE_INFINITY)
    return top + math.log(row.reduce((total, v) => total + math.exp(v - top), 0))
  }
  const small = base.every((b, i) => math.abs(at(model, i) - b) <= 1)
  const ofBase = logSum(base)
  const shift = small
    ? math.log1p(sum(Array.from(base, (b, i) => math.exp(b - ofBase) * math.expm1(at(model, i) - b))))
    : logSum(model) - ofBase
  return sum(
    Array.from(base, (b, i) => {
      const q = math.exp(b - ofBase)
      const d = at(model, i) - b - shift // log(p / q) of the softmaxes
      const p = math.exp(b - ofBase + d)
      const z = (math.abs(d) < 1 ? p * math.expm1(-d) : q - p) / (p + 1e-8)
      const excess =
        math.abs(z) < 1e-3 ? z * z * (1 / 2 - z * (1 / 3 - z * (1 / 4 - z / 5))) : z - math.log((q + 1e-8) / (p + 1e-8))
      return (p + 1e-8) * excess
    }),
  )
}
