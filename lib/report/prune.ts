/** The report of `prune`: what was kept, and where the weights have gone. */

import type { DiffReport } from '../compare/diff.js'
import type { PruneReport } from '../prune/prune.js'
import { changeMap } from './diff.js'
import { shortName } from './html.js'
import type { Page, PageSection } from './page.js'

const kinds = { neuron: 'neurons', group: 'groups of heads' } as const
const percent = (value: number) => `${(100 * value).toFixed(2)} %`

/** Heads and neurons with their scores, in the order of the report's units. */
export type UnitScores = readonly { kept: readonly boolean[]; scores: readonly number[] }[]

/** `units`: the scores of heads and neurons; `changed`: how a result of the same shapes differs from the model. */
export function prunePage(
  report: PruneReport,
  { units: scored = [], changed }: { units?: UnitScores | undefined; changed?: DiffReport | undefined } = {},
): Page {
  const { model, out, method, parameters, units = [], notes } = report
  const sections: PageSection[] = []
  for (const kind of [...new Set(units.map((unit) => unit.kind))]) {
    const rows = units.filter((unit) => unit.kind === kind)
    sections.push({
      title: `Kept: ${kinds[kind]}`,
      text:
        kind === 'group'
          ? 'A group is a key and value head with the query heads that use it.'
          : 'Where a layer has more neurons than there is room for, neighbours share a place.',
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
    const of = (stays: boolean) =>
      scored.flatMap(({ kept, scores }, i) =>
        units[i]?.kind === kind ? scores.filter((_, unit) => kept[unit] === stays) : [],
      )
    if (scored.length === 0) continue
    sections.push({
      title: `Scores: ${kinds[kind]}`,
      text:
        'Of what stays and of what goes, over all layers, on a scale of ratios. What goes is chosen by how it stands in its ' +
        'layer, so the two overlap.',
      figure: {
        kind: 'histogram',
        label: 'score',
        log: true,
        series: [
          { name: 'kept', values: of(true) },
          { name: 'pruned', values: of(false) },
        ],
      },
    })
  }
  sections.push(...blockSections(report))
  if (changed !== undefined) {
    const map = changeMap(changed)
    sections.push({
      title: 'Weights that differ from the model, by layer and module',
      text: 'Zeros, and what makes up for them. Biases that are new are not counted.',
      figure: {
        ...map,
        label: 'share of the weights',
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
    summary: [report.about, ...notes].join(' '),
    facts: [
      ['model', model],
      ['result', out],
      ['parameters before', parameters.before.toLocaleString('en-US')],
      ['that stay', parameters.after.toLocaleString('en-US')],
      ['kept', percent(parameters.after / parameters.before)],
    ],
    sections,
  }
}

const measured: Partial<Record<PruneReport['method'], string>> = {
  bi: 'block influence',
  ablation: 'rise of the loss without the block',
  angular: 'angular distance over the run that begins here',
}

function blockSections({ blocks, blockScores = [], method }: PruneReport): PageSection[] {
  if (blocks === undefined) return []
  const gone = new Set(blocks)
  const depth = method === 'angular' ? blockScores.length + blocks.length - 1 : blockScores.length
  const label = measured[method] ?? 'score'
  return [
    {
      title: 'Kept: blocks',
      text: `Of ${depth} blocks ${blocks.length} go: ${blocks.join(', ')}.`,
      figure: {
        kind: 'map',
        unit: 'block',
        rows: [{ name: 'blocks', kept: Array.from({ length: depth }, (_, block) => !gone.has(block)) }],
      },
    },
    {
      title: `Scores: ${label}`,
      text: 'The lowest go.',
      figure: {
        kind: 'curves',
        x: 'layer',
        panels: [{ label, curves: [{ name: label, points: blockScores.map((value, layer) => [layer, value]) }] }],
      },
    },
  ]
}
