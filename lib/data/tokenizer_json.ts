/**
 * tokenizer.json in words that Hugging Face's reader in JavaScript takes as their library in Rust does. Of what cuts a
 * text before its model sees it, that reader is right about `Split` by a pattern alone: others know ASCII only, cut
 * elsewhere or not at all. So every cut is written as such a `Split`. Meanings: tokenizers/src/pre_tokenizers of
 * huggingface/tokenizers.
 */

/** A part of tokenizer.json. */
type Part = Readonly<Record<string, unknown>>

/** Punctuation: that of ASCII, and of Unicode. */
const mark = '[\\p{P}\\x21-\\x2F\\x3A-\\x40\\x5B-\\x60\\x7B-\\x7E]'
/** GPT-2's words. */
const words = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/** Throws an Error for what cannot be said so. */
export function asRead(definition: Part): Part {
  return { ...definition, pre_tokenizer: cutter(definition.pre_tokenizer), decoder: joiner(definition.decoder) }
}

function cutter(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value
  const part = value as Part
  switch (part.type) {
    case 'Sequence':
      return inOrder(((part.pretokenizers ?? []) as unknown[]).map(cutter))
    case 'Digits':
      return isolated(part.individual_digits === true ? '\\p{N}' : '\\p{N}+')
    case 'Punctuation':
      return split(mark, part.behavior ?? 'Isolated')
    case 'Whitespace':
      return only(
        '[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]+|[^\\s\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]+',
      )
    case 'WhitespaceSplit':
      return only('\\S+')
    case 'BertPreTokenizer':
      return inOrder([only('\\S+'), isolated(mark)])
    case 'ByteLevel':
      return bytes(part)
    case 'Metaspace':
      return spaces(part)
    case 'Split':
      return split(patternOf(part.pattern as Part), part.behavior, part.invert === true)
    default:
      return part
  }
}

/** Spaces as a character of their own, each of which begins a piece. */
function spaces(part: Part): Part {
  const { replacement = '\u2581', add_prefix_space: prefix, prepend_scheme: scheme = 'always' } = part
  const marked = { ...part, prepend_scheme: prefix === false ? 'never' : scheme }
  return part.split === false ? marked : inOrder([marked, split(escaped(String(replacement)), 'MergedWithNext')])
}

/** Bytes as characters; the space before a text comes before it is cut. */
function bytes(part: Part): Part {
  const { add_prefix_space: prefix, use_regex: cut = true } = part
  return inOrder([
    ...(prefix === true ? [{ type: 'Metaspace', replacement: ' ', prepend_scheme: 'always' }] : []),
    ...(cut === false ? [] : [isolated(words)]),
    { ...part, add_prefix_space: false, use_regex: false },
  ])
}

function patternOf(pattern: Part): string {
  return typeof pattern.Regex === 'string' ? pattern.Regex : escaped(String(pattern.String))
}

const escaped = (text: string) => text.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')

/** What becomes of the matches of a pattern; `invert`: of what lies between them. */
function split(pattern: string, behavior: unknown, invert = false): Part {
  const upTo = `(?:(?!${pattern})[\\s\\S])*`
  switch (behavior) {
    case 'Removed':
      return invert ? only(pattern) : { ...isolated(pattern), behavior }
    case 'Isolated':
      return isolated(pattern)
    case 'Contiguous':
      return isolated(`(?:${pattern})+`)
    case 'MergedWithPrevious':
    case 'MergedWithNext':
      return isolated((behavior === 'MergedWithNext') === invert ? `${upTo}(?:${pattern})` : `(?:${pattern})${upTo}`)
    default:
      throw new Error(`a text cannot be split with the behavior ${JSON.stringify(behavior)}`)
  }
}

/** Matches and what lies between them. */
function isolated(pattern: string): Part {
  return { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false }
}

/** Matches alone. */
function only(pattern: string): Part {
  return { type: 'Split', pattern: { Regex: pattern }, behavior: 'Removed', invert: true }
}

function inOrder(pretokenizers: readonly unknown[]): Part {
  return { type: 'Sequence', pretokenizers }
}

/** A decoder of texts before which no space was put takes none away. */
function joiner(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value
  const part = value as Part
  if (part.type === 'Sequence') return { ...part, decoders: ((part.decoders ?? []) as unknown[]).map(joiner) }
  const bare = part.type === 'Metaspace' && (part.prepend_scheme === 'never' || part.add_prefix_space === false)
  if (!bare) return part
  return { type: 'Replace', pattern: { String: part.replacement ?? '\u2581' }, content: ' ' }
}
