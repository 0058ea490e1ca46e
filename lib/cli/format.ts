/** Figures and tables for people. */

export { plural } from '../util/plural.js'

/** `1.4 GB`, with three digits that matter. */
export function bytes(value: number): string {
  for (const [unit, factor] of [
    ['GB', 1e9],
    ['MB', 1e6],
    ['kB', 1e3],
  ] as const) {
    if (value >= factor) return `${Number((value / factor).toPrecision(3))} ${unit}`
  }
  return `${Math.round(value)} B`
}

export function rate(bytesPerSecond: number): string {
  return `${bytes(bytesPerSecond)}/s`
}

export function count(value: number): string {
  return value.toLocaleString('en-US')
}

/** `7.5B`, `1.49M`: how sizes of models are spoken of. */
export function parameters(value: number): string {
  for (const [unit, factor] of [
    ['B', 1e9],
    ['M', 1e6],
  ] as const) {
    if (value >= factor) return `${Number((value / factor).toPrecision(3))}${unit}`
  }
  return count(value)
}

export function milliseconds(value: number): string {
  return value < 1000 ? `${Number(value.toPrecision(3))} ms` : `${Number((value / 1000).toPrecision(3))} s`
}

export function percent(value: number): string {
  return `${(100 * value).toFixed(2)} %`
}

/** Text with names from files in it: their control characters are shown, and do nothing to the terminal. */
export function printable(text: string): string {
  return text.replace(/(?!\n)\p{Cc}/gu, (character) => `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`)
}

/** Rows of a long table that are shown. */
export const shownRows = 40

/** Columns padded to their widest cell: figures to the right, words to the left. */
export function table(head: string[], rows: string[][]): string {
  const columns = head.map((title, i) => {
    const cells = rows.map((row) => row[i] ?? '')
    return { width: Math.max(title.length, ...cells.map((cell) => cell.length)), right: cells.every(isFigure) }
  })
  const line = (cells: string[]) =>
    columns
      .map(({ width, right }, i) => (right ? (cells[i] ?? '').padStart(width) : (cells[i] ?? '').padEnd(width)))
      .join('  ')
      .trimEnd()
  return [line(head), line(columns.map(({ width }) => '-'.repeat(width))), ...rows.map(line)].join('\n')
}

function isFigure(cell: string): boolean {
  return /^-?\d[\d,.]*(e[+-]\d+)?( \S+)?$|^-$/.test(cell)
}

/** A model, and the shape that it was run as. */
export function shapedName({
  model,
  shape,
}: {
  model: string
  shape?: { depth?: number | undefined; width?: number | undefined } | undefined
}): string {
  if (shape === undefined) return model
  const { depth, width = 1 } = shape
  return `${model} (${depth === undefined ? 'all' : depth} blocks, width ${Number(width.toPrecision(4))})`
}
