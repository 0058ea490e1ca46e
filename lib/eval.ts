/** `evaluate`: how well a model says the answers of a data set. */

import type { Adapter, Engine } from './engine.js'
import { WeightsmithError } from './errors.js'
import { generate, type Model } from './forward/index.js'
import { checkpointOf, modelOf } from './forward.js'
import { openText, readExamples, type Text } from './text.js'

export const metrics = ['nll', 'ppl', 'exact-match'] as const
export type Metric = (typeof metrics)[number]

export interface EvalOptions {
  /** A .jsonl file, one `{"prompt": ..., "answer": ...}` a line. */
  data: string
  /**
   * `nll`: mean loss a token, in nats; `ppl`: its exponential; `exact-match`: share of the prompts whose greedy continuation
   * up to its end is the answer. Defaults to `nll`.
   */
  metric?: Metric | undefined
  /** Most tokens of a greedy continuation, its end among them. Defaults to what the longest answer takes. */
  maxTokens?: number | undefined
  signal?: AbortSignal | undefined
}

export interface EvalReport {
  model: string
  data: string
  metric: Metric
  examples: number
  /** Tokens that were predicted. */
  tokens: number
  /** Over every token but the first of each line; for `exact-match` the share. */
  value: number
  /** Over the tokens of answers and their ends alone. */
  answers?: number
  adapter: Adapter['info']['device']
  milliseconds: number
}

/** Tokens a pass, and rows of the cache; what is longer takes as much as it needs. */
const usualTokens = 2048

type Result = Pick<EvalReport, 'tokens' | 'value' | 'answers'>

interface Line {
  prompt: number[]
  answer: number[]
}

/** Prompt and answer of a line are tokenized each on its own, and the id that ends an answer follows. */
export async function evaluate(engine: Engine, path: string, options: EvalOptions): Promise<EvalReport> {
  const { data, metric = 'nll', signal } = options
  if (!metrics.includes(metric)) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_ARGUMENT',
      `The metric should be ${metrics.join(', ')}, but "${metric}" was found.`,
    )
  }
  const begin = performance.now()
  const examples = await readExamples(data)
  const checkpoint = await checkpointOf(engine, path)
  const text = await openText(checkpoint)
  const lines = examples.map(({ prompt, answer }) => ({ prompt: text.prompt(prompt), answer: text.answer(answer) }))
  const most = options.maxTokens ?? Math.max(...lines.map(({ answer }) => answer.length)) + 1
  if (!Number.isInteger(most) || most < 1) {
    throw new WeightsmithError('ERR_WEIGHTSMITH_ARGUMENT', `maxTokens should be a whole number from 1, not ${most}.`)
  }
  const longest = Math.max(...lines.map(({ prompt, answer }) => prompt.length + Math.max(most, answer.length + 1)))
  const tokens = Math.max(usualTokens, longest)
  const exact = metric === 'exact-match'
  const model = modelOf(engine, checkpoint, { tokens, ...(exact ? { cache: tokens } : {}) })
  try {
    const result = exact ? await matches(model, text, lines, most, signal) : await losses(model, text, lines, signal)
    const shown = (value: number) => (metric === 'ppl' ? Math.exp(value) : value)
    return {
      model: path,
      data,
      metric,
      examples: examples.length,
      tokens: result.tokens,
      value: shown(result.value),
      ...(result.answers === undefined ? {} : { answers: shown(result.answers) }),
      adapter: engine.adapter.info.device,
      milliseconds: performance.now() - begin,
    }
  } finally {
    await model.close()
  }
}

/** Mean losses over all tokens and over those of answers. */
async function losses(model: Model, text: Text, lines: Line[], signal: AbortSignal | undefined): Promise<Result> {
  const sequences = lines.map(({ prompt, answer }) => [...prompt, ...answer, ...text.ends.slice(0, 1)])
  const all = { sum: 0, tokens: 0 }
  const answers = { sum: 0, tokens: 0 }
  let done = 0
  for (const batch of batches(sequences, model.tokens)) {
    throwIfAborted(signal)
    const { nll } = await model.run(model.pack(batch))
    let at = 0
    for (const { length } of batch) {
      const said = lines[done++]?.prompt.length ?? 0
      // Row t has the loss of token t + 1; the last row has none.
      for (let t = 0; t < length - 1; t++) {
        const loss = nll[at + t] ?? 0
        all.sum += loss
        all.tokens++
        if (t + 1 < said) continue
        answers.sum += loss
        answers.tokens++
      }
      at += length
    }
  }
  return { tokens: all.tokens, value: all.sum / all.tokens, answers: answers.sum / answers.tokens }
}

/** Share of the lines whose greedy continuation is the answer. */
async function matches(
  model: Model,
  text: Text,
  lines: Line[],
  most: number,
  signal: AbortSignal | undefined,
): Promise<Result> {
  const ends = new Set(text.ends)
  if (ends.size === 0) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_ARGUMENT',
      'The metric exact-match needs an eos_token_id in config.json or generation_config.json, and there is none.',
    )
  }
  const prompts = lines.map(({ prompt }) => prompt)
  const continuations = await generate(model, prompts, { most, ends, check: () => throwIfAborted(signal) })
  let tokens = 0
  let right = 0
  for (const [i, { ids, ended }] of continuations.entries()) {
    tokens += ids.length
    if (ended && text.decode(ids) === text.decode(lines[i]?.answer ?? [])) right++
  }
  return { tokens, value: right / lines.length }
}

/** Neighbours together, as many as have room. */
function batches(sequences: readonly number[][], most: number): number[][][] {
  const result: number[][][] = []
  let room = 0
  for (const sequence of sequences) {
    room -= sequence.length
    if (room < 0 || result.length === 0) {
      result.push([])
      room = most - sequence.length
    }
    result.at(-1)?.push(sequence)
  }
  return result
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted !== true) return
  throw new WeightsmithError('ERR_WEIGHTSMITH_ABORTED', 'The evaluation was aborted.', { cause: signal.reason })
}
