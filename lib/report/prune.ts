/** The report of `prune`: what was kept, and where the weights have gone. */

import type { DiffReport } from '../diff.js'
import type { PruneReport } from '../prune.js'
import { changeMap } from './diff.js'
import { shortName } from './html.js'
import type { Page, Section } from './page.js'

const kinds = { neuron: 'neurons', group: 'groups of heads' } as const
const percent = (value: number) => `${(100 * value).toFixed(2)} %`

/** `changed`: how a result of the same shapes differs from the model. */
export function prunePage(report: PruneReport, changed?: DiffReport): Page {
  const { model, out, method, parameters, units = [], blocks, layout } = report
  const sections: Section[] = []
  for (const kind of [...new Set(units.map((unit) => unit.kind))]) {
    const rows = units.filter((unit) => unit.kind === kind)
    sections.push({
      title: `Kept: ${kinds[kind]}`,
      figure: {
        kind: 'map',
        unit: kind,
        rows: rows.map(({ layer, kept, dropped }) => {
          const gone = new Set(dropped)
          return {
            name: `layer ${layer}`,
            kept: Array.from({ length: kept + dropped.length }, (_, unit) => !gone.has(unit)),
          }
        }),
      },
    })
  }
  if (blocks !== undefined) {
    sections.push({ title: 'Blocks that go', text: blocks.length === 0 ? 'None.' : `Layers ${blocks.join(', ')}.` })
  }
  if (changed !== undefined) {
    const map = changeMap(changed)
    sections.push({
      title: 'Weights that have gone, by layer and module',
      figure: {
        ...map,
        label: 'share that changed',
        cells: changed.cells.map(({ changed: share }, i) => ({
          row: map.cells[i]?.row ?? '',
          column: map.cells[i]?.column ?? '',
          value: share,
        })),
      },
    })
  }
  return {
    title: `What ${method} has left of ${shortName(model)}`,
    summary: layout === 'compact' ? 'A smaller checkpoint.' : 'Zeros in tensors of the same shapes.',
    facts: [
      ['model', model],
      ['result', out],
      ['parameters before', parameters.before.toLocaleString('en-US')],
      ['after', parameters.after.toLocaleString('en-US')],
      ['kept', percent(parameters.after / parameters.before)],
    ],
    sections,
  }
}
