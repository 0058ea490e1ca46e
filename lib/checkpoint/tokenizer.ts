/**
 * Vocabularies: which token has which row of the embedding. Read from tokenizer.json of Hugging Face tokenizers (models
 * BPE, WordLevel, WordPiece and Unigram, with their added tokens); other tokenizer files are only ever copied.
 */

import { codeOf, messageOf, WeightsmithError } from '../util/errors.js'
import { jsonText, parseJson } from '../util/json.js'
import { inside } from './inside.js'
import { readSmall } from './small.js'

/** An entry of `added_tokens`. */
export interface AddedToken {
  id: number
  content: string
  [property: string]: unknown
}

export interface Vocabulary {
  ids: ReadonlyMap<string, number>
  /** Entries of `added_tokens`, by content. */
  added: ReadonlyMap<string, AddedToken>
  /** Folder with the tokenizer's files. */
  folder: string
  /** What is added to these files in an output. */
  extra: AddedToken[]
}

const largest = 2 ** 28

/** Undefined where there is no tokenizer.json. */
export async function readVocabulary(folder: string): Promise<Vocabulary | undefined> {
  const file = await inside(folder, 'tokenizer.json')
  const bytes = await readSmall(file, largest).catch((error: unknown) => {
    if (codeOf(error) === 'ERR_WEIGHTSMITH_NOT_FOUND') return undefined
    throw error
  })
  if (bytes === undefined) return undefined
  let parsed: unknown
  try {
    parsed = JSON.parse(bytes.toString('utf8'))
  } catch (cause) {
    throw invalid(file, messageOf(cause), cause)
  }
  const ids = new Map<string, number>()
  const put = (token: unknown, id: unknown) => {
    if (typeof token !== 'string' || typeof id !== 'number' || !Number.isSafeInteger(id) || id < 0 || id >= 2 ** 31) {
      throw invalid(file, `${JSON.stringify(token)} has the id ${JSON.stringify(id)}`)
    }
    ids.set(token, id)
  }
  const { model, added_tokens: added = [] } = isRecord(parsed) ? parsed : {}
  const vocab = isRecord(model) ? model.vocab : undefined
  if (Array.isArray(vocab)) for (const [id, entry] of vocab.entries()) put(Array.isArray(entry) ? entry[0] : entry, id)
  else if (isRecord(vocab)) for (const [token, id] of Object.entries(vocab)) put(token, id)
  else throw invalid(file, 'it has no model.vocab')
  if (!Array.isArray(added)) throw invalid(file, 'added_tokens is not a list')
  const entries = new Map<string, AddedToken>()
  for (const entry of added as unknown[]) {
    if (!isRecord(entry)) throw invalid(file, 'an entry of added_tokens is not an object')
    put(entry.content, entry.id)
    entries.set(String(entry.content), entry as AddedToken)
  }
  return { ids, added: entries, folder, extra: [] }
}

export interface TokenizerChange {
  extra: AddedToken[]
  /** Jinja template of a chat. */
  template?: string | undefined
}

/** A tokenizer's file as the output has it. */
export function editTokenizer(name: string, data: Uint8Array, { extra, template }: TokenizerChange): Uint8Array {
  if (name === 'tokenizer.json' && extra.length > 0) {
    return edited(data, name, (file) => {
      const known = Array.isArray(file.added_tokens) ? (file.added_tokens as AddedToken[]) : []
      const renewed = new Set(extra.map(({ content }) => content))
      const all = [...known.filter(({ content }) => !renewed.has(content)), ...extra]
      file.added_tokens = all.sort((a, b) => a.id - b.id)
    })
  }
  if (name === 'tokenizer_config.json' && (extra.length > 0 || template !== undefined)) {
    return edited(data, name, (file) => {
      const decoder = file.added_tokens_decoder
      if (isRecord(decoder)) for (const { id, ...entry } of extra) decoder[id] = entry
      // where older transformers look; newer ones prefer chat_template.jinja
      if (template !== undefined) file.chat_template = template
    })
  }
  if (name === 'added_tokens.json' && extra.length > 0) {
    return edited(data, name, (file) => {
      for (const { content, id } of extra) file[content] = id
    })
  }
  return data
}

function edited(data: Uint8Array, name: string, change: (file: Record<string, unknown>) => void): Uint8Array {
  const text = Buffer.from(data).toString('utf8')
  const file = parseJson(text)
  if (!isRecord(file)) throw invalid(name, 'it is not an object')
  change(file)
  // vocabularies are long, and readers of theirs take 0 for 0.0
  return Buffer.from(name === 'tokenizer.json' ? `${JSON.stringify(file, null, 2)}\n` : jsonText(file, text))
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function invalid(file: string, what: string, cause?: unknown): WeightsmithError {
  return new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `The tokenizer ${file} is not valid: ${what}.`, { cause, file })
}
