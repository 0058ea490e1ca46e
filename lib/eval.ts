/** `evaluate`: how well a model says the answers of a data set. */

import type { Adapter, Engine } from './engine.js'
import { WeightsmithError } from './errors.js'
import type { ModelSpec } from './families/index.js'
import { generate, type Model, rowsOf, type Token } from './forward/index.js'
import { checkpointOf, modelOf } from './forward.js'
import { roomFor } from './generate.js'
import { createLines } from './jsonl.js'
import { type Line, readLines, Sight } from './lines.js'
import { openText, readChoices, type Text } from './text.js'

export const metrics = ['nll', 'ppl', 'exact-match', 'choice'] as const
export type Metric = (typeof metrics)[number]

export interface EvalOptions {
  /** A .jsonl file, one `{"prompt": ..., "answer": ...}` a line, and maybe an `image`; for `choice` with `choices` too. */
  data: string
  /** Where images are: a folder, or a safetensors file with the tensor `images`. Defaults to the folder of `data`. */
  images?: string | undefined
  /**
   * `nll`: mean loss a token, in nats; `ppl`: its exponential; `exact-match`: share of the prompts whose greedy continuation
   * up to its end is the answer; `choice`: share of the prompts whose likeliest choice is the answer. Defaults to `nll`.
   */
  metric?: Metric | undefined
  /** Most tokens of a greedy continuation, its end among them. Defaults to what the longest answer takes. */
  maxTokens?: number | undefined
  /** Only so many lines, from the first on. */
  limit?: number | undefined
  /** A .jsonl file that gets what came out for every line. */
  out?: string | undefined
  signal?: AbortSignal | undefined
  /** After every batch, or every continuation. */
  onProgress?: ((event: { done: number; total: number; data: string }) => void) | undefined
}

export interface EvalReport {
  model: string
  data: string
  metric: Metric
  examples: number
  /** Tokens that were predicted. */
  tokens: number
  /** Over every token but the first of each line; for `exact-match` and `choice` the share. */
  value: number
  /** Over the tokens of answers and their ends alone. */
  answers?: number
  /** For `choice`: the share with losses divided by the lengths of choices in bytes. */
  normalized?: number
  adapter: Adapter['info']['device']
  milliseconds: number
}

type Result = Pick<EvalReport, 'tokens' | 'value' | 'answers' | 'normalized'> & { lines: Record<string, unknown>[] }

/** One data set, tokenized. */
type DataSet = { file: string; most: number; longest: number; total: number } & (
  | { metric: Exclude<Metric, 'choice'>; lines: Line[] }
  | { metric: 'choice'; lines: Question[] }
)

interface Question {
  options: { prompt: number[]; answer: number[]; bytes: number }[]
  /** Which of them is right. */
  answer: number
}

/** Evaluates one data set. Prompt and answer of a line are tokenized each on its own, and the id that ends an answer follows. */
export async function evaluate(engine: Engine, path: string, options: EvalOptions): Promise<EvalReport> {
  const [report] = await evaluateAll(engine, path, { ...options, data: [options.data] })
  if (report === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', 'An evaluation gave no report.')
  return report
}

/** Evaluates several data sets by one metric; the model is loaded once. */
export async function evaluateAll(
  engine: Engine,
  path: string,
  options: Omit<EvalOptions, 'data'> & { data: readonly string[] },
): Promise<EvalReport[]> {
  const { metric = 'nll', signal } = options
  if (!metrics.includes(metric)) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_ARGUMENT',
      `The metric should be ${metrics.join(', ')}, but "${metric}" was found.`,
    )
  }
  for (const name of ['maxTokens', 'limit'] as const) {
    const value = options[name]
    if (value === undefined || (Number.isInteger(value) && value >= 1)) continue
    throw new WeightsmithError('ERR_WEIGHTSMITH_ARGUMENT', `${name} should be a whole number from 1, not ${value}.`)
  }
  const checkpoint = await checkpointOf(engine, path)
  const text = await openText(checkpoint)
  if (metric === 'exact-match' && text.ends.length === 0) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_ARGUMENT',
      'The metric exact-match needs an eos_token_id in config.json or generation_config.json, and there is none.',
    )
  }
  const { spec } = modelOf(engine, checkpoint, {})
  const sets: DataSet[] = []
  for (const file of options.data) sets.push(await readSet(file, metric, { text, spec }, options))
  const longest = Math.max(...sets.map((set) => set.longest))
  const total = Math.max(...sets.map((set) => set.total))
  const room = await engine.use(async (host) => roomFor(spec, host, longest, total))
  const model = modelOf(engine, checkpoint, metric === 'exact-match' ? room : { tokens: room.tokens })
  const reports: EvalReport[] = []
  const out = options.out === undefined ? undefined : await createLines(options.out)
  try {
    for (const set of sets) {
      const begin = performance.now()
      const { file } = set
      const total = set.lines.length
      const seen = set.metric === 'choice' ? [] : set.lines
      const work = {
        model,
        text,
        sight: await Sight.open(engine, { model, checkpoint }, { file, lines: seen, root: options.images }),
        check: () => throwIfAborted(signal),
        step: (done: number) => options.onProgress?.({ done, total, data: file }),
      }
      const { lines, ...result } = await measure(work, set)
      await out?.write(lines.map((line, i) => ({ data: file, example: i + 1, ...line })))
      reports.push({
        model: path,
        data: file,
        metric,
        examples: total,
        ...result,
        ...(metric === 'ppl' ? { value: Math.exp(result.value), answers: Math.exp(result.answers ?? 0) } : {}),
        adapter: engine.adapter.info.device,
        milliseconds: performance.now() - begin,
      })
    }
  } finally {
    await out?.close()
    await model.close()
  }
  return reports
}

async function readSet(
  file: string,
  metric: Metric,
  { text, spec }: { text: Text; spec: ModelSpec },
  { limit, maxTokens }: Pick<EvalOptions, 'limit' | 'maxTokens'>,
): Promise<DataSet> {
  const length = ({ prompt, answer }: Pick<Line, 'prompt' | 'answer'>) => rowsOf(spec, prompt) + answer.length + 1
  if (metric === 'choice') {
    const examples = await readChoices(file, limit)
    const lines = examples.map(({ prompt, choices, answer }) => {
      const ids = text.prompt(prompt)
      return {
        answer,
        options: choices.map((choice) => ({
          prompt: ids,
          answer: text.answer(choice),
          bytes: Buffer.byteLength(choice),
        })),
      }
    })
    const lengths = lines.flatMap(({ options }) => options.map(length))
    return { file, metric, lines, most: 0, longest: Math.max(...lengths), total: sum(lengths) }
  }
  const lines = await readLines(file, text, limit)
  const most = maxTokens ?? Math.max(...lines.map(({ answer }) => answer.length)) + 1
  const said = ({ prompt }: Line) => (metric === 'exact-match' ? rowsOf(spec, prompt) + most : 0)
  const lengths = lines.map((line) => Math.max(length(line), said(line)))
  return { file, metric, lines, most, longest: Math.max(...lengths), total: sum(lengths) }
}

interface Work {
  model: Model
  text: Text
  sight: Sight
  check: () => void
  /** Called with the lines that are done. */
  step: (done: number) => void
}

function measure(work: Work, set: DataSet): Promise<Result> {
  if (set.metric === 'choice') return choices(work, set.lines)
  return set.metric === 'exact-match' ? matches(work, set.lines, set.most) : losses(work, set.lines)
}

/** Mean losses over all tokens and over those of answers. */
async function losses({ model, text, sight, check, step }: Work, lines: readonly Line[]): Promise<Result> {
  const end = text.ends.slice(0, 1)
  const idsOf = ({ prompt, answer }: Line) => [...prompt, ...answer, ...end]
  const results: { nll: number; tokens: number; answer_nll: number; answer_tokens: number }[] = []
  const add = (batch: readonly Line[], tokens: readonly Token[], nll: Float32Array) => {
    let at = 0
    for (const line of batch) {
      const length = rowsOf(model.spec, idsOf(line))
      const said = length - line.answer.length - end.length
      const result = { nll: 0, tokens: 0, answer_nll: 0, answer_tokens: 0 }
      // Row t has the loss of token t + 1, if that is to be predicted.
      for (let t = 0; t < length - 1; t++) {
        if (tokens[at + t]?.target === undefined) continue
        const loss = nll[at + t] ?? 0
        result.nll += loss
        result.tokens++
        if (t + 1 < said) continue
        result.answer_nll += loss
        result.answer_tokens++
      }
      results.push(result)
      at += length
    }
    step(results.length)
  }
  const packed = batches(lines, (line) => rowsOf(model.spec, idsOf(line)), model.tokens)
  // All together, so that a model larger than the memory is read once; but images are held for one batch at a time.
  for (const walked of sight.blind ? [packed] : packed.map((batch) => [batch])) {
    const tokens: Token[][] = []
    for (const batch of walked) {
      tokens.push(model.pack(await Promise.all(batch.map((line) => sight.sequence(idsOf(line), line)))))
    }
    await model.walk(tokens, {
      check,
      losses: (number, nll) => add(walked[number] ?? [], tokens[number] ?? [], nll),
    })
  }
  const total = (of: (result: (typeof results)[number]) => number) => sum(results.map(of))
  const tokens = total((line) => line.tokens)
  const answers = total((line) => line.answer_nll) / total((line) => line.answer_tokens)
  return { tokens, value: total(({ nll }) => nll) / tokens, answers, lines: results }
}

/** Share of the lines whose greedy continuation is the answer. */
async function matches(
  { model, text, sight, check, step }: Work,
  lines: readonly Line[],
  most: number,
): Promise<Result> {
  const ends = new Set(text.ends)
  const results: { answer: string; said: string; ended: boolean; right: boolean }[] = []
  let tokens = 0
  let done = 0
  const rows = ({ prompt }: Line) => rowsOf(model.spec, prompt) + most
  // Images are read for a batch at a time.
  for (const batch of sight.blind ? [lines] : batches(lines, rows, model.tokens)) {
    const prompts = await Promise.all(batch.map((line) => sight.sequence(line.prompt, line)))
    const continuations = await generate(model, prompts, { most, ends, check, onEnd: () => step(++done) })
    for (const [i, { ids, ended }] of continuations.entries()) {
      const [said, answer] = [text.decode(ids), text.decode(batch[i]?.answer ?? [])]
      results.push({ answer, said, ended, right: ended && said === answer })
      tokens += ids.length
    }
  }
  return { tokens, value: results.filter(({ right }) => right).length / lines.length, lines: results }
}

/** Share of the questions whose likeliest option is the answer, as the losses are and a byte of the option. */
async function choices({ model, check, step }: Work, questions: readonly Question[]): Promise<Result> {
  const all = questions.flatMap(({ options }, question) => options.map((option) => ({ ...option, question })))
  const found: number[] = []
  let tokens = 0
  for (const batch of batches(all, ({ prompt, answer }) => prompt.length + answer.length, model.tokens)) {
    check()
    const packed = model.pack(batch.map(({ prompt, answer }) => [...prompt, ...answer]))
    // Only the tokens before those of an option are asked, and come first: a large vocabulary costs more than a block.
    const asked: Token[] = []
    let at = 0
    for (const { prompt, answer } of batch) {
      asked.push(...packed.slice(at + prompt.length - 1, at + prompt.length + answer.length - 1))
      at += prompt.length + answer.length
    }
    const known = new Set(asked)
    const { nll } = await model.run([...asked, ...packed.filter((token) => !known.has(token))], { first: asked.length })
    let row = 0
    for (const { answer } of batch) {
      found.push(sum(nll.subarray(row, row + answer.length)))
      row += answer.length
    }
    tokens += asked.length
    step(all[found.length]?.question ?? questions.length)
  }
  let next = 0
  const results = questions.map(({ options, answer }) => {
    const own = options.map(() => found[next++] ?? 0)
    const picked = smallest(own)
    const normalized = smallest(own.map((loss, i) => loss / (options[i]?.bytes ?? 1)))
    return { answer, losses: own, picked, picked_normalized: normalized, right: picked === answer }
  })
  const share = (of: (line: (typeof results)[number]) => boolean) => results.filter(of).length / results.length
  return {
    tokens,
    value: share(({ right }) => right),
    normalized: share((line) => line.picked_normalized === line.answer),
    lines: results,
  }
}

function smallest(values: readonly number[]): number {
  return values.indexOf(Math.min(...values))
}

/** Neighbours together, as many as have room. */
function batches<T>(items: readonly T[], sizeOf: (item: T) => number, most: number): T[][] {
  const result: T[][] = []
  let room = 0
  for (const item of items) {
    const size = sizeOf(item)
    room -= size
    if (room < 0 || result.length === 0) {
      result.push([])
      room = most - size
    }
    result.at(-1)?.push(item)
  }
  return result
}

function sum(values: Iterable<number>): number {
  let total = 0
  for (const value of values) total += value
  return total
}

/** A file of lines of JSON. */
function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted !== true) return
  throw new WeightsmithError('ERR_WEIGHTSMITH_ABORTED', 'The evaluation was aborted.', { cause: signal.reason })
}
