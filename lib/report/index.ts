/**
 * Reports: one HTML file without scripts, that fetches nothing and looks the same wherever it is opened. A verb gives a
 * `Page`, data alone; nothing else knows how it is drawn.
 */

import { access, constants, stat, writeFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { version } from '../native/version.js'
import { messageOf, WeightsmithError } from '../util/errors.js'
import { plotter } from './figures.js'
import { escaped } from './html.js'
import type { Page } from './page.js'
import { style } from './style.js'

export { analysisPage } from './analysis.js'
export { changeMap, diffPage } from './diff.js'
export { evalPage } from './eval.js'
export { extractPage } from './extract.js'
export { immPage, immTables } from './imm.js'
export { manuPage } from './manu.js'
export type {
  Page,
  PageCurves,
  PageFigure,
  PageHeatMap,
  PageHistogram,
  PageKeptMap,
  PageSection,
  PageTable,
} from './page.js'
export { prunePage, type UnitScores } from './prune.js'
export { scorePage } from './score.js'
export { shapesPage } from './shapes.js'
export { strategyPage } from './strategy.js'
export { type TrainPageInput, trainPage } from './train.js'

/** The page as one HTML document. The same page gives the same text. */
export async function renderPage({ title, summary, facts = [], sections }: Page): Promise<string> {
  const draw = await plotter()
  const paragraph = (text: string | undefined) => (text === undefined ? '' : `<p>${escaped(text)}</p>`)
  const list = facts.map(([name, value]) => `<div><dt>${escaped(name)}</dt><dd>${escaped(value)}</dd></div>`).join('')
  const body = sections.map(
    ({ title: head, text, figure }) =>
      `<section><h2>${escaped(head)}</h2>${paragraph(text)}${figure ? `<figure>${draw(figure, head)}</figure>` : ''}</section>`,
  )
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${escaped(title)}</title>
<style>${style}</style>
</head>
<body>
<header><h1>${escaped(title)}</h1>${paragraph(summary)}${list === '' ? '' : `<dl>${list}</dl>`}</header>
<main>
${body.join('\n')}
</main>
<footer>Weightsmith ${version}</footer>
</body>
</html>
`
}

/** Throws ERR_WEIGHTSMITH_IO_WRITE where a page could not be written in the end. */
export async function checkPage(file: string): Promise<void> {
  const there = await stat(file).catch(() => undefined)
  try {
    if (there?.isDirectory()) throw new Error('it is a folder')
    await access(there === undefined ? dirname(file) : file, constants.W_OK)
  } catch (cause) {
    throw unwritable(file, cause)
  }
}

/** Writes the page to a file. */
export async function writePage(file: string, page: Page): Promise<void> {
  const text = await renderPage(page)
  try {
    await writeFile(file, text)
  } catch (cause) {
    throw unwritable(file, cause)
  }
}

function unwritable(file: string, cause: unknown): WeightsmithError {
  const message = `The report cannot be written to ${file}: ${messageOf(cause)}.`
  return new WeightsmithError('ERR_WEIGHTSMITH_IO_WRITE', message, { cause, file })
}
