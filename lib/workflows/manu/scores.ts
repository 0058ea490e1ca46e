/** Scores of neurons from their statistics, and which neurons the largest scores are. */

import { type Part, parts, type Statistics } from './statistics.js'

/** What keeps quotients finite. */
export const eps = 1e-5

/** Statistics of the same neurons on multimodal and on text-only lines, where there are such lines. */
export type OfStreams = Partial<Record<'multimodal' | 'text', Statistics>>

export interface Scores {
  score: Float64Array
  /** What each statistic adds, or in paper mode its importance for the lines to forget. */
  parts: Readonly<Record<Part, Float64Array>>
  /** Neurons for which a retain statistic is no larger than eps, so that eps decides. */
  limited: number
}

export type Weights = Readonly<Record<Part, number>>

const at = (values: ArrayLike<number>, i: number) => values[i] ?? 0

/** S = Σ_k w_k (I_k(forget) / (I_k(retain) + eps) - 1). */
export function codeScores(forget: Statistics, retain: Statistics, weights: Weights): Scores {
  const own = (part: Part) => forget[part].map((value, n) => weights[part] * (value / (at(retain[part], n) + eps) - 1))
  const added = { abs: own('abs'), freq: own('freq'), var: own('var'), rms: own('rms') }
  const score = added.abs.map((_, n) => parts.reduce((sum, part) => sum + at(added[part], n), 0))
  const counted = parts.filter((part) => weights[part] !== 0)
  const limited = score.filter((_, n) => counted.some((part) => at(retain[part], n) <= eps)).length
  return { score, parts: added, limited }
}

/** S = I(forget) / (I(retain) + eps), with I the sum of four importances of one set. */
export function paperScores(forget: OfStreams, retain: OfStreams, weights: Weights): Scores {
  const importances = { forget: importanceOf(forget), retain: importanceOf(retain) }
  const total = (of: Statistics, n: number) => parts.reduce((sum, part) => sum + weights[part] * at(of[part], n), 0)
  const score = importances.forget.abs.map(
    (_, n) => total(importances.forget, n) / (total(importances.retain, n) + eps),
  )
  const limited = score.filter((_, n) => total(importances.retain, n) <= eps).length
  return { score, parts: importances.forget, limited }
}

/** How differently neurons answer to both kinds of lines; where there is one kind, its statistics themselves. */
function importanceOf({ multimodal: m, text: t }: OfStreams): Statistics {
  if (m === undefined || t === undefined) {
    const only = m ?? t
    if (only === undefined) throw new RangeError('There are no statistics.')
    return only
  }
  const contrast = (a: number, b: number) => Math.abs(a - b) / (a + b + eps)
  return {
    abs: m.abs.map((value, n) => contrast(value, at(t.abs, n))),
    freq: m.freq.map((value, n) => contrast(value, at(t.freq, n))),
    var: m.var.map((value, n) => Math.hypot(value, at(t.var, n))),
    rms: m.rms.map((value, n) => Math.sqrt(contrast(value ** 2, at(t.rms, n) ** 2))),
  }
}

export interface Selection<Key> {
  total: number
  /** floor(alpha / 100 * total); ties select more. */
  wanted: number
  threshold: number
  /** The largest score that is not among the wanted. */
  next: number
  /** By module: neurons in ascending order. */
  selected: Map<Key, number[]>
}

/** The `alpha` percent with the largest scores, over all modules together. NaN is the least of scores. */
export function select<Key>(scores: ReadonlyMap<Key, ArrayLike<number>>, alpha: number): Selection<Key> {
  const all = [...scores.values()].flatMap((of) => Array.from(of, comparable)).sort((a, b) => b - a)
  const wanted = Math.floor((alpha / 100) * all.length)
  const threshold = wanted === 0 ? Number.POSITIVE_INFINITY : Math.max(at(all, wanted - 1), -Number.MAX_VALUE)
  const selected = new Map<Key, number[]>()
  for (const [name, of] of scores) {
    const chosen = Array.from(of, comparable).flatMap((score, n) => (score >= threshold ? [n] : []))
    if (chosen.length > 0) selected.set(name, chosen)
  }
  return { total: all.length, wanted, threshold, next: all[wanted] ?? Number.NEGATIVE_INFINITY, selected }
}

const comparable = (score: number) => (Number.isNaN(score) ? Number.NEGATIVE_INFINITY : score)
