/** What `manu` has found. */

import type { Tower } from './neurons.js'
import type { ManuMode } from './options.js'
import type { Selection } from './scores.js'
import type { Part } from './statistics.js'
import type { Kind, SetName } from './streams.js'

export interface ManuAnswers {
  set: SetName
  kind: Kind
  lines: number
  correct: number
  /** Share of the lines all of whose answer is the likeliest token at its place. */
  accuracy: number
  /** Mean over lines of the mean loss of the answer's tokens, in nats. */
  nll: number
}

export interface ManuNeuron {
  module: string
  neuron: number
  score: number
  parts: Readonly<Record<Part, number>>
}

export interface ManuChoice {
  alpha: number
  /** Absent where nothing was written. */
  out?: string
  towers: (Pick<Selection<unknown>, 'total' | 'wanted' | 'threshold' | 'next'> & { tower: Tower; selected: number })[]
  /** By falling score. */
  neurons: ManuNeuron[]
  answers?: ManuAnswers[]
  random?: ManuAnswers[]
  magnitude?: ManuAnswers[]
}

export interface ManuForecast {
  model: string
  mode: ManuMode
  streams: { set: SetName; kind: Kind; lines: number; tokens: number }[]
  modules: { name: string; tower: Tower; layer: number; neurons: number }[]
  notes: string[]
  /** Parts in which the model goes through the device, and bytes of the largest. */
  partitions: number
  deviceBytes: number
  device: string
  /** Of the run; in a forecast an estimate, from a pass of each kind of lines. */
  milliseconds: number
  /** Of `milliseconds`: what these take. */
  timings: { measure: number; evaluate: number }
}

export interface ManuReport extends ManuForecast {
  /** `selected`: one count an alpha. */
  modules: (ManuForecast['modules'][number] & { selected: number[]; limited: number })[]
  /** Neurons whose score eps decides, because they hardly answer to what is to be retained. */
  limited: number
  before?: ManuAnswers[]
  choices: ManuChoice[]
  /** With `maxRetainDrop`: the largest alpha within it; null if there is none. */
  allowedAlpha?: number | null
}

/** Names and answers of every model that was evaluated: as it was, and without the chosen and other neurons. */
export function manuRows({ before, choices }: ManuReport): { name: string; answers: ManuAnswers[] }[] {
  return [
    ...(before ? [{ name: 'before', answers: before }] : []),
    ...choices.flatMap(({ alpha, answers, random, magnitude }) => [
      ...(answers ? [{ name: `chosen, ${alpha} %`, answers }] : []),
      ...(random ? [{ name: `random, ${alpha} %`, answers: random }] : []),
      ...(magnitude ? [{ name: `smallest, ${alpha} %`, answers: magnitude }] : []),
    ]),
  ]
}

/** Mean accuracy of the kinds of a set. */
export function meanOf(answers: readonly ManuAnswers[], set: SetName): number {
  const own = answers.filter((one) => one.set === set)
  return own.reduce((sum, { accuracy }) => sum + accuracy, 0) / Math.max(1, own.length)
}
