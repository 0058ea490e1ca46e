/**
 * Width shrinking of AmoebaLLM: FLAP's statistics (arXiv 2312.11983) of the inputs of what follows heads and neurons,
 * one order of all units over the model, and a cut in it for every ratio. One measurement serves all ratios, and what
 * stays at a smaller one stays at a larger one.
 */

import { type Batch, batchesOf } from '../../data/index.js'
import type { Host } from '../../native/host.js'
import { lostOf } from '../../prune/biases.js'
import { columnScores, type KeptUnits, keepGlobal, type ScoredUnits } from '../../prune/widths.js'
import { apply, type Model } from '../../runtime/index.js'
import { chosenMethods, SavedArrays } from '../../score/index.js'
import type { StrategyWidth } from '../../subnets/index.js'
import type { Asked } from './lines.js'

/** What one pass through the whole model has shown; all of it in float64. */
export interface Measured {
  scored: ScoredUnits[]
  /** Of the inputs of a linear, by its weight. */
  means: ReadonlyMap<string, ArrayLike<number>>
}

/** Measures the units of all layers on lines. */
export async function measureWidths(
  model: Model,
  lines: readonly Asked[],
  options: { check: () => void; onStep: (done: number, total: number) => void },
): Promise<Measured> {
  const { spec } = model
  const whole = lines.map((line) => ({ ...line, prompt: line.asked }))
  const batches: Batch[] = batchesOf(model, whole)
  const setting = { kept: new SavedArrays(), spec, batches, layers: [...spec.language.layers.keys()], tau: 0 }
  const [collector] = chosenMethods(['flap']).map((method) => method.collect(setting, async () => undefined))
  const observers = collector?.observers === undefined ? [] : [collector.observers]
  await model.layerwisePass(
    batches.map(({ tokens }) => tokens),
    { observers, ...options },
  )
  const found = new Map(collector?.collected().map(({ name, values }) => [name, values]))
  const read = (kind: string, weight: string) => found.get(`${kind}/${weight}`) ?? []
  const means = new Map<string, ArrayLike<number>>()
  const scored = spec.language.layers.flatMap((layer, index) =>
    layer.units.flatMap((units) =>
      units.columns.map(({ tensor }): ScoredUnits => {
        means.set(tensor, read('mean', tensor))
        const scores = {
          fluctuation: read('fluctuation', tensor),
          absolute: read('absolute', tensor),
          squares: read('squares', tensor),
        }
        return { layer: index, units, columns: columnScores('wifv', scores, spec.tensors.get(tensor)?.[0] ?? 1) }
      }),
    ),
  )
  return { scored, means }
}

/**
 * What stays at each ratio of the parameters of heads and neurons: FLAP's adaptive search (AL-AM) with the true cost of
 * a group of heads. A ratio of 1 keeps all, and every layer keeps a unit of each kind.
 */
export async function chooseWidths(
  host: Host,
  model: Model,
  { scored, means }: Measured,
  ratios: readonly number[],
): Promise<StrategyWidth[]> {
  const kept = ratios.map((ratio) => keepGlobal(scored, ratio, model.spec))
  const biases = ratios.map(() => new Map<string, Float32Array<ArrayBuffer>>())
  // Each matrix is read once, for all ratios.
  for (const [i, { units }] of scored.entries()) {
    for (const { tensor: weight, size } of units.columns) {
      const tensor = model.checkpoint.tensors.get(weight)
      const mean = Float32Array.from(means.get(weight) ?? [])
      const lossy = kept.flatMap((all, r) => (all[i]?.kept.includes(false) ? [{ kept: all[i].kept, r }] : []))
      if (tensor === undefined || lossy.length === 0) continue
      const lost = new Float32Array(lossy.length * mean.length)
      for (const [row, { kept }] of lossy.entries()) lost.set(lostOf(mean, kept, size), row * mean.length)
      const sums = await apply(host.device, model.checkpoint, tensor, lost)
      const outputs = sums.length / lossy.length
      for (const [row, { r }] of lossy.entries()) {
        biases[r]?.set(weight, Float32Array.from(sums.subarray(row * outputs, (row + 1) * outputs)))
      }
    }
  }
  return ratios.map((ratio, r) => ({ ratio, units: (kept[r] ?? []).map(unitsOf), biases: biases[r] ?? new Map() }))
}

const unitsOf = ({ layer, units: { kind }, kept }: KeptUnits) => ({ layer, kind, kept })
