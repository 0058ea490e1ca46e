/**
 * Figures as SVG. Plotted by Observable Plot (ISC) into a document of linkedom (ISC): its marks and scales are what is
 * needed here, it takes any document, and both with d3 are 16 MB installed; Vega with Vega-Lite is 25, ECharts 67.
 */

import type * as Plots from '@observablehq/plot'
import { binned, keptShares, quantiles } from './bins.js'
import { escaped, shown, tableHtml } from './html.js'
import type { PageCurves, PageFigure, PageHeatMap, PageHistogram, PageKeptMap } from './page.js'
import { lines, steps } from './style.js'

export type Draw = (figure: PageFigure, title: string) => string

const width = 950
const bins = 60
const mostGroups = 128
/** Widest text of an axis that is given room, in characters. */
const longest = 26

/** Loads the library, which takes longer than most verbs do, only when there is something to draw. */
export async function plotter(): Promise<Draw> {
  const [plot, { parseHTML }] = await Promise.all([import('@observablehq/plot'), import('linkedom')])
  const { document } = parseHTML('<!doctype html><html><body></body></html>')
  const svg = (title: string, options: Plots.PlotOptions) => {
    const drawn = plot.plot({
      // biome-ignore lint/suspicious/noExplicitAny: types of two libraries for the same standard
      document: document as any,
      width,
      style: { background: 'none', fontSize: '12px' },
      ariaLabel: title,
      ...options,
    })
    const element = drawn as unknown as { setAttribute(name: string, value: string): void; outerHTML: string }
    element.setAttribute('role', 'img')
    return element.outerHTML
  }
  return (figure, title) => {
    switch (figure.kind) {
      case 'table':
        return wide(title, tableHtml(figure.head, figure.rows))
      case 'heat':
        return heat(plot, svg, title, figure)
      case 'curves':
        return curves(plot, svg, title, figure)
      case 'histogram':
        return histogram(plot, svg, title, figure)
      case 'map':
        return keptMap(plot, svg, title, figure)
    }
  }
}

type Plot = typeof Plots
type Svg = (title: string, options: Plots.PlotOptions) => string

function heat(plot: Plot, svg: Svg, title: string, { label, rows, columns, cells, among }: PageHeatMap): string {
  const isKnown = (value: number | null): value is number => value !== null && Number.isFinite(value)
  const bounds = quantiles((among ?? cells.map(({ value }) => value)).filter(isKnown), steps)
  const step = (value: number) => bounds.slice(1, -1).filter((bound) => bound < value).length
  const roomy = width / columns.length >= 46 && rows.length <= 64
  const tall = rows.length <= 24 ? 27 : rows.length <= 64 ? 20 : 10
  const data = cells.map((cell) => ({
    ...cell,
    colour: isKnown(cell.value) ? `var(--h${step(cell.value)})` : 'var(--line)',
    ink: isKnown(cell.value) ? `var(--i${step(cell.value)})` : 'var(--dim)',
    text: isKnown(cell.value) ? shown(cell.value, 3) : '–',
    says: `${cell.row}, ${cell.column}: ${isKnown(cell.value) ? shown(cell.value) : 'unknown'}${cell.note ? `; ${cell.note}` : ''}`,
  }))
  const side = margin(rows)
  const drawing = svg(title, {
    height: 30 + rows.length * tall,
    margin: 0,
    marginTop: 28,
    marginLeft: side,
    marginBottom: 2,
    x: { domain: [...columns], axis: 'top', label: null, tickSize: 0, padding: 0 },
    y: { domain: [...rows], label: null, tickSize: 0, padding: 0 },
    color: { type: 'identity' },
    marks: [
      plot.cell(data, { x: 'column', y: 'row', fill: 'colour', title: 'says', inset: 1, rx: 3 }),
      ...(roomy
        ? [plot.text(data, { x: 'column', y: 'row', text: 'text', fill: 'ink', fontSize: 11, pointerEvents: 'none' })]
        : []),
    ],
  })
  const values = new Map(cells.map(({ row, column, value }) => [`${row}\0${column}`, value]))
  const table = rows.map((row) => [
    row,
    ...columns.map((column) => {
      const value = values.get(`${row}\0${column}`)
      return value === undefined || value === null ? '–' : value
    }),
  ])
  return scale(label, bounds) + wide(title, drawing) + details(title, ['', ...columns], table)
}

/** The colours from the lowest value to the highest. */
function scale(label: string, bounds: readonly number[]): string {
  const bound = (i: number) => shown(bounds[i] ?? 0, 3)
  const ramp = Array.from(
    { length: steps },
    (_, i) => `<i style="background:var(--h${i})" title="${bound(i)} to ${bound(i + 1)}"></i>`,
  ).join('')
  return `<div class="scale"><span>${escaped(label)}</span><span>${bound(0)}</span><span class="ramp">${ramp}</span><span>${bound(steps)}</span></div>`
}

function curves(plot: Plot, svg: Svg, title: string, { x, panels }: PageCurves): string {
  const names = [...new Set(panels.flatMap((panel) => panel.curves.map(({ name }) => name)))]
  const colour = (name: string) => `var(--c${names.indexOf(name) % lines})`
  const xs = [...new Set(panels.flatMap((panel) => panel.curves.flatMap((curve) => curve.points.map(([at]) => at))))]
  xs.sort((a, b) => a - b)
  const whole = xs.every(Number.isInteger) && xs.length <= 40
  const drawings = panels.map((panel, i) => {
    const data = panel.curves.flatMap(({ name, points }) =>
      points.map(([at, value]) => ({ name, at, value, says: `${name}, ${x} ${shown(at)}: ${shown(value)}` })),
    )
    return svg(`${title}: ${panel.label}`, {
      height: i === panels.length - 1 ? 240 : 214,
      marginLeft: 64,
      marginRight: 20,
      marginTop: 30,
      marginBottom: i === panels.length - 1 ? 40 : 30,
      x: {
        label: i === panels.length - 1 ? x : null,
        ...(whole ? { ticks: xs, tickFormat: String } : {}),
        labelAnchor: 'center',
        labelArrow: 'none',
      },
      y: {
        label: panel.label,
        nice: true,
        zero: data.every(({ value }) => value >= 0),
        ticks: 5,
        grid: true,
        labelArrow: 'none',
      },
      marks: [
        plot.ruleY(data.some(({ value }) => value < 0) ? [0] : []),
        plot.line(data, {
          x: 'at',
          y: 'value',
          z: 'name',
          stroke: (d: { name: string }) => colour(d.name),
          strokeWidth: 2,
        }),
        plot.dot(data, { x: 'at', y: 'value', fill: (d: { name: string }) => colour(d.name), r: 3.2, title: 'says' }),
      ],
      color: { type: 'identity' },
    })
  })
  const rows = xs.map((at) => [
    at,
    ...panels.flatMap((panel) => panel.curves.map(({ points }) => points.find(([other]) => other === at)?.[1] ?? '–')),
  ])
  const head = [
    x,
    ...panels.flatMap((panel) =>
      panel.curves.map(({ name }) => (panels.length > 1 ? `${name}: ${panel.label}` : name)),
    ),
  ]
  return keys(names.map((name) => [name, colour(name)])) + wide(title, drawings.join('\n')) + details(title, head, rows)
}

function histogram(
  plot: Plot,
  svg: Svg,
  title: string,
  { label, series, log = false, threshold }: PageHistogram,
): string {
  const { edges, shares, left } = binned(
    series.map(({ values }) => values),
    bins,
    log,
  )
  const colour = (s: number) => `var(--c${s % lines})`
  const bars = shares.flatMap((row, s) =>
    row.map((share, i) => ({
      from: edges[i],
      to: edges[i + 1],
      share,
      colour: colour(s),
      says: `${series[s]?.name}: ${(100 * share).toFixed(2)} % from ${shown(edges[i] ?? 0)} to ${shown(edges[i + 1] ?? 0)}`,
    })),
  )
  const drawing = svg(title, {
    height: 280,
    marginLeft: 56,
    marginBottom: 40,
    marginTop: 26,
    x: {
      type: log ? 'log' : 'linear',
      label,
      labelAnchor: 'center',
      labelArrow: 'none',
      ...(log ? { ticks: 6, tickFormat: tick } : {}),
    },
    y: {
      label: 'share of values',
      percent: true,
      grid: true,
      ticks: 5,
      tickFormat: (v: number) => `${v} %`,
      labelArrow: 'none',
    },
    color: { type: 'identity' },
    marks: [
      plot.rectY(bars, {
        x1: 'from',
        x2: 'to',
        y1: 0,
        y2: 'share',
        fill: 'colour',
        fillOpacity: series.length > 1 ? 0.45 : 0.85,
        title: 'says',
        insetLeft: 0.5,
        insetRight: 0.5,
      }),
      plot.ruleY([0]),
      ...(threshold === undefined || (log && threshold <= 0)
        ? []
        : [
            plot.ruleX([threshold], { stroke: 'currentColor', strokeWidth: 1.5, strokeDasharray: '4 3' }),
            plot.text([threshold], {
              x: (v: number) => v,
              frameAnchor: 'top',
              // On the side with more room, with a rim so that it can be read on bars.
              textAnchor: threshold < (edges[bins / 2] ?? 0) ? 'start' : 'end',
              dx: threshold < (edges[bins / 2] ?? 0) ? 6 : -6,
              dy: 4,
              text: (v: number) => `threshold ${shown(v)}`,
              fill: 'currentColor',
              stroke: 'var(--paper)',
              strokeWidth: 4,
            }),
          ]),
    ],
  })
  const named = series.map(({ name }, s): [string, string] => [
    left[s] ? `${name} (${shown(left[s] ?? 0)} without a place)` : name,
    colour(s),
  ])
  return keys(named) + wide(title, drawing)
}

function keptMap(plot: Plot, svg: Svg, title: string, { unit, rows }: PageKeptMap): string {
  const most = Math.max(1, ...rows.map(({ kept }) => kept.length))
  const across = Math.min(mostGroups, most)
  const counts = rows.map(({ kept }) => Array.from(kept, Number).reduce((a, b) => a + b, 0))
  const data = rows.flatMap(({ name, kept }) => {
    const shares = keptShares(kept, Math.max(1, Math.round((across * kept.length) / most)))
    return shares.map((share, g) => {
      const from = Math.floor((g * kept.length) / shares.length)
      const to = Math.floor(((g + 1) * kept.length) / shares.length) - 1
      const one = from === to
      return {
        name,
        from: g,
        to: g + 1,
        colour: share === 0 ? 'var(--h0)' : `var(--h${Math.max(2, Math.round(share * (steps - 2)))})`,
        says: `${name}, ${unit} ${one ? from : `${from} to ${to}`}: ${one ? (share === 1 ? 'kept' : 'pruned') : `${(100 * share).toFixed(0)} % kept`}`,
      }
    })
  })
  const names = rows.map(({ name }) => name)
  const tall = rows.length <= 24 ? 24 : 14
  const drawing = svg(title, {
    height: 24 + rows.length * tall,
    marginTop: 4,
    marginBottom: 18,
    marginLeft: margin(names),
    marginRight: 64,
    x: { domain: [0, across], axis: null },
    y: { domain: names, label: null, tickSize: 0, padding: 0 },
    color: { type: 'identity' },
    marks: [
      plot.barX(data, {
        x1: 'from',
        x2: 'to',
        y: 'name',
        fill: 'colour',
        title: 'says',
        insetTop: 1,
        insetBottom: 1,
        insetRight: across <= 64 ? 1 : 0,
      }),
      plot.text(rows, {
        x: across,
        y: 'name',
        text: (_: unknown, i: number) =>
          `${((100 * (counts[i] ?? 0)) / Math.max(1, rows[i]?.kept.length ?? 1)).toFixed(0)} %`,
        textAnchor: 'start',
        dx: 8,
      }),
    ],
  })
  const grouped = most > mostGroups ? [['some kept', 'var(--h4)'] as [string, string]] : []
  const key = keys([['kept', `var(--h${steps - 2})`], ...grouped, ['pruned', 'var(--h0)']])
  const table = rows.map(({ name, kept }, i) => [
    name,
    counts[i] ?? 0,
    kept.length,
    `${((100 * (counts[i] ?? 0)) / Math.max(1, kept.length)).toFixed(2)} %`,
  ])
  return key + wide(title, drawing) + details(title, ['', `${unit}s kept`, 'of', 'share'], table)
}

/** Powers of ten of a scale of ratios. */
function tick(value: number): string {
  return value < 1e-3 || value >= 1e6 ? value.toExponential() : String(Number(value.toPrecision(4)))
}

/** Room for the names of rows. */
function margin(names: readonly string[]): number {
  return 16 + 6.7 * Math.min(longest, Math.max(...names.map(({ length }) => length)))
}

function keys(entries: readonly (readonly [name: string, colour: string])[]): string {
  const items = entries.map(([name, colour]) => `<span><i style="background:${colour}"></i>${escaped(name)}</span>`)
  return `<div class="keys">${items.join('')}</div>`
}

/** What is wider than a small screen scrolls by itself, with the keyboard too. */
function wide(title: string, inner: string): string {
  return `<div class="wide" role="region" tabindex="0" aria-label="${escaped(title)}">${inner}</div>`
}

/** The same numbers as a table, for readers who cannot see the figure. */
function details(title: string, head: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  return `<details><summary>Numbers</summary>${wide(`${title}, numbers`, tableHtml(head, rows))}</details>`
}
