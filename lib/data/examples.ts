/** Data sets: files with a line of JSON an example. What is wrong with a line is said with its number. */

import { messageOf, WeightsmithError } from '../util/errors.js'
import type { ChatMessage } from './chat_template.js'
import { readIfThere } from './files.js'
import type { Prompt } from './tokenizer.js'

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
  image?: string | number | undefined
  /** From 1. */
  line: number
}

/**
 * Lines of `{"prompt": ..., "answer": ...}`, or of `{"question": ..., "answer": ...}`, which is put as LLaVA 1.5 is
 * asked; each may have an `image`. Throws ERR_WEIGHTSMITH_ARGUMENT with the number of a line that is not valid.
 */
export function readExamples(file: string, limit?: number): Promise<Example[]> {
  return readLines(file, limit, (values, line) => {
    if (typeof values.text !== 'string') return exampleOf(values, line)
    return 'has a "text" alone, but an answer is needed here: an object with the texts "prompt" and "answer"'
  })
}

/** Lines of examples, or of `{"text": ...}`. */
export function readExamplesAndTexts(file: string, limit?: number): Promise<(Example | Document)[]> {
  return readLines(file, limit, (values, line) => {
    const { text, prompt, question } = values
    if (text === undefined || prompt !== undefined || question !== undefined) return exampleOf(values, line)
    return typeof text === 'string' && text !== ''
      ? { text, line }
      : 'should have a text that is not empty for its "text"'
  })
}

/** An example, or what is wrong with a line. */
export function exampleOf(
  { prompt, question, answer, image, split: part }: Record<string, unknown>,
  line: number,
): Example | string {
  const asked = prompt ?? question
  const seen = imageOf(image)
  if (typeof asked !== 'string' || typeof answer !== 'string') {
    return 'should be an object with the texts "prompt" and "answer" (or "question" for "prompt")'
  }
  if (seen === false) return wrongImage
  const split = typeof part === 'string' ? part : undefined
  if (prompt !== undefined) return { prompt: asked, answer, image: seen, split, line }
  const before = seen === undefined ? '' : ' <image>\n'
  return { prompt: `USER:${before}${asked}\nASSISTANT:`, answer: ` ${answer}`, image: seen, split, line }
}

const wrongImage = 'should have the name of a file, or the number of a row, for its "image"'

function imageOf(image: unknown): string | number | undefined | false {
  if (image === undefined || image === null) return undefined
  return typeof image === 'string' || typeof image === 'number' ? image : false
}

/**
 * Lines of `{"prompt": ..., "choices": [...], "answer": ...}`, where the answer is one of the choices or its number
 * from 0, and maybe an `image`.
 */
export function readChoices(file: string, limit?: number): Promise<Choice[]> {
  return readLines(file, limit, ({ prompt, choices, answer, image }, line) => {
    const texts = Array.isArray(choices) ? choices.filter((choice) => typeof choice === 'string') : []
    const number = typeof answer === 'string' ? texts.indexOf(answer) : answer
    const many =
      texts.length > 1 && texts.length === (choices as unknown[]).length && texts.every((text) => text !== '')
    if (typeof prompt !== 'string' || !many) {
      return 'should be an object with the text "prompt" and at least two texts in "choices"'
    }
    const seen = imageOf(image)
    if (seen === false) return wrongImage
    if (typeof number === 'number' && texts[number] !== undefined) {
      return { prompt, choices: texts, answer: number, image: seen, line }
    }
    return `has an "answer" that is none of its ${texts.length} choices, nor the number of one from 0`
  })
}

/** A prompt of a file, what else its line has, and where that is. */
export interface PromptLine {
  prompt: Prompt
  line: Record<string, unknown>
  where: string
}

/**
 * Prompts, each with what else its line has: from a .jsonl file (`{"prompt": ...}` or `{"messages": [...]}` a line), or
 * a text of one prompt a line. `content`: what was read already, of standard input.
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

export function isMessage(value: unknown): value is ChatMessage {
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
  const text = await readIfThere(file)
  if (text !== undefined) return text
  throw new WeightsmithError('ERR_WEIGHTSMITH_NOT_FOUND', `${file} not found.`, { file })
}
