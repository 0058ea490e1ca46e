/**
 * Text in and out of a model: the tokenizer of its folder, by Hugging Face's own reader of tokenizer.json in JavaScript
 * (no native part, no dependency of its own), and data sets, a line of JSON an example.
 */

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Tokenizer } from '@huggingface/tokenizers'
import type { Checkpoint } from './checkpoint/index.js'
import { codeOf, messageOf, WeightsmithError } from './errors.js'

/** What a model is given, and what it is to say. */
export interface Example {
  prompt: string
  answer: string
  /** A file, or a row of a tensor of images. */
  image?: string | number | undefined
  /** From 1. */
  line: number
}

export interface Text {
  /** Ids of a prompt, with what the tokenizer puts before and after a text. */
  prompt(text: string): number[]
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
  return {
    prompt: (text) => tokenizer.encode(text).ids,
    answer: (text) => tokenizer.encode(text, { add_special_tokens: false }).ids,
    decode: (ids) => (ids.length === 0 ? '' : tokenizer.decode([...ids], { skip_special_tokens: true })),
    ends,
  }
}

/**
 * Lines of `{"prompt": ..., "answer": ...}`, or of `{"question": ..., "answer": ...}`, which is put as LLaVA 1.5 is asked; each
 * may have an `image`. Throws ERR_WEIGHTSMITH_ARGUMENT with the number of a line that is not valid.
 */
export async function readExamples(file: string): Promise<Example[]> {
  const text = await read(file)
  if (text === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_NOT_FOUND', `There is no ${file}.`, { file })
  const examples = text.split('\n').flatMap((line, i) => (line.trim() === '' ? [] : [parseExample(line, file, i + 1)]))
  if (examples.length > 0) return examples
  throw new WeightsmithError('ERR_WEIGHTSMITH_ARGUMENT', `${file} has no examples.`, { file })
}

function parseExample(line: string, file: string, number: number): Example {
  const invalid = (what: string, cause?: unknown) =>
    new WeightsmithError('ERR_WEIGHTSMITH_ARGUMENT', `Line ${number} of ${file} ${what}.`, { cause, file })
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch (cause) {
    throw invalid(`is not JSON: ${messageOf(cause)}`, cause)
  }
  const { prompt, question, answer, image } = (value ?? {}) as Record<string, unknown>
  const asked = prompt ?? question
  const seen = image ?? undefined
  if (typeof asked !== 'string' || typeof answer !== 'string') {
    throw invalid('should be an object with the texts "prompt" and "answer" (or "question" for "prompt")')
  }
  if (seen !== undefined && typeof seen !== 'string' && typeof seen !== 'number') {
    throw invalid('should have the name of a file, or the number of a row, for its "image"')
  }
  if (prompt !== undefined) return { prompt: asked, answer, image: seen, line: number }
  const before = seen === undefined ? '' : ' <image>\n'
  return { prompt: `USER:${before}${asked}\nASSISTANT:`, answer: ` ${answer}`, image: seen, line: number }
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
