/**
 * Text in and out of a model: the tokenizer of its folder, by Hugging Face's own reader of tokenizer.json in JavaScript
 * (no native part, no dependency of its own), its chat template by theirs of Jinja (likewise).
 */

import { join } from 'node:path'
import { Template } from '@huggingface/jinja'
import { Tokenizer } from '@huggingface/tokenizers'
import type { Checkpoint } from '../checkpoint/index.js'
import { messageOf, WeightsmithError } from '../errors.js'
import { readIfThere } from './files.js'

export interface Message {
  role: string
  content: string
}

/** What a model is to go on with: a text, or messages, which need `chat`. */
export type Prompt = string | readonly Message[]

export interface Text {
  /** Ids of a prompt, with what the tokenizer puts before and after a text. */
  prompt(text: string): number[]
  /** Ids of messages in the model's chat template, up to where its answer begins. */
  chat(messages: readonly Message[]): number[]
  /** Ids of what follows a prompt. */
  answer(text: string): number[]
  decode(ids: readonly number[]): string
  /** Ids that end an answer, the usual one first. */
  ends: number[]
}

/** The tokenizer of a checkpoint's folder; ends come from its generation config, else from its config. */
export async function openText(checkpoint: Checkpoint): Promise<Text> {
  const { folder = checkpoint.path, config = {} } = checkpoint
  const file = join(folder, 'tokenizer.json')
  const definition = await readJson(file)
  if (definition === undefined) {
    throw new WeightsmithError('ERR_WEIGHTSMITH_NOT_FOUND', `There is no ${file}, which turns text into ids.`, { file })
  }
  const settings = (await readJson(join(folder, 'tokenizer_config.json'))) ?? {}
  const generation = (await readJson(join(folder, 'generation_config.json'))) ?? {}
  let tokenizer: Tokenizer
  try {
    tokenizer = new Tokenizer(definition, settings)
  } catch (cause) {
    throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `${file} cannot be used: ${messageOf(cause)}.`, {
      cause,
      file,
    })
  }
  const ends = [generation.eos_token_id ?? config.eos_token_id]
    .flat()
    .filter((id): id is number => typeof id === 'number')
  let template: Template | undefined
  const own = templateOf(settings.chat_template) ?? (await readIfThere(join(folder, 'chat_template.jinja')))
  return {
    prompt: (text) => tokenizer.encode(text).ids,
    chat: (messages) => {
      if (own === undefined) {
        throw new WeightsmithError(
          'ERR_WEIGHTSMITH_ARGUMENT',
          `The model ${checkpoint.name} has no chat template in tokenizer_config.json or chat_template.jinja; give it plain prompts.`,
        )
      }
      try {
        template ??= new Template(own)
        const text = template.render({ ...tokensOf(settings), messages, add_generation_prompt: true })
        return tokenizer.encode(text, { add_special_tokens: false }).ids
      } catch (cause) {
        const message = `The chat template of ${checkpoint.name} cannot be used: ${messageOf(cause)}.`
        throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', message, { cause })
      }
    },
    answer: (text) => tokenizer.encode(text, { add_special_tokens: false }).ids,
    decode: (ids) => (ids.length === 0 ? '' : tokenizer.decode([...ids], { skip_special_tokens: true })),
    ends,
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
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>
    throw new Error('it is not an object')
  } catch (cause) {
    throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `${file} is not valid: ${messageOf(cause)}.`, { cause, file })
  }
}
