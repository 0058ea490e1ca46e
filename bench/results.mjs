/**
 * What a bench hands back and how it is shown. A table is `{ title, about, columns, rows }`: rows hold plain numbers,
 * so that --json prints them as they are, and columns know how people read them. A target is `{ limit, most }`.
 */
import { milliseconds, bytes as sizeText, table as textTable } from '../dist/esm/cli/format.js'

/** Middle, smallest and largest of some measurements. */
export function spread(values) {
  const sorted = [...values].sort((a, b) => a - b)
  return { median: sorted[Math.floor(sorted.length / 2)], min: sorted[0], max: sorted.at(-1) }
}

export const atMost = (limit) => ({ limit, most: true })
export const atLeast = (limit) => ({ limit, most: false })

const formats = {
  text: (value) => value,
  number: (value) => String(value),
  ratio: (value) => value.toFixed(value < 0.1 ? 3 : 2),
  ms: (value) => milliseconds(value),
  bytes: (value) => sizeText(value),
  rate: (value) => `${(value / 1e9).toFixed(2)} GB/s`,
}

export function column(key, title = key, format = 'text') {
  return { key, title, format: formats[format] }
}

/** A column that compares the figure `key` of a row with the row's own `target`, where it has one. */
export function targetColumn(key, format = 'ratio') {
  return {
    key: 'target',
    title: 'target',
    format: ({ limit, most }, row) => {
      const met = most ? row[key] <= limit : row[key] >= limit
      return `${most ? '≤' : '≥'} ${formats[format](limit)}: ${met ? 'met' : 'missed'}`
    },
  }
}

/** The place of a table that cannot be had here. */
export const leftOut = (title, error) => ({ title, about: [`Left out: ${error.message}`], columns: [], rows: [] })

function cells({ columns, rows }) {
  return rows.map((row) => columns.map(({ key, format }) => (row[key] === undefined ? '-' : format(row[key], row))))
}

export function asText(table) {
  const { title, about = [], columns } = table
  const body =
    table.rows.length === 0
      ? []
      : [
          textTable(
            columns.map((c) => c.title),
            cells(table),
          ),
        ]
  return [title, ...about.map((line) => `  ${line}`), ...body].join('\n')
}

export function asMarkdown(table) {
  const { title, about = [], columns } = table
  const line = (texts) => `| ${texts.map((text) => text.replaceAll('|', '\\|')).join(' | ')} |`
  const parts = [`## ${title}`]
  if (about.length > 0) parts.push(about.join('\n'))
  if (table.rows.length > 0) {
    parts.push(
      [line(columns.map((c) => c.title)), line(columns.map(() => '---')), ...cells(table).map(line)].join('\n'),
    )
  }
  return parts.join('\n\n')
}

const marker = /^<!-- (\w+) -->$/m

/**
 * bench/RESULTS.md with the groups of this run in place of what it had of them. Each group says what it was measured
 * on, because groups may be measured apart.
 */
export function resultsPage(page, groups, { command, machine, tables }) {
  const [, ...parts] = page.split(marker)
  const sections = new Map()
  for (let i = 0; i < parts.length; i += 2) sections.set(parts[i], parts[i + 1].trim())
  const on = `\`${command}\` on ${Object.values(machine).join('; ')}.`
  for (const group of new Set(tables.map((table) => table.group))) {
    const own = tables.filter((table) => table.group === group).map(asMarkdown)
    sections.set(group, [...own, on].join('\n\n'))
  }
  const present = groups.filter((group) => sections.has(group))
  return `${[
    '# Results',
    '`npm run bench -- --write` prints these figures and writes this page. All ratios of a table are of measurements of one run.',
    ...present.map((group) => `<!-- ${group} -->\n\n${sections.get(group)}`),
  ].join('\n\n')}\n`
}
