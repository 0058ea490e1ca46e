/** Heads and neurons go: those of the least scores, over the model or in every layer. */

import { type Units, withWidths } from '../architectures/index.js'
import { type Content, cutTensor } from '../checkpoint/index.js'
import type { Scores } from '../score/index.js'
import { addBiases } from './biases.js'
import { argument, type Choice, type Decision, elementsOf, type Subject } from './decision.js'
import {
  columnScores,
  type KeptUnits,
  keepGlobal,
  keepUniform,
  means,
  type ScoredUnits,
  type WidthMetric,
} from './widths.js'

/** Units of all layers with the scores of their columns. */
export async function scoreUnits(
  scores: Scores,
  { checkpoint, spec }: Pick<Subject, 'checkpoint' | 'spec'>,
  metric: WidthMetric,
): Promise<ScoredUnits[]> {
  const scored: ScoredUnits[] = []
  for (const [layer, { units }] of spec.language.layers.entries()) {
    for (const unit of units) {
      for (const { tensor } of unit.columns) {
        const read = (kind: string) => scores.read(`${kind}/${tensor}`)
        const columns = columnScores(
          metric,
          {
            absolute: await read('absolute'),
            squares: await read('squares'),
            ...(metric === 'wanda-sp' ? { norm: await read('norm') } : { fluctuation: await read('fluctuation') }),
          },
          checkpoint.tensors.get(tensor)?.shape[0] ?? 1,
        )
        scored.push({ layer, units: unit, columns })
      }
    }
  }
  return scored
}

export async function pruneWidths(subject: Subject, options: Choice): Promise<Decision> {
  const { checkpoint, spec } = subject
  const scores = subject.scores as Scores
  const { method, keepRatio = 0.75, metric = 'wifv', layout = 'masked' } = options
  const flap = method === 'flap'
  const { allocation = flap ? 'global' : 'uniform', bias = flap } = options
  const scored = await scoreUnits(scores, subject, flap ? metric : 'wanda-sp')
  const notes: string[] = []
  const kept =
    allocation === 'global' ? keepGlobal(scored, keepRatio, spec) : keepUniform(scored, keepRatio, spec, notes)
  const tensors = new Map<string, Content | null>()
  let removed = 0
  for (const { units, kept: stays } of kept) {
    for (const [side, parts] of [
      ['rows', units.rows],
      ['columns', units.columns],
    ] as const) {
      for (const { tensor: name, size } of parts) {
        const tensor = checkpoint.tensors.get(name)
        if (tensor === undefined || stays.every((stay) => stay)) continue
        const those = (stay: boolean) =>
          stays.flatMap((own, unit) => (own === stay ? Array.from({ length: size }, (_, i) => unit * size + i) : []))
        const cut =
          layout === 'compact'
            ? { [side]: those(true) }
            : { [side === 'rows' ? 'zeroRows' : 'zeroColumns']: those(false) }
        tensors.set(name, cutTensor(checkpoint, tensor, cut))
        removed += (elementsOf(tensor.shape) * those(false).length) / (stays.length * size)
      }
    }
  }
  let config = layout === 'compact' ? narrowed(subject, kept, notes) : undefined
  if (bias) config = (await addBiases(subject, scores, kept, tensors, config)) ?? config
  return {
    tensors,
    config,
    removed,
    about:
      `Heads and neurons with the least scores by ${method} are ${layout === 'compact' ? 'left out' : 'zeros'}: of their ` +
      `parameters a share of ${keepRatio} was to stay, ${allocation === 'global' ? 'over the whole model' : 'in every layer'}.`,
    units: kept.map(({ layer, units: { kind }, kept: stays }) => ({
      layer,
      kind,
      kept: stays.filter((stay) => stay).length,
      dropped: stays.flatMap((stay, unit) => (stay ? [] : [unit])),
    })),
    scored: kept.map(({ units: { count }, kept: stays }, i) => ({
      kept: stays,
      scores: means(scored[i]?.columns ?? new Float64Array(), count),
    })),
    notes,
  }
}

/** The config of a compact model; says which tools load it. */
function narrowed({ checkpoint, spec }: Subject, kept: readonly KeptUnits[], notes: string[]) {
  const { heads, numKvHeads, headSize } = spec.language.attention
  const widths = Array.from(spec.language.layers, (_, layer) => {
    const count = (kind: Units['kind']) =>
      kept.find((own) => own.layer === layer && own.units.kind === kind)?.kept.filter((stay) => stay).length ?? 0
    return { heads: (count('group') * heads) / numKvHeads, groups: count('group'), inner: count('neuron') }
  })
  const config = withWidths(checkpoint.config ?? {}, widths, headSize)
  if (config === undefined) {
    throw argument(`The config of ${checkpoint.name} has no keys for other widths; write it masked (--layout masked).`)
  }
  const uniform = widths.every((own) => JSON.stringify(own) === JSON.stringify(widths[0]))
  notes.push(
    uniform
      ? 'All layers have the same widths, and the config says them with the usual keys: transformers, vLLM and others load it.'
      : 'Layers have widths of their own, which per_layer_config of the config says. Weightsmith runs it; transformers (5.23) ' +
          'knows that key, but not for this family, and refuses it; vLLM and others do not load it. For them write it ' +
          'masked, or with uniform allocation.',
  )
  return config
}
