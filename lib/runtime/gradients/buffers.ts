/**
 * The buffers of a model that is trained: its weights as they are stored, what is trained of it in f32 with gradients
 * and moments, the residual stream before every layer, the values of one layer (or of a few), and gradients of
 * activations. Sizes that decide about the order of sums depend on the model alone, not on the memory.
 */

import type { ModelSpec } from '../../architectures/index.js'
import type { StoreDType } from '../../native/border.js'
import { layout as wgsl } from '../../native/layouts.js'
import { type AdapterSpec, factorNames, mixedNames } from '../adapters.js'
import { blocksOf, stagingBytes } from '../blocks.js'
import { lossWords, taughtLossWords } from '../kernels.js'
import { MixtureBuffers } from '../mixtures.js'
import {
  type Adapter,
  type Block,
  type Forms,
  type Mixture,
  type OpSpec,
  packedBytes,
  tensorsOfOp,
} from '../ops/index.js'
import { tensorsOf, wholeOf } from '../partition.js'
import { Router, type RouterSpec } from '../router.js'
import { SubnetBuffers } from '../subnet.js'
import { type Tape, tapeInput, tapeOf } from './tape.js'
import type { KnownLogits } from './teaching.js'

export interface GradientLayout {
  /** Tokens a micro-batch. */
  tokens: number
  /** Tensors that are trained. */
  tensors: readonly string[]
  adapters: readonly AdapterSpec[]
  /** Dropout of what adapters read; see `Dropout` of the ops. */
  dropout?: { share: number; seed: number } | undefined
  /** Bytes a buffer may have. */
  binding: number
  forms: Forms
  /** Layers whose values are on the device at a time. Others are computed again for the backward pass. */
  tapes: number
  /**
   * The head [vocabulary, width] of a model whose predictions are learned, or how many logits are known of them;
   * `self`: the model's own.
   */
  teacher?: { width: number; dtype: StoreDType } | KnownLogits | 'self'
  /** Of adapters with experts. */
  router?: RouterSpec | undefined
  /** How experts are mixed. */
  mix: Mixture['form']
  /** Layers, from the first on, whose weights stay on the device. The others take turns in the same buffers. */
  resident: number
}

/** A tensor that is trained: buffers by block. */
export interface Learned {
  name: string
  /** As passes read it. */
  blocks: readonly Block[]
  /** The same in f32, which is the same buffer where it is stored as F32. */
  master: readonly Block[]
  gradient: readonly Block[]
  /** Means of the gradient and of its square. */
  m: readonly Block[]
  v: readonly Block[]
}

/** Buffers of the values of a layer. */
export interface TapeBuffers {
  versions: ReadonlyMap<string, number>
  cache: { keys: number; values: number }
  statistics: number
}

/** Names of what is trained of an adapter. */
function partsOf({ a, b, magnitude }: Adapter, { weight, experts = 0 }: AdapterSpec): string[] {
  const each = Array.from({ length: experts }, (_, expert) => factorNames(weight, expert))
  const factors = experts > 0 ? each.flatMap((names) => [names.a, names.b]) : [a, b]
  return [...factors, ...(magnitude === undefined ? [] : [magnitude.tensor])]
}

/** The head of a teacher, and what it is applied to. */
export interface TeacherHead {
  head: readonly Block[]
  normed: number
}

/** Logits that are known, and their ids; where all are known, they go where logits are. */
export interface TeacherTop {
  top: number
  ids: number
  values: number
}

export class GradientBuffers {
  readonly sizes: number[] = []
  /** Weights and factors of adapters. */
  readonly tensors = new Map<string, Block[]>()
  readonly adapters = new Map<string, Adapter>()
  readonly learned = new Map<string, Learned>()
  /** Tensors that are held as their transpose. */
  readonly turned = new Set<string>()
  readonly subnet: SubnetBuffers
  readonly router: Router | undefined
  readonly mixtures: MixtureBuffers
  /** Weights by layer that are read when the layer has its turn. */
  readonly passing: ReadonlyMap<number, readonly string[]>
  readonly staging: number
  readonly tokens: number
  readonly lossTokens: number
  readonly angles: number | undefined
  /** Rows that have a loss. */
  readonly rows: number
  readonly buckets: Record<'id' | 'position', number>
  readonly moments: number
  readonly logits: number
  readonly losses: number
  readonly best: number
  /** Rows that the head is applied to at a time. */
  readonly headRows: number
  /** Of a teacher: its logits and what makes them, and what it and the target count for, a row. */
  readonly teacher: { logits: number; shares: number; source: TeacherHead | TeacherTop } | undefined
  /** Sums of squares of gradients, so many. */
  readonly squares: number
  readonly squareCount: number
  /** What fills the residual stream, the layers, and what is before the head. */
  readonly tapes: { embed: Tape; layers: Tape[]; final: Tape }
  readonly embedValues: TapeBuffers
  readonly layerValues: TapeBuffers[]
  readonly finalValues: TapeBuffers
  /** The residual stream before each layer, and behind the last. */
  readonly stream: number[]
  /** The lowest layer that is trained; the residual stream before it and the layers below it learn nothing. */
  readonly lowest: number
  /** Gradients of activations, of all tokens and of those that have a loss. */
  private readonly gradients: ReadonlyMap<string, number>
  private readonly lossGradients: ReadonlyMap<string, number>

  constructor(
    readonly spec: ModelSpec,
    readonly layout: GradientLayout,
    dtypeOf: (tensor: string) => StoreDType,
  ) {
    const { tokens, adapters } = layout
    const { language, head, vocabulary } = spec
    const { heads, numKvHeads, headSize } = language.attention
    const add = (bytes: number) => this.sizes.push(Math.max(16, bytes)) - 1
    const limit = Math.min(stagingBytes, layout.binding)
    const blocked = (rows: number, columns: number, dtype: StoreDType) =>
      blocksOf(rows, columns, dtype, limit).map((block) => ({ ...block, buffer: add(packedBytes(block)) }))
    const { vision: _, ...text } = spec
    const passing = language.layers.slice(layout.resident).map(({ ops }) => [...new Set(ops.flatMap(tensorsOfOp))])
    const passes = new Set(passing.flat())
    const weightBlocks = (name: string) => {
      const [rows = 1, columns = 1] = spec.tensors.get(name) ?? []
      return blocksOf(rows, columns, dtypeOf(name), limit)
    }
    for (const name of tensorsOf(text, wholeOf(spec))) {
      if (!passes.has(name)) {
        this.tensors.set(
          name,
          weightBlocks(name).map((block) => ({ ...block, buffer: add(packedBytes(block)) })),
        )
      }
    }
    this.passing = new Map(passing.map((names, i) => [layout.resident + i, names]))
    // The n-th block of every layer lies in the n-th buffer.
    const slots: number[] = []
    const ranked = passing.map((names) => names.flatMap((name) => weightBlocks(name).map((block) => ({ name, block }))))
    for (const blocks of ranked) {
      for (const [i, { block }] of blocks.entries()) slots[i] = Math.max(slots[i] ?? 0, packedBytes(block))
    }
    const shared = slots.map(add)
    for (const blocks of ranked) {
      for (const [i, { name, block }] of blocks.entries()) {
        this.tensors.set(name, [...(this.tensors.get(name) ?? []), { ...block, buffer: shared[i] ?? 0 }])
      }
    }
    const rank = Math.max(0, ...adapters.map((adapter) => adapter.rank))
    const inner = add(4 * tokens * rank)
    const innerGradient = add(4 * tokens * rank)
    const widest = Math.max(0, ...adapters.map(({ weight }) => spec.tensors.get(weight)?.[1] ?? 1))
    const dropped = layout.dropout === undefined ? undefined : add(4 * tokens * widest)
    const outputs = adapters.map(({ weight, dora }) => (dora ? (spec.tensors.get(weight)?.[0] ?? 1) : 0))
    const outer = add(4 * tokens * Math.max(0, ...outputs))
    this.subnet = new SubnetBuffers(spec, add)
    for (const [name, blocks] of this.subnet.blocks) this.tensors.set(name, [...blocks])
    this.router = layout.router && new Router(layout.router, layout.forms, add)
    for (const [name, blocks] of this.router?.blocks ?? []) this.tensors.set(name, blocks)
    this.mixtures = new MixtureBuffers(spec, layout, limit, add)
    for (const [name, blocks] of this.mixtures.factors) this.tensors.set(name, blocks)
    for (const [index, { weight, rank, scale, dora, experts = 0 }] of adapters.entries()) {
      const [rows = 1, columns = 1] = spec.tensors.get(weight) ?? []
      const { a, b, magnitude } = experts > 0 ? mixedNames(weight) : factorNames(weight)
      const owners = Array.from({ length: Math.max(1, experts) }, (_, expert) =>
        factorNames(weight, experts > 0 ? expert : undefined),
      )
      for (const names of owners) {
        // A is held as its transpose, so that no panel is padded from the rank to 64 columns.
        this.tensors.set(names.a, blocked(columns, rank, 'F32'))
        this.turned.add(names.a)
        this.tensors.set(names.b, blocked(rows, rank, 'F32'))
      }
      const lengths: Omit<Block, 'buffer'> = { dtype: 'F32', first: 0, rows, columns: 1 }
      if (dora) this.tensors.set(magnitude, [{ ...lengths, buffer: add(packedBytes(lengths)) }])
      this.adapters.set(weight, {
        ...{ a, b, scale, inner, innerGradient, index, dropped },
        ...(dora && { magnitude: { tensor: magnitude, norms: add(packedBytes(lengths)), outer } }),
      })
    }
    const copies = (blocks: readonly Block[]) =>
      blocks.map((block): Block => {
        const copy = { ...block, dtype: 'F32' as const }
        return { ...copy, buffer: add(packedBytes(copy)) }
      })
    const adapted = adapters.flatMap((adapter) => {
      const of = this.adapters.get(adapter.weight)
      return of === undefined ? [] : partsOf(of, adapter)
    })
    for (const name of [...layout.tensors, ...adapted, ...(this.router?.blocks.keys() ?? [])]) {
      const blocks = this.tensors.get(name) ?? []
      const whole = blocks.every(({ dtype }) => dtype === 'F32')
      this.learned.set(name, {
        ...{ name, blocks, master: whole ? blocks : copies(blocks) },
        ...{ gradient: copies(blocks), m: copies(blocks), v: copies(blocks) },
      })
    }
    const all = [...this.tensors.values()].flat()
    const bytesOf = ({ rows, columns, dtype }: Block) => rows * columns * (dtype === 'F32' ? 4 : 2)
    const wide = [...this.learned.values()].flatMap(({ master }) => master)
    const { teacher } = layout
    const taught =
      typeof teacher === 'object' && 'width' in teacher ? blocked(vocabulary, teacher.width, teacher.dtype) : []
    this.staging = add([...all, ...wide, ...taught].reduce((most, block) => Math.max(most, bytesOf(block)), 4))

    const learns = (tensor: string) => this.learned.has(tensor) || this.adapters.has(tensor)
    const tape = (ops: readonly OpSpec[], below: boolean) => tapeOf(ops, language.activations, learns, below)
    const embed = tape(language.embed, false)
    let below = embed.steps.some((step) => step.learns)
    let lowest = below ? 0 : language.layers.length
    const layers = language.layers.map(({ ops }, index) => {
      const of = tape(ops, below)
      if (!below && of.steps.some((step) => step.learns)) lowest = index
      below ||= of.steps.some((step) => step.learns)
      return of
    })
    const headLearns = learns(head.weight)
    this.tapes = { embed, layers, final: tape(language.final, below) }
    if (headLearns || this.tapes.final.steps.some((step) => step.learns)) lowest = Math.min(lowest, layers.length)
    this.lowest = lowest

    this.tokens = add(4 * wgsl.tokenWords * tokens)
    this.lossTokens = add(4 * wgsl.tokenWords * tokens)
    this.rows = add(4 * tokens)
    this.angles = language.attention.rotary === undefined ? undefined : add(4 * headSize * tokens)
    this.buckets = { id: add(16 * tokens), position: add(16 * tokens) }
    this.moments = add(8 * tokens * Math.max(heads, numKvHeads))
    this.stream = Array.from({ length: layers.length + 1 }, () => add(4 * tokens * (language.activations.x ?? 0)))
    const valuesOf = (some: readonly Tape[], attends: boolean): TapeBuffers => {
      const widths = new Map<string, number>()
      for (const { versions } of some) {
        for (const [version, width] of versions) widths.set(version, Math.max(width, widths.get(version) ?? 0))
      }
      const cached = attends ? 4 * tokens * numKvHeads * headSize : 0
      return {
        versions: new Map([...widths].map(([version, width]) => [version, add(4 * tokens * width)])),
        cache: { keys: add(cached), values: add(cached) },
        statistics: add(attends ? 8 * tokens * heads : 0),
      }
    }
    this.embedValues = valuesOf([embed], false)
    const instances = Math.max(1, Math.min(layout.tapes, layers.length))
    this.layerValues = Array.from({ length: instances }, () => valuesOf(layers, true))
    this.finalValues = valuesOf([this.tapes.final], false)
    const widths = Object.entries(language.activations)
    this.gradients = new Map(widths.map(([name, width]) => [name, add(4 * tokens * width)]))
    const last = new Set(['x', head.x, ...this.tapes.final.steps.flatMap(({ before }) => [...before.keys()])])
    this.lossGradients = new Map(
      widths.filter(([name]) => last.has(name)).map(([name, width]) => [name, add(4 * tokens * width)]),
    )
    this.headRows = Math.max(1, Math.min(tokens, Math.floor(stagingBytes / (4 * vocabulary))))
    this.logits = add(4 * vocabulary * this.headRows)
    if (teacher !== undefined) {
      const logits = add(4 * vocabulary * this.headRows)
      const some = (top: number) => (top < vocabulary ? add(4 * top * this.headRows) : logits)
      const normedBy = (width: number) => add(4 * tokens * width)
      const source =
        teacher === 'self'
          ? { head: this.tensors.get(head.weight) ?? [], normed: normedBy(language.activations[head.x] ?? 0) }
          : 'top' in teacher
            ? { top: teacher.top, ids: some(teacher.top), values: some(teacher.top) }
            : { head: taught, normed: normedBy(teacher.width) }
      this.teacher = { logits, shares: add(8 * tokens), source }
    }
    this.losses = add(4 * Math.max(lossWords, taughtLossWords) * tokens)
    this.best = add(4 * tokens)
    this.squareCount = [...this.learned.values()]
      .flatMap(({ gradient }) => gradient)
      .reduce((sum, block) => sum + Math.ceil(packedBytes(block) / 4 / wgsl.block), 0)
    this.squares = add(4 * this.squareCount)
  }

  /** Bytes of all of them. */
  get bytes(): number {
    return this.sizes.reduce((sum, size) => sum + size, 0)
  }

  /** The values of a layer: those of the last layers stay from the forward pass to the backward pass. */
  valuesOf(layer: number): TapeBuffers {
    const fromLast = this.tapes.layers.length - 1 - layer
    const values = this.layerValues[this.layerValues.length - 1 - fromLast] ?? this.layerValues[0]
    if (values === undefined) throw new Error('A model that is trained has the values of a layer.')
    return values
  }

  /** Whether the values of a layer are those that the forward pass has left. */
  stays(layer: number): boolean {
    return this.tapes.layers.length - 1 - layer < this.layerValues.length
  }

  gradient(name: string, ofLosses = false): number {
    const buffer = (ofLosses ? this.lossGradients : this.gradients).get(name)
    if (buffer === undefined) throw new Error(`There is no gradient of the activation ${name}.`)
    return buffer
  }
}

/** The version of the residual stream that a tape begins with. */
export const input = tapeInput
