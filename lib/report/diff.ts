/** The report of `diff`: where a checkpoint has moved. */

import type { DiffReport, DiffStats } from '../compare/diff.js'
import type { Page, PageHeatMap } from './page.js'

const share = (value: number) => `${(100 * value).toFixed(2)} %`

/** `layer 3` for `model.layers.3`; the stack too where there are several. */
export function layerNames(layers: readonly { layer: string }[]): (layer: string) => string {
  const stacks = new Set(layers.flatMap(({ layer }) => (/\.\d+$/.test(layer) ? [layer.replace(/\.\d+$/, '')] : [])))
  return (layer) => (stacks.size > 1 ? layer : layer.replace(/^.*\.(\d+)$/, 'layer $1'))
}

/** ‖Δ‖ / ‖A‖ of every layer and module. `among`: values of all maps that share a scale. */
export function changeMap({ layers, modules, cells }: DiffReport, among?: readonly number[]): PageHeatMap {
  const named = layerNames(layers)
  return {
    kind: 'heat',
    label: '‖Δ‖ / ‖A‖',
    rows: layers.map(({ layer }) => named(layer)),
    columns: modules.map(({ module }) => module),
    cells: cells.map(({ layer, module, relative, changed, meanAbs }) => ({
      row: named(layer),
      column: module,
      value: relative,
      note: `mean |Δ| ${meanAbs.toExponential(3)}, ${share(changed)} changed`,
    })),
    among,
  }
}

/** The page of `diff`: a map of layers and modules, curves over the layers, and tables. */
export function diffPage(report: DiffReport): Page {
  const { a, b, total, layers, modules, tensors, skipped } = report
  const named = layerNames(layers)
  const numbered = layers.filter(({ layer }) => /\.\d+$/.test(layer))
  const stacks = [...new Set(numbered.map(({ layer }) => layer.replace(/\.\d+$/, '')))]
  const curve = (of: (stats: DiffStats) => number | null) =>
    stacks.map((stack) => ({
      name: stack,
      points: numbered.flatMap((row) => {
        const value = of(row)
        const [, own, index] = /^(.*)\.(\d+)$/.exec(row.layer) ?? []
        return own === stack && value !== null ? [[Number(index), value] as const] : []
      }),
    }))
  const head = ['mean |Δ|', '‖Δ‖ / ‖A‖', '|Δ| > 1e-5', 'max |Δ|', 'cosine']
  const row = (stats: DiffStats) => [
    stats.meanAbs,
    stats.relative ?? '–',
    share(stats.changed),
    stats.maxAbs,
    stats.cosine === null ? '–' : stats.cosine.toFixed(6),
  ]
  const most = [...tensors].sort((x, y) => (y.relative ?? Infinity) - (x.relative ?? Infinity)).slice(0, 20)
  return {
    title: `How far ${b} has moved from ${a}`,
    summary: `Δ = B − A over ${total.tensors.toLocaleString('en-US')} tensors.`,
    facts: [
      ['A', a],
      ['B', b],
      ['parameters', total.parameters.toLocaleString('en-US')],
      ['‖Δ‖ / ‖A‖', total.relative?.toFixed(4) ?? '–'],
      ['mean |Δ|', total.meanAbs.toExponential(3)],
      ['changed', share(total.changed)],
      ['device', report.device],
    ],
    sections: [
      { title: 'Layers and modules', figure: changeMap(report) },
      ...(numbered.length > 1
        ? [
            {
              title: 'Over the layers',
              figure: {
                kind: 'curves' as const,
                x: 'layer',
                panels: [
                  { label: 'mean |Δ|', curves: curve(({ meanAbs }) => meanAbs) },
                  { label: '‖Δ‖ / ‖A‖', curves: curve(({ relative }) => relative) },
                ],
              },
            },
          ]
        : []),
      {
        title: 'Modules',
        figure: { kind: 'table', head: ['module', ...head], rows: modules.map((r) => [r.module, ...row(r)]) },
      },
      {
        title: 'Layers',
        figure: {
          kind: 'table',
          head: ['layer', ...head],
          rows: [...layers.map((r) => [named(r.layer), ...row(r)]), ['all', ...row(total)]],
        },
      },
      {
        title: 'Tensors that moved most',
        figure: { kind: 'table', head: ['tensor', ...head], rows: most.map((r) => [r.name, ...row(r)]) },
      },
      ...(skipped.length > 0
        ? [
            {
              title: 'Not compared',
              figure: {
                kind: 'table' as const,
                head: ['tensor', 'why'],
                rows: skipped.map(({ tensor, reason }) => [tensor, reason]),
              },
            },
          ]
        : []),
    ],
  }
}
