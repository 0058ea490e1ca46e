/**
 * How good the shapes of a model are: one model on the device runs as all of them, so that nothing is cut. An adapter
 * stays beside it; a mixture of experts has the gates of each shape.
 */

import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import type { ModelSpec } from '../../architectures/index.js'
import type { Checkpoint } from '../../checkpoint/index.js'
import { ImageLoader, openTokenizer, type Tokenizer } from '../../data/index.js'
import type { Engine } from '../../engine/engine.js'
import { type DataSet, estimateOf, type Measured, measure, readSet } from '../../eval/index.js'
import { version } from '../../native/version.js'
import type { Model, ModelAdapters, Subnet } from '../../runtime/index.js'
import { fitModel, type ModelFit } from '../../runtime/memory_fit.js'
import { checkpointOf, modelOf } from '../../runtime/open_model.js'
import { fingerprint } from '../../score/index.js'
import {
  readShapeAdapter,
  readStrategy,
  type ShapeSize,
  type Strategy,
  shapeOf,
  sizeOf,
  subnetOf,
} from '../../subnets/index.js'
import type { DryRun } from '../../util/dry_run.js'
import { misuse, throwIfAborted, wrongOption } from '../../util/errors.js'
import { createLines } from '../../util/jsonl.js'
import type { ProgressEvent } from '../../util/progress.js'
import { Journal } from './journal.js'

/** What tells how good a shape is; see `AmoebaEvalOptions.metric`. */
export const shapeMetrics = ['exact-match', 'choice', 'nll'] as const
export type ShapeMetric = (typeof shapeMetrics)[number]

export interface AmoebaEvalOptions {
  /** The strategy file of the model. */
  strategy: string
  /** One or more .jsonl files, as `evaluate` takes them. */
  data: string | readonly string[]
  /** Where images are: a folder, or a safetensors file with the tensor `images`. Defaults to the folder of `data`. */
  images?: string | undefined
  /** A folder with a mixture of experts, as `amoebaTrain` writes it, or with a LoRA adapter of PEFT or mlx-lm. */
  adapter?: string | undefined
  /** Numbers of blocks. Defaults to all that the strategy has. */
  depths?: readonly number[] | undefined
  /** Shares of the parameters of heads and neurons. Defaults to all that the strategy has. */
  widths?: readonly number[] | undefined
  /**
   * `exact-match`: share of the prompts whose greedy continuation up to its end is the answer, and the loss of answers;
   * `choice`: share of the prompts whose likeliest choice is the answer, and the loss of that; `nll`: the loss alone,
   * of answers, or of all tokens of texts. Defaults to `exact-match`.
   */
  metric?: ShapeMetric | undefined
  /** Whether biases stand for what heads and neurons gave that are not there. Defaults to true. */
  bias?: boolean | undefined
  /** Maximum number of tokens to generate, end token included. Defaults to the length of the longest answer. */
  maxTokens?: number | undefined
  /** Use only the first lines of each file, this many. Defaults to all. */
  limit?: number | undefined
  /** A .jsonl file to write the result of every shape to. Only with it can an interrupted run be resumed. */
  out?: string | undefined
  /** Go on where an earlier run with the same options was interrupted; where there is none, begin. */
  resume?: boolean | undefined
  /** Discard what an interrupted run has left. */
  overwrite?: boolean | undefined
  /** Check everything and estimate the cost, but run no data. */
  dryRun?: boolean | undefined
  signal?: AbortSignal | undefined
  /** Lines of all shapes and files; `item` is the shape. */
  onProgress?: ((event: ProgressEvent) => void) | undefined
}

/** A shape, and how large it is when it is cut. */
export interface AmoebaShape extends ShapeSize {
  /** Blocks that stay. */
  depth: number
  /** Share of the parameters of heads and neurons that stays. */
  width: number
}

export interface AmoebaEvalForecast extends ModelFit {
  model: string
  strategy: string
  adapter?: string
  metric: ShapeMetric
  /** Whether biases stand for what is not there. */
  bias: boolean
  /** From the largest to the smallest: depths descending, and of each depth widths descending. */
  shapes: AmoebaShape[]
  /** Files of data. */
  data: string[]
  /** Lines of all files. */
  examples: number
  /** Of the run; in a forecast an estimate from one layer. */
  milliseconds: number
}

/** What came out for a shape, and for one of its data sets. */
export interface ShapeResult {
  /** Share of the lines that are answered right; not there for `nll`. */
  accuracy?: number
  /** Mean loss a token, in nats. */
  loss: number
}

export interface AmoebaShapeResult extends AmoebaShape, ShapeResult {
  /** In the order of `data`. */
  sets: (ShapeResult & { data: string })[]
}

export interface AmoebaEvalReport extends Omit<AmoebaEvalForecast, 'shapes'> {
  shapes: AmoebaShapeResult[]
}

/**
 * Measures shapes of a model, all of them on one model on the device. Throws ERR_WEIGHTSMITH_INPUT_CHANGED for a
 * strategy of another model, and ERR_WEIGHTSMITH_ARGUMENT for depths and widths that the strategy, or the mixture, does
 * not have, and for lines that it cannot take.
 */
export function amoebaEval(
  engine: Engine,
  path: string,
  options: AmoebaEvalOptions & { dryRun: true },
): Promise<DryRun<AmoebaEvalForecast>>
export function amoebaEval(
  engine: Engine,
  path: string,
  options: AmoebaEvalOptions & { dryRun?: false | undefined },
): Promise<AmoebaEvalReport>
export function amoebaEval(
  engine: Engine,
  path: string,
  options: AmoebaEvalOptions,
): Promise<AmoebaEvalReport | DryRun<AmoebaEvalForecast>>
export async function amoebaEval(
  engine: Engine,
  path: string,
  options: AmoebaEvalOptions,
): Promise<AmoebaEvalReport | DryRun<AmoebaEvalForecast>> {
  const begin = performance.now()
  const { metric = 'exact-match', bias = true, adapter, out, signal } = options
  checkOptions(options)
  const checkpoint = await checkpointOf(engine, path)
  const { spec } = modelOf(engine, checkpoint, { batchTokens: 1 })
  const strategy = await engine.use(({ addon }) => readStrategy(addon, options.strategy, checkpoint))
  const { widths, ...adapters } =
    adapter === undefined ? { widths: undefined } : await engine.use((host) => readShapeAdapter(host, adapter, spec))
  const shapes = shapesOf(strategy, options).map((name): AmoebaShape & { subnet: Subnet } => {
    const shape = shapeOf(strategy, name)
    return { ...name, ...sizeOf(checkpoint, spec, shape), subnet: subnetOf(spec, shape, bias, widths) }
  })
  const [first] = shapes
  if (first === undefined) throw misuse('Pass at least one depth and one width.')
  const tokenizer = await openTokenizer(checkpoint)
  if (metric === 'exact-match' && tokenizer.ends.length === 0) {
    throw misuse('The metric exact-match needs an eos_token_id in config.json or generation_config.json.')
  }
  const sets = await readSets({ tokenizer, spec, checkpoint }, options)
  const all = sets.flatMap(({ sets }) => sets)
  const { model, fit } = await fitModel(engine, checkpoint, {
    ...{ longest: Math.max(...all.map(({ longest }) => longest)), total: Math.max(...all.map(({ total }) => total)) },
    cached: metric === 'exact-match',
    options: { subnet: first.subnet, ...('specs' in adapters && { adapters }) },
  })
  const common = {
    ...{ model: path, strategy: options.strategy, ...(adapter !== undefined && { adapter }), metric, bias },
    ...{ data: sets.map(({ file }) => file), examples: sets.reduce((sum, { examples }) => sum + examples, 0), ...fit },
  }
  try {
    if (options.dryRun === true) {
      const named = shapes.map(({ subnet: _, ...shape }) => shape)
      return { forecast: { ...common, shapes: named, milliseconds: await estimate(model, fit, all, shapes) } }
    }
    const check = () => throwIfAborted(signal, 'The evaluation of shapes')
    const run = { model, tokenizer, check, sets: await withLoaders(engine, { model, checkpoint }, sets, options) }
    const facts = await factsOf(checkpoint, { ...common, shapes, adapters }, options)
    const journal = out === undefined ? undefined : await Journal.open(`${out}.resume`, facts, options, 'amoeba eval')
    const lines = out === undefined ? undefined : await createLines(out)
    try {
      const results = await measureShapes(run, shapes, journal, options)
      await lines?.write(results.map((result) => ({ ...result })))
      await lines?.finish()
      await journal?.remove()
      return { ...common, shapes: results, milliseconds: performance.now() - begin }
    } catch (error) {
      throw journal === undefined ? error : await journal.left(error)
    } finally {
      await lines?.close()
    }
  } finally {
    await model.close()
  }
}

/** Lines of a file as the metric takes them, and for losses. */
interface FileSets {
  file: string
  examples: number
  sets: DataSet[]
}

interface Run {
  model: Model
  tokenizer: Tokenizer
  check: () => void
  sets: (FileSets & { loaders: ImageLoader[] })[]
}

function checkOptions({
  metric = 'exact-match',
  data,
  limit,
  maxTokens,
  out,
  resume,
  dryRun,
}: AmoebaEvalOptions): void {
  if (!shapeMetrics.includes(metric)) throw wrongOption('metric', `one of ${shapeMetrics.join(', ')}`, metric)
  if ([data].flat().length === 0) throw misuse('Pass at least one data set.')
  for (const [name, value] of [
    ['limit', limit],
    ['maxTokens', maxTokens],
  ] as const) {
    if (value === undefined || (Number.isSafeInteger(value) && value >= 1)) continue
    throw wrongOption(name, 'a whole number from 1', value)
  }
  if (resume === true && out === undefined && dryRun !== true) {
    throw misuse('Only a run that writes its results to a file (out) can be resumed.')
  }
}

/** Names of shapes, each once; the largest first. */
function shapesOf(strategy: Strategy, { depths, widths }: AmoebaEvalOptions): { depth: number; width: number }[] {
  const { layers, depth } = strategy
  const descending = (values: readonly number[]) => [...new Set(values)].sort((a, b) => b - a)
  const all = descending(widths ?? strategy.widths.map(({ ratio }) => ratio))
  return descending(depths ?? depth.masks.map((_, m) => layers - m)).flatMap((depth) =>
    all.map((width) => ({ depth, width: shapeOf(strategy, { depth, width }).width })),
  )
}

async function readSets(
  subject: { tokenizer: Tokenizer; spec: ModelSpec; checkpoint: Checkpoint },
  { data, metric = 'exact-match', limit, maxTokens }: AmoebaEvalOptions,
): Promise<FileSets[]> {
  const files: FileSets[] = []
  for (const file of [data].flat()) {
    const sets: DataSet[] = []
    for (const own of metric === 'exact-match' ? (['exact-match', 'nll'] as const) : [metric]) {
      sets.push(await readSet(file, subject, { metric: own, limit, maxTokens }))
    }
    files.push({ file, examples: sets[0]?.examples ?? 0, sets })
  }
  return files
}

async function withLoaders(
  engine: Engine,
  subject: { model: Model; checkpoint: Checkpoint },
  files: readonly FileSets[],
  { images }: AmoebaEvalOptions,
): Promise<Run['sets']> {
  const found: Run['sets'] = []
  for (const own of files) {
    const loaders: ImageLoader[] = []
    for (const set of own.sets) {
      const lines = set.kind === 'choices' ? set.questions : set.lines
      loaders.push(await ImageLoader.open(engine, subject, { file: own.file, lines, root: images }))
    }
    found.push({ ...own, loaders })
  }
  return found
}

/** Shares of lines that are right, and sums of losses, of a file. */
interface Counts {
  /** NaN where nothing is right or wrong. */
  accuracy: number
  loss: number
  tokens: number
}

async function measureShapes(
  { model, tokenizer, check, sets }: Run,
  shapes: readonly (AmoebaShape & { subnet: Subnet })[],
  journal: Journal | undefined,
  { onProgress }: AmoebaEvalOptions,
): Promise<AmoebaShapeResult[]> {
  const each = sets.reduce((sum, own) => sum + own.examples * own.sets.length, 0)
  const results: AmoebaShapeResult[] = []
  for (const [i, { subnet, ...shape }] of shapes.entries()) {
    const item = `${shape.depth} blocks, width ${Number(shape.width.toPrecision(4))}`
    const measureShape = async (): Promise<number[]> => {
      model.subnet = subnet
      const numbers: number[] = []
      let before = i * each
      for (const { examples, sets: own, loaders } of sets) {
        const counts: Counts = { accuracy: Number.NaN, loss: 0, tokens: 0 }
        for (const [at, set] of own.entries()) {
          const step = (done: number) =>
            onProgress?.({
              phase: 'evaluate',
              done: before + done,
              total: each * shapes.length,
              unit: 'examples',
              item,
            })
          const work = { model, tokenizer, loader: loaders[at] as ImageLoader, check, step }
          count(counts, set, await measure(work, set))
          before += examples
        }
        numbers.push(counts.accuracy, counts.loss, counts.tokens)
      }
      return numbers
    }
    check()
    const numbers = await (journal?.once(3 * sets.length, measureShape) ?? measureShape())
    const files = sets.map(({ file, examples }, at) => {
      const [accuracy = Number.NaN, loss = 0, tokens = 0] = numbers.slice(3 * at)
      return { file, examples, accuracy, loss, tokens }
    })
    const total = (of: (file: (typeof files)[number]) => number) => files.reduce((sum, file) => sum + of(file), 0)
    const examples = total((file) => file.examples)
    const right = total((file) => file.accuracy * file.examples) / examples
    results.push({
      ...shape,
      ...resultOf(right, total((file) => file.loss) / total((file) => file.tokens)),
      sets: files.map(({ file, accuracy, loss, tokens }) => ({ data: file, ...resultOf(accuracy, loss / tokens) })),
    })
  }
  return results
}

function resultOf(accuracy: number, loss: number): ShapeResult {
  return Number.isNaN(accuracy) ? { loss } : { accuracy, loss }
}

/** Adds what came out for a data set; losses are those of answers where there are any. */
function count(counts: Counts, set: DataSet, { value, lines }: Measured): void {
  if (set.kind !== 'losses') counts.accuracy = value
  if (set.kind === 'matches') return
  for (const [i, line] of lines.entries()) {
    if (set.kind === 'choices') {
      const { answer, options } = set.questions[i] ?? { answer: 0, options: [] }
      counts.loss += (line.losses as number[])[answer] ?? 0
      counts.tokens += options[answer]?.answer.length ?? 0
    } else {
      const answers = Number(line.answer_tokens) > 0
      counts.loss += Number(answers ? line.answer_nll : line.nll)
      counts.tokens += Number(answers ? line.answer_tokens : line.tokens)
    }
  }
}

/** Shapes take their share of the blocks. */
async function estimate(
  model: Model,
  { bytesReadPerPass }: ModelFit,
  sets: readonly DataSet[],
  shapes: readonly AmoebaShape[],
): Promise<number> {
  const depth = model.spec.language.layers.length
  const whole = shapes.reduce((sum, shape) => sum + shape.depth / depth, 0)
  let sum = 0
  for (const set of sets) {
    const together = Math.max(1, Math.floor(model.cache / set.longest))
    sum += whole * (await estimateOf(model, set, { bytesReadPerPass, together }))
  }
  return sum
}

/** All that decides about the numbers. */
async function factsOf(
  checkpoint: Checkpoint,
  {
    metric,
    bias,
    data,
    shapes,
    device,
    partitions,
    adapters,
  }: Pick<AmoebaEvalForecast, 'metric' | 'bias' | 'data' | 'shapes' | 'device' | 'partitions'> & {
    adapters: Partial<ModelAdapters>
  },
  { strategy, limit, maxTokens }: AmoebaEvalOptions,
): Promise<Readonly<Record<string, unknown>>> {
  const hashOf = async (file: string) =>
    createHash('sha256')
      .update(await readFile(file))
      .digest('hex')
  const adapter = createHash('sha256').update(JSON.stringify([adapters.specs, adapters.router, adapters.mix]))
  for (const [name, { buffer, byteOffset, byteLength }] of adapters.values ?? []) {
    adapter.update(name).update(new Uint8Array(buffer, byteOffset, byteLength))
  }
  return {
    ...{ 'version of Weightsmith': version, model: await fingerprint(checkpoint), strategy: await hashOf(strategy) },
    ...{ adapter: adapters.specs === undefined ? null : adapter.digest('hex'), metric, bias },
    ...{ 'data sets': await Promise.all(data.map(hashOf)), limit: limit ?? null, 'most tokens': maxTokens ?? null },
    ...{ shapes: shapes.map(({ depth, width }) => [depth, width]), 'number of partitions': partitions, device },
  }
}
