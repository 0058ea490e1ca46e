/** Evaluates the model with the selected neurons zeroed and, as controls, with as many others. */

import { createHash } from 'node:crypto'
import { answerRows, isTeacherForcedMatch } from '../../eval/exact_match.js'
import { recordWords, wordOf } from '../../native/parameters.js'
import type { Choice } from './choose.js'
import type { Module } from './neurons.js'
import type { ManuAnswers, ManuChoice } from './report.js'
import { manuBatches } from './streams.js'
import { type Neurons, none, type Subject } from './subject.js'

/** Accuracy and loss on all sets; undefined where `evaluate` is off. */
export async function evaluate(subject: Subject, without: Neurons): Promise<ManuAnswers[] | undefined> {
  if (!subject.settings.evaluate) return undefined
  const begin = performance.now()
  const { evaluated, end } = subject.streams
  const model = subject.without(without)
  const answers: ManuAnswers[] = []
  try {
    for (const { set, kind, rows } of evaluated) {
      let correct = 0
      let loss = 0
      for await (const { tokens, lines } of manuBatches(model, rows, { end, batch: 1 })) {
        subject.check()
        const { nll, best } = await model.run(tokens)
        for (const line of lines) {
          const answer = answerRows(line)
          if (isTeacherForcedMatch(best, tokens, answer)) correct++
          loss += answer.reduce((sum, row) => sum + (nll[row] ?? 0), 0) / answer.length
        }
        subject.step(lines.length)
      }
      const { length } = rows
      answers.push({ set, kind, lines: length, correct, accuracy: correct / length, nll: loss / length })
    }
  } finally {
    await model.close()
  }
  subject.timings.evaluate += performance.now() - begin
  return answers
}

/** Answers without the neurons that are chosen, and without as many others. */
export async function compare(
  subject: Subject,
  { selected }: Choice,
): Promise<Pick<ManuChoice, 'answers' | 'random' | 'magnitude'>> {
  const answers = await evaluate(subject, selected)
  if (answers === undefined) return {}
  if (subject.settings.compare !== true) return { answers }
  const { seed } = subject.settings
  const random = await evaluate(
    subject,
    others(subject, selected, (module) => randomRanks(module, seed)),
  )
  const norms = await normsOf(subject)
  const magnitude = await evaluate(
    subject,
    others(subject, selected, (module) => norms.get(module) ?? []),
  )
  return { answers, ...(random && { random }), ...(magnitude && { magnitude }) }
}

/** As many neurons of each tower, those of the smallest ranks. */
function others(subject: Subject, selected: Neurons, rankOf: (module: Module) => ArrayLike<number>): Neurons {
  const result = new Map<Module, number[]>()
  for (const tower of ['vision', 'language'] as const) {
    const own = subject.candidates.filter((module) => module.tower === tower)
    const count = own.reduce((sum, module) => sum + (selected.get(module)?.length ?? 0), 0)
    const ranked = own.flatMap((module) => Array.from(rankOf(module), (rank, neuron) => ({ module, neuron, rank })))
    for (const { module, neuron } of ranked.sort((a, b) => a.rank - b.rank).slice(0, count)) {
      result.set(module, [...(result.get(module) ?? []), neuron])
    }
  }
  return result
}

/** An order that depends on the seed and on names alone. */
function randomRanks({ name, neurons }: Module, seed: number): number[] {
  return Array.from({ length: neurons }, (_, neuron) =>
    createHash('sha256').update(`${seed} ${name} ${neuron}`).digest().readUInt32BE(0),
  )
}

/** Squared norms of the weights of every neuron: of its row, or, coupled, of its column. */
async function normsOf(subject: Subject): Promise<ReadonlyMap<Module, Float64Array>> {
  const model = subject.without(none)
  const norms = new Map<Module, Float64Array>()
  try {
    for (const by of ['input', 'output'] as const) {
      const own = new Map(subject.candidates.flatMap((m) => (m.hook.side === by ? [[m.hook.weight, m] as const] : [])))
      const add = (name: string, sums: Float32Array) => {
        const module = own.get(name)
        if (module)
          norms.set(
            module,
            Float64Array.from(
              { length: module.neurons },
              (_, n) => sums[recordWords('WeightSums') * n + wordOf('WeightSums', 'squares')] ?? 0,
            ),
          )
      }
      if (own.size > 0)
        await model.layerwisePass([], { observers: [{ weights: { names: new Set(own.keys()), by, add } }] })
    }
  } finally {
    await model.close()
  }
  return norms
}
