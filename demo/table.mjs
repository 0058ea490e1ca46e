/** Text in columns, and paths as a reader has them. */
import { relative } from 'node:path'

export const shown = (path) => relative(process.cwd(), path)
export const percent = (value) => (100 * value).toFixed(1)

/** What is under way, on a terminal. */
export function under(text) {
  if (process.stderr.isTTY) process.stderr.write(`\r${text}\x1b[K`)
}

/** Figures to the right, words to the left. */
export function table(head, rows) {
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
