/**
 * Text in and out of a model: the tokenizer of its folder, by Hugging Face's own reader of tokenizer.json in JavaScript
 * (no native part, no dependency of its own), its chat template by theirs of Jinja (likewise), and data sets, a line of JSON
 * an example.
 */

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Template } from '@huggingface/jinja'
import { Tokenizer } from '@huggingface/tokenizers'
import type { Checkpoint } from './checkpoint/index.js'
import { codeOf, messageOf, WeightsmithError } from './errors.js'

/** What a model is given, and what it is to say. */
export interface Example {
  prompt: string
  answer: string
  /** A file, or a row of a tensor of images. */
  image?: string | number | undefined
  /** `train` or `test`, where a line says so. */
  split?: string | undefined
  /** From 1. */
  line: number
}

/** A text that is no answer to anything. */
export interface Document {
  text: string
  line: number
}

/** A question with its options, of which one is right. */
export interface Choice {
  prompt: string
  choices: string[]
  /** Which of them, from 0 on. */
  answer: number
  /** From 1. */
  line: number
}

export interface Message {
  role: string
  content: string
}

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
  const own = templateOf(settings.chat_template) ?? (await read(join(folder, 'chat_template.jinja')))
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

/**
 * Lines of `{"prompt": ..., "answer": ...}`, or of `{"question": ..., "answer": ...}`, which is put as LLaVA 1.5 is asked; each
 * may have an `image`. Throws ERR_WEIGHTSMITH_ARGUMENT with the number of a line that is not valid.
 */
export function readExamples(file: string, limit?: number): Promise<Example[]> {
  return readLines(file, limit, (values, line) => {
    if (typeof values.text !== 'string') return exampleOf(values, line)
    return 'has a "text" alone, but an answer is needed here: an object with the texts "prompt" and "answer"'
  })
}

/** Lines of examples, or of `{"text": ...}`. */
export function readData(file: string, limit?: number): Promise<(Example | Document)[]> {
  return readLines(file, limit, (values, line) => {
    const { text, prompt, question } = values
    if (text === undefined || prompt !== undefined || question !== undefined) return exampleOf(values, line)
    return typeof text === 'string' && text !== ''
      ? { text, line }
      : 'should have a text that is not empty for its "text"'
  })
}

function exampleOf(
  { prompt, question, answer, image, split: part }: Record<string, unknown>,
  line: number,
): Example | string {
  const asked = prompt ?? question
  const seen = image ?? undefined
  if (typeof asked !== 'string' || typeof answer !== 'string') {
    return 'should be an object with the texts "prompt" and "answer" (or "question" for "prompt")'
  }
  if (seen !== undefined && typeof seen !== 'string' && typeof seen !== 'number') {
    return 'should have the name of a file, or the number of a row, for its "image"'
  }
  const split = typeof part === 'string' ? part : undefined
  if (prompt !== undefined) return { prompt: asked, answer, image: seen, split, line }
  const before = seen === undefined ? '' : ' <image>\n'
  return { prompt: `USER:${before}${asked}\nASSISTANT:`, answer: ` ${answer}`, image: seen, split, line }
}

/** Lines of `{"prompt": ..., "choices": [...], "answer": ...}`, where the answer is one of the choices or its number from 0. */
export function readChoices(file: string, limit?: number): Promise<Choice[]> {
  return readLines(file, limit, ({ prompt, choices, answer }, line) => {
    const texts = Array.isArray(choices) ? choices.filter((choice) => typeof choice === 'string') : []
    const number = typeof answer === 'string' ? texts.indexOf(answer) : answer
    const many =
      texts.length > 1 && texts.length === (choices as unknown[]).length && texts.every((text) => text !== '')
    if (typeof prompt !== 'string' || !many) {
      return 'should be an object with the text "prompt" and at least two texts in "choices"'
    }
    if (typeof number === 'number' && texts[number] !== undefined)
      return { prompt, choices: texts, answer: number, line }
    return `has an "answer" that is none of its ${texts.length} choices, nor the number of one from 0`
  })
}

/** What a model is to go on with: a text, or messages, which need `chat`. */
export type Prompt = string | readonly Message[]

/** A prompt of a file, what else its line has, and where that is. */
export interface PromptLine {
  prompt: Prompt
  line: Record<string, unknown>
  where: string
}

/**
 * Prompts, each with what else its line has: from a .jsonl file (`{"prompt": ...}` or `{"messages": [...]}` a line), or a text
 * of one prompt a line. `content`: what was read already, of standard input.
 */
export async function readPrompts(file: string, limit?: number, content?: string): Promise<PromptLine[]> {
  const text = content ?? (await readText(file))
  if (!file.endsWith('.jsonl') && !text.trimStart().startsWith('{')) {
    const lines = text
      .split(/\r?\n/)
      .map((prompt, i) => ({ prompt, line: { prompt }, where: `Line ${i + 1} of ${file}` }))
      .filter(({ prompt }) => prompt !== '')
    if (lines.length > 0) return lines.slice(0, limit)
    throw new WeightsmithError('ERR_WEIGHTSMITH_ARGUMENT', `${file} has no prompts.`, { file })
  }
  return parseLines(text, file, limit, (line, number) => {
    const { prompt, messages } = line
    const where = `Line ${number} of ${file}`
    if (typeof prompt === 'string') return { prompt, line, where }
    if (Array.isArray(messages) && messages.length > 0 && messages.every(isMessage)) {
      return { prompt: messages, line, where }
    }
    return 'should be an object with the text "prompt" or the list "messages"'
  })
}

function isMessage(value: unknown): value is Message {
  const { role, content } = (value ?? {}) as Record<string, unknown>
  return typeof role === 'string' && typeof content === 'string'
}

/** What `parse` makes of every line; a text says what is wrong with it. */
async function readLines<T extends object>(
  file: string,
  limit: number | undefined,
  parse: (line: Record<string, unknown>, number: number) => T | string,
): Promise<T[]> {
  return parseLines(await readText(file), file, limit, parse)
}

function parseLines<T extends object>(
  text: string,
  file: string,
  limit: number | undefined,
  parse: (line: Record<string, unknown>, number: number) => T | string,
): T[] {
  const values: T[] = []
  for (const [i, line] of text.split('\n').entries()) {
    if (values.length === limit) break
    if (line.trim() === '') continue
    const invalid = (what: string, cause?: unknown) =>
      new WeightsmithError('ERR_WEIGHTSMITH_ARGUMENT', `Line ${i + 1} of ${file} ${what}.`, { cause, file })
    let value: unknown
    try {
      value = JSON.parse(line)
    } catch (cause) {
      throw invalid(`is not JSON: ${messageOf(cause)}`, cause)
    }
    const result = parse((value ?? {}) as Record<string, unknown>, i + 1)
    if (typeof result === 'string') throw invalid(result)
    values.push(result)
  }
  if (values.length > 0) return values
  throw new WeightsmithError('ERR_WEIGHTSMITH_ARGUMENT', `${file} has no examples.`, { file })
}

async function readText(file: string): Promise<string> {
  const text = await read(file)
  if (text !== undefined) return text
  throw new WeightsmithError('ERR_WEIGHTSMITH_NOT_FOUND', `There is no ${file}.`, { file })
}

async function readJson(file: string): Promise<Record<string, unknown> | undefined> {
  const text = await read(file)
  if (text === undefined) return undefined
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null) return value as Record<string, unknown>
    throw new Error('it is not an object')
  } catch (cause) {
    throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `${file} is not valid: ${messageOf(cause)}.`, { cause, file })
  }
}

/** Nothing where there is no such file. */
async function read(file: string): Promise<string | undefined> {
  try {
    return await readFile(file, 'utf8')
  } catch (cause) {
    if (codeOf(cause) === 'ENOENT') return undefined
    throw new WeightsmithError('ERR_WEIGHTSMITH_IO_READ', `${file} cannot be read: ${messageOf(cause)}.`, {
      cause,
      file,
    })
  }
}
