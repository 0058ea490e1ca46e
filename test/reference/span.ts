/** Methods on spheres and distances in float64, on whole vectors, straight from their definitions. */

import { math } from '../math.js'
import { build, type Values } from './merge.js'

const zip = (x: Values, y: Values, f: (a: number, b: number) => number) =>
  build(x.length, (i) => f(x[i] ?? 0, y[i] ?? 0))
const norm = (x: Values) => math.sqrt(dot(x, x))
const scaled = (x: Values, by: number) => build(x.length, (i) => (x[i] ?? 0) * by)
const plus = (x: Values, y: Values) => zip(x, y, (a, b) => a + b)
const minus = (x: Values, y: Values) => zip(x, y, (a, b) => a - b)

function dot(x: Values, y: Values): number {
  let sum = 0
  for (let i = 0; i < x.length; i++) sum += (x[i] ?? 0) * (y[i] ?? 0)
  return sum
}

function combination(vectors: readonly Values[], factors: readonly number[]): Float64Array {
  return vectors.reduce<Float64Array>(
    (sum, x, i) => plus(sum, scaled(x, factors[i] ?? 0)),
    new Float64Array(vectors[0]?.length ?? 0),
  )
}

/** Applies a method to the differences from a base. */
export function onDifferences(base: Values, models: readonly Values[], method: (d: Values[]) => Values): Float64Array {
  return plus(base, method(models.map((x) => minus(x, base))))
}

/**
 * Applies a method to every row (vectors along the last dimension) or column (along the first one) of tensors.
 */
export function byLine(
  shape: readonly number[],
  along: 'rows' | 'columns',
  tensors: readonly Values[],
  method: (lines: Values[]) => Values,
): Float64Array {
  const size = tensors[0]?.length ?? 0
  const out = new Float64Array(size)
  const columns = shape.slice(1).reduce((a, b) => a * b, 1)
  const length = along === 'rows' ? (shape.at(-1) ?? 1) : size / columns
  const at = (line: number, k: number) => (along === 'rows' ? line * length + k : k * columns + line)
  for (let line = 0; line < size / length; line++) {
    const parts = tensors.map((x) => Float64Array.from({ length }, (_, k) => x[at(line, k)] ?? 0))
    const result = method(parts)
    for (let k = 0; k < length; k++) out[at(line, k)] = result[k] ?? 0
  }
  return out
}

export function nuslerp([a = [], b = []]: readonly Values[], t: number): Float64Array {
  const unit = (x: Values) => scaled(x, 1 / math.max(norm(x), 1e-7))
  const cosine = math.min(1, math.max(-1, dot(unit(a), unit(b))))
  if (1 - cosine * cosine <= 1e-12) return combination([a, b], [1 - t, t])
  const angle = math.acos(cosine)
  return combination([a, b], [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)])
}

/** With the step in the tangent space, as published; `weights` as they count (normalised or not). */
export function multislerp(vectors: readonly Values[], weights: readonly number[], eps: number): Float64Array {
  const units = vectors.map((x) => scaled(x, 1 / (norm(x) + eps)))
  const mean = combination(units, weights)
  if (norm(mean) < eps) return combination(vectors, weights)
  const pole = scaled(mean, 1 / norm(mean))
  const tangents = units.map((u) => minus(u, scaled(pole, dot(u, pole))))
  const tangent = combination(tangents, weights)
  const step = norm(tangent) + eps
  const point = plus(scaled(pole, math.cos(step)), scaled(tangent, math.sin(step) / step))
  return scaled(
    point,
    vectors.reduce((sum, x, i) => sum + norm(x) * (weights[i] ?? 0), 0),
  )
}

/** Iterated to convergence, whatever the method's own limits. */
export function karcher(vectors: readonly Values[]): Float64Array {
  const share = 1 / vectors.length
  const units = vectors.map((x) => scaled(x, 1 / norm(x)))
  let mean = combination(
    units,
    units.map(() => share),
  )
  mean = scaled(mean, 1 / norm(mean))
  for (let iteration = 0; iteration < 60; iteration++) {
    const logs = units.map((u) => {
      const away = minus(u, scaled(mean, dot(u, mean)))
      const length = norm(away)
      return length === 0 ? away : scaled(away, math.atan2(length, dot(u, mean)) / length)
    })
    const tangent = combination(
      logs,
      logs.map(() => share),
    )
    const step = norm(tangent)
    if (step < 1e-15) break
    mean = plus(scaled(mean, math.cos(step)), scaled(tangent, math.sin(step) / step))
  }
  return scaled(mean, share * vectors.reduce((sum, x) => sum + norm(x), 0))
}

export function sumOfDistances(x: Values, points: readonly Values[]): number {
  return points.reduce((sum, point) => sum + norm(minus(x, point)), 0)
}

/** By Weiszfeld's iteration as published; for points of which none is the median. */
export function geometricMedian(points: readonly Values[]): Float64Array {
  let median = combination(
    points,
    points.map(() => 1 / points.length),
  )
  for (let iteration = 0; iteration < 2000; iteration++) {
    const weights = points.map((x) => 1 / norm(minus(x, median)))
    const total = weights.reduce((a, b) => a + b, 0)
    const next = combination(
      points,
      weights.map((w) => w / total),
    )
    const moved = norm(minus(next, median))
    median = next
    if (moved < 1e-14 * norm(minus(points[0] ?? [], median))) break
  }
  return median
}

export function modelStock(base: Values, models: readonly Values[]): Float64Array {
  const deltas = models.map((x) => minus(x, base))
  const cosines = deltas.flatMap((a, i) =>
    deltas.slice(i + 1).map((b) => math.min(1, math.max(-1, dot(a, b) / math.max(norm(a) * norm(b), 1e-6)))),
  )
  const n = models.length
  const cosine = cosines.reduce((a, b) => a + b, 0) / cosines.length
  const below = 1 + (n - 1) * cosine
  const t = math.abs(below) < 1e-6 ? 0 : (n * cosine) / below
  return combination([base, ...models], [1 - t, ...models.map(() => t / n)])
}

/** `min(1, t / |d|)` of the difference is taken over. */
export function nearswap(base: Values, model: Values, t: number): Float64Array {
  return zip(base, model, (b, x) => (x === b ? b : b + math.min(1, t / math.abs(x - b)) * (x - b)))
}

/** `sum w (F + eps) x / sum w (F + eps)`, the plain mean where that is nothing by nothing. */
export function fisher(
  models: readonly Values[],
  information: readonly Values[],
  weights: readonly number[],
  eps: number,
): Float64Array {
  return Float64Array.from(models[0] ?? [], (_, e) => {
    const shares = information.map((f, i) => (weights[i] ?? 0) * ((f[e] ?? 0) + eps))
    const total = shares.reduce((a, b) => a + b, 0)
    const used = total > 0 ? shares : weights
    const sum = used.reduce((a, b) => a + b, 0)
    return models.reduce((mean, x, i) => mean + ((x[e] ?? 0) * (used[i] ?? 0)) / sum, 0)
  })
}
