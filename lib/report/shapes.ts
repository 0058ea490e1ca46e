/** The report of `amoeba eval`: how good the shapes of a model are, beside how large they are. */

import type { AmoebaEvalReport, AmoebaShapeResult } from '../workflows/amoeba/index.js'
import { shortName } from './html.js'
import type { Page, PageSection } from './page.js'

export function shapesPage(report: AmoebaEvalReport): Page {
  const { model, strategy, adapter, metric, bias, shapes, data, examples, device } = report
  const answered = metric !== 'nll'
  const widths = [...new Set(shapes.map(({ width }) => width))]
  const depths = [...new Set(shapes.map(({ depth }) => depth))]
  const unit = 1e6
  /** A curve a width, from the smallest shape to the largest. */
  const curves = (of: (shape: AmoebaShapeResult) => number) =>
    widths.map((width) => ({
      name: `width ${widthName(width)}`,
      points: shapes
        .filter((shape) => shape.width === width)
        .map((shape) => [shape.parameters / unit, of(shape)] as const)
        .reverse(),
    }))
  const accuracy = (shape: AmoebaShapeResult) => shape.accuracy ?? Number.NaN
  const sections: PageSection[] = [
    {
      title: answered ? 'Accuracy by size' : 'Loss by size',
      text: 'A point is a shape: a line goes through the depths of a width, from the fewest blocks to the most.',
      figure: {
        kind: 'curves',
        x: 'million parameters',
        panels: [
          ...(answered ? [{ label: about[metric], curves: curves(accuracy) }] : []),
          { label: about.nll, curves: curves(({ loss }) => loss) },
        ],
      },
    },
    {
      title: answered ? 'Accuracy by depth and width' : 'Loss by depth and width',
      figure: {
        kind: 'heat',
        label: about[metric],
        rows: depths.map((depth) => `${depth} blocks`),
        columns: widths.map(widthName),
        cells: shapes.map((shape) => ({
          ...{ row: `${shape.depth} blocks`, column: widthName(shape.width) },
          value: answered ? accuracy(shape) : shape.loss,
        })),
      },
    },
    {
      title: 'All shapes',
      figure: {
        kind: 'table',
        head: ['blocks', 'width', 'parameters', 'bytes', ...(answered ? [metric] : []), 'loss'],
        rows: shapes.map((shape) => [
          ...[shape.depth, widthName(shape.width), shape.parameters, shape.bytes],
          ...(answered ? [`${(100 * accuracy(shape)).toFixed(2)} %`] : []),
          shape.loss.toFixed(4),
        ]),
      },
    },
  ]
  return {
    title: `Shapes of ${shortName(model)}`,
    summary: `${shapes.length} shapes on ${examples} lines, all of them on one model that was not cut.`,
    facts: [
      ['model', model],
      ['strategy', strategy],
      ...(adapter === undefined ? [] : [['adapter', adapter] as const]),
      ['biases for what is removed', bias ? 'yes' : 'no'],
      ['data', data.map(shortName).join(', ')],
      ['device', device],
    ],
    sections,
  }
}

const about = {
  'exact-match': 'share answered exactly',
  choice: 'share of right choices',
  nll: 'loss, nats a token',
}

const widthName = (width: number) => String(Number(width.toPrecision(4)))
