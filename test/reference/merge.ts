/**
 * The merge formulas in float64, straight from their definitions. Inputs are what the kernels load (f32 values, see
 * `asLoaded`). Where a method decides something by comparing f32 numbers (which magnitudes stay, which sign wins), the
 * same numbers are rounded to f32 here, so that rounding noise cannot turn a decision.
 */

import { math } from '../math.js'
import { keptByDrop, randomWords } from './philox.js'

export type Values = ArrayLike<number>

const at = (values: Values, i: number) => values[i] ?? 0
const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0)
/** A sum of weights that is as good as zero divides by one instead. */
const divisor = (value: number) => (math.abs(value) < 1e-8 ? 1 : value)

export function build(length: number, value: (i: number) => number): Float64Array {
  const built = new Float64Array(length)
  for (let i = 0; i < length; i++) built[i] = value(i)
  return built
}

/** `sum c_i x_i`. */
export function linear(inputs: readonly Values[], coefficients: readonly number[]): Float64Array {
  return build(inputs[0]?.length ?? 0, (e) => sum(inputs.map((x, i) => at(x, e) * at(coefficients, i))))
}

/** `b + sum c_i (x_i - b)`. */
export function delta(base: Values, models: readonly Values[], coefficients: readonly number[]): Float64Array {
  return build(
    base.length,
    (e) => at(base, e) + sum(models.map((x, i) => (at(x, e) - at(base, e)) * at(coefficients, i))),
  )
}

/** `W + s (B A)`, or `W + s (B A)^T`; W has `columns` columns, and the product runs over `rank` terms. */
export function lora(
  weight: Values,
  b: Values,
  a: Values,
  { columns, rank, scale, transposed }: { columns: number; rank: number; scale: number; transposed: boolean },
): Float64Array {
  const rows = weight.length / columns
  return build(weight.length, (e) => {
    const [i, j] = [math.floor(e / columns), e % columns]
    const terms = Array.from({ length: rank }, (_, k) =>
      transposed ? at(a, k * rows + i) * at(b, j * rank + k) : at(b, i * rank + k) * at(a, k * columns + j),
    )
    return at(weight, e) + scale * sum(terms)
  })
}

/** The two factors of SLERP for the tensors `a` (t = 0) and `b` (t = 1), seen as vectors. */
export function slerpFactors(a: Values, b: Values, t: number): [number, number] {
  const dot = (x: Values, y: Values) => sum(Array.from(x, (v, i) => v * at(y, i)))
  const length = (x: Values) => {
    const norm = math.sqrt(dot(x, x))
    return norm > 1e-8 ? norm : 1
  }
  const cosine = dot(a, b) / (length(a) * length(b))
  if (math.abs(cosine) > 0.9995) return [1 - t, t]
  const angle = math.acos(cosine)
  return [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]
}

/** Spherical interpolation: the factors come from the normalised vectors, and apply to the vectors as they are. */
export function slerp(a: Values, b: Values, t: number): Float64Array {
  return linear([a, b], slerpFactors(a, b, t))
}

/** `x - base` in f32, subnormals flushed. */
export function difference(x: Values, base: Values): Float64Array {
  return build(base.length, (i) => {
    const d = math.fround(at(x, i) - at(base, i))
    return math.abs(d) < 2 ** -126 ? 0 : d
  })
}

/** Which of `values` are among the int(density * n) largest magnitudes; equal ones by lower index. */
export function largest(values: Values, density: number): boolean[] {
  const keep = math.trunc(density * values.length)
  const order = Array.from(values, (_, i) => i).sort(
    (i, j) => math.abs(at(values, j)) - math.abs(at(values, i)) || i - j,
  )
  const kept = new Array<boolean>(values.length).fill(false)
  for (const i of order.slice(0, keep)) kept[i] = true
  return kept
}

/**
 * TIES' election for one element: the sum of the deltas that agree in sign with the sum of the weighted deltas (zero
 * counts as +), divided by the agreeing weights where `normalize` is set. `weighted` includes the weights.
 */
function elect(weighted: readonly number[], weights: readonly number[], normalize: boolean): number {
  const total = weighted.reduce((a, b) => math.fround(a + math.fround(b)), 0)
  const agree = weighted.map((v) => (total >= 0 ? v > 0 : v < 0))
  const value = sum(weighted.filter((_, i) => agree[i]))
  return normalize ? value / divisor(sum(weights.filter((_, i) => agree[i]))) : value
}

export interface Ties {
  weights: readonly number[]
  densities: readonly number[]
  lambda: number
  normalize: boolean
}

/** TIES, trimmed per tensor, with mergekit's sign rule. */
export function ties(base: Values, models: readonly Values[], options: Ties): Float64Array {
  const { weights, densities, lambda, normalize } = options
  const deltas = models.map((x, i) => {
    const d = difference(x, base)
    const kept = largest(d, at(densities, i))
    return d.map((v, e) => (kept[e] ? v : 0))
  })
  return build(base.length, (e) => {
    const weighted = deltas.map((d, i) => at(d, e) * math.fround(at(weights, i)))
    return at(base, e) + lambda * elect(weighted, weights, normalize)
  })
}

export interface Dare extends Ties {
  consensus: 'linear' | 'ties'
  /** `expectation`: divide by the density; `l1`: restore the L1 norm of the delta. */
  rescale: 'none' | 'expectation' | 'l1'
  seed: bigint
  /** Name of the output tensor. */
  name: string
  /** Which elements of each model stay, where it is not left to the random numbers (hand-made examples). */
  kept?: readonly (readonly boolean[])[]
}

/** DARE: random drop, rescale, then a sum or TIES' election. */
export function dare(base: Values, models: readonly Values[], options: Dare): Float64Array {
  const { weights, densities, lambda, normalize } = options
  const factors: number[] = []
  const deltas = models.map((x, i) => {
    const d = difference(x, base)
    const density = at(densities, i)
    const kept =
      options.kept?.[i] ?? keptByDrop(randomWords(options.seed, options.name, i + 1, base.length), 1 - density)
    const rest = d.map((v, e) => (kept[e] ? v : 0))
    const norm = (values: Values) => sum(Array.from(values, math.abs))
    let factor = 1
    if (options.rescale === 'expectation' && density > 0) factor = 1 / density
    if (options.rescale === 'l1' && norm(rest) > 0) factor = norm(d) / norm(rest)
    factors.push(factor)
    return rest
  })
  return build(base.length, (e) => {
    const weighted = deltas.map((d, i) => at(d, e) * math.fround(at(weights, i) * at(factors, i)))
    const share = normalize ? divisor(sum(weights)) : 1
    const merged = options.consensus === 'ties' ? elect(weighted, weights, normalize) : sum(weighted) / share
    return at(base, e) + lambda * merged
  })
}

export interface Imm {
  alpha: number
  /** Probability that an element is dropped. */
  p: number
  seed: bigint
  name: string
  kept?: readonly boolean[]
}

/** IMM's merge of the original model and its self-improved successor: DARE with weight alpha. */
export function imm(original: Values, improved: Values, options: Imm): Float64Array {
  return dare(original, [improved], {
    weights: [options.alpha],
    densities: [1 - options.p],
    lambda: 1,
    normalize: false,
    consensus: 'linear',
    rescale: 'expectation',
    seed: options.seed,
    name: options.name,
    ...(options.kept ? { kept: [options.kept] } : {}),
  })
}

export interface Difference {
  sumAbs: number
  sumSquares: number
  aa: number
  bb: number
  ab: number
  changed: number
  max: number
  nonFinite: number
}

/** How two versions of a tensor differ; elements where either is NaN or Inf are counted and left out. */
export function diff(a: Values, b: Values): Difference {
  const result = { sumAbs: 0, sumSquares: 0, aa: 0, bb: 0, ab: 0, changed: 0, max: 0, nonFinite: 0 }
  for (let i = 0; i < a.length; i++) {
    const [x, y] = [at(a, i), at(b, i)]
    if (!Number.isFinite(x) || !Number.isFinite(y)) {
      result.nonFinite++
      continue
    }
    const d = math.abs(math.fround(y - x))
    result.sumAbs += d
    result.sumSquares += d * d
    result.aa += x * x
    result.bb += y * y
    result.ab += x * y
    result.changed += d > math.fround(1e-5) ? 1 : 0
    result.max = math.max(result.max, d)
  }
  return result
}
