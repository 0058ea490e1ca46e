/**
 * `score`: what a model's weights and activations say about the importance of its parts, in a file that prune reads.
 */

import { stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import { openWithAdapters } from '../adapters/adapted_model.js'
import { ResumePoint } from '../checkpoint/resume/index.js'
import { type Batch, batchesOf, readSequences } from '../data/index.js'
import type { Engine } from '../engine/engine.js'
import { version } from '../native/version.js'
import type { Model } from '../runtime/index.js'
import { modelOf } from '../runtime/open_model.js'
import type { DryRun } from '../util/dry_run.js'
import { misuse, throwIfAborted, WeightsmithError, wrongOption } from '../util/errors.js'
import type { ProgressEvent } from '../util/progress.js'
import {
  chosenMethods,
  fingerprint,
  readScores,
  restoreScores,
  SavedArrays,
  type ScoreInfo,
  type Scores,
  ScoreWriter,
  saveScores,
} from './index.js'

export interface ScoreOptions {
  /** Names of `scoreMethods`; what they measure is measured in one run. */
  methods: readonly string[]
  /**
   * A .jsonl file, one `{"prompt": ..., "answer": ...}` or `{"text": ...}` a line; every method but `magnitude` needs
   * it. A text longer than the context is several lines.
   */
  data?: string | undefined
  /** Where the images of the data are. Defaults to the folder of the data. */
  images?: string | undefined
  /** The score file to write; not needed with `dryRun`. */
  out?: string | undefined
  /** Layers to be measured. Defaults to all. */
  layers?: readonly number[] | undefined
  /** Neurons count as active where |x| > tau. Defaults to 0.1. */
  tau?: number | undefined
  /** Tokens of a forward pass. Defaults to 1,024, or what the longest line has. */
  batchTokens?: number | undefined
  /** Number of lines of the data to use, chosen by `seed`. Defaults to all. */
  limit?: number | undefined
  /** Defaults to 0. */
  seed?: number | undefined
  /**
   * Go on where an earlier run with the same options was interrupted; where there is none, begin. A run leaves where it
   * stands beside the output when it is interrupted, and every half minute: between batches, or with Gram matrices
   * between parts of the model.
   */
  resume?: boolean | undefined
  /** Replace an existing file, and discard an unfinished one. */
  overwrite?: boolean | undefined
  /** Check everything and estimate the cost, but write nothing. */
  dryRun?: boolean | undefined
  signal?: AbortSignal | undefined
  /** Layers that batches have been through, of all. */
  onProgress?: ((event: ProgressEvent) => void) | undefined
}

export interface ScoreForecast {
  model: string
  methods: string[]
  examples: number
  tokens: number
  layers: number[]
  /** Parts in which the model goes through the device, and bytes that the largest takes there. */
  partitions: number
  deviceBytes: number
  /** Bytes of scores. */
  bytesWritten: number
  device: string
  /** Of the run; in a forecast an estimate from one layer. */
  milliseconds: number
}

export interface ScoreReport extends ScoreForecast {
  out: string
}

const usualTokens = 1024
/** Milliseconds between two notes of where a run stands. */
const noteEvery = 30_000

/** Throws ERR_WEIGHTSMITH_ARGUMENT for options, lines and layers that the model cannot take. */
export function score(
  engine: Engine,
  path: string,
  options: ScoreOptions & { dryRun: true },
): Promise<DryRun<ScoreForecast>>
export function score(
  engine: Engine,
  path: string,
  options: ScoreOptions & { dryRun?: false | undefined },
): Promise<ScoreReport>
export function score(engine: Engine, path: string, options: ScoreOptions): Promise<ScoreReport | DryRun<ScoreForecast>>
export async function score(
  engine: Engine,
  path: string,
  options: ScoreOptions,
): Promise<ScoreReport | DryRun<ScoreForecast>> {
  const { data, out, tau = 0.1, limit, seed = 0, dryRun = false, overwrite = false, signal, onProgress } = options
  const begin = performance.now()
  for (const name of ['limit', 'batchTokens'] as const) {
    const value = options[name]
    if (value !== undefined && !(Number.isSafeInteger(value) && value >= 1)) {
      throw wrongOption(name, 'a whole number from 1', value)
    }
  }
  if (!(tau >= 0)) throw wrongOption('tau', 'a number from 0', tau)
  const methods = chosenMethods(options.methods)
  const needing = methods.find((method) => method.data)
  if (needing !== undefined && data === undefined)
    throw misuse(`The method ${needing.name} needs data; pass a .jsonl file as data.`)
  if (out === undefined && !dryRun) throw misuse('Pass the score file to write as out.')
  if (out !== undefined && !dryRun && !overwrite && (await stat(out).catch(() => undefined)) !== undefined) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_OUTPUT_EXISTS',
      `The output ${out} is there already; choose another name or ask to overwrite it.`,
      { file: out },
    )
  }
  const checkpoint = await engine.use((host) => openWithAdapters(host, path, { signal, values: !dryRun }))
  const probe = modelOf(engine, checkpoint, { batchTokens: 1 })
  const layers = checkLayers(options.layers, probe, path)
  const read =
    data === undefined || needing === undefined
      ? undefined
      : await readSequences(engine, { model: probe, checkpoint }, { file: data, images: options.images, limit, seed })
  const sequences = read?.sequences ?? []
  const longest = sequences.reduce((most, { length }) => Math.max(most, length), 1)
  const model = modelOf(engine, checkpoint, { batchTokens: Math.max(longest, options.batchTokens ?? usualTokens) })
  try {
    const batches = batchesOf(model, sequences)
    const kept = new SavedArrays()
    const setting = { kept, spec: model.spec, batches, layers, tau }
    let writer: ScoreWriter | undefined
    const collectors = methods.map((method) =>
      method.collect(setting, async (name, values, first) => writer?.write(name, values, first)),
    )
    const skips = collectors.flatMap((collector) => collector.skips ?? [])
    const observers = collectors.flatMap((collector) => collector.observers ?? [])
    const tensors = uniqueNames(
      collectors.flatMap((collector) => [...collector.collected(), ...(collector.written ?? [])]),
    )
    const tokens = batches.reduce((sum, batch) => sum + batch.tokens.length, 0)
    const { partitions, bytes: deviceBytes } = await model.forecast({ mode: 'layerwise', observers })
    const report = {
      model: path,
      methods: methods.map(({ name }) => name),
      examples: sequences.length,
      tokens,
      layers,
      partitions,
      deviceBytes,
      bytesWritten: tensors.reduce((sum, { shape }) => sum + 4 * shape.reduce((a, b) => a * b, 1), 0),
      device: engine.device.name,
    }
    if (out === undefined || dryRun) {
      return { forecast: { ...report, milliseconds: await estimate(model, batches, skips) } }
    }
    const info: ScoreInfo = {
      format: 1,
      weightsmith: version,
      methods: report.methods,
      model: { name: checkpoint.name, fingerprint: await fingerprint(checkpoint) },
      ...(data === undefined || read === undefined
        ? {}
        : { data: { file: data, sha256: read.sha256, examples: sequences.length, tokens } }),
      parameters: { layers, tau, seed },
      device: report.device,
    }
    const place = `${resolve(out)}.resume`
    const facts = {
      'version of Weightsmith': version,
      'set of methods': info.methods,
      ...{ model: info.model, 'data set': info.data, 'set of layers': layers, tau, seed },
      ...{ 'number of tokens a pass': model.batchTokens, 'number of partitions': partitions, device: info.device },
    }
    const run = { verb: 'score', facts, inputs: [] }
    const point = await ResumePoint.open(place, run, { resume: options.resume === true, overwrite })
    const from = point.resumed ? await engine.use(({ addon }) => restoreScores(addon, point, kept)) : undefined
    writer = await ScoreWriter.open(out, info, tensors, from !== undefined)
    let noted = from !== undefined
    let latest = performance.now()
    try {
      await model.layerwisePass(
        batches.map((batch) => batch.tokens),
        {
          observers,
          skips,
          from,
          ...(collectors.some(({ losses }) => losses !== undefined) && {
            losses: (batch: number, nll: Float32Array, skip?: number) => {
              for (const { losses } of collectors) losses?.(batch, nll, skip)
            },
          }),
          check: () => throwIfAborted(signal, 'The scoring'),
          onState: async (state, last) => {
            if (!last && performance.now() - latest < noteEvery) return
            await writer?.sync()
            await saveScores(point, state, kept)
            noted = true
            latest = performance.now()
          },
          onStep: (done, total) => onProgress?.({ phase: 'score', done, total, unit: 'layers' }),
        },
      )
      const written = new Set<string>()
      for (const { name, values } of collectors.flatMap((collector) => collector.collected())) {
        if (!written.has(name)) await writer.write(name, values)
        written.add(name)
      }
      throwIfAborted(signal, 'The scoring')
      await writer.finish()
      await point.remove()
    } catch (error) {
      if (noted) await writer.leave()
      else await writer.discard()
      if (noted && error instanceof WeightsmithError) error.partial = place
      throw error
    }
    return { ...report, out, milliseconds: performance.now() - begin }
  } finally {
    await model.close()
  }
}

/**
 * Opens a score file. With the model it should be of, throws ERR_WEIGHTSMITH_INPUT_CHANGED where it is of another one.
 */
export async function openScores(engine: Engine, path: string, model?: string): Promise<Scores> {
  const checkpoint = model === undefined ? undefined : await engine.use((host) => openWithAdapters(host, model))
  return engine.use(({ addon }) => readScores(addon, path, checkpoint))
}

/** One layer on the longest batch, times the layers that all tokens go through. */
async function estimate(
  model: Model,
  batches: readonly Batch[],
  skips: readonly ReadonlySet<number>[],
): Promise<number> {
  const [first, ...others] = batches
  if (first === undefined) return 0
  const longest = others.reduce((most, batch) => (batch.tokens.length > most.tokens.length ? batch : most), first)
  const depth = model.spec.language.layers.length
  const passes = skips.reduce((sum, skip) => sum + depth - Math.min(...skip), depth)
  const tokens = batches.reduce((sum, batch) => sum + batch.tokens.length, 0)
  const { run } = await model.paceOf(longest.tokens)
  return (run * passes * tokens) / longest.tokens.length
}

/** Several methods may give the same tensor. */
function uniqueNames<T extends { name: string }>(tensors: readonly T[]): T[] {
  return [...new Map(tensors.map((tensor) => [tensor.name, tensor])).values()]
}

function checkLayers(layers: readonly number[] | undefined, { spec }: Model, name: string): number[] {
  const depth = spec.language.layers.length
  const chosen = [...new Set(layers ?? spec.language.layers.keys())].sort((a, b) => a - b)
  const wrong = chosen.find((layer) => !Number.isInteger(layer) || layer < 0 || layer >= depth)
  if (wrong !== undefined) throw misuse(`Layer ${wrong} does not exist; ${name} has layers 0 to ${depth - 1}.`)
  if (chosen.length === 0) throw misuse('Name at least one layer.')
  return chosen
}
