/** From statistics to scores, and from scores to the neurons that go. */

import { misuse } from '../../util/errors.js'
import { type Measured, sharedBy } from './measure.js'
import type { Module } from './neurons.js'
import type { ManuChoice, ManuNeuron } from './report.js'
import { codeScores, paperScores, type Scores, select } from './scores.js'
import type { Part } from './statistics.js'
import type { Kind } from './streams.js'
import { kindsOf, type Neurons, type Subject } from './subject.js'

export type ModuleScores = ReadonlyMap<Module, Scores>

export interface Choice extends ManuChoice {
  /** Of all rounds. */
  selected: Neurons
}

/** The scores of every module that neurons are chosen from. */
export function score(subject: Subject, { forget, retain }: Measured): ModuleScores {
  const { mode, weights } = subject.settings
  const scores = new Map<Module, Scores>()
  for (const module of subject.candidates) {
    const of = (set: Measured['forget'], kind: Kind) => set[kind]?.get(sharedBy(subject, module))
    const kinds = kindsOf(module.tower, mode).filter((kind) => of(forget, kind) && of(retain, kind))
    const [kind] = kinds
    const [own, other] = kind === undefined ? [] : [of(forget, kind), of(retain, kind)]
    if (own === undefined || other === undefined) continue
    const streamsOf = (set: Measured['forget']) => Object.fromEntries(kinds.map((each) => [each, of(set, each)]))
    const paper = mode === 'paper'
    scores.set(
      module,
      paper ? paperScores(streamsOf(forget), streamsOf(retain), weights) : codeScores(own, other, weights),
    )
  }
  return scores
}

/**
 * The alpha per cent of the neurons of each tower that have the largest scores, besides those that are chosen already.
 * Throws ERR_WEIGHTSMITH_ARGUMENT where nothing of a module would be left.
 */
export function choose(scores: ModuleScores, alpha: number, before: Choice | undefined): Choice {
  const selected = new Map<Module, readonly number[]>(before?.selected)
  const neurons: ManuNeuron[] = [...(before?.neurons ?? [])]
  const towers: ManuChoice['towers'] = []
  for (const tower of ['vision', 'language'] as const) {
    const own = [...scores].filter(([module]) => module.tower === tower)
    if (own.length === 0) continue
    const open = own.map(([module, of]): [Module, Float64Array] => {
      const taken = new Set(selected.get(module))
      return [module, of.score.map((value, n) => (taken.has(n) ? Number.NaN : value))]
    })
    const { selected: found, ...facts } = select(new Map(open), alpha)
    let count = 0
    for (const [module, chosen] of found) {
      count += chosen.length
      selected.set(
        module,
        [...(selected.get(module) ?? []), ...chosen].sort((a, b) => a - b),
      )
      const of = scores.get(module)
      const at = (part: Part, neuron: number) => of?.parts[part][neuron] ?? 0
      for (const neuron of chosen) {
        const own = { abs: at('abs', neuron), freq: at('freq', neuron), var: at('var', neuron), rms: at('rms', neuron) }
        neurons.push({ module: module.name, neuron, score: of?.score[neuron] ?? 0, parts: own })
      }
    }
    towers.push({ tower, ...facts, selected: count })
  }
  const emptied = [...selected].find(([module, chosen]) => chosen.length === module.neurons)
  if (emptied !== undefined) {
    throw misuse(
      `An alpha of ${alpha} takes all ${emptied[0].neurons} neurons of ${emptied[0].name}; take less, or more layers.`,
    )
  }
  neurons.sort((a, b) => b.score - a.score)
  return { alpha, towers, neurons, selected }
}
