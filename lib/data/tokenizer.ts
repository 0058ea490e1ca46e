/**
 * Tokenizes the text of a model: the tokenizer of its folder, by Hugging Face's own reader of tokenizer.json in
 * JavaScript (no native part, no dependency of its own).
 */

import { join } from 'node:path'
import { Tokenizer as TokenizerJson } from '@huggingface/tokenizers'
import type { Checkpoint } from '../checkpoint/index.js'
import { messageOf, WeightsmithError } from '../util/errors.js'
import { parseJson } from '../util/json.js'
import { type ChatMessage, ChatTemplate } from './chat_template.js'
import { readIfThere } from './files.js'
import { asRead } from './tokenizer_json.js'

/** What a model is to go on with: a text, or messages, which need `chat`. */
export type Prompt = string | readonly ChatMessage[]

export interface Tokenizer {
  /** Ids of a prompt, with what the tokenizer puts before and after a text. */
  prompt(text: string): number[]
  /** Ids of messages in the model's chat template, up to where its answer begins. */
  chat(messages: readonly ChatMessage[]): number[]
  /** Ids of a whole conversation in the model's chat template, and what of them the assistant says. */
  conversation(messages: readonly ChatMessage[]): Conversation
  /**
   * Ids of a prompt and of an answer as they are in the text that both are together, without what the tokenizer puts
   * after a text. The answer begins with the first id that the prompt alone, without the spaces at its end, does not
   * have there: spaces between the two are the answer's. Where the prompt's ids stay as they are, that is what
   * lm-evaluation-harness scores.
   */
  pair(prompt: string, answer: string): Pair
  /**
   * The text of ids without special ones, as it goes on after the ids `after`: some tokenizers take a space from the
   * front of a text.
   */
  decode(ids: readonly number[], after?: readonly number[]): string
  /** Ids that end an answer, the usual one first. */
  ends: number[]
}

export interface Conversation {
  ids: number[]
  /**
   * Ids from one on, and up to another, for every message of the assistant with what ends its turn: what it would have
   * to generate. Where the template marks what is generated, that; else what a message adds to the conversation before
   * it and the beginning of an answer, without spaces after a special token.
   */
  said: { from: number; to: number }[]
}

export interface Pair {
  prompt: number[]
  answer: number[]
}

/** The tokenizer of a checkpoint's folder; ends come from its generation config, else from its config. */
export async function openTokenizer(checkpoint: Checkpoint): Promise<Tokenizer> {
  const { folder = checkpoint.path, config = {} } = checkpoint
  const file = join(folder, 'tokenizer.json')
  const definition = await readJson(file)
  if (definition === undefined) {
    throw new WeightsmithError('ERR_WEIGHTSMITH_NOT_FOUND', `${file} not found; it is needed to tokenize text.`, {
      file,
    })
  }
  const settings = (await readJson(join(folder, 'tokenizer_config.json'))) ?? {}
  const generation = (await readJson(join(folder, 'generation_config.json'))) ?? {}
  const codec = codecOf(definition, settings, file)
  const ends = [generation.eos_token_id ?? config.eos_token_id]
    .flat()
    .filter((id): id is number => typeof id === 'number')
  // As in transformers, a file of its own goes first.
  const own = (await readIfThere(join(folder, 'chat_template.jinja'))) ?? templateOf(settings.chat_template)
  const chat = new ChatTemplate(checkpoint.name, own, tokensOf(settings))
  const decode = (ids: readonly number[], after: readonly number[] = []) => {
    const last = after.findLast((id) => codec.decode([id]) !== '')
    const before = last === undefined ? [] : [last]
    return codec.decode([...before, ...ids]).slice(codec.decode(before).length)
  }
  /** How many of the first ids make a text that those of a part, which has other ids for it, begins with. */
  const within = (ids: readonly number[], part: readonly number[], after: readonly number[]) => {
    const wanted = decode(part, after)
    let count = 0
    for (let i = 1; i <= ids.length && !codec.special.has(ids[i - 1]); i++) {
      const text = decode(ids.slice(0, i), after)
      if (text.length > wanted.length) break
      if (wanted.startsWith(text)) count = i
    }
    return count
  }
  return {
    prompt: (text) => codec.whole(text),
    chat: (messages) => codec.bare(chat.render(messages, true)),
    conversation: (messages) => {
      const { text, said, marked } = chat.conversation(messages)
      const ids = codec.bare(text)
      const cut = (at: number) => {
        const part = codec.bare(text.slice(0, at))
        const other = part.findIndex((id, i) => id !== ids[i])
        return other < 0 ? part.length : other + within(ids.slice(other), part.slice(other), ids.slice(0, other))
      }
      // Nobody generates what stands between the end of a turn and the next one.
      const ending = (from: number, to: number) => {
        const isEnd = (id: number) => codec.special.has(id) || ends.includes(id)
        const last = ids.findLastIndex((id, i) => i < to && (isEnd(id) || codec.decode([id]).trim() !== ''))
        return last >= from && isEnd(ids[last] ?? -1) ? last + 1 : to
      }
      return {
        ids,
        said: said.map(([first, after]) => {
          const [from, to] = [cut(first), cut(after)]
          return { from, to: marked ? to : ending(from, to) }
        }),
      }
    },
    pair: (prompt, answer) => {
      const [alone, whole] = [codec.whole(prompt.trimEnd()), codec.begin(prompt + answer)]
      const other = alone.findIndex((id, i) => id !== whole[i])
      const cut = other < 0 ? alone.length : other
      return { prompt: whole.slice(0, cut), answer: whole.slice(cut) }
    },
    decode,
    ends,
  }
}

/**
 * The tokenizer's own functions. Throws ERR_WEIGHTSMITH_FORMAT for a file that cannot be used, and for a text that it
 * has no ids for.
 */
function codecOf(definition: Record<string, unknown>, settings: Record<string, unknown>, file: string) {
  const refuse = (what: string, cause?: unknown) =>
    new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `${file} cannot be used: ${what}.`, { cause, file })
  let tokenizer: TokenizerJson
  try {
    // The reader takes what is unknown from the settings, the file has it in its model.
    const { unk_token: unknown = settings.unk_token } = (definition.model ?? {}) as Record<string, unknown>
    tokenizer = new TokenizerJson(asRead(definition), { ...settings, unk_token: unknown })
  } catch (cause) {
    throw refuse(messageOf(cause), cause)
  }
  const encode = (text: string, special: boolean): number[] => {
    const { ids, tokens } = tokenizer.encode(text, { add_special_tokens: special })
    const unknown = ids.findIndex((id: unknown) => typeof id !== 'number')
    if (unknown >= 0) throw refuse(`it has no id for ${JSON.stringify(tokens[unknown])}, nor one for what is unknown`)
    return ids
  }
  /**
   * Without special tokens, and without ids that are of no token, as in a vocabulary that is padded; spaces stay as
   * they are.
   */
  const decode = (ids: readonly number[]) => {
    const known = ids.filter((id) => tokenizer.id_to_token(id) !== undefined)
    const options = { skip_special_tokens: true, clean_up_tokenization_spaces: false }
    return known.length === 0 ? '' : tokenizer.decode(known, options)
  }
  const { added_tokens: added = [] } = definition as { added_tokens?: { id: unknown; special?: unknown }[] }
  return {
    /** With what the tokenizer puts before and after a text. */
    whole: (text: string) => encode(text, true),
    bare: (text: string) => encode(text, false),
    /** With what it puts before a text alone: more is to follow. */
    begin: (text: string) => {
      const [whole, bare] = [encode(text, true), encode(text, false)]
      const first = whole.findIndex((_, i) => bare.every((id, k) => id === whole[i + k]))
      return first < 0 ? whole : whole.slice(0, first + bare.length)
    },
    decode,
    special: new Set(added.flatMap(({ id, special }) => (special === true ? [id] : []))),
  }
}

/** A template, or the one of several that is called default. */
function templateOf(value: unknown): string | undefined {
  if (typeof value === 'string') return value
  if (!Array.isArray(value)) return undefined
  const named = value as { name?: unknown; template?: unknown }[]
  const { template } = named.find(({ name }) => name === 'default') ?? {}
  return typeof template === 'string' ? template : undefined
}

/** Special tokens by their names, which templates write. */
function tokensOf(settings: Record<string, unknown>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(settings).flatMap(([name, value]) => {
      if (!name.endsWith('_token')) return []
      const text = typeof value === 'string' ? value : (value as { content?: unknown } | null)?.content
      return typeof text === 'string' ? [[name, text]] : []
    }),
  )
}

async function readJson(file: string): Promise<Record<string, unknown> | undefined> {
  const text = await readIfThere(file)
  if (text === undefined) return undefined
  try {
    const value = parseJson(text)
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>
    throw new Error('it is not an object')
  } catch (cause) {
    throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `${file} is not valid: ${messageOf(cause)}.`, { cause, file })
  }
}
