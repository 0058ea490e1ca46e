/** One pass of a model whose weights are on the device: its images, then its tokens, through the stacks of the spec. */

import type { ModelSpec, Vision } from '../architectures/index.js'
import type { NativeDevice, NativeDispatch, NativeWork } from '../native/border.js'
import { ActivationStatistics } from './activation_statistics.js'
import {
  modelKernels as kernels,
  lossesOf,
  lossWords,
  noTarget,
  packSamplingParams,
  type SamplingParams,
} from './kernels.js'
import type { Buffers, Program } from './program.js'
import type { StatisticSpec, Tap } from './statistics.js'

/** One token of a pass. */
export interface Token {
  id: number
  /** First row of its sequence in the cache, and its own. */
  start: number
  row: number
  /** The id whose loss is asked for. */
  target?: number | undefined
  /** How the next id is drawn; by default it is the likeliest. Only for models that have a cache. */
  sampling?: SamplingParams | undefined
  /**
   * It stands for a row of an image's features, `id` for the image. Images that are one object are encoded once a pass.
   */
  image?: { pixels: Pixels; row: number } | undefined
}

/** A normalised image, [channels, height, width] of the size that the model sees. */
export type Pixels = Float32Array

export interface Wanted {
  /** Rows of the cache that are copied before anything else: sequences that begin alike. */
  copies?: readonly { from: number; to: number }[] | undefined
  /**
   * Tokens, from the first on, whose next token is predicted: the head runs on their rows alone. Defaults to all; 0:
   * the pass only fills the cache.
   */
  outputs?: number | undefined
  logits?: boolean
  /** The residual stream before the first block and after every block, and what the head is applied to. */
  hidden?: boolean
}

export interface Pass {
  /** −log of the probability of every token's target; 0 where there is none. */
  nll: Float32Array
  /** The id of each token's largest logit, or the one that was drawn. */
  best: Uint32Array
  /** Rows of the vocabulary's size. */
  logits?: Float32Array
  hidden?: Float32Array[]
  normed?: Float32Array
  /**
   * Of the images in their order: the vision encoder's residual stream, rows of every image together, and its features.
   */
  images?: { hidden: Float32Array[]; features: Float32Array }
}

/** Where a pass begins, what it leaves out and what is seen on its way; by default all of a partition is run. */
export interface PassOptions {
  /** The residual stream before a layer of the language model; else the pass begins where the partition does. */
  from?: { layer: number; x: Float32Array<ArrayBuffer> } | undefined
  /** Blocks that are left out: what comes into them goes on. */
  skip?: ReadonlySet<number> | undefined
  statistics?: readonly StatisticSpec[] | undefined
  /** Layers of the language model, from its first on, that are run; 0: the pass ends behind the vision encoder. Defaults to all. */
  depth?: number | undefined
  /** Whether the head is run behind the last layer; without it there are no losses. Defaults to true. */
  head?: boolean | undefined
  /** Whether the pass counts in Gram matrices. */
  grams?: boolean | undefined
  /** Words of kernel `residual_delta` for every row, after a block. */
  residualDelta?: ((layer: number, words: Float32Array) => void) | undefined
  /** The residual stream before layer `boundary`, or after the last one. */
  residualStream?: ((boundary: number) => ((x: Float32Array<ArrayBuffer>) => void) | undefined) | undefined
}

/**
 * What the partition of a model on the device makes of tokens: losses, or the residual stream for the next partition.
 */
export async function runPass(
  { device, resident, buffers }: OnDevice,
  spec: ModelSpec,
  tokens: readonly Token[],
  wanted: Wanted,
  options: PassOptions = {},
): Promise<Pass & { x?: Float32Array<ArrayBuffer> }> {
  const work = new Work(device, resident)
  const { language, vision, partition, captured } = buffers
  const { from, skip, residualDelta, depth = spec.language.layers.length, head = true } = options
  const statistics = new ActivationStatistics(work, captured, options, tokens.length)

  const layer = async (program: Program, index: number, rows: number) => {
    for (const op of program.stack.layers[index]?.ops ?? []) {
      const taps = op.op === 'linear' ? op : undefined
      const [outputs = 0, columns = 0] = spec.tensors.get(taps?.weight ?? '') ?? []
      if (taps) await statistics.tap({ weight: taps.weight, side: 'input' }, program.activation(taps.x), columns)
      work.add(program.op(op, index, rows))
      if (taps) await statistics.tap({ weight: taps.weight, side: 'output' }, program.activation(taps.y), outputs)
    }
  }
  const isMeasured = (program: Program, index: number) =>
    program.stack.layers[index]?.ops.some((op) => op.op === 'linear' && statistics.has(op.weight)) === true

  const images = new Set(tokens.flatMap(({ image }) => (image === undefined ? [] : [image.pixels])))
  const seen = vision && spec.vision && images.size > 0 && !from ? { program: vision, ...spec.vision } : undefined
  let features: Pass['images']
  if (seen !== undefined) {
    const { program } = seen
    const rows = images.size * seen.stack.attention.sequenceLength
    const hidden: Float32Array[] = []
    const look = async () => {
      if (wanted.hidden) hidden.push(await work.activation(program, 'x', rows))
    }
    work.write(program.tokens, imageTokens(images.size, seen))
    work.write(program.activation(seen.patches), patchesOf([...images], seen))
    work.add(program.embed(rows))
    await look()
    for (const index of program.stack.layers.keys()) {
      if (index === seen.layers) work.add(program.final(rows))
      // The layers past those that the features come from are only run to be looked at.
      if (index >= seen.layers && !wanted.hidden && !isMeasured(program, index)) continue
      await layer(program, index, rows)
      await look()
    }
    if (seen.layers === program.stack.layers.length) work.add(program.final(rows))
    if (wanted.hidden) features = { hidden, features: await work.activation(program, seen.features, rows) }
  }

  if (depth === 0) {
    await work.read()
    await statistics.flush()
    return nothing()
  }

  const rows = tokens.length
  const order = new Map([...images].map((pixels, i) => [pixels, i]))
  /** What stands for a row of an image has an id past the vocabulary: its row among all features. */
  const idOf = ({ id, image }: Token) => {
    if (image === undefined || seen === undefined) return id
    return (
      spec.vocabulary + (order.get(image.pixels) ?? 0) * seen.stack.attention.sequenceLength + seen.skipped + image.row
    )
  }
  const words = tokens.flatMap((token) => [idOf(token), token.start, token.row, token.target ?? noTarget])
  work.write(language.tokens, Uint32Array.from(words))
  const longest = tokens.reduce((most, { start, row }) => Math.max(most, row + 1 - start), 0)
  const angles = language.anglesFor(longest)
  if (angles !== undefined) work.write(angles.buffer, angles.table)

  const hidden: Float32Array[] = []
  const look = async (boundary: number) => {
    const see = options.residualStream?.(boundary)
    if (!wanted.hidden && see === undefined) return
    const x = await work.activation(language, 'x', rows)
    if (wanted.hidden) hidden.push(x)
    see?.(x)
  }
  const { copies = [] } = wanted
  if (copies.length > 0 && from === undefined) {
    work.write(language.copies, Uint32Array.from(copies.flatMap(({ from: one, to }) => [one, to])))
    work.add(language.repeat(copies.length))
  }
  const x = language.activation('x')
  const width = spec.language.activations.x ?? 0
  if (from === undefined) {
    work.add(language.embed(rows))
    if (seen !== undefined) work.add(buffers.splice(rows))
    await look(0)
  } else {
    work.write(x, from.x)
  }
  for (let index = from?.layer ?? partition.first; index < Math.min(partition.end, depth); index++) {
    if (skip?.has(index)) continue
    if (residualDelta) work.add([kernels.kvStore(language.tokens, x, captured.before, rows, width)])
    await layer(language, index, rows)
    if (residualDelta) {
      work.add([kernels.residualDelta({ a: captured.before, b: x, y: captured.residualDelta }, rows, width)])
      const [bytes] = await work.read([captured.residualDelta, 3 * rows])
      residualDelta(index, new Float32Array(bytes ?? []))
    }
    await look(index + 1)
  }
  const whole = depth >= spec.language.layers.length
  // The head may be a partition of its own, behind the last layer.
  if (!partition.leave && (whole || partition.end < depth)) {
    const stream = await work.activation(language, 'x', rows)
    await statistics.flush()
    return { ...nothing(), x: stream, ...(wanted.hidden && { hidden }), ...(features && { images: features }) }
  }
  const outputs = head && whole ? (wanted.outputs ?? rows) : 0
  if (outputs === 0) {
    await work.read()
    await statistics.flush()
    return nothing()
  }
  work.add(language.final(outputs))
  const normed = wanted.hidden ? await work.activation(language, spec.head.x, outputs) : undefined

  const logits = wanted.logits ? new Float32Array(outputs * spec.vocabulary) : undefined
  const sampling = tokens.slice(0, outputs).map(({ sampling }) => sampling)
  const drawn = sampling.some((params) => params !== undefined)
  if (drawn) work.write(buffers.sampling, packSamplingParams(sampling))
  for (let from = 0; from < outputs; from += buffers.headRows) {
    const count = Math.min(buffers.headRows, outputs - from)
    work.add(buffers.head(from, count, drawn))
    if (logits === undefined) continue
    const [bytes] = await work.read([buffers.logits, count * spec.vocabulary])
    logits.set(new Float32Array(bytes ?? []), from * spec.vocabulary)
  }
  const [losses, best] = await work.read([buffers.losses, lossWords * outputs], [buffers.best, outputs])
  await statistics.flush()
  return {
    nll: lossesOf(new Float32Array(losses ?? [])),
    best: new Uint32Array(best ?? []),
    ...(logits === undefined ? {} : { logits }),
    ...(normed === undefined ? {} : { hidden, normed }),
    ...(features === undefined ? {} : { images: features }),
  }
}

/** What a pass says that ends before the head. */
function nothing(): Pass {
  return { nll: new Float32Array(), best: new Uint32Array() }
}

/** Which sums of |W| and W² are asked for: of every input over the outputs, or of every output over the inputs. */
export interface WeightSums {
  names: ReadonlySet<string>
  by?: 'input' | 'output'
  /** Is given both sums of each, in turn. */
  add: (name: string, sums: Float32Array) => void
}

type OnDevice = { device: NativeDevice; resident: number; buffers: Buffers }

/** Sums of the linears of this partition that are named, for their inputs or their outputs. */
export async function readSums(
  { device, resident, buffers }: OnDevice,
  { names, add, by = 'input' }: WeightSums,
): Promise<void> {
  for (const [name, blocks] of buffers.tensors) {
    if (!names.has(name)) continue
    const work = new Work(device, resident)
    const outputs = blocks.reduce((sum, { rows }) => sum + rows, 0)
    const words = 2 * (by === 'output' ? outputs : (blocks[0]?.columns ?? 0))
    work.write(buffers.captured.weights, new Float32Array(words))
    work.add(blocks.map((block) => kernels.weightSums(block, buffers.captured.weights, by)))
    const [bytes] = await work.read([buffers.captured.weights, words])
    add(name, new Float32Array(bytes ?? []))
  }
}

/** Bytes of a Gram matrix that are read at a time. */
const gramBytes = 2 ** 24

/** The Gram matrices of this partition, as all passes have left them, in blocks of rows. */
export async function readGrams(
  { device, resident, buffers }: OnDevice,
  add: (tap: Tap, first: number, rows: Float32Array) => Promise<void>,
): Promise<void> {
  for (const { tap, width, blocks } of buffers.captured.grams) {
    if (!buffers.tensors.has(tap.weight)) continue
    for (const { buffer, first, rows } of blocks) {
      // A few rows at a time: what is read exists more than once.
      const most = Math.max(1, Math.floor(gramBytes / (4 * width)))
      for (let row = 0; row < rows; row += most) {
        const count = Math.min(most, rows - row)
        const reads = [{ buffer, offset: 4 * row * width, bytes: 4 * count * width }]
        const [bytes] = await device.dispatch(resident, { writes: [], dispatches: [], reads })
        await add(tap, first + row, new Float32Array((bytes?.buffer ?? new ArrayBuffer(0)) as ArrayBuffer))
      }
    }
  }
}

/** Writes and dispatches that come together until something is read. */
class Work {
  private writes: NativeWork['writes'] = []
  private dispatches: NativeDispatch[] = []

  constructor(
    private readonly device: NativeDevice,
    private readonly resident: number,
  ) {}

  write(buffer: number, { buffer: memory }: Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>): void {
    this.writes.push({ buffer, offset: 0, memory: new Uint8Array(memory) })
  }

  add(dispatches: NativeDispatch[]): void {
    this.dispatches.push(...dispatches)
  }

  /** Runs them, and gives the first words of some buffers. */
  async read(...wants: [buffer: number, words: number][]): Promise<ArrayBuffer[]> {
    const reads = wants.map(([buffer, count]) => ({ buffer, offset: 0, bytes: 4 * count }))
    const { writes, dispatches } = this
    this.writes = []
    this.dispatches = []
    const results = await this.device.dispatch(this.resident, { writes, dispatches, reads })
    return results.map(({ buffer }) => buffer as ArrayBuffer)
  }

  async activation(program: Program, name: string, rows: number): Promise<Float32Array<ArrayBuffer>> {
    const [bytes] = await this.read([program.activation(name), rows * (program.stack.activations[name] ?? 0)])
    return new Float32Array(bytes ?? [])
  }
}

/** Every image is a sequence of its own. */
function imageTokens(count: number, { stack }: Vision): Uint32Array<ArrayBuffer> {
  const { sequenceLength } = stack.attention
  return Uint32Array.from(
    Array.from({ length: count * sequenceLength }, (_, row) => [0, row - (row % sequenceLength), row, noTarget]).flat(),
  )
}

/** A row [channels, patch, patch] a patch; the rows that are no patches are 0. */
function patchesOf(images: readonly Pixels[], { stack, size, patch, patches }: Vision): Float32Array<ArrayBuffer> {
  const width = stack.activations[patches] ?? 0
  const { sequenceLength } = stack.attention
  const side = Math.floor(size / patch)
  const others = sequenceLength - side ** 2
  const result = new Float32Array(images.length * sequenceLength * width)
  for (const [i, pixels] of images.entries()) {
    for (let row = others; row < sequenceLength; row++) {
      const [top, left] = [Math.floor((row - others) / side) * patch, ((row - others) % side) * patch]
      let at = (i * sequenceLength + row) * width
      for (let line = 0; line < width / patch; line++, at += patch) {
        const [channel, y] = [Math.floor(line / patch), line % patch]
        const from = (channel * size + top + y) * size + left
        result.set(pixels.subarray(from, from + patch), at)
      }
    }
  }
  return result
}
