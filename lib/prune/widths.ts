/**
 * Which heads and neurons stay. Their scores are those of the columns that take what they make: the linear behind
 * attention, and the one behind the activation.
 */

import type { ModelSpec, Units } from '../architectures/index.js'
import { WeightsmithError } from '../util/errors.js'

/** Statistics of the columns of one linear; see the methods of scoring. */
export interface ColumnScores {
  fluctuation?: ArrayLike<number>
  norm?: ArrayLike<number>
  absolute: ArrayLike<number>
  squares: ArrayLike<number>
}

/** The units of one kind of a layer, with a score a column. */
export interface ScoredUnits {
  layer: number
  units: Units
  columns: Float64Array
}

export interface KeptUnits {
  layer: number
  units: Units
  kept: boolean[]
}

export const widthMetrics = ['wifv', 'wifn', 'ifv', 'wanda-sp'] as const
export type WidthMetric = (typeof widthMetrics)[number]

/** Scores of the columns of a linear with so many outputs. */
export function columnScores(metric: WidthMetric, scores: ColumnScores, outputs: number): Float64Array {
  const { fluctuation = [], norm = [], absolute, squares } = scores
  return Float64Array.from({ length: absolute.length }, (_, j) => {
    const [size, square] = [absolute[j] ?? 0, squares[j] ?? 0]
    switch (metric) {
      case 'wifv':
        return (fluctuation[j] ?? 0) * square
      case 'wifn':
        return (Math.sqrt(fluctuation[j] ?? 0) * size) / outputs
      case 'ifv':
        return fluctuation[j] ?? 0
      case 'wanda-sp':
        return ((norm[j] ?? 0) * size) / outputs
    }
  })
}

/** Elements of weights of a unit, over those of a neuron. */
function costOf({ units }: ScoredUnits, spec: ModelSpec): number {
  const matrices = units.rows.filter(({ tensor }) => spec.tensors.get(tensor)?.length === 2)
  return [...matrices, ...units.columns].reduce((sum, { size }) => sum + size, 0)
}

/**
 * FLAP's adaptive search over the whole model (AL-AM): scores standardised a layer and kind, one order of all units,
 * cut where their cost comes closest to the share of all cost. The unit at the cut goes; every layer keeps its best
 * unit of each kind. A share of 1 keeps all.
 */
export function keepGlobal(scored: readonly ScoredUnits[], share: number, spec: ModelSpec): KeptUnits[] {
  if (share === 1)
    return scored.map(({ layer, units }) => ({ layer, units, kept: units.columns.length ? all(units.count) : [] }))
  // Groups go before neurons where scores are equal, as they are listed in the published code.
  const ordered = [...scored].sort((a, b) => rank(a) - rank(b))
  const neuron = ordered.find(({ units }) => units.kind === 'neuron')
  const unit = neuron === undefined ? 1 : costOf(neuron, spec)
  const entries = ordered.flatMap((owner) => {
    // Channels of heads count by the square of their score.
    const raw = owner.units.kind === 'group' ? owner.columns.map((value) => value * value) : owner.columns
    const cost = costOf(owner, spec) / unit
    return means(standardised(raw), owner.units.count).map((score, index) => ({ owner, index, score, cost }))
  })
  const sorted = [...entries].sort((a, b) => b.score - a.score)
  const total = entries.reduce((sum, { cost }) => sum + cost, 0)
  let sum = 0
  let threshold = Number.POSITIVE_INFINITY
  let closest = Number.POSITIVE_INFINITY
  for (const { score, cost } of sorted) {
    sum += cost
    const distance = Math.abs(sum - share * total)
    if (distance < closest) [closest, threshold] = [distance, score]
  }
  return scored.map((owner) => {
    const own = entries.filter((entry) => entry.owner === owner)
    const kept = own.map(({ score }) => score > threshold)
    if (!kept.includes(true)) {
      const best = own.reduce((most, entry) => (entry.score > most.score ? entry : most))
      kept[best.index] = true
    }
    return { layer: owner.layer, units: owner.units, kept }
  })
}

/**
 * Every layer keeps the same number of units of a kind: all but int((1 - share) * count), those with the lowest scores
 * (of equal ones the first). What a layer's groups keep beyond their share, because part of one cannot go, its neurons
 * give. Throws ERR_WEIGHTSMITH_ARGUMENT where that would leave none.
 */
export function keepUniform(
  scored: readonly ScoredUnits[],
  share: number,
  spec: ModelSpec,
  notes: string[],
): KeptUnits[] {
  const whole = ({ units }: ScoredUnits) => Math.floor((1 - share) * units.count + 1e-9)
  const beyond = (layer: number) =>
    scored
      .filter((own) => own.layer === layer && own.units.kind === 'group')
      .reduce((sum, own) => sum + ((1 - share) * own.units.count - whole(own)) * costOf(own, spec), 0)
  const kept = scored.map((owner) => {
    const { layer, units, columns } = owner
    const more = units.kind === 'neuron' ? beyond(layer) / costOf(owner, spec) : 0
    const dropped = Math.floor((1 - share) * units.count + more + 1e-9)
    if (dropped >= units.count) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_ARGUMENT',
        `To keep ${share} of the ${units.count} ${nameOf(units)}s of layer ${layer} would leave none of them; keep more.`,
      )
    }
    const scores = means(columns, units.count)
    const order = [...scores.keys()].sort((a, b) => (scores[a] ?? 0) - (scores[b] ?? 0))
    const kept = all(units.count)
    for (const index of order.slice(0, dropped)) kept[index] = false
    return { layer, units, kept }
  })
  const coarse = kept.find(({ layer, units }) => units.kind === 'group' && beyond(layer) > 1e-6)
  if (coarse !== undefined) {
    const { units, kept: stays } = coarse
    const left = stays.filter((stay) => stay).length
    const instead = kept.some((own) => own.layer === coarse.layer && own.units.kind === 'neuron')
    notes.push(
      `Of ${units.count} KV groups ${left} stay, because part of one cannot go for a share of ${share}` +
        `${instead ? '; as many parameters of neurons go instead.' : ', so that more stays than was asked for.'}`,
    )
  }
  return kept
}

export function nameOf({ kind }: Units): string {
  return kind === 'group' ? 'KV group' : 'neuron'
}

const rank = ({ units }: ScoredUnits) => (units.kind === 'group' ? 0 : 1)
const all = (count: number) => Array.from({ length: count }, () => true)

/** (x - mean) / deviation, ddof 1. */
function standardised(values: Float64Array): Float64Array {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  const spread = values.reduce((sum, value) => sum + (value - mean) ** 2, 0)
  const deviation = Math.sqrt(spread / (values.length - 1))
  return values.map((value) => (deviation > 0 ? (value - mean) / deviation : 0))
}

/** Of runs of columns, one run a unit. */
export function means(columns: Float64Array, count: number): number[] {
  const size = columns.length / count
  return Array.from({ length: count }, (_, u) => {
    let sum = 0
    for (let i = u * size; i < (u + 1) * size; i++) sum += columns[i] ?? 0
    return sum / size
  })
}
