/** `evaluate`: how well a model says the answers of a data set. */

import type { Adapter, Engine } from './engine.js'
import { WeightsmithError } from './errors.js'
import { modelSpec } from './families/index.js'
import { generate, type Model, rowsOf } from './forward/index.js'
import { checkpointOf, modelOf } from './forward.js'
import { type Line, readLines, Sight } from './lines.js'
import { openText, type Text } from './text.js'

export const metrics = ['nll', 'ppl', 'exact-match'] as const
export type Metric = (typeof metrics)[number]

export interface EvalOptions {
  /** A .jsonl file, one `{"prompt": ..., "answer": ...}` a line, and maybe an `image`. */
  data: string
  /** Where images are: a folder, or a safetensors file with the tensor `images`. Defaults to the folder of `data`. */
  images?: string | undefined
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
  const checkpoint = await checkpointOf(engine, path)
  const text = await openText(checkpoint)
  const lines = await readLines(data, text)
  const most = options.maxTokens ?? Math.max(...lines.map(({ answer }) => answer.length)) + 1
  if (!Number.isInteger(most) || most < 1) {
    throw new WeightsmithError('ERR_WEIGHTSMITH_ARGUMENT', `maxTokens should be a whole number from 1, not ${most}.`)
  }
  const spec = modelSpec(checkpoint.config, checkpoint.tensors, checkpoint.name)
  const longest = Math.max(
    ...lines.map(({ prompt, answer }) => rowsOf(spec, prompt) + Math.max(most, answer.length + 1)),
  )
  const tokens = Math.max(usualTokens, longest)
  const exact = metric === 'exact-match'
  const model = modelOf(engine, checkpoint, { tokens, ...(exact ? { cache: tokens } : {}) })
  try {
    const sight = await Sight.open(engine, { model, checkpoint }, { file: data, lines, root: options.images })
    const work = { model, text, sight, check: () => throwIfAborted(signal) }
    const result = exact ? await matches(work, lines, most) : await losses(work, lines)
    const shown = (value: number) => (metric === 'ppl' ? Math.exp(value) : value)
    return {
      model: path,
      data,
      metric,
      examples: lines.length,
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

interface Work {
  model: Model
  text: Text
  sight: Sight
  check: () => void
}

/** Mean losses over all tokens and over those of answers. */
async function losses({ model, text, sight, check }: Work, lines: readonly Line[]): Promise<Result> {
  const end = text.ends.slice(0, 1)
  const idsOf = ({ prompt, answer }: Line) => [...prompt, ...answer, ...end]
  const all = { sum: 0, tokens: 0 }
  const answers = { sum: 0, tokens: 0 }
  for (const batch of batches(lines, (line) => rowsOf(model.spec, idsOf(line)), model.tokens)) {
    check()
    const tokens = model.pack(await Promise.all(batch.map((line) => sight.sequence(idsOf(line), line))))
    const { nll } = await model.run(tokens)
    let at = 0
    for (const line of batch) {
      const length = rowsOf(model.spec, idsOf(line))
      const said = length - line.answer.length - end.length
      // Row t has the loss of token t + 1, if that is to be predicted.
      for (let t = 0; t < length - 1; t++) {
        if (tokens[at + t]?.target === undefined) continue
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
async function matches({ model, text, sight, check }: Work, lines: readonly Line[], most: number): Promise<Result> {
  const ends = new Set(text.ends)
  if (ends.size === 0) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_ARGUMENT',
      'The metric exact-match needs an eos_token_id in config.json or generation_config.json, and there is none.',
    )
  }
  let tokens = 0
  let right = 0
  for (const batch of batches(lines, ({ prompt }) => rowsOf(model.spec, prompt) + most, model.tokens)) {
    const prompts = await Promise.all(batch.map((line) => sight.sequence(line.prompt, line)))
    const continuations = await generate(model, prompts, { most, ends, check })
    for (const [i, { ids, ended }] of continuations.entries()) {
      tokens += ids.length
      if (ended && text.decode(ids) === text.decode(batch[i]?.answer ?? [])) right++
    }
  }
  return { tokens, value: right / lines.length }
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

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted !== true) return
  throw new WeightsmithError('ERR_WEIGHTSMITH_ABORTED', 'The evaluation was aborted.', { cause: signal.reason })
}
