/**
 * Training data as people have it: files of prompts with answers, of conversations, of instructions or of texts, as ids
 * with a note of which of them are to be predicted. What is cut or left out is counted and named, so that nobody trains
 * on less than they think.
 */

import { createHash, type Hash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { setImmediate } from 'node:timers/promises'
import type { ModelSpec } from '../architectures/index.js'
import type { Checkpoint } from '../checkpoint/index.js'
import {
  type ChatMessage,
  checkIds,
  type DataRecord,
  exampleOf,
  invalidRecord,
  isMessage,
  openTokenizer,
  pairOf,
  readRecords,
  type Tokenizer,
} from '../data/index.js'
import { misuse, throwIfAborted, WeightsmithError, wrongOption } from '../util/errors.js'
import { plural } from '../util/plural.js'
import type { ProgressEvent } from '../util/progress.js'
import { defaultTokens, sharesOf, type TrainingExample, type TrainingSource } from './batches.js'

/** A file, and how likely the next example is one of its; see `planBatches`. */
export interface TrainingFile {
  file: string
  share?: number | undefined
}

export interface TrainingDataOptions {
  /**
   * What is predicted: `answer`, what the model is to say; `all`, every id but the first. A text that is no answer to
   * anything is always predicted whole. Defaults to answer.
   */
  loss?: 'answer' | 'all' | undefined
  /**
   * Most tokens of an example: what is longer loses its end, and a text goes on in another example. Defaults to the
   * context of the model, but to no more than 2,048.
   */
  maxLength?: number | undefined
  signal?: AbortSignal | undefined
  /** Records that were read; how many there are is not known before. */
  onProgress?: ((event: ProgressEvent) => void) | undefined
}

/** Some examples of a file, and the first of them: `Line 3 of train.jsonl`. */
export interface TrainingExamples {
  count: number
  first: string
}

/** What was read of a file. */
export interface TrainingFileReport {
  file: string
  /** Of the bytes that were read. */
  sha256: string
  records: number
  examples: number
  tokens: number
  /** Ids that are to be predicted. */
  targets: number
  /** Have lost their end. */
  truncated?: TrainingExamples | undefined
  /** Were left out, as they say nothing: an empty answer or text, or a conversation without an assistant. */
  empty?: TrainingExamples | undefined
  /** Were left out, as nothing of the answer is within `maxLength`. */
  cutOff?: TrainingExamples | undefined
}

export interface TrainingData {
  sources: TrainingSource[]
  /** Of the files, in their order. */
  reports: TrainingFileReport[]
  maxLength: number
}

/** What is used of a model that is to be trained. */
export interface TrainingSubject {
  spec: Pick<ModelSpec, 'vocabulary' | 'context' | 'vision'>
  checkpoint: Checkpoint
}

/** How an instruction is put as a prompt, which the answer follows at once: Stanford Alpaca's words (its train.py). */
const alpaca = {
  alone:
    'Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n',
  withInput:
    'Below is an instruction that describes a task, paired with an input that provides further context. Write a response ' +
    'that appropriately completes the request.\n\n',
}

/** Keys of records, and the columns that are read of a table. */
const keys = ['messages', 'instruction', 'input', 'output', 'prompt', 'question', 'answer', 'text', 'image', 'tools']

/**
 * The examples of files (see `readRecords` of lib/data for their formats), by the keys of each record: `messages`;
 * `instruction`, maybe `input`, and `output`; `prompt` or `question`, and `answer`; or `text`. An answer ends with the
 * end of text that generation of the model stops at; one that was cut does not. Throws ERR_WEIGHTSMITH_ARGUMENT for a
 * record of another form, for ids that the vocabulary does not have and for a file without an example that is left;
 * _ABORTED; _FORMAT for a chat template in which what the assistant says cannot be told; and what `readRecords` throws.
 */
export async function readTrainingData(
  { spec, checkpoint }: TrainingSubject,
  files: readonly TrainingFile[],
  { loss = 'answer', maxLength = Math.min(spec.context, defaultTokens), ...heard }: TrainingDataOptions = {},
): Promise<TrainingData> {
  if (loss !== 'answer' && loss !== 'all') throw wrongOption('the loss of examples', 'answer or all', loss)
  if (!(Number.isInteger(maxLength) && maxLength >= 2 && maxLength <= spec.context)) {
    const expected = `a whole number from 2 to the context of ${checkpoint.name}, ${spec.context}`
    throw wrongOption('the length of examples', expected, maxLength)
  }
  if (files.length === 0) throw misuse('There is no data to train on; give one file or several.')
  sharesOf(files)
  throwIfAborted(heard.signal, 'Reading training data')
  const tokenizer = await openTokenizer(checkpoint)
  const data: TrainingData = { sources: [], reports: [], maxLength }
  for (const { file, share } of files) {
    const hash = createHash('sha256')
    const options = { tokenizer, loss, maxLength, hash, ...heard }
    const { examples, counts } = await readFileExamples({ spec, checkpoint }, file, options)
    data.sources.push({ examples, share })
    data.reports.push({ file, sha256: file.endsWith('.parquet') ? await sha256(file) : hash.digest('hex'), ...counts })
  }
  return data
}

type Heard = Pick<TrainingDataOptions, 'signal' | 'onProgress'>

/** How often reading hears of an abort and tells how far it is. */
const recordsTogether = 256

type Counts = Omit<TrainingFileReport, 'file' | 'sha256'>

/** Throws ERR_WEIGHTSMITH_ARGUMENT where none is left. */
async function readFileExamples(
  subject: TrainingSubject,
  file: string,
  {
    tokenizer,
    loss,
    maxLength,
    hash,
    signal,
    onProgress,
  }: { tokenizer: Tokenizer; loss: 'answer' | 'all'; maxLength: number; hash: Hash } & Heard,
): Promise<{ examples: TrainingExample[]; counts: Counts }> {
  const counts: Counts = { records: 0, examples: 0, tokens: 0, targets: 0 }
  const examples: TrainingExample[] = []
  for await (const record of readRecords(file, keys, hash)) {
    counts.records++
    if (counts.records % recordsTogether === 0) {
      // A signal comes by the event loop, which records that are there already do not wait for.
      await setImmediate()
      throwIfAborted(signal, 'Reading training data')
      onProgress?.({ phase: 'read data', done: counts.records, total: 0, unit: 'examples', item: file })
    }
    const whole = wholeOf(record, { tokenizer, loss })
    if (whole === undefined) {
      counts.empty = oneMore(counts.empty, record.where)
      continue
    }
    const pieces = whole.kind === 'text' ? piecesOf(whole, maxLength) : [cut(whole, maxLength)]
    if (whole.kind !== 'text' && whole.ids.length > maxLength) {
      const fate = pieces.some(({ targets }) => targets.includes(1)) ? 'truncated' : 'cutOff'
      counts[fate] = oneMore(counts[fate], record.where)
      if (fate === 'cutOff') continue
    }
    for (const example of pieces) {
      check(subject, example)
      examples.push(example)
      counts.examples++
      counts.tokens += example.ids.length
      counts.targets += example.targets.reduce((a, b) => a + b, 0)
    }
  }
  if (examples.length === 0) throw misuse(nothingLeft(file, counts, maxLength), { file })
  return { examples, counts }
}

interface WholeExample extends TrainingExample {
  kind: 'answer' | 'text'
}

/** A record as one example, however long; nothing where it has nothing to predict. */
function wholeOf(
  record: DataRecord,
  { tokenizer, loss }: { tokenizer: Tokenizer; loss: 'answer' | 'all' },
): WholeExample | undefined {
  const { ids, said, empty, kind } = recordIds(record, tokenizer)
  if (ids.length < 2 || (loss === 'answer' && empty)) return undefined
  const targets = new Uint8Array(ids.length)
  for (const { from, to } of loss === 'all' ? [{ from: 0, to: ids.length }] : said) targets.fill(1, from, to)
  targets[0] = 0
  return targets.includes(1) ? { ids, targets, where: record.where, kind } : undefined
}

/** Ids of a record, what of them the model is to say, and whether that is nothing but an end. */
interface RecordIds {
  ids: number[]
  said: readonly { from: number; to: number }[]
  empty: boolean
  kind: WholeExample['kind']
}

function recordIds({ values, where }: DataRecord, tokenizer: Tokenizer): RecordIds {
  const { messages, instruction, input, output, prompt, question, text, image, tools } = values
  const wrong = (what: string) => invalidRecord(where, what)
  if (image !== undefined) throw wrong('has an image, but training takes text alone')
  if (messages !== undefined) {
    if (!Array.isArray(messages) || messages.length === 0 || !messages.every(isMessage)) {
      throw wrong('should have a list of objects with the texts "role" and "content" for its "messages"')
    }
    if (tools !== undefined && !(Array.isArray(tools) && tools.length === 0)) {
      throw wrong('has tools, which training does not put in the chat template')
    }
    return chatIds(messages, where, tokenizer)
  }
  if (instruction !== undefined) {
    if (
      typeof instruction !== 'string' ||
      typeof output !== 'string' ||
      !['undefined', 'string'].includes(typeof input)
    ) {
      throw wrong('should be an object with the texts "instruction" and "output", and maybe "input"')
    }
    return answerIds(instructionPrompt(instruction, input as string | undefined), output, where, tokenizer)
  }
  if (prompt !== undefined || question !== undefined) {
    const example = exampleOf(values, 0)
    if (typeof example === 'string') throw wrong(example)
    return answerIds(example.prompt, example.answer, where, tokenizer)
  }
  if (typeof text !== 'string') {
    throw wrong('should have "messages", "instruction" and "output", "prompt" and "answer", or "text"')
  }
  const ids = text === '' ? [] : tokenizer.prompt(text)
  return { ids, said: [{ from: 0, to: ids.length }], empty: text === '', kind: 'text' }
}

function chatIds(messages: readonly ChatMessage[], where: string, tokenizer: Tokenizer): RecordIds {
  const empty = messages.every(({ role, content }) => role !== 'assistant' || content === '')
  try {
    return { ...tokenizer.conversation(messages), empty, kind: 'answer' }
  } catch (error) {
    if (!(error instanceof WeightsmithError)) throw error
    throw new WeightsmithError(error.code, `${where}: ${error.message}`, { cause: error, file: error.file })
  }
}

function answerIds(prompt: string, answer: string, where: string, tokenizer: Tokenizer): RecordIds {
  const pair = pairOf(tokenizer, prompt, answer, where)
  const ids = [...pair.prompt, ...pair.answer, ...tokenizer.ends.slice(0, 1)]
  return { ids, said: [{ from: pair.prompt.length, to: ids.length }], empty: answer === '', kind: 'answer' }
}

/** The prompt of an instruction. */
function instructionPrompt(instruction: string, input = ''): string {
  const task = `### Instruction:\n${instruction}\n\n`
  return input === ''
    ? `${alpaca.alone}${task}### Response:`
    : `${alpaca.withInput}${task}### Input:\n${input}\n\n### Response:`
}

function cut({ ids, targets, where }: TrainingExample, length: number): TrainingExample {
  return { ids: ids.slice(0, length), targets: targets.slice(0, length), where }
}

/** Each begins with the last id of the one before it, so that every id but the first of the text is predicted once. */
function piecesOf({ ids, targets, where }: TrainingExample, length: number): TrainingExample[] {
  const count = Math.ceil((ids.length - 1) / (length - 1))
  return Array.from({ length: count }, (_, i) => {
    const from = i * (length - 1)
    const piece = { ids: ids.slice(from, from + length), targets: targets.slice(from, from + length) }
    piece.targets[0] = 0
    return { ...piece, where: count === 1 ? where : `${where}, part ${i + 1}` }
  })
}

/** An image's id would stand for features that are not there. */
function check({ spec, checkpoint }: TrainingSubject, { ids, where }: TrainingExample): void {
  if (spec.vision !== undefined && ids.includes(spec.vision.token)) {
    throw invalidRecord(where, 'has a place for an image, but training takes text alone')
  }
  checkIds({ spec, checkpoint }, ids, where)
}

function oneMore(some: TrainingExamples | undefined, where: string): TrainingExamples {
  return { count: (some?.count ?? 0) + 1, first: some?.first ?? where }
}

function nothingLeft(file: string, { records, empty, cutOff }: Counts, maxLength: number): string {
  const reasons = [
    ...(empty === undefined ? [] : [`${empty.count} with nothing to predict (first: ${empty.first})`]),
    ...(cutOff === undefined
      ? []
      : [`${cutOff.count} whose answer begins after ${maxLength} tokens (first: ${cutOff.first})`]),
  ]
  if (reasons.length === 0) return `${file} has no examples.`
  return `${file} has no example to train on: of ${plural(records, 'record')}, ${reasons.join(' and ')}.`
}

async function sha256(file: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer)
  return hash.digest('hex')
}
