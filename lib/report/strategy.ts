/** The report of `amoeba strategy`: which blocks go at each depth, and how wide the layers are at each ratio. */

import type { AmoebaStrategyReport, Strategy, StrategyWidth } from '../workflows/amoeba/index.js'
import { shortName } from './html.js'
import type { Page, PageFigure, PageSection } from './page.js'

const kinds = { group: 'groups of heads', neuron: 'neurons' } as const
/** Decisions whose every mask is shown. */
const mostRows = 48

export function strategyPage(report: AmoebaStrategyReport, { layers, depth, widths }: Strategy): Page {
  const { model, out, metric, order, examples, tokens, cells, blockPasses, depths, device } = report
  const { tried } = depth.table
  const sections: PageSection[] = [
    {
      title: 'Blocks that stay at each depth',
      text: 'Blocks stand from left to right as tokens go through them. What goes at one depth may stay at a smaller one.',
      figure: {
        kind: 'map',
        unit: 'block',
        rows: depth.masks.map((kept, m) => ({ name: `${layers - m} blocks`, kept })),
      },
    },
    {
      title: 'The metric at each depth',
      text: 'At full width, on the lines that the blocks were chosen by: what other lines give is not as good.',
      figure: {
        kind: 'curves',
        x: 'blocks that stay',
        panels: [
          { label: label[metric], curves: [{ name: metric, points: depths.map((own) => [own.depth, own.value]) }] },
        ],
      },
    },
  ]
  if (tried.length > 1 && tried.length <= mostRows) {
    sections.push({
      title: 'Masks that were tried',
      text:
        'A row decides whether one more block goes, and its columns say how many are gone then: the ' +
        `${order} blocks are decided about first. A block goes where this is better than to keep it.`,
      figure: triedMap(depth, label[metric], layers),
    })
  }
  for (const kind of ['group', 'neuron'] as const) sections.push(...widthSection(widths, kind, layers))
  return {
    title: `Strategy of ${shortName(model)}`,
    summary:
      `${depths.length} depths and ${widths.length} widths, each of which goes with each: ` +
      `${depths.length * widths.length} shapes. Nothing was trained.`,
    facts: [
      ['model', model],
      ['strategy', out],
      ['metric', metric],
      ['data', `${examples} lines, ${tokens} tokens`],
      ['masks tried', String(cells)],
      ['passes through a block', String(blockPasses)],
      ['device', device],
    ],
    sections,
  }
}

const label = { accuracy: 'share answered exactly', 'token-accuracy': 'share of tokens', nll: 'loss, nats a token' }

function triedMap({ order, keepLast, table }: Strategy['depth'], name: string, layers: number): PageFigure {
  const decided = layers - keepLast
  const rows = table.tried.slice(1).map((_, i) => `block ${order === 'deepest' ? decided - 1 - i : i}`)
  const columns = Array.from({ length: (table.tried.at(-1)?.length ?? 1) - 1 }, (_, i) => `${i + 1} gone`)
  const cells = rows.flatMap((row, i) =>
    columns.map((column, m) => {
      const value = table.tried[i + 1]?.[m + 1] ?? Number.NaN
      const before = table.values[i]?.[m + 1]
      const goes = before === undefined || table.values[i + 1]?.[m + 1] !== before
      return { row, column, value: Number.isNaN(value) ? null : value, note: goes ? 'it goes' : 'it stays' }
    }),
  )
  return { kind: 'heat', label: name, rows, columns, cells }
}

/** Shares of the units of a kind that stay, a layer a row. */
function widthSection(widths: readonly StrategyWidth[], kind: keyof typeof kinds, layers: number): PageSection[] {
  const columns = widths.map(({ ratio }) => String(ratio))
  const cells = widths.flatMap(({ ratio, units }) =>
    units
      .filter((own) => own.kind === kind)
      .map(({ layer, kept }) => {
        const stay = kept.filter((stays) => stays).length
        const note = `${stay} of ${kept.length} stay`
        return { row: `layer ${layer}`, column: String(ratio), value: stay / kept.length, note }
      }),
  )
  return [
    {
      title: `Share of the ${kinds[kind]} that stay at each width`,
      text: 'A width is the share of the parameters of heads and neurons together, over the whole model.',
      figure: {
        kind: 'heat',
        label: 'share that stays',
        rows: Array.from({ length: layers }, (_, layer) => `layer ${layer}`),
        columns,
        cells,
      },
    },
  ]
}
