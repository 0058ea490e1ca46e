/**
 * Merges the trained tiny reasoner and its self-improved successors by three recipes, and shows what changed where.
 * The models: a character-level LLaMA of 1.5 M parameters that adds, subtracts, reverses, sorts and picks maxima, and
 * three rounds of self-improvement on addition alone, which make it forget the rest.
 */
import { mkdir, writeFile } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { diff, Engine, merge, verify } from '../dist/esm/index.js'
import { heatmapPage } from './heatmap.mjs'

const here = fileURLToPath(new URL('.', import.meta.url))
const out = join(here, 'out')
const base = join(here, 'models/base')
const shown = (path) => relative(process.cwd(), path)

const merges = [
  { name: 'imm', about: 'half way to improved-3, a fifth of the change dropped at random' },
  { name: 'ties', about: 'the largest half of three rounds of change, by a vote on the sign' },
  { name: 'slerp', about: 'on the arc to improved-3; attention moves early in the network, the MLP late' },
]

/** Figures to the right, words to the left. */
function table(head, rows) {
  const columns = head.map((title, i) => ({
    width: Math.max(title.length, ...rows.map((row) => row[i].length)),
    right: rows.every((row) => /^\d/.test(row[i])),
  }))
  const padded = (text, { width, right }) => (right ? text.padStart(width) : text.padEnd(width))
  const line = (cells) =>
    cells
      .map((cell, i) => padded(cell, columns[i]))
      .join('  ')
      .trimEnd()
  return [line(head), line(columns.map(({ width }) => '-'.repeat(width))), ...rows.map(line)].join('\n')
}

const engine = await Engine.open()
try {
  const { adapter, slots } = engine
  console.log(`Device: ${adapter.info.device} (${adapter.type}, ${adapter.driver} driver, ${slots} slots)\n`)
  await mkdir(out, { recursive: true })

  const improved = join(here, 'models/improved-3')
  const maps = [
    {
      title: 'improved-3',
      about: 'self-improvement without merging, for comparison',
      report: await diff(engine, base, improved),
    },
  ]
  const results = []
  for (const { name, about } of merges) {
    const folder = join(out, name)
    const report = await merge(engine, join(here, 'recipes', `${name}.yml`), { out: folder, overwrite: true, seed: 1 })
    await verify(folder)
    results.push([name, shown(folder), `${report.tensors.computed}`, `${Math.round(report.run.time.total)} ms`, about])
    maps.push({ title: name, about, report: await diff(engine, base, folder) })
  }

  console.log('Update per layer: ‖Δ‖ / ‖A‖ against the base, and the share of weights that changed\n')
  const layers = maps[0].report.layers.map(({ layer }) => layer)
  const cells = (report, layer) => {
    const row = report.layers.find((entry) => entry.layer === layer)
    return [row.relative.toFixed(4), `${(100 * row.changed).toFixed(1)} %`]
  }
  console.log(
    table(
      ['layer', ...maps.flatMap(({ title }) => [title, 'changed'])],
      layers.map((layer) => [layer.replace(/^.*\./, 'layer '), ...maps.flatMap(({ report }) => cells(report, layer))]),
    ),
  )
  console.log('\n"outside": embeddings, final norm and head.\n')
  console.log(table(['merge', 'output', 'tensors', 'time', 'what it is'], results))

  const page = join(out, 'update.html')
  await writeFile(page, heatmapPage(maps))
  console.log(`\nPicture of layers x modules: ${shown(page)}`)
  console.log(`Look closer:  npx weightsmith diff ${shown(base)} ${shown(join(out, 'imm'))}`)
} finally {
  await engine.close()
}
