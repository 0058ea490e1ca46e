/** From the ops of a model to dispatches: which buffer every tensor and activation is. */

import type { ModelSpec, Stack } from '../architectures/index.js'
import type { NativeDispatch, StoreDType } from '../native/border.js'
import { layout as wgsl } from '../native/layouts.js'
import { WeightsmithError } from '../util/errors.js'
import { CaptureBuffers, type CaptureOptions, noCapture } from './activation_statistics.js'
import { AdapterBuffers, type ModelAdapters } from './adapter_buffers.js'
import { blocksOf, bytesOf, stagingBytes } from './blocks.js'
import { modelKernels as kernels, lossWords, samplingWords } from './kernels.js'
import {
  type Block,
  type Forms,
  forward,
  type OpSpec,
  packedBytes,
  type Rotary,
  type StackContext,
} from './ops/index.js'
import { type Partition, tensorsOf, wholeOf } from './partition.js'
import { SubnetBuffers } from './subnet.js'
import type { WeightStreaming } from './weight_streaming.js'

export interface BufferLayout {
  /** Most rows or columns of a tensor that become zeros. */
  list?: number
  /** Tokens a pass. */
  tokens: number
  /** Rows of the cache; 0: every pass is on its own, and all layers share one. */
  cache: number
  /** Bytes a buffer may have. */
  binding: number
  /** Of the kernels (`formsOf`). */
  forms: Forms
  /** Defaults to the whole model. */
  partition?: Partition | undefined
  /** The partitions take turns in these buffers; begins without the first one that passes by. */
  streaming?: WeightStreaming | undefined
  capture?: CaptureOptions | undefined
  adapters?: ModelAdapters | undefined
}

/** Images that have room in a pass of so many tokens. */
export function imagesOf({ vision }: ModelSpec, tokens: number): number {
  if (vision === undefined) return 0
  return Math.max(1, Math.floor(tokens / (vision.stack.attention.sequenceLength - vision.skipped)))
}

/** Buffers by index, and their sizes in bytes. */
export class Buffers {
  readonly sizes: number[] = []
  readonly tensors = new Map<string, Block[]>()
  readonly staging: number
  /** Lists of rows and columns that become zeros. */
  readonly list: number
  readonly language: Program
  /** The vision encoder, with room for as many images as a pass of the language model can hold. */
  readonly vision?: Program
  /** That is on the device. */
  partition: Partition
  readonly captured: CaptureBuffers
  readonly subnet: SubnetBuffers
  readonly adapters: AdapterBuffers | undefined
  readonly logits: number
  readonly losses: number
  readonly best: number
  readonly sampling: number
  /** Rows the head is applied to at a time. */
  readonly headRows: number
  /** Buffers of weights that pass by, the largest first, and whose weights they are now. */
  private readonly slots: number[]
  private passing: string[] = []

  constructor(
    private readonly spec: ModelSpec,
    private readonly layout: BufferLayout,
    private readonly dtypeOf: (tensor: string) => StoreDType,
  ) {
    const { streaming } = layout
    const limit = Math.min(stagingBytes, layout.binding)
    const add = (bytes: number) => this.sizes.push(bytes) - 1
    this.partition = layout.partition ?? wholeOf(spec)
    const staying = streaming === undefined ? this.partition : streaming.stays ? streaming.partitions[0] : undefined
    for (const name of staying === undefined ? [] : tensorsOf(spec, staying)) {
      this.tensors.set(
        name,
        this.blocksOf(name).map((block) => ({ ...block, buffer: add(packedBytes(block)) })),
      )
    }
    this.slots = (streaming?.slots ?? []).map(add)
    const loaded = new Set(
      (streaming?.partitions ?? [this.partition]).flatMap((partition) => [...tensorsOf(spec, partition)]),
    )
    const { adapters, tokens, forms } = layout
    this.adapters = adapters && new AdapterBuffers(spec, adapters, { tokens, weights: loaded, forms, limit }, add)
    const factors = [...(this.adapters?.blocks.values() ?? [])].flat()
    const pieces = [...[...loaded].flatMap((name) => this.blocksOf(name)), ...factors]
    this.staging = add(
      pieces.reduce((most, { rows, columns, dtype }) => Math.max(most, rows * columns * bytesOf(dtype)), 4),
    )
    this.list = add(4 * Math.max(1, layout.list ?? 0))
    this.subnet = new SubnetBuffers(spec, add)
    const more = [this.subnet.blocks, this.adapters?.blocks]
    const tensors = {
      get: (name: string) => this.tensors.get(name) ?? more.map((blocks) => blocks?.get(name)).find((own) => own),
    }
    this.language = new Program(spec.language, layout, tensors, add)
    const { vision } = spec
    let most = layout.tokens
    if (vision !== undefined && (this.partition.enter || streaming !== undefined)) {
      const tokens = imagesOf(spec, layout.tokens) * vision.stack.attention.sequenceLength
      this.vision = new Program(vision.stack, { tokens, cache: 0, forms: layout.forms }, this.tensors, add)
      most = Math.max(most, tokens)
    }
    this.captured = new CaptureBuffers(
      spec,
      layout.capture ?? noCapture,
      { rows: most, binding: layout.binding, held: this.tensors },
      add,
    )
    const rows = Math.min(layout.tokens, Math.floor(limit / (4 * spec.vocabulary)))
    this.headRows = this.partition.leave || streaming !== undefined ? Math.max(1, rows) : 0
    this.logits = add(4 * spec.vocabulary * this.headRows)
    this.losses = add(4 * lossWords * layout.tokens)
    this.best = add(4 * layout.tokens)
    this.sampling = add(layout.cache > 0 ? 4 * samplingWords * layout.tokens : 0)
  }

  /** Bytes of all of them. */
  get bytes(): number {
    return this.sizes.reduce((sum, size) => sum + size, 0)
  }

  /** Bytes of those with weights. */
  get weightBytes(): number {
    return [...this.tensors.values()].flat().reduce((sum, block) => sum + packedBytes(block), 0)
  }

  /** Blocks of a tensor, in the order of its rows. */
  blocksOf(name: string): Omit<Block, 'buffer'>[] {
    const [rows = 1, ...rest] = this.spec.tensors.get(name) ?? []
    const columns = rest.reduce((product, size) => product * size, 1)
    return blocksOf(rows, columns, this.dtypeOf(name), Math.min(stagingBytes, this.layout.binding))
  }

  /**
   * Gives the buffers that partitions share to those tensors of a partition that do not stay, and names them: they are
   * to be loaded.
   */
  hold(partition: Partition): string[] {
    for (const name of this.passing) this.tensors.delete(name)
    this.passing = [...tensorsOf(this.spec, partition)].filter((name) => !this.tensors.has(name))
    this.partition = partition
    const blocks = this.passing.flatMap((name) => this.blocksOf(name).map((block) => ({ name, block })))
    const ranked = [...blocks].sort((a, b) => packedBytes(b.block) - packedBytes(a.block))
    const buffers = new Map(ranked.map(({ block }, rank) => [block, this.slots[rank] ?? -1]))
    for (const { name, block } of blocks) {
      const known = this.tensors.get(name) ?? []
      this.tensors.set(name, [...known, { ...block, buffer: buffers.get(block) ?? -1 }])
    }
    return this.passing
  }

  /** Puts features of images where tokens stand for them: ids past the vocabulary are rows of features. */
  splice(rows: number): NativeDispatch[] {
    const { vision, vocabulary } = this.spec
    if (vision === undefined || this.vision === undefined) return []
    const { tokens } = this.language
    const features = this.vision.activation(vision.features)
    const width = vision.stack.activations[vision.features] ?? 0
    return [
      kernels.scatterImageFeatures(
        { tokens, features, y: this.language.activation('x') },
        { rows, width, first: vocabulary },
      ),
    ]
  }

  /** Logits, losses and best tokens of some rows; the tokens that are drawn, where some are. */
  head(from: number, rows: number, drawn: boolean): NativeDispatch[] {
    const { head, vocabulary } = this.spec
    const { forms } = this.layout
    const x = this.language.activation(head.x)
    return [
      ...(this.tensors.get(head.weight) ?? []).map((block) =>
        kernels.gemm(block, x, this.logits, { rows, stride: vocabulary, from, forms }),
      ),
      kernels.crossEntropy({ ...this, tokens: this.language.tokens }, { rows, width: vocabulary, from }),
      ...(drawn ? [kernels.sample(this, { rows, width: vocabulary, from })] : []),
    ]
  }
}

/** The dispatches of one stack, and the buffers that are its own. */
export class Program {
  readonly tokens: number
  /** Buffer of (cos, sin) of every position; nothing where no heads are rotated. */
  readonly angles: number | undefined
  readonly copies: number
  /** What the buffer of angles holds. */
  private loadedRotary: Rotary | undefined
  private readonly activations: ReadonlyMap<string, number>
  private readonly caches: { keys: number; values: number }[]

  constructor(
    readonly stack: Stack,
    private readonly layout: Pick<BufferLayout, 'tokens' | 'cache' | 'forms'>,
    private readonly tensors: { get(name: string): readonly Block[] | undefined },
    add: (bytes: number) => number,
  ) {
    const { numKvHeads, headSize } = stack.attention
    this.tokens = add(4 * wgsl.tokenWords * layout.tokens)
    const rows = layout.cache || layout.tokens
    this.angles = stack.attention.rotary === undefined ? undefined : add(4 * headSize * rows)
    this.activations = new Map(
      Object.entries(stack.activations).map(([name, width]) => [name, add(4 * width * layout.tokens)]),
    )
    this.copies = add(8 * layout.cache)
    const kept = 4 * numKvHeads * headSize * rows
    this.caches = Array.from({ length: layout.cache > 0 ? Math.max(1, stack.layers.length) : 1 }, () => ({
      keys: add(kept),
      values: add(kept),
    }))
  }

  /** The buffer of an activation. */
  activation(name: string): number {
    const buffer = this.activations.get(name)
    if (buffer !== undefined) return buffer
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_INTERNAL',
      `The program names the activation ${name}, which is not there.`,
    )
  }

  /** Copies rows of the cache, as the buffer of copies says. */
  repeat(count: number): NativeDispatch[] {
    const { numKvHeads, headSize } = this.stack.attention
    const width = numKvHeads * headSize
    return this.caches.flatMap(({ keys, values }) =>
      [keys, values].map((cache) => kernels.kvCopy(this.copies, cache, count, width)),
    )
  }

  /** The angles that a pass of sequences of up to `length` tokens needs, where the device does not have them yet. */
  anglesFor(length: number): { buffer: number; table: Float32Array<ArrayBuffer> } | undefined {
    const { angles: buffer } = this
    const rotary = this.stack.attention.rotary?.(length)
    if (buffer === undefined || rotary === undefined || rotary === this.loadedRotary) return undefined
    this.loadedRotary = rotary
    return { buffer, table: angleTable(rotary, this.layout.cache || this.layout.tokens) }
  }

  embed(rows: number): NativeDispatch[] {
    return this.stack.embed.flatMap((op) => this.op(op, 0, rows))
  }

  final(rows: number): NativeDispatch[] {
    return this.stack.final.flatMap((op) => this.op(op, 0, rows))
  }

  /** `adapter`: of a matrix, where it has one. */
  op(op: OpSpec, layer: number, rows: number, adapter?: StackContext['adapter']): NativeDispatch[] {
    const { stack, layout, tokens, angles } = this
    // Without a cache between passes, all layers share one.
    const cache = this.caches[layout.cache > 0 ? layer : 0]
    if (cache === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `There is no layer ${layer}.`)
    return forward(op, {
      ...{ rows, tokens, angles, cache },
      attention: stack.attention,
      forms: layout.forms,
      activation: (name) => this.activation(name),
      width: (name) => stack.activations[name] ?? 0,
      blocks: (tensor) => this.tensors.get(tensor) ?? [],
      adapter,
    })
  }
}

/** (cos, sin) of every pair of a head at every position: float64, rounded once. */
export function angleTable({ frequencies, factor }: Rotary, positions: number): Float32Array<ArrayBuffer> {
  const table = new Float32Array(2 * positions * frequencies.length)
  for (let position = 0, at = 0; position < positions; position++) {
    for (const frequency of frequencies) {
      table[at++] = factor * Math.cos(position * frequency)
      table[at++] = factor * Math.sin(position * frequency)
    }
  }
  return table
}
