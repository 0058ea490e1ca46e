/** `evaluate`: loss, perplexity, exact match or multiple choice of a model on a data set. */

import type { ModelSpec } from '../architectures/index.js'
import type { Checkpoint } from '../checkpoint/index.js'
import { ImageLoader, openTokenizer } from '../data/index.js'
import type { Engine } from '../engine/engine.js'
import type { Model } from '../runtime/index.js'
import { fitModel, type ModelFit } from '../runtime/memory_fit.js'
import { modelOf } from '../runtime/open_model.js'
import { openShaped, type ShapeChoice } from '../subnets/index.js'
import type { DryRun } from '../util/dry_run.js'
import { misuse, throwIfAborted } from '../util/errors.js'
import { createLines } from '../util/jsonl.js'
import type { ProgressEvent } from '../util/progress.js'
import { type DataSet, type EvalMetric, estimateOf, evalMetrics, measure, readSet } from './index.js'

export { type EvalMetric, evalMetrics } from './index.js'

export interface EvalOptions {
  /**
   * One or more .jsonl files, one `{"prompt": ..., "answer": ...}` a line, and maybe an `image`; for `choice` with
   * `choices` too. For `nll` and `ppl` a line may be a `{"text": ...}`, of which everything but the first id is
   * predicted, in windows where it is longer than the context.
   */
  data: string | readonly string[]
  /** Where images are: a folder, or a safetensors file with the tensor `images`. Defaults to the folder of `data`. */
  images?: string | undefined
  /**
   * `nll`: mean loss a token, in nats; `ppl`: its exponential; `exact-match`: share of the prompts whose greedy
   * continuation up to its end is the answer; `choice`: share of the prompts whose likeliest choice is the answer.
   * Defaults to `nll`.
   */
  metric?: EvalMetric | undefined
  /** Maximum number of tokens to generate, end token included. Defaults to the length of the longest answer. */
  maxTokens?: number | undefined
  /** Tokens of a text that the model sees at once. Defaults to its context length. */
  window?: number | undefined
  /** Tokens that every window of a text but the first predicts; those before them are context. Defaults to `window`. */
  stride?: number | undefined
  /** Use only the first lines, this many. Defaults to all. */
  limit?: number | undefined
  /** Run the model as one of its shapes, without cutting it. Defaults to all of it. */
  shape?: ShapeChoice | undefined
  /** A .jsonl file to write the result of every line to. */
  out?: string | undefined
  /** Check everything and estimate the cost, but run no data. */
  dryRun?: boolean | undefined
  signal?: AbortSignal | undefined
  /** Called with the result of every line, once its data set is done; `out` gets the same. */
  onLine?: ((line: Readonly<Record<string, unknown>>) => void) | undefined
  /** Called after every batch, or every continuation; `item` is the data set. */
  onProgress?: ((event: ProgressEvent) => void) | undefined
}

/** Of one data set. */
export interface EvalSetForecast {
  data: string
  examples: number
  /** That go through the model, at most. */
  tokens: number
  /** An estimate from one layer. */
  milliseconds: number
}

export interface EvalForecast extends ModelFit {
  model: string
  shape?: ShapeChoice
  metric: EvalMetric
  /** In the order of `data`. */
  sets: EvalSetForecast[]
  /** Of all sets. */
  milliseconds: number
}

/** What came out for one data set. */
export interface EvalSetReport {
  data: string
  examples: number
  /** Tokens that were predicted. */
  tokens: number
  /** Over every token but the first of each line; for `exact-match` and `choice` the share. */
  value: number
  /** Over the tokens of answers and their ends alone, where there are any. */
  answers?: number
  /** Of data of texts alone: the loss in bits a byte of them, which does not depend on the tokenizer. */
  bitsPerByte?: number
  /** For `choice`: the share with losses divided by the lengths of choices in bytes. */
  normalized?: number
  milliseconds: number
}

export interface EvalReport extends ModelFit {
  model: string
  shape?: ShapeChoice
  metric: EvalMetric
  /** In the order of `data`. */
  sets: EvalSetReport[]
  /** Of the run, the loading of the model included. */
  milliseconds: number
}

/**
 * Evaluates data sets by one metric; the model is loaded once. Prompt and answer of a line are tokenized as the text
 * that both are together, and the id that ends an answer follows. Throws ERR_WEIGHTSMITH_ARGUMENT for options and lines
 * that it cannot take, with the number of the line, and for a shape that is none of the strategy's.
 */
export function evaluate(
  engine: Engine,
  path: string,
  options: EvalOptions & { dryRun: true },
): Promise<DryRun<EvalForecast>>
export function evaluate(
  engine: Engine,
  path: string,
  options: EvalOptions & { dryRun?: false | undefined },
): Promise<EvalReport>
export function evaluate(engine: Engine, path: string, options: EvalOptions): Promise<EvalReport | DryRun<EvalForecast>>
export async function evaluate(
  engine: Engine,
  path: string,
  options: EvalOptions,
): Promise<EvalReport | DryRun<EvalForecast>> {
  const { metric = 'nll', shape, signal } = options
  const begin = performance.now()
  const files = [options.data].flat()
  if (files.length === 0) throw misuse('Pass at least one data set.')
  const shaped = await engine.use((host) => openShaped(host, path, shape, { signal, values: !options.dryRun }))
  const { checkpoint } = shaped
  const tokenizer = await openTokenizer(checkpoint)
  const { spec } = modelOf(engine, checkpoint, {})
  checkOptions(options, { ends: tokenizer.ends, spec, checkpoint })
  const sets: DataSet[] = []
  for (const file of files) sets.push(await readSet(file, { tokenizer, spec, checkpoint }, { ...options, metric }))
  const longest = Math.max(...sets.map((set) => set.longest))
  const total = Math.max(...sets.map((set) => set.total))
  const cached = metric === 'exact-match'
  const { model, fit } = await fitModel(engine, checkpoint, { longest, total, cached, options: shaped.options })
  const common = { model: path, ...(shape && { shape }), metric, ...fit }
  try {
    if (options.dryRun) {
      const found = await forecastSets(model, sets, {
        bytesReadPerPass: fit.bytesReadPerPass,
        together: Math.floor(model.cache / longest),
      })
      const milliseconds = found.reduce((sum, set) => sum + set.milliseconds, 0)
      return { forecast: { ...common, sets: found, milliseconds } }
    }
    const reports: EvalSetReport[] = []
    const out = options.out === undefined ? undefined : await createLines(options.out)
    try {
      for (const set of sets) {
        const begin = performance.now()
        const { file, examples } = set
        const seen = set.kind === 'choices' ? set.questions : set.lines
        const work = {
          model,
          tokenizer,
          loader: await ImageLoader.open(engine, { model, checkpoint }, { file, lines: seen, root: options.images }),
          check: () => throwIfAborted(signal, 'The evaluation'),
          step: (done: number) =>
            options.onProgress?.({ phase: 'evaluate', done, total: examples, unit: 'examples', item: file }),
        }
        const { lines, ...result } = await measure(work, set)
        const outcomes = lines.map((line, i) => ({ data: file, example: i + 1, ...line }))
        await out?.write(outcomes)
        for (const line of outcomes) options.onLine?.(line)
        reports.push({
          ...{ data: file, examples },
          ...result,
          ...(metric === 'ppl' && {
            value: Math.exp(result.value),
            ...(result.answers !== undefined && { answers: Math.exp(result.answers) }),
          }),
          milliseconds: performance.now() - begin,
        })
      }
      await out?.finish()
    } finally {
      await out?.close()
    }
    return { ...common, sets: reports, milliseconds: performance.now() - begin }
  } finally {
    await model.close()
  }
}

async function forecastSets(
  model: Model,
  sets: readonly DataSet[],
  pace: { bytesReadPerPass: number; together: number },
): Promise<EvalSetForecast[]> {
  const found: EvalSetForecast[] = []
  for (const set of sets) {
    const { file, examples, total } = set
    found.push({ data: file, examples, tokens: total, milliseconds: await estimateOf(model, set, pace) })
  }
  return found
}

function checkOptions(
  options: EvalOptions,
  { ends, spec, checkpoint }: { ends: readonly number[]; spec: ModelSpec; checkpoint: Checkpoint },
): void {
  const { metric = 'nll', window = spec.context, stride = window } = options
  if (!evalMetrics.includes(metric))
    throw misuse(`Expected metric to be one of ${evalMetrics.join(', ')}, but received "${metric}".`)
  for (const name of ['maxTokens', 'limit', 'window', 'stride'] as const) {
    const value = options[name]
    if (value === undefined || (Number.isInteger(value) && value >= 1)) continue
    throw misuse(`Expected ${name} to be a whole number from 1, but received ${value}.`)
  }
  if (window > spec.context) {
    throw misuse(
      `A window of ${window} tokens is longer than the context of ${checkpoint.name}, ${spec.context} tokens.`,
    )
  }
  if (stride > window) throw misuse(`A stride of ${stride} tokens is longer than the window of ${window}.`)
  if (metric === 'exact-match' && ends.length === 0) {
    throw misuse(
      'The metric exact-match needs an eos_token_id in config.json or generation_config.json, and there is none.',
    )
  }
}
