/** One pass of a model whose weights are on the device: its images, then its tokens, through the stacks of the spec. */

import type { ModelSpec, Vision } from '../architectures/index.js'
import { recordWords } from '../native/parameters.js'
import { ActivationStatistics } from './activation_statistics.js'
import type { Gate } from './adapters.js'
import {
  modelKernels as kernels,
  lossesOf,
  lossWords,
  packSamplingParams,
  packTokens,
  type SamplingParams,
} from './kernels.js'
import { type ImagePixels, imageTokens, patchesOf } from './patches.js'
import type { Buffers, Program } from './program.js'
import type { StatisticSpec } from './statistics.js'
import type { Subnet } from './subnet.js'
import { type OnDevice, Work } from './work.js'

/** One token of a pass. */
export interface PackedToken {
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
  image?: { pixels: ImagePixels; row: number } | undefined
}

export interface ForwardOptions {
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

export interface ForwardOutput {
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
  /** The part of the model that is run; of one that has subnets. */
  subnet?: Subnet | undefined
  /** Experts of a mixture that count. */
  experts?: readonly Gate[] | undefined
  statistics?: readonly StatisticSpec[] | undefined
  /**
   * Layers of the language model, from its first on, that are run; 0: the pass ends behind the vision encoder. Defaults
   * to all.
   */
  depth?: number | undefined
  /** Whether the head is run behind the last layer; without it there are no losses. Defaults to true. */
  head?: boolean | undefined
  /** Whether the pass counts in Gram matrices. */
  grams?: boolean | undefined
  /** Words of kernel `residual_delta` for every row, after a block. */
  residualDelta?: ((layer: number, words: Float32Array) => void) | undefined
  /** The residual stream before layer `boundary`, or after the last one. */
  residualStream?:
    | ((boundary: number) => ((x: Float32Array<ArrayBuffer>) => void | Promise<void>) | undefined)
    | undefined
  /** Called for every layer of the language model that is run. */
  onLayer?: ((layer: number) => void) | undefined
}

/**
 * What the partition of a model on the device makes of tokens: losses, or the residual stream for the next partition.
 */
export async function runPass(
  model: OnDevice,
  spec: ModelSpec,
  tokens: readonly PackedToken[],
  wanted: ForwardOptions,
  options: PassOptions = {},
): Promise<PassOutput> {
  return new ForwardPass(model, spec, tokens, wanted, options).run()
}

/** `x`: the residual stream, where the pass ends before the last layer. */
type PassOutput = ForwardOutput & { x?: Float32Array<ArrayBuffer> }

class ForwardPass {
  private readonly buffers: Buffers
  private readonly work: Work
  private readonly statistics: ActivationStatistics
  /** Layers that are run at most. */
  private readonly depth: number
  /** Each image once. */
  private readonly images: ReadonlySet<ImagePixels>
  /** Where there are images to encode. */
  private readonly encoder: (Vision & { program: Program }) | undefined
  /** Residual streams that are asked for. */
  private readonly hidden: Float32Array[] = []

  constructor(
    { device, resident, buffers }: OnDevice,
    private readonly spec: ModelSpec,
    private readonly tokens: readonly PackedToken[],
    private readonly wanted: ForwardOptions,
    private readonly options: PassOptions,
  ) {
    this.buffers = buffers
    this.work = new Work(device, resident)
    this.statistics = new ActivationStatistics(this.work, buffers.captured, options, tokens.length)
    this.depth = options.depth ?? spec.language.layers.length
    this.images = new Set(tokens.flatMap(({ image }) => (image === undefined ? [] : [image.pixels])))
    const encodes = this.images.size > 0 && options.from === undefined
    this.encoder = encodes && buffers.vision && spec.vision ? { program: buffers.vision, ...spec.vision } : undefined
  }

  async run(): Promise<PassOutput> {
    const { depth } = this
    const { partition } = this.buffers
    const images = this.encoder && (await this.encodeImages(this.encoder))
    if (depth === 0) return this.endWithoutHead()
    this.writeTokens()
    this.copyCacheRows()
    await this.fillResidualStream()
    await this.runLayers()
    // The head may be a partition of its own, behind the last layer.
    const head = this.options.head !== false && depth === this.spec.language.layers.length
    if (!partition.leave && (head || partition.end < depth)) return this.endWithStream(images)
    const { outputs = this.tokens.length } = this.wanted
    return head && outputs > 0 ? this.runHead(outputs, images) : this.endWithoutHead()
  }

  /** The vision encoder over all images; its residual stream and features, where they are asked for. */
  private async encodeImages(encoder: Vision & { program: Program }): Promise<ForwardOutput['images']> {
    const { work, images, wanted } = this
    const { program, stack, layers, patches, features } = encoder
    const rows = images.size * stack.attention.sequenceLength
    const hidden: Float32Array[] = []
    const look = async () => {
      if (wanted.hidden) hidden.push(await work.activation(program, 'x', rows))
    }
    work.write(program.tokens, imageTokens(images.size, encoder))
    work.write(program.activation(patches), patchesOf([...images], encoder))
    work.add(program.embed(rows))
    await look()
    for (const index of program.stack.layers.keys()) {
      if (index === layers) work.add(program.final(rows))
      // The layers past those that the features come from are only run to be looked at.
      if (index >= layers && !wanted.hidden && !this.isMeasured(program, index)) continue
      await this.runLayer(program, index, rows)
      await look()
    }
    if (layers === program.stack.layers.length) work.add(program.final(rows))
    return wanted.hidden ? { hidden, features: await work.activation(program, features, rows) } : undefined
  }

  private writeTokens(): void {
    const { work, tokens, encoder } = this
    const { language } = this.buffers
    const order = new Map([...this.images].map((pixels, i) => [pixels, i]))
    /** What stands for a row of an image has an id past the vocabulary: its row among all features. */
    const idOf = ({ id, image }: PackedToken) => {
      if (image === undefined || encoder === undefined) return id
      const { stack, skipped } = encoder
      const first = (order.get(image.pixels) ?? 0) * stack.attention.sequenceLength
      return this.spec.vocabulary + first + skipped + image.row
    }
    work.write(language.tokens, packTokens(tokens.map((token) => ({ ...token, id: idOf(token) }))))
    const longest = tokens.reduce((most, { start, row }) => Math.max(most, row + 1 - start), 0)
    const angles = language.anglesFor(longest)
    if (angles !== undefined) work.write(angles.buffer, angles.table)
    for (const { buffer, values } of this.buffers.subnet.writesFor(this.options.subnet)) work.write(buffer, values)
  }

  private copyCacheRows(): void {
    const { copies = [] } = this.wanted
    if (copies.length === 0 || this.options.from !== undefined) return
    const { language } = this.buffers
    this.work.write(language.copies, Uint32Array.from(copies.flatMap(({ from, to }) => [from, to])))
    this.work.add(language.repeat(copies.length))
  }

  /** By tokens and features of images, or by what an earlier partition left. */
  private async fillResidualStream(): Promise<void> {
    const { work, buffers } = this
    const { from } = this.options
    const rows = this.tokens.length
    if (from !== undefined) return work.write(buffers.language.activation('x'), from.x)
    work.add(buffers.language.embed(rows))
    if (this.encoder !== undefined) work.add(buffers.splice(rows))
    await this.lookAt(0)
  }

  private async runLayers(): Promise<void> {
    const { language, partition } = this.buffers
    const { from, skip, subnet, residualDelta, onLayer } = this.options
    for (let index = from?.layer ?? partition.first; index < Math.min(partition.end, this.depth); index++) {
      if (skip?.has(index) || subnet?.blocks[index] === false) continue
      onLayer?.(index)
      const run = () => this.runLayer(language, index, this.tokens.length)
      if (residualDelta) residualDelta(index, await this.withResidualDelta(run))
      else await run()
      await this.lookAt(index + 1)
    }
  }

  private async runLayer(program: Program, index: number, rows: number): Promise<void> {
    const { work, statistics, spec } = this
    const { adapters, language } = this.buffers
    const { experts = [] } = this.options
    const adapter = adapters && program === language ? (weight: string) => adapters.of(weight, experts) : undefined
    for (const op of program.stack.layers[index]?.ops ?? []) {
      if (op.op !== 'linear') {
        work.add(program.op(op, index, rows))
        continue
      }
      const { weight, x, y } = op
      const [outputs = 0, columns = 0] = spec.tensors.get(weight) ?? []
      await statistics.capture({ weight, side: 'input' }, program.activation(x), columns)
      work.add(program.op(op, index, rows, adapter))
      await statistics.capture({ weight, side: 'output' }, program.activation(y), outputs)
    }
  }

  private isMeasured(program: Program, index: number): boolean {
    const ops = program.stack.layers[index]?.ops ?? []
    return ops.some((op) => op.op === 'linear' && this.statistics.has(op.weight))
  }

  /** Runs a layer, and gives how it moves every row of the residual stream. */
  private async withResidualDelta(run: () => Promise<void>): Promise<Float32Array> {
    const { work } = this
    const { language, captured } = this.buffers
    const x = language.activation('x')
    const rows = this.tokens.length
    const width = this.spec.language.activations.x ?? 0
    work.add([kernels.kvStore(language.tokens, x, captured.before, rows, width)])
    await run()
    work.add([kernels.residualDelta({ a: captured.before, b: x, y: captured.residualDelta }, rows, width)])
    const [bytes] = await work.read([captured.residualDelta, recordWords('ResidualDelta') * rows])
    return new Float32Array(bytes ?? [])
  }

  /** Reads the residual stream before layer `boundary`, where somebody wants to see it. */
  private async lookAt(boundary: number): Promise<void> {
    const see = this.options.residualStream?.(boundary)
    if (!this.wanted.hidden && see === undefined) return
    const x = await this.work.activation(this.buffers.language, 'x', this.tokens.length)
    if (this.wanted.hidden) this.hidden.push(x)
    await see?.(x)
  }

  private async endWithoutHead(): Promise<PassOutput> {
    await this.work.read()
    await this.statistics.flush()
    return nothing()
  }

  /** The residual stream goes on to the next partition. */
  private async endWithStream(images: ForwardOutput['images']): Promise<PassOutput> {
    const x = await this.work.activation(this.buffers.language, 'x', this.tokens.length)
    await this.statistics.flush()
    return { ...nothing(), x, ...(this.wanted.hidden && { hidden: this.hidden }), ...(images && { images }) }
  }

  /** Logits of the first `outputs` tokens, a few rows at a time, and what follows from them. */
  private async runHead(outputs: number, images: ForwardOutput['images']): Promise<PassOutput> {
    const { work, buffers, spec, wanted } = this
    work.add(buffers.language.final(outputs))
    const normed = wanted.hidden ? await work.activation(buffers.language, spec.head.x, outputs) : undefined
    const logits = wanted.logits ? new Float32Array(outputs * spec.vocabulary) : undefined
    const sampling = this.tokens.slice(0, outputs).map(({ sampling }) => sampling)
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
    await this.statistics.flush()
    return {
      nll: lossesOf(new Float32Array(losses ?? [])),
      best: new Uint32Array(best ?? []),
      ...(logits && { logits }),
      ...(normed && { hidden: this.hidden, normed }),
      ...(images && { images }),
    }
  }
}

/** What a pass says that ends before the head. */
function nothing(): ForwardOutput {
  return { nll: new Float32Array(), best: new Uint32Array() }
}
