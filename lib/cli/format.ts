/** Figures and tables for people. */

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

export function plural(value: number, noun: string): string {
  return `${count(value)} ${noun}${value === 1 ? '' : 's'}`
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

/** Columns padded to their widest cell; the first one to the left, the others to the right. */
export function table(head: string[], rows: string[][]): string {
  const widths = head.map((title, i) => Math.max(title.length, ...rows.map((row) => (row[i] ?? '').length)))
  const line = (cells: string[]) =>
    cells
      .map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
      .join('  ')
      .trimEnd()
  return [line(head), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)].join('\n')
}
