/**
 * Signs of collapse in samples of a model: answers that become one (entropy), texts that become one (distinct-n), and
 * samples that no longer find what one of them would not (pass@k - pass@1).
 */

import { answerIn, isRight } from './check.js'
import type { Completion, ImmAnswerCheck } from './config.js'

export interface ImmCollapse {
  questions: number
  /** Samples a question, k. */
  samples: number
  /** Mean over questions of the entropy (nats) of the answers that were drawn. */
  entropy: number
  /**
   * Different pairs of neighbouring words of a question's samples, as a share of all its pairs; of characters where
   * there are no spaces.
   */
  distinct: number
  /** Share of samples that are right, and share of questions with one that is. */
  pass1: number
  passK: number
  /** passK - pass1. */
  gap: number
}

export function collapseOf(completions: readonly Completion[], check?: ImmAnswerCheck, pattern?: string): ImmCollapse {
  const questions = new Map<string, Completion[]>()
  for (const one of completions) questions.set(one.prompt, [...(questions.get(one.prompt) ?? []), one])
  const all = [...questions.values()]
  const mean = (of: (samples: Completion[]) => number) => all.reduce((sum, one) => sum + of(one), 0) / (all.length || 1)
  const right = ({ text, answer }: Completion) => isRight(text, answer, check, pattern)
  const pass1 = mean((samples) => samples.filter(right).length / samples.length)
  const passK = mean((samples) => (samples.some(right) ? 1 : 0))
  return {
    questions: all.length,
    samples: Math.max(0, ...all.map(({ length }) => length)),
    entropy: mean((samples) => entropy(samples.map(({ text }) => answerIn(text, check, pattern) ?? ''))),
    distinct: mean((samples) => distinct(samples.map(({ text }) => text))),
    pass1,
    passK,
    gap: passK - pass1,
  }
}

function entropy(values: readonly string[]): number {
  const counts = new Map<string, number>()
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1)
  return [...counts.values()].reduce((sum, count) => {
    const share = count / values.length
    return sum - share * Math.log(share)
  }, 0)
}

function distinct(texts: readonly string[]): number {
  const pairs = texts.flatMap((text) => {
    const words = /\s/.test(text.trim()) ? text.trim().split(/\s+/) : [...text]
    return words.slice(1).map((word, i) => `${words[i]}\0${word}`)
  })
  return pairs.length === 0 ? 1 : new Set(pairs).size / pairs.length
}
