/** The report of `score`: what is important, by layer and module, and how it is distributed. */

import { layerOf, type Module, moduleOf, modules } from '../checkpoint/index.js'
import type { Scores } from '../score/index.js'
import type { ScoreReport } from '../score/score.js'
import { shortName } from './html.js'
import type { Page, PageSection } from './page.js'

/**
 * Vectors of a score file, one value an input or output of a linear: what is before the linear's name, and what it is.
 */
const vectors: readonly [prefix: string, title: string, about: string][] = [
  ['norm', 'Norms of inputs', '‖X‖ of every input of a linear over all tokens; Wanda multiplies weights by it.'],
  ['fluctuation', 'Fluctuation of inputs', 'How much inputs of heads and neurons vary around their mean (FLAP).'],
  ['mean_absolute/output', 'Outputs of neurons', 'Mean |x| of what makes the neurons, over all tokens.'],
  ['mean_absolute/input', 'Activity of neurons', 'Mean |x| of the neurons, over all tokens.'],
  ['frequency/input', 'How often neurons are active', 'Share of the tokens with |x| above tau.'],
  ['absolute', 'Magnitude of weights', 'Σ|W| over the outputs, for every input of a linear.'],
]

/** Values a layer. */
const curves: readonly [tensor: string, title: string, label: string][] = [
  ['importance/answer', 'Loss without each block', 'rise of the loss (answers)'],
  ['importance/all', 'Loss without each block', 'rise of the loss (all tokens)'],
  ['block_influence', 'Block influence', 'block influence'],
  ['angular/1', 'Angular distance', 'angular distance'],
]

export async function scorePage(report: ScoreReport, scores: Scores): Promise<Page> {
  const { info, tensors } = scores
  const panels = []
  for (const [tensor, name, label] of curves) {
    if (!tensors.has(tensor)) continue
    const values = await scores.read(tensor)
    panels.push({ label, curves: [{ name, points: points(values) }] })
  }
  const sections: PageSection[] = []
  if (panels.length > 0) {
    sections.push({
      title: 'Importance of the layers',
      text: 'The larger the value, the more the model changes where the block is left out.',
      figure: { kind: 'curves', x: 'layer', panels },
    })
  }
  for (const vector of vectors) sections.push(...(await vectorSections(scores, vector)))
  const { data } = info
  return {
    title: `What matters in ${shortName(report.model)}`,
    summary: `Scores by ${info.methods.join(', ')}, from ${scores.path}.`,
    facts: [
      ['model', report.model],
      ...(data === undefined ? [] : [['data', `${data.file}, ${data.examples} lines, ${data.tokens} tokens`] as const]),
      ['layers', String(report.layers.length)],
      ['device', info.device],
    ],
    sections,
  }
}

/** Layers that were not measured have no number. */
function points(values: ArrayLike<number>): [number, number][] {
  return Array.from(values, (value, layer): [number, number] => [layer, value]).filter(
    ([, value]) => !Number.isNaN(value),
  )
}

async function vectorSections(
  scores: Scores,
  [prefix, title, about]: (typeof vectors)[number],
): Promise<PageSection[]> {
  const cells: { row: string; column: Module; value: number; note: string }[] = []
  const rows = new Map<string, number>()
  const byModule = new Map<Module, Float32Array[]>()
  for (const name of scores.tensors.keys()) {
    if (!name.startsWith(`${prefix}/`)) continue
    const weight = name.slice(prefix.length + 1)
    const layer = layerOf(weight)
    if (layer === undefined) continue
    const values = await scores.read(name)
    const module = moduleOf(weight)
    const row = `layer ${layer.index}`
    rows.set(row, layer.index)
    const mean = values.reduce((a, b) => a + b, 0) / Math.max(1, values.length)
    cells.push({ row, column: module, value: mean, note: `the mean of ${values.length} values` })
    byModule.set(module, [...(byModule.get(module) ?? []), values])
  }
  if (cells.length === 0) return []
  const columns = modules.filter((module) => byModule.has(module))
  return [
    {
      title: `${title}: layers and modules`,
      text: about,
      figure: {
        kind: 'heat',
        label: 'mean',
        rows: [...rows].sort(([, a], [, b]) => a - b).map(([row]) => row),
        columns,
        cells,
      },
    },
    {
      title: `${title}: distribution`,
      text: 'Over all layers, on a scale of ratios; zeros have no place there.',
      figure: {
        kind: 'histogram',
        label: title.toLowerCase(),
        log: true,
        series: columns.map((name) => ({ name, values: joined(byModule.get(name) ?? []) })),
      },
    },
  ]
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return all
}
