/** From the ops of a model to dispatches: which buffer every tensor and activation is, and which kernels an op takes. */

import type { ModelSpec, Op, Rotary, Stack } from '../architectures/index.js'
import type { NativeDispatch, StoreDType } from '../native/border.js'
import { type Gear, Meters, noGear } from './activation_statistics.js'
import {
  type Block,
  drawWords,
  type Forms,
  forwardKernels as kernels,
  lossWords,
  panel,
  tokenWords,
  turnedBytes,
} from './kernels.js'
import { type Part, tensorsOf, wholeOf } from './partition.js'
import type { Stream } from './weight_streaming.js'

/** A block of a tensor is read from the file in one piece of at most so many bytes, through one staging buffer. */
export const stagingBytes = 32 * 2 ** 20

export interface Room {
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
  part?: Part | undefined
  /** The parts take turns in these buffers; begins without the first one that passes by. */
  stream?: Stream | undefined
  gear?: Gear | undefined
}

type Four = [number, number, number, number]

/** Images that have room in a pass of so many tokens. */
export function imagesOf({ vision }: ModelSpec, tokens: number): number {
  if (vision === undefined) return 0
  return Math.max(1, Math.floor(tokens / (vision.stack.attention.both - vision.skipped)))
}

/** Buffers by index, and their sizes in bytes. */
export class Buffers {
  readonly sizes: number[] = []
  readonly tensors = new Map<string, Block[]>()
  readonly staging: number
  /** Lists of rows and columns that become zeros. */
  readonly list: number
  readonly language: Program
  /** The tower, with room for as many images as a pass of the language model can hold. */
  readonly vision?: Program
  /** That is on the device. */
  part: Part
  readonly meters: Meters
  readonly logits: number
  readonly losses: number
  readonly best: number
  readonly draws: number
  /** Rows the head is applied to at a time. */
  readonly headRows: number
  /** Buffers of weights that pass by, the largest first, and whose weights they are now. */
  private readonly slots: number[]
  private passing: string[] = []

  constructor(
    private readonly spec: ModelSpec,
    private readonly room: Room,
    private readonly dtypeOf: (tensor: string) => StoreDType,
  ) {
    const { stream } = room
    const limit = Math.min(stagingBytes, room.binding)
    const add = (bytes: number) => this.sizes.push(bytes) - 1
    this.part = room.part ?? wholeOf(spec)
    const staying = stream === undefined ? this.part : stream.stays ? stream.parts[0] : undefined
    for (const name of staying === undefined ? [] : tensorsOf(spec, staying)) {
      this.tensors.set(
        name,
        this.blocksOf(name).map((block) => ({ ...block, buffer: add(turnedBytes(block)) })),
      )
    }
    this.slots = (stream?.slots ?? []).map(add)
    const loaded = [...(stream?.parts ?? [this.part])].flatMap((part) => [...tensorsOf(spec, part)])
    const pieces = loaded.flatMap((name) => this.blocksOf(name))
    this.staging = add(
      pieces.reduce((most, { rows, columns, dtype }) => Math.max(most, rows * columns * bytesOf(dtype)), 4),
    )
    this.list = add(4 * Math.max(1, room.list ?? 0))
    this.language = new Program(spec.language, room, this.tensors, add)
    const { vision } = spec
    let most = room.tokens
    if (vision !== undefined && (this.part.enter || stream !== undefined)) {
      const tokens = imagesOf(spec, room.tokens) * vision.stack.attention.both
      this.vision = new Program(vision.stack, { tokens, cache: 0, forms: room.forms }, this.tensors, add)
      most = Math.max(most, tokens)
    }
    this.meters = new Meters(spec, room.gear ?? noGear, { rows: most, binding: room.binding, held: this.tensors }, add)
    const rows = Math.min(room.tokens, Math.floor(limit / (4 * spec.vocabulary)))
    this.headRows = this.part.leave || stream !== undefined ? Math.max(1, rows) : 0
    this.logits = add(4 * spec.vocabulary * this.headRows)
    this.losses = add(4 * lossWords * room.tokens)
    this.best = add(4 * room.tokens)
    this.draws = add(room.cache > 0 ? 4 * drawWords * room.tokens : 0)
  }

  /** Bytes of all of them. */
  get bytes(): number {
    return this.sizes.reduce((sum, size) => sum + size, 0)
  }

  /** Blocks of a tensor, in the order of its rows. */
  blocksOf(name: string): Omit<Block, 'buffer'>[] {
    const [rows = 1, ...rest] = this.spec.tensors.get(name) ?? []
    const columns = rest.reduce((product, size) => product * size, 1)
    return blocksOf(rows, columns, this.dtypeOf(name), Math.min(stagingBytes, this.room.binding))
  }

  /** Gives the buffers that parts share to those tensors of a part that do not stay, and names them: they are to be loaded. */
  hold(part: Part): string[] {
    for (const name of this.passing) this.tensors.delete(name)
    this.passing = [...tensorsOf(this.spec, part)].filter((name) => !this.tensors.has(name))
    this.part = part
    const blocks = this.passing.flatMap((name) => this.blocksOf(name).map((block) => ({ name, block })))
    const ranked = [...blocks].sort((a, b) => turnedBytes(b.block) - turnedBytes(a.block))
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
    return [kernels.splice({ tokens, features, y: this.language.activation('x') }, { rows, width, first: vocabulary })]
  }

  /** Logits, losses and best tokens of some rows; the tokens that are drawn, where there are draws. */
  head(from: number, rows: number, drawn: boolean): NativeDispatch[] {
    const { head, vocabulary } = this.spec
    const { forms } = this.room
    const x = this.language.activation(head.x)
    return [
      ...(this.tensors.get(head.weight) ?? []).map((block) =>
        kernels.gemm(block, x, this.logits, { rows, stride: vocabulary, from, forms }),
      ),
      kernels.nll({ ...this, tokens: this.language.tokens }, { rows, width: vocabulary, from }),
      ...(drawn ? [kernels.sample(this, { rows, width: vocabulary, from })] : []),
    ]
  }
}

/** The dispatches of one stack, and the buffers that are its own. */
export class Program {
  readonly tokens: number
  readonly angles: number
  readonly copies: number
  /** What the buffer of angles holds. */
  private turned: Rotary | undefined
  private readonly activations: ReadonlyMap<string, number>
  private readonly caches: { keys: number; values: number }[]

  constructor(
    readonly stack: Stack,
    private readonly room: Pick<Room, 'tokens' | 'cache' | 'forms'>,
    private readonly tensors: ReadonlyMap<string, Block[]>,
    add: (bytes: number) => number,
  ) {
    const { groups, headSize } = stack.attention
    this.tokens = add(4 * tokenWords * room.tokens)
    const rows = room.cache || room.tokens
    this.angles = stack.attention.rotary === undefined ? -1 : add(4 * headSize * rows)
    this.activations = new Map(
      Object.entries(stack.activations).map(([name, width]) => [name, add(4 * width * room.tokens)]),
    )
    this.copies = add(8 * room.cache)
    const kept = 4 * groups * headSize * rows
    this.caches = Array.from({ length: room.cache > 0 ? stack.layers.length : 1 }, () => ({
      keys: add(kept),
      values: add(kept),
    }))
  }

  activation(name: string): number {
    return this.activations.get(name) ?? -1
  }

  /** Copies rows of the cache, as the buffer of copies says. */
  repeat(count: number): NativeDispatch[] {
    const { groups, headSize } = this.stack.attention
    const width = groups * headSize
    return this.caches.flatMap(({ keys, values }) =>
      [keys, values].map((cache) => kernels.repeat(this.copies, cache, count, width)),
    )
  }

  /** The angles that a pass of sequences of up to `length` tokens needs, where the device does not have them yet. */
  turn(length: number): Float32Array<ArrayBuffer> | undefined {
    const rotary = this.stack.attention.rotary?.(length)
    if (rotary === undefined || rotary === this.turned) return undefined
    this.turned = rotary
    return angleTable(rotary, this.room.cache || this.room.tokens)
  }

  embed(rows: number): NativeDispatch[] {
    return this.stack.embed.flatMap((op) => this.op(op, 0, rows))
  }

  final(rows: number): NativeDispatch[] {
    return this.stack.final.flatMap((op) => this.op(op, 0, rows))
  }

  op(op: Op, layer: number, rows: number): NativeDispatch[] {
    const width = (name: string) => this.stack.activations[name] ?? 0
    const buffer = (name: string) => this.activation(name)
    const { tokens } = this
    switch (op.op) {
      case 'embed':
        return this.blocks(op.table).map((block) => kernels.embed(block, tokens, buffer(op.y), { rows, ...op }))
      case 'first':
        return this.blocks(op.weight).map((block) => kernels.first(block, tokens, buffer(op.y), rows))
      case 'norm': {
        const many = rows * (op.heads ?? 1)
        return [
          ...this.blocks(op.weight).map((block) =>
            kernels.norm(block, buffer(op.x), buffer(op.y), { rows: many, ...op }),
          ),
          ...this.bias(op.bias, op.y, rows),
        ]
      }
      case 'linear': {
        const blocks = this.blocks(op.weight)
        const { forms } = this.room
        const stride = blocks.reduce((sum, block) => sum + block.rows, 0)
        return [
          ...blocks.map((block) => kernels.gemm(block, buffer(op.x), buffer(op.y), { rows, stride, forms })),
          ...this.bias(op.bias, op.y, rows),
        ]
      }
      case 'attention': {
        const { headSize: size, both, rotary } = this.stack.attention
        const { heads = this.stack.attention.heads, groups = this.stack.attention.groups } = op
        const cache = this.caches[this.room.cache > 0 ? layer : 0] ?? { keys: -1, values: -1 }
        const [q, k, v, y] = [op.q, op.k, op.v, op.y].map(buffer) as Four
        const turned = (x: number, count: number) =>
          rotary === undefined ? [] : [kernels.rope({ angles: this.angles, tokens, x }, { rows, heads: count, size })]
        return [
          ...turned(q, heads),
          ...turned(k, groups),
          kernels.store(tokens, k, cache.keys, rows, groups * size),
          kernels.store(tokens, v, cache.values, rows, groups * size),
          kernels.attention(
            { tokens, q, ...cache, y },
            { rows, heads, groups, size, scale: size ** -0.5, window: op.window, both, forms: this.room.forms },
          ),
        ]
      }
      case 'activation':
        return [kernels.activate(op.kind, buffer(op.x), rows, width(op.x))]
      case 'gate':
        return [kernels.gate(op.kind, buffer(op.x), buffer(op.y), rows, width(op.x))]
      case 'add':
        return [kernels.add(buffer(op.x), buffer(op.y), rows, width(op.x))]
    }
  }

  private bias(tensor: string | undefined, y: string, rows: number): NativeDispatch[] {
    if (tensor === undefined) return []
    return this.blocks(tensor).map((block) => kernels.bias(block, this.activation(y), rows))
  }

  private blocks(tensor: string): Block[] {
    return this.tensors.get(tensor) ?? []
  }
}

/** (cos, sin) of every pair of a head at every position: float64, rounded once. */
function angleTable({ frequencies, factor }: Rotary, positions: number): Float32Array<ArrayBuffer> {
  const table = new Float32Array(2 * positions * frequencies.length)
  for (let position = 0, at = 0; position < positions; position++) {
    for (const frequency of frequencies) {
      table[at++] = factor * Math.cos(position * frequency)
      table[at++] = factor * Math.sin(position * frequency)
    }
  }
  return table
}

function bytesOf(dtype: StoreDType): number {
  return dtype === 'F32' ? 4 : 2
}

/** A tensor in blocks of rows that fit the limit, whole panels each. */
export function blocksOf(rows: number, columns: number, dtype: StoreDType, limit: number): Omit<Block, 'buffer'>[] {
  const most = Math.max(panel, Math.floor(limit / (columns * bytesOf(dtype)) / panel) * panel)
  return Array.from({ length: Math.ceil(rows / most) }, (_, i) => ({
    dtype,
    first: i * most,
    rows: Math.min(most, rows - i * most),
    columns,
  }))
}
