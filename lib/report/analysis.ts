/** The report of `imm analyze`: change and importance over the layers, one under the other. */

import type { AnalyzeReport } from '../compare/analyze.js'
import { changeMap } from './diff.js'
import { shortName } from './html.js'
import type { Page, PageSection } from './page.js'

const rho = (value: number | null) => (value === null ? '–' : value.toFixed(3))
const percent = (value: number) => `${(100 * value).toFixed(1)} %`

const importanceLabels = {
  ablation: 'rise of the loss without the block (answers)',
  'ablation all': 'rise of the loss without the block (all tokens)',
  'block influence': 'block influence',
} as const

/** The page of `analyze`: change and importance over the layers, then a map of layers and modules for each model. */
export function analysisPage({ base, data, importance, models, device }: AnalyzeReport): Page {
  const modules = models[0]?.diff.modules.map(({ module }) => module) ?? []
  const sections: PageSection[] = [
    {
      title: 'Change and importance over the layers',
      text:
        'Above: mean |Δ| of the weights of a layer. Below: how important the layer is to the base. Where learning is ' +
        'superficial, the curves run against each other.',
      figure: {
        kind: 'curves',
        x: 'layer',
        panels: [
          {
            label: 'mean |Δ|',
            curves: models.map(({ model, layers }) => ({
              name: shortName(model),
              points: layers.map(({ layer, meanAbs }) => [layer, meanAbs] as const),
            })),
          },
          ...importance.map(({ name, values }) => ({
            label: importanceLabels[name],
            curves: [{ name, points: values.map((value, layer) => [layer, value] as const) }],
          })),
        ],
      },
    },
  ]
  if (importance.length > 0) {
    sections.push({
      title: 'How the change lies against the importance',
      text:
        'ρ: rank correlation over the layers; below zero, the important layers change least. Mass: the share of all change ' +
        'that lies in the most important quarter of the layers, against the share of layers that this is.',
      figure: {
        kind: 'table',
        head: ['model', 'importance', 'ρ mean |Δ|', 'ρ ‖Δ‖ / ‖A‖', 'ρ changed', 'layers', 'mass', 'uniform'],
        rows: models.flatMap(({ model, against }) =>
          against.map((one) => [
            shortName(model),
            one.importance,
            rho(one.spearman.meanAbs),
            rho(one.spearman.relative),
            rho(one.spearman.changed),
            one.top.join(', '),
            percent(one.mass),
            percent(one.uniform),
          ]),
        ),
      },
    })
  }
  sections.push({
    title: 'Modules: mean |Δ|',
    figure: {
      kind: 'table',
      head: ['module', ...models.map(({ model }) => shortName(model))],
      rows: modules.map((name) => [
        name,
        ...models.map(({ diff }) => diff.modules.find(({ module }) => module === name)?.meanAbs ?? '–'),
      ]),
    },
  })
  const among = models.flatMap(({ diff }) => diff.cells.flatMap(({ relative }) => relative ?? []))
  for (const { model, diff } of models)
    sections.push({ title: `${shortName(model)}: layers and modules`, figure: changeMap(diff, among) })
  return {
    title: `What improving has changed in ${shortName(base)}`,
    summary: 'Weight change of self-improved models, against the importance of the layers of the model they come from.',
    facts: [
      ['base', base],
      ['improved', models.map(({ model }) => shortName(model)).join(', ')],
      ...(data === undefined ? [] : [['importance on', data] as const]),
      ['device', device],
    ],
    sections,
  }
}
