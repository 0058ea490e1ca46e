/**
 * A page with one heat map a merge: layers downward, modules across, colour = ‖Δ‖ / ‖A‖ against the base. Plain SVG in
 * HTML: a grid of rectangles needs no plotting library.
 */

const cell = { width: 58, height: 24 }
const margin = { left: 72, top: 34 }

/** White to dark blue, on one scale for all maps. */
function colour(share) {
  const mix = (from, to) => Math.round(from + (to - from) * Math.sqrt(share))
  return `rgb(${mix(247, 8)},${mix(251, 69)},${mix(255, 148)})`
}

const escaped = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`)

function svg(report, largest) {
  const layers = [...new Set(report.cells.map(({ layer }) => layer))]
  const modules = [...new Set(report.modules.map(({ module }) => module))]
  const column = new Map(modules.map((module, i) => [module, margin.left + i * cell.width]))
  const row = new Map(layers.map((layer, i) => [layer, margin.top + i * cell.height]))
  const label = (layer) => layer.replace(/^.*\./, 'layer ')
  const parts = [
    ...modules.map(
      (m) => `<text x="${column.get(m) + cell.width / 2}" y="${margin.top - 10}" class="head">${m}</text>`,
    ),
    ...layers.map(
      (l) => `<text x="${margin.left - 8}" y="${row.get(l) + 16}" class="side">${escaped(label(l))}</text>`,
    ),
    ...report.cells.map(({ layer, module, relative, changed }) => {
      const share = largest === 0 ? 0 : (relative ?? largest) / largest
      const [x, y] = [column.get(module), row.get(layer)]
      const figure = relative === null ? '–' : relative.toFixed(3)
      return (
        `<g><title>${escaped(`${layer} ${module}: ‖Δ‖/‖A‖ ${figure}, ${(100 * changed).toFixed(1)} % changed`)}</title>` +
        `<rect x="${x}" y="${y}" width="${cell.width - 2}" height="${cell.height - 2}" fill="${colour(share)}"/>` +
        `<text x="${x + cell.width / 2 - 1}" y="${y + 15}" class="${share > 0.3 ? 'light' : 'dark'}">${figure}</text></g>`
      )
    }),
  ]
  const width = margin.left + modules.length * cell.width
  const height = margin.top + layers.length * cell.height
  return `<svg viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">${parts.join('\n')}</svg>`
}

/** `maps`: [{ title, about, report }], each report a result of `diff`. */
export function heatmapPage(maps) {
  const largest = Math.max(...maps.flatMap(({ report }) => report.cells.map(({ relative }) => relative ?? 0)))
  const figures = maps.map(
    ({ title, about, report }) =>
      `<section><h2>${escaped(title)}</h2><p>${escaped(about)}</p>${svg(report, largest)}</section>`,
  )
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Update per layer and module</title>
<style>
  body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 760px; color: #1b1f24; background: #fff }
  h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin: 2rem 0 0 } p { margin: .2rem 0 .6rem }
  svg { max-width: 100%; height: auto }
  text { font: 11px system-ui, sans-serif; text-anchor: middle; fill: #1b1f24 }
  text.side { text-anchor: end } text.head { font-weight: 600 } text.light { fill: #fff }
</style>
<h1>How far each result has moved from the base</h1>
<p>‖Δ‖ / ‖A‖ of every layer and module; one colour scale for all maps (darkest: ${largest.toFixed(3)}).</p>
${figures.join('\n')}
</html>
`
}
