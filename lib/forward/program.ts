/** From the ops of a model to dispatches: which buffer every tensor and activation is, and which kernels an op takes. */

import type { ModelSpec, Op } from '../families/index.js'
import type { NativeDispatch, StoreDType } from '../native/border.js'
import { type Block, forwardKernels as kernels, tokenWords, turnedBytes } from './kernels.js'

/** A block of a tensor is read from the file in one piece of at most so many bytes, through one staging buffer. */
const stagingBytes = 32 * 2 ** 20

export interface Room {
  /** Tokens a pass. */
  tokens: number
  /** Rows of the cache; 0: every pass is on its own, and all layers share one. */
  cache: number
  /** Bytes a buffer may have. */
  binding: number
}

type Four = [number, number, number, number]

/** Buffers by index, and their sizes in bytes. */
export class Buffers {
  readonly sizes: number[] = []
  readonly tensors = new Map<string, Block[]>()
  readonly staging: number
  readonly tokens: number
  readonly angles: number
  readonly logits: number
  readonly nll: number
  readonly best: number
  /** Rows the head is applied to at a time. */
  readonly headRows: number
  private readonly activations: ReadonlyMap<string, number>
  private readonly caches: { keys: number; values: number }[]

  constructor(
    private readonly spec: ModelSpec,
    private readonly room: Room,
    dtypeOf: (tensor: string) => StoreDType,
  ) {
    const limit = Math.min(stagingBytes, room.binding)
    let staging = 4
    for (const [name, [rows = 1, columns = 1]] of spec.tensors) {
      const dtype = dtypeOf(name)
      const blocks = blocksOf(rows, columns, dtype, limit)
      this.tensors.set(
        name,
        blocks.map((block) => ({ ...block, buffer: this.add(turnedBytes(block)) })),
      )
      for (const block of blocks) staging = Math.max(staging, block.rows * columns * bytesOf(dtype))
    }
    this.staging = this.add(staging)
    this.tokens = this.add(4 * tokenWords * room.tokens)
    const rows = room.cache || room.tokens
    this.angles = this.add(4 * spec.headSize * rows)
    this.activations = new Map(
      Object.entries(spec.activations).map(([name, width]) => [name, this.add(4 * width * room.tokens)]),
    )
    const kept = 4 * spec.groups * spec.headSize * rows
    this.caches = Array.from({ length: room.cache > 0 ? spec.layers.length : 1 }, () => ({
      keys: this.add(kept),
      values: this.add(kept),
    }))
    this.headRows = Math.max(1, Math.min(room.tokens, Math.floor(limit / (4 * spec.vocabulary))))
    this.logits = this.add(4 * spec.vocabulary * this.headRows)
    this.nll = this.add(4 * room.tokens)
    this.best = this.add(4 * room.tokens)
  }

  /** Bytes of all of them. */
  get bytes(): number {
    return this.sizes.reduce((sum, size) => sum + size, 0)
  }

  activation(name: string): number {
    return this.activations.get(name) ?? -1
  }

  embed(rows: number): NativeDispatch[] {
    return this.blocks(this.spec.embedding).map((block) =>
      kernels.embed(block, this.tokens, this.activation('x'), rows),
    )
  }

  layer(index: number, rows: number): NativeDispatch[] {
    return (this.spec.layers[index]?.ops ?? []).flatMap((op) => this.op(op, index, rows))
  }

  final(rows: number): NativeDispatch[] {
    return this.spec.final.flatMap((op) => this.op(op, 0, rows))
  }

  /** Logits, losses and best tokens of some rows. */
  head(from: number, rows: number): NativeDispatch[] {
    const { head, vocabulary } = this.spec
    return [
      ...this.blocks(head.weight).map((block) =>
        kernels.gemm(block, this.activation(head.x), this.logits, { rows, stride: vocabulary, from }),
      ),
      kernels.nll(this, { rows, width: vocabulary, from }),
    ]
  }

  private op(op: Op, layer: number, rows: number): NativeDispatch[] {
    const { spec } = this
    const width = (name: string) => spec.activations[name] ?? 0
    switch (op.op) {
      case 'norm':
        return this.blocks(op.weight).map((block) =>
          kernels.norm(block, this.activation(op.x), this.activation(op.y), rows, spec.eps),
        )
      case 'linear': {
        const y = this.activation(op.y)
        const stride = spec.tensors.get(op.weight)?.[0] ?? 0
        return [
          ...this.blocks(op.weight).map((block) => kernels.gemm(block, this.activation(op.x), y, { rows, stride })),
          ...(op.bias === undefined ? [] : this.blocks(op.bias).map((block) => kernels.bias(block, y, rows))),
        ]
      }
      case 'attention': {
        const { angles, tokens } = this
        const { heads, groups, headSize: size, window } = spec
        const cache = this.caches[this.room.cache > 0 ? layer : 0] ?? { keys: -1, values: -1 }
        const [q, k, v, y] = [op.q, op.k, op.v, op.y].map((name) => this.activation(name)) as Four
        return [
          kernels.rope({ angles, tokens, x: q }, { rows, heads, size }),
          kernels.rope({ angles, tokens, x: k }, { rows, heads: groups, size }),
          kernels.store(tokens, k, cache.keys, rows, width(op.k)),
          kernels.store(tokens, v, cache.values, rows, width(op.v)),
          kernels.attention({ tokens, q, ...cache, y }, { rows, heads, groups, size, scale: size ** -0.5, window }),
        ]
      }
      case 'gate':
        return [kernels.gate(this.activation(op.x), this.activation(op.y), rows, width(op.x))]
      case 'add':
        return [kernels.add(this.activation(op.x), this.activation(op.y), rows, width(op.x))]
    }
  }

  private blocks(tensor: string): Block[] {
    return this.tensors.get(tensor) ?? []
  }

  private add(bytes: number): number {
    return this.sizes.push(bytes) - 1
  }
}

function bytesOf(dtype: StoreDType): number {
  return dtype === 'F32' ? 4 : 2
}

/** A tensor in blocks of rows that fit the limit, whole octets each. */
function blocksOf(rows: number, columns: number, dtype: StoreDType, limit: number): Omit<Block, 'buffer'>[] {
  const most = Math.max(8, Math.floor(limit / (columns * bytesOf(dtype)) / 8) * 8)
  return Array.from({ length: Math.ceil(rows / most) }, (_, i) => ({
    dtype,
    first: i * most,
    rows: Math.min(most, rows - i * most),
    columns,
  }))
}
