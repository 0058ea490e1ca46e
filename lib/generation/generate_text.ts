/** `generateText`: what a model goes on to say after prompts, greedy or drawn. */

import type { ImageSource } from '../data/images/index.js'
import { checkIds, type Message, openText, type Prompt, Sight, type Text } from '../data/index.js'
import type { Engine } from '../engine/engine.js'
import { checkpointOf, modelOf } from '../runtime/forward.js'
import { rowsOf } from '../runtime/index.js'
import { estimateGeneration, fitModel, streamingNotice } from '../runtime/memory_fit.js'
import { throwIfAborted, WeightsmithError, wrongOption } from '../util/errors.js'
import { generate, type Place } from './generate.js'

export interface GenerateTextOptions {
  /** Most tokens of a continuation. Defaults to 64. */
  maxTokens?: number | undefined
  /** What logits are divided by before an id is drawn; 0 takes the likeliest one. Defaults to 0. */
  temperature?: number | undefined
  /** Only so many of the likeliest ids; 0: all. Defaults to 0. */
  topK?: number | undefined
  /** Only the likeliest ids whose probabilities together reach this. Defaults to 1. */
  topP?: number | undefined
  /** Of the random numbers: the same seed draws the same, whatever the batch. Defaults to 0. */
  seed?: number | undefined
  /** Continuations of each prompt. Defaults to 1. */
  samples?: number | undefined
  /** Texts that end a continuation; they are not part of it. */
  stop?: readonly string[] | undefined
  /** Prompts are messages of a user in the model's chat template; lists of messages always are. */
  chat?: boolean | undefined
  /** Where images of prompts are: a folder, or a safetensors file with the tensor `images`. Defaults to the working folder. */
  images?: string | undefined
  /** Check all, and say how many tokens and bytes it takes, but run nothing. */
  dryRun?: boolean | undefined
  signal?: AbortSignal | undefined
  /** After every pass, which says one token of every continuation that is under way: those that are done, of all. */
  onProgress?: ((event: { done: number; total: number; tokens: number; reads: number }) => void) | undefined
  /** Every continuation as it ends. */
  onEnd?: ((continuation: Generated) => void) | undefined
  /** The text of continuations as it grows. */
  onText?: ((piece: string, at: Place) => void) | undefined
}

export interface Generated extends Place {
  text: string
  tokens: number
  /** `end`: the model ended it; `stop`: a stop text did; `length`: it may be no longer. */
  finish: 'end' | 'stop' | 'length'
}

export interface GenerateReport {
  model: string
  dryRun: boolean
  prompts: number
  promptTokens: number
  /** In the order of the prompts, the samples of each together; none in a dry run. */
  continuations: Generated[]
  /** That were generated. */
  tokens: number
  /** Bytes of the model, its cache and its activations on the device, or of as much of it as is there at a time. */
  bytes: number
  /** In which the model goes through the device: 1 where it fits the memory. */
  parts: number
  /** Bytes of weights that are read from the files for every pass; 0 where the model fits. */
  reads: number
  notes: string[]
  device: string
  /** Of the run; with `dryRun` an estimate from one layer, as if no continuation ended before its most. */
  milliseconds: number
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
 * Continues prompts. Throws ERR_WEIGHTSMITH_ARGUMENT for options and prompts that cannot be taken, ERR_WEIGHTSMITH_ABORTED
 * after an abort.
 */
export async function generateText(
  engine: Engine,
  path: string,
  prompts: readonly (Prompt | PromptWithImage)[],
  options: GenerateTextOptions = {},
): Promise<GenerateReport> {
  const { maxTokens = 64, signal, onEnd, onProgress, dryRun = false } = options
  const sampling = samplingOf(options)
  if (!Number.isInteger(maxTokens) || maxTokens < 1) throw wrongOption('maxTokens', 'a whole number from 1', maxTokens)
  if (prompts.length === 0) throw new WeightsmithError('ERR_WEIGHTSMITH_ARGUMENT', 'There is no prompt.')
  const begin = performance.now()
  const checkpoint = await checkpointOf(engine, path)
  const text = await openText(checkpoint)
  const lines = prompts.map((given, i) => {
    const asked: PromptWithImage = typeof given === 'object' && 'prompt' in given ? given : { prompt: given }
    const { prompt, image, where = `Prompt ${i + 1}` } = asked
    return { prompt: idsOf(text, prompt, options.chat === true), image, where }
  })
  const probe = modelOf(engine, checkpoint, {})
  for (const { prompt, where } of lines) checkIds({ spec: probe.spec, checkpoint }, prompt, where)
  const sight = await Sight.open(engine, { model: probe, checkpoint }, { file: '.', lines, root: options.images })
  const ids = await Promise.all(lines.map((line) => sight.sequence(line.prompt, line)))
  const lengths = lines.map((line) => rowsOf(probe.spec, line.prompt))
  const promptTokens = lengths.reduce((sum, length) => sum + length, 0)
  const longest = Math.max(...lengths) + maxTokens
  const total = sampling.samples * (promptTokens + maxTokens * ids.length)
  const { model, bytes, parts, reads } = await fitModel(engine, checkpoint, { longest, total, cached: true })
  const report: GenerateReport = {
    model: path,
    dryRun,
    prompts: prompts.length,
    promptTokens,
    continuations: [],
    tokens: 0,
    bytes,
    parts,
    reads,
    notes: parts === 1 ? [] : [streamingNotice(path, reads)],
    device: engine.device.name,
    milliseconds: 0,
  }
  const count = ids.length * sampling.samples
  if (dryRun) {
    const asked = {
      sequences: count,
      promptTokens,
      maxNewTokens: maxTokens,
      together: Math.floor(model.cache / longest),
      reads,
    }
    return { ...report, milliseconds: await estimateGeneration(model, asked).finally(() => model.close()) }
  }
  const speaker = new Speaker((ids, { prompt }) => text.decode(ids, lines[prompt]?.prompt), options)
  try {
    await generate(model, ids, {
      maxNewTokens: maxTokens,
      eosTokenIds: new Set(text.ends),
      sampling,
      stop: (said, at) => speaker.hear(said, at),
      onEnd: (continuation, at) => {
        const one = speaker.finish(continuation, at)
        report.tokens += one.tokens
        report.continuations.push(one)
        onEnd?.(one)
      },
      onPass: (tokens) => onProgress?.({ done: report.continuations.length, total: count, tokens, reads }),
      check: () => throwIfAborted(signal, 'The generation'),
    })
  } finally {
    await model.close()
  }
  report.continuations.sort((a, b) => a.prompt - b.prompt || a.sample - b.sample)
  report.milliseconds = performance.now() - begin
  return report
}

/** Turns ids into texts as they come, and listens for what stops them. */
class Speaker {
  /** What was said so far of sequences that are heard piece by piece. */
  private readonly said = new Map<string, string>()

  constructor(
    private readonly textOf: (ids: readonly number[], at: Place) => string,
    private readonly options: Pick<GenerateTextOptions, 'stop' | 'onText'>,
  ) {}

  /** Whether a stop text is there. */
  hear(ids: readonly number[], at: Place): boolean {
    const { stop = [], onText } = this.options
    if (stop.length === 0 && onText === undefined) return false
    const { text, stopped } = this.cut(this.textOf(ids, at))
    // What may be the beginning of a stop text, or of a character, waits.
    const hold = Math.max(0, ...stop.map(({ length }) => length - 1))
    if (!stopped && !text.endsWith('\ufffd')) this.say(text.slice(0, text.length - hold), at)
    return stopped
  }

  finish({ ids, ended }: { ids: number[]; ended: boolean }, at: Place): Generated {
    const { text, stopped } = this.cut(this.textOf(ids, at))
    this.say(text, at)
    return { ...at, text, tokens: ids.length, finish: stopped ? 'stop' : ended ? 'end' : 'length' }
  }

  private cut(text: string): { text: string; stopped: boolean } {
    const found = (this.options.stop ?? []).map((stop) => text.indexOf(stop)).filter((at) => at >= 0)
    return found.length === 0 ? { text, stopped: false } : { text: text.slice(0, Math.min(...found)), stopped: true }
  }

  private say(text: string, at: Place): void {
    const { onText } = this.options
    if (onText === undefined) return
    const key = `${at.prompt} ${at.sample}`
    const before = this.said.get(key)?.length ?? 0
    if (text.length <= before) return
    this.said.set(key, text)
    onText(text.slice(before), at)
  }
}

function idsOf(text: Text, prompt: Prompt, chat: boolean): number[] {
  if (typeof prompt === 'string' && !chat) return text.prompt(prompt)
  const messages: readonly Message[] = typeof prompt === 'string' ? [{ role: 'user', content: prompt }] : prompt
  return text.chat(messages)
}

function samplingOf({ temperature = 0, topK = 0, topP = 1, seed = 0, samples = 1, stop = [] }: GenerateTextOptions) {
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
