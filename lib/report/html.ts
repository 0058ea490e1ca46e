/** Text for HTML, and figures as people read them. */

/** Text as the content of an element or the value of an attribute. */
export function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`)
}

/** The last part of a path or of `org/name`. */
export function shortName(path: string): string {
  return path.replace(/[\\/]+$/, '').replace(/^.*[\\/]/, '')
}

/**
 * Figures with as many digits that matter each, zeros at the end too; powers of ten where there would be a row of
 * zeros.
 */
export function shown(value: number, digits = 4): string {
  if (!Number.isFinite(value)) return String(value)
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return value.toLocaleString('en-US')
  const size = Math.abs(value)
  if (size < 1e-3 || size >= 1e6) return value.toExponential(2)
  return size < 10 ** digits ? value.toPrecision(digits) : Math.round(value).toLocaleString('en-US')
}

export function tableHtml(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  const right = head.map((_, i) => rows.every((row) => typeof row[i] === 'number' || isFigure(String(row[i] ?? ''))))
  const of = (i: number) => (right[i] ? ' class="right"' : '')
  const cell = (value: string | number, i: number) => {
    const text = escaped(typeof value === 'number' ? shown(value) : value)
    return i === 0 ? `<th scope="row"${of(i)}>${text}</th>` : `<td${of(i)}>${text}</td>`
  }
  const titles = head.map((title, i) => `<th scope="col"${of(i)}>${escaped(title)}</th>`).join('')
  const body = rows.map((row) => `<tr>${row.map(cell).join('')}</tr>`).join('\n')
  return `<table><thead><tr>${titles}</tr></thead><tbody>\n${body}\n</tbody></table>`
}

/** A number with or without its unit, or the sign for none. */
function isFigure(text: string): boolean {
  return /^[-−+]?\d[\d,.]*(e[+-]?\d+)?( \S{1,3})?$|^[-–]$/.test(text)
}
