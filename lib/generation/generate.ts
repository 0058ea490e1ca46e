/** `generate`: continues prompts, by greedy decoding or sampling. */

import type { ImageSource } from '../data/images/index.js'
import { type ChatMessage, checkIds, ImageLoader, openTokenizer, type Prompt, type Tokenizer } from '../data/index.js'
import type { Engine } from '../engine/engine.js'
import { rowsOf } from '../runtime/index.js'
import { estimateGeneration, fitModel, type ModelFit } from '../runtime/memory_fit.js'
import { modelOf } from '../runtime/open_model.js'
import { openShaped, type ShapeChoice } from '../subnets/index.js'
import type { DryRun } from '../util/dry_run.js'
import { throwIfAborted, WeightsmithError, wrongOption } from '../util/errors.js'
import type { ProgressEvent } from '../util/progress.js'
import { StreamingDetokenizer } from './detokenizer.js'
import { generateIds, type SampleIndex } from './generate_ids.js'

export interface GenerateOptions {
  /** Maximum number of tokens of a continuation. Defaults to 64. */
  maxTokens?: number | undefined
  /** Sampling temperature; 0 is greedy decoding. Defaults to 0. */
  temperature?: number | undefined
  /** Sample from the K most likely tokens; 0: all. Defaults to 0. */
  topK?: number | undefined
  /** Nucleus sampling: the smallest set of most likely tokens with this total probability. Defaults to 1. */
  topP?: number | undefined
  /** Random seed: the same seed gives the same texts, whatever the batch. Defaults to 0. */
  seed?: number | undefined
  /** Number of continuations of each prompt. Defaults to 1. */
  samples?: number | undefined
  /** Texts that end a continuation; they are not part of it. */
  stop?: readonly string[] | undefined
  /** Put each prompt into the model's chat template; lists of messages always are. */
  chat?: boolean | undefined
  /** Folder of the images, or a safetensors file with the tensor `images`. Defaults to the working folder. */
  images?: string | undefined
  /** Run the model as one of its shapes, without cutting it. Defaults to all of it. */
  shape?: ShapeChoice | undefined
  /** Check everything and estimate the cost, but run nothing. */
  dryRun?: boolean | undefined
  signal?: AbortSignal | undefined
  /** Called after every decoding step with the continuations that are finished, of all. */
  onProgress?: ((event: GenerateProgress) => void) | undefined
  /** Called with every continuation as it ends. */
  onEnd?: ((continuation: GeneratedText) => void) | undefined
  /** Called with the text of continuations as it grows. */
  onText?: ((piece: string, at: SampleIndex) => void) | undefined
}

export interface GenerateProgress extends ProgressEvent {
  /** GeneratedText so far. */
  tokens: number
}

export interface GeneratedText extends SampleIndex {
  text: string
  tokens: number
  /** `end`: an end token; `stop`: a stop text; `length`: it reached `maxTokens`. */
  finish: 'end' | 'stop' | 'length'
}

export interface GenerateForecast extends ModelFit {
  model: string
  shape?: ShapeChoice
  prompts: number
  promptTokens: number
  /** Of the run; in a forecast an estimate from one layer, as if no continuation ended before its most. */
  milliseconds: number
}

export interface GenerateReport extends GenerateForecast {
  /** In the order of the prompts, the samples of each together. */
  continuations: GeneratedText[]
  /** That were generated. */
  tokens: number
}

/** A prompt with what belongs to it. */
export interface PromptWithImage {
  prompt: Prompt
  /** The image that stands where it says `<image>`: a file, or a row of a tensor. */
  image?: ImageSource | undefined
  /** What errors call it. Defaults to its number. */
  where?: string | undefined
}

/**
 * Continues prompts. Throws ERR_WEIGHTSMITH_ARGUMENT for options and prompts that cannot be taken, and for a shape that
 * is none of the strategy's, ERR_WEIGHTSMITH_ABORTED after an abort.
 */
export function generate(
  engine: Engine,
  path: string,
  prompts: readonly (Prompt | PromptWithImage)[],
  options: GenerateOptions & { dryRun: true },
): Promise<DryRun<GenerateForecast>>
export function generate(
  engine: Engine,
  path: string,
  prompts: readonly (Prompt | PromptWithImage)[],
  options?: GenerateOptions & { dryRun?: false | undefined },
): Promise<GenerateReport>
export function generate(
  engine: Engine,
  path: string,
  prompts: readonly (Prompt | PromptWithImage)[],
  options: GenerateOptions,
): Promise<GenerateReport | DryRun<GenerateForecast>>
export async function generate(
  engine: Engine,
  path: string,
  prompts: readonly (Prompt | PromptWithImage)[],
  options: GenerateOptions = {},
): Promise<GenerateReport | DryRun<GenerateForecast>> {
  const { maxTokens = 64, shape, signal, onEnd, onProgress, dryRun = false } = options
  const sampling = samplingOf(options)
  if (!Number.isInteger(maxTokens) || maxTokens < 1) throw wrongOption('maxTokens', 'a whole number from 1', maxTokens)
  if (prompts.length === 0) throw new WeightsmithError('ERR_WEIGHTSMITH_ARGUMENT', 'Pass at least one prompt.')
  const begin = performance.now()
  const shaped = await engine.use((host) => openShaped(host, path, shape, { signal, values: !dryRun }))
  const { checkpoint } = shaped
  const tokenizer = await openTokenizer(checkpoint)
  const lines = prompts.map((given, i) => {
    const asked: PromptWithImage = typeof given === 'object' && 'prompt' in given ? given : { prompt: given }
    const { prompt, image, where = `Prompt ${i + 1}` } = asked
    return { prompt: idsOf(tokenizer, prompt, options.chat === true), image, where }
  })
  const probe = modelOf(engine, checkpoint, {})
  for (const { prompt, where } of lines) checkIds({ spec: probe.spec, checkpoint }, prompt, where)
  const loader = await ImageLoader.open(
    engine,
    { model: probe, checkpoint },
    { file: '.', lines, root: options.images },
  )
  const ids = await Promise.all(lines.map((line) => loader.sequence(line.prompt, line)))
  const lengths = lines.map((line) => rowsOf(probe.spec, line.prompt))
  const promptTokens = lengths.reduce((sum, length) => sum + length, 0)
  const longest = Math.max(...lengths) + maxTokens
  const total = sampling.samples * (promptTokens + maxTokens * ids.length)
  const { model, fit } = await fitModel(engine, checkpoint, { longest, total, cached: true, options: shaped.options })
  const common = { model: path, ...(shape && { shape }), prompts: prompts.length, promptTokens, ...fit }
  const count = ids.length * sampling.samples
  if (dryRun) {
    const asked = {
      sequences: count,
      promptTokens,
      maxTokens,
      together: Math.floor(model.cache / longest),
      bytesReadPerPass: fit.bytesReadPerPass,
    }
    const milliseconds = await estimateGeneration(model, asked).finally(() => model.close())
    return { forecast: { ...common, milliseconds } }
  }
  const continuations: GeneratedText[] = []
  let generated = 0
  const detokenizer = new StreamingDetokenizer(tokenizer.decode, ({ prompt }) => lines[prompt]?.prompt ?? [], options)
  try {
    await generateIds(model, ids, {
      maxTokens,
      eosTokenIds: new Set(tokenizer.ends),
      sampling,
      stop: (ids, at) => detokenizer.push(ids, at),
      onEnd: ({ ids, ended }, at) => {
        const { text, stopped } = detokenizer.finish(ids, at)
        const finish = stopped ? 'stop' : ended ? 'end' : 'length'
        const one: GeneratedText = { ...at, text, tokens: ids.length, finish }
        generated += one.tokens
        continuations.push(one)
        onEnd?.(one)
      },
      onPass: (tokens) =>
        onProgress?.({
          phase: 'generate',
          done: continuations.length,
          total: count,
          unit: 'continuations',
          tokens,
        }),
      check: () => throwIfAborted(signal, 'The generation'),
    })
  } finally {
    await model.close()
  }
  continuations.sort((a, b) => a.prompt - b.prompt || a.sample - b.sample)
  return { ...common, continuations, tokens: generated, milliseconds: performance.now() - begin }
}

function idsOf(tokenizer: Tokenizer, prompt: Prompt, chat: boolean): number[] {
  if (typeof prompt === 'string' && !chat) return tokenizer.prompt(prompt)
  const messages: readonly ChatMessage[] = typeof prompt === 'string' ? [{ role: 'user', content: prompt }] : prompt
  return tokenizer.chat(messages)
}

function samplingOf({ temperature = 0, topK = 0, topP = 1, seed = 0, samples = 1, stop = [] }: GenerateOptions) {
  if (!(temperature >= 0 && temperature < Number.POSITIVE_INFINITY)) {
    throw wrongOption('temperature', 'a number from 0', temperature)
  }
  if (!Number.isInteger(topK) || topK < 0) throw wrongOption('topK', 'a whole number from 0', topK)
  if (!(topP > 0 && topP <= 1)) throw wrongOption('topP', 'a number above 0 and up to 1', topP)
  if (!Number.isSafeInteger(seed) || seed < 0) throw wrongOption('seed', 'a whole number from 0', seed)
  if (!Number.isInteger(samples) || samples < 1) throw wrongOption('samples', 'a whole number from 1', samples)
  if (stop.includes('')) throw wrongOption('stop', 'texts that are not empty', '')
  return { temperature, topK, topP, seed, samples }
}
