/**
 * JSON as Python writes and reads it. It has Infinity and NaN, which JavaScript's parser refuses, and it tells 1.0 from
 * 1 and knows integers of any length, which JavaScript's numbers do not: readers that check types (transformers from
 * version 5 on) refuse 1 where they expect a float, and 1e+30 where they expect an integer.
 */

/** Stands before a number that is kept as it is written. */
const mark = '\u0000'
const number = String.raw`-?(?:\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|Infinity)|NaN`
const words = new RegExp(String.raw`"(?:[^"\\]|\\.)*"|${number}`, 'g')
const marked = new RegExp(String.raw`"\\u0000(${number})"`, 'g')
const whole = new RegExp(`^(?:${number})$`)

/** Texts of Windows may begin with a byte order mark. */
export function withoutByteOrderMark(text: string): string {
  return text.replace(/^\uFEFF/, '')
}

/** Throws a SyntaxError for what is no JSON. */
export function parseJson(text: string): unknown {
  const plain = withoutByteOrderMark(text)
  if (!/Infinity|NaN/.test(plain)) return JSON.parse(plain)
  return JSON.parse(
    withMarks(plain, (word) => /Infinity|NaN/.test(word)),
    (_, value: unknown) =>
      typeof value === 'string' && value.startsWith(mark) && whole.test(value.slice(1))
        ? Number(value.slice(1))
        : value,
  )
}

/** Indented, and with the numbers that are those of `source` as they are written there. */
export function jsonText(value: unknown, source: string): string {
  const written: unknown = JSON.parse(
    withMarks(withoutByteOrderMark(source), (word) => JSON.stringify(Number(word)) !== word),
  )
  return `${JSON.stringify(restored(value, written), null, 2).replace(marked, '$1')}\n`
}

/** Numbers that `kept` holds of, as texts with a mark before them. */
function withMarks(text: string, kept: (word: string) => boolean): string {
  return text.replace(words, (word) => (!word.startsWith('"') && kept(word) ? `"\\u0000${word}"` : word))
}

/** Numbers of `value` as `written` has them, where both are the same. */
function restored(value: unknown, written: unknown): unknown {
  if (typeof value === 'number') {
    if (typeof written === 'string' && written.startsWith(mark) && Object.is(Number(written.slice(1)), value)) {
      return written
    }
    return Number.isFinite(value) ? value : `${mark}${value}`
  }
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map((one, i) => restored(one, Array.isArray(written) ? written[i] : undefined))
  const known = new Map(typeof written === 'object' && written !== null ? Object.entries(written) : [])
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, restored(one, known.get(key))]))
}
