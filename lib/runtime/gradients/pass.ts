/**
 * A forward and a backward pass over one micro-batch: tokens in the order of their sequences, through the layers with
 * the residual stream kept before each; the loss of the rows that have one, some rows at a time; and back, layer by
 * layer, whose values are computed again where they did not stay.
 */

import type { NativeDispatch, NativeWork } from '../../native/border.js'
import type { Gate } from '../adapters.js'
import { modelKernels as kernels } from '../kernels.js'
import { type Adapter, type BackwardContext, backward, forward, packedBytes, type StackContext } from '../ops/index.js'
import type { Subnet } from '../subnet.js'
import { type GradientBuffers, input, type TapeBuffers } from './buffers.js'
import type { Tape, TapeStep } from './tape.js'
import { knownRows, type Taught } from './teaching.js'

/** What a micro-batch has: tokens, tokens with a loss, and buckets of equal ids and positions. */
export interface BatchShape {
  tokens: number
  losses: number
  buckets: Record<'id' | 'position', number>
  /** Which micro-batch it is, where what adapters read loses elements. */
  draw?: { step: number; microBatch: number } | undefined
  /** The part of the model that is run. */
  subnet?: Subnet | undefined
  /** Its experts that count, and how much. */
  experts?: readonly Gate[] | undefined
  /** Whether there was noise in what they were chosen by. */
  noisy?: boolean | undefined
}

/** Dispatches that need the weights of one layer, or of none, and what is written before them. */
export interface Stage {
  layer?: number
  writes?: (() => Promise<NativeWork['writes']>) | undefined
  dispatches: NativeDispatch[]
}

export class GradientPass {
  /** Tensors whose gradient has something in it. */
  private readonly touched: Set<string>

  /** `touched`: by earlier micro-batches of the step; it grows. */
  constructor(
    private readonly buffers: GradientBuffers,
    private readonly shape: BatchShape,
    touched: Set<string>,
    /** What a teacher says, beside targets. */
    private readonly taught?: Taught,
  ) {
    this.touched = touched
  }

  /** From tokens to losses, and with a `scale` to the gradients of scale * their sum. */
  stages(scale?: number): Stage[] {
    return [...this.toLosses(scale), ...(scale === undefined ? [] : this.backward())]
  }

  /** From tokens to losses, and with a `scale` to what `backwardFrom` begins with. */
  toLosses(scale?: number): Stage[] {
    return [...this.forward(), ...this.losses(scale)]
  }

  /** From what `toLosses` has left, times a scale, to the gradients of everything that is trained. */
  backwardFrom(scale: number): Stage[] {
    const { spec } = this.buffers
    const elements = this.shape.losses * this.width(spec.head.x)
    const scaled = kernels.scale(this.buffers.gradient(spec.head.x, true), { elements, scale })
    const { mixtures } = this.buffers
    // Layers that are left out have no part in the gradients of gates.
    const { first: all } = mixtures.sumsOf(this.shape.experts?.length ?? 0)
    const sums = all > 0 ? [kernels.zero(mixtures.sums, all)] : []
    const stages = [{ dispatches: [scaled, ...sums] }, ...this.backward()]
    return [...stages, { dispatches: [...this.zerosOfExperts(), ...this.routerGradient()] }]
  }

  /** Keeps what the head was applied to, as what a teacher says. */
  remember(): NativeDispatch[] {
    const { teacher, spec } = this.buffers
    if (teacher === undefined || !('normed' in teacher.source)) return []
    return [kernels.copy(this.normedBuffer, teacher.source.normed, this.shape.losses, this.width(spec.head.x))]
  }

  /** An expert that counts is moved in all layers: its gradient is 0 in those that no subnet has had so far. */
  private zerosOfExperts(): NativeDispatch[] {
    const { mixtures } = this.buffers
    const names = (this.shape.experts ?? []).flatMap(({ expert }) => mixtures.tensorsOf(expert))
    return names
      .filter((name) => !this.touched.has(name))
      .flatMap((name) => this.trained(name)?.blocks ?? [])
      .map((block) => kernels.zero(block.buffer, packedBytes(block) / 4))
  }

  /** Of gates, from sums that the experts of layers have left; those of layers that were left out are 0. */
  private routerGradient(): NativeDispatch[] {
    const { router, mixtures } = this.buffers
    const { experts = [] } = this.shape
    if (router === undefined) return []
    const parts = experts.map(({ expert }, i) => ({ expert, ...mixtures.sumsOf(i) }))
    return router.backward(mixtures.sums, parts, {
      noisy: this.shape.noisy === true,
      trained: (tensor) => this.trained(tensor),
    })
  }

  /** From tokens to what the head is applied to, for rows that have a loss, and the buffer with it. */
  normed(): { stages: Stage[]; buffer: number } {
    return { stages: [...this.forward(), { dispatches: this.normedRows() }], buffer: this.normedBuffer }
  }

  /** Of rows that `normed` has left, from a row on. */
  logits(from: number, count: number): NativeDispatch[] {
    const { tensors, spec, layout, logits } = this.buffers
    const at = { rows: count, stride: spec.vocabulary, from, forms: layout.forms }
    return (tensors.get(spec.head.weight) ?? []).map((block) => kernels.gemm(block, this.normedBuffer, logits, at))
  }

  private get normedBuffer(): number {
    const { finalValues, tapes, spec } = this.buffers
    return this.valueOf(finalValues, this.outputOf(tapes.final, spec.head.x))
  }

  private normedRows(): NativeDispatch[] {
    const { finalValues, tapes, stream, rows: list } = this.buffers
    const y = this.valueOf(finalValues, input)
    const at = { rows: this.shape.losses, width: this.width('x') }
    return [
      kernels.gatherRows({ list, x: stream.at(-1) ?? 0, y }, at),
      ...this.run(tapes.final, finalValues, this.shape.losses),
    ]
  }

  /** From tokens to the residual stream behind the last layer. */
  private forward(): Stage[] {
    const { tapes, stream, embedValues } = this.buffers
    const layers = this.layers()
    const embed = [
      ...this.run(tapes.embed, embedValues),
      ...this.copyStream(this.valueOf(embedValues, tapes.embed.output), stream[layers[0] ?? tapes.layers.length] ?? 0),
    ]
    return [
      { dispatches: embed },
      ...layers.map((layer, i) => ({
        ...{ layer, dispatches: [...this.runLayer(layer), ...this.leaveLayer(layer, layers[i + 1])] },
      })),
    ]
  }

  /** Layers that are run, in their order. */
  private layers(): number[] {
    const { blocks } = this.shape.subnet ?? {}
    return [...this.buffers.tapes.layers.keys()].filter((layer) => blocks?.[layer] !== false)
  }

  /**
   * From the residual stream behind the last layer to losses; with a `scale`, to the gradient of scale * their sum at
   * the residual stream too.
   */
  private losses(scale?: number): Stage[] {
    const { buffers, shape } = this
    const { tapes, spec, layout } = buffers
    const { head, vocabulary } = spec
    const rows = shape.losses
    const normed = this.normedBuffer
    const blocks = buffers.tensors.get(head.weight) ?? []
    const learns = scale !== undefined && buffers.lowest <= tapes.layers.length
    const trained = learns ? this.trained(head.weight) : undefined
    const stages: Stage[] = [{ dispatches: this.normedRows() }]
    const { forms } = layout
    for (let from = 0; from < rows; from += buffers.headRows) {
      const count = Math.min(buffers.headRows, rows - from)
      const { lossTokens: tokens, logits, losses, best, teacher } = buffers
      const at = { rows: count, stride: vocabulary, from, forms }
      const of = { rows: count, width: vocabulary, from }
      const stage = this.teacherLogits(from, count)
      const { dispatches } = stage
      stages.push(stage)
      dispatches.push(...this.logits(from, count))
      if (teacher !== undefined && this.taught !== undefined) {
        const { divergence } = this.taught
        const all = { tokens, shares: teacher.shares, teacher: teacher.logits, losses, logits }
        dispatches.push(kernels.distillationGradient(all, { ...of, scale: scale ?? 0, divergence }))
      } else {
        dispatches.push(kernels.crossEntropy({ tokens, logits, losses, best }, of))
        if (learns) dispatches.push(kernels.crossEntropyGradient({ tokens, losses, logits }, { ...of, scale }))
      }
      if (!learns) continue
      dispatches.push(
        ...blocks.map((block, i) =>
          kernels.gemmTransposed(block, logits, buffers.gradient(head.x, true), { ...at, add: i > 0 }),
        ),
        ...(trained?.blocks ?? []).map((block) =>
          kernels.gemmOuter(block, logits, normed, { ...at, add: from > 0 || trained?.add === true }),
        ),
      )
    }
    return stages
  }

  /** The logits of a teacher for some of the rows that have a loss. */
  private teacherLogits(from: number, count: number): Stage {
    const { buffers, taught } = this
    const { teacher, spec, layout } = buffers
    if (teacher === undefined || taught === undefined) return { dispatches: [] }
    const { source, logits } = teacher
    const width = spec.vocabulary
    if ('head' in source) {
      const at = { rows: count, stride: width, from, forms: layout.forms }
      return { dispatches: source.head.map((block) => kernels.gemm(block, source.normed, logits, at)) }
    }
    const { top } = source
    return {
      writes: () => knownRows(taught, source, { from, count }),
      dispatches: top < width ? [kernels.expandTop({ ...source, y: logits }, { rows: count, width, top })] : [],
    }
  }

  /** Back from the gradient that `losses` has left to everything that is trained. */
  private backward(): Stage[] {
    const { buffers, shape } = this
    const { tapes, lowest } = buffers
    const depth = tapes.layers.length
    if (lowest > depth) return []
    const last = this.back(tapes.final, buffers.finalValues, new Set([buffers.spec.head.x]), shape.losses)
    const stages: Stage[] = [{ dispatches: last }]
    if (lowest === depth) return stages
    const g = buffers.gradient('x')
    const width = this.width('x')
    last.push(
      kernels.zero(g, shape.tokens * width),
      kernels.scatterRows({ list: buffers.rows, x: buffers.gradient('x', true), y: g }, { rows: shape.losses, width }),
    )
    for (const layer of this.layers().reverse()) {
      if (layer < lowest) break
      const again = buffers.stays(layer) ? [] : this.runLayer(layer)
      const back = this.back(this.layerTape(layer), buffers.valuesOf(layer), new Set(['x']), shape.tokens, layer)
      stages.push({ layer, dispatches: [...again, ...back] })
    }
    if (tapes.embed.steps.some(({ learns }) => learns)) {
      stages.push({ dispatches: this.back(tapes.embed, buffers.embedValues, new Set(['x']), shape.tokens) })
    }
    return stages
  }

  private layerTape(layer: number): Tape {
    const tape = this.buffers.tapes.layers[layer]
    if (tape === undefined) throw new Error(`There is no layer ${layer}.`)
    return tape
  }

  private runLayer(layer: number): NativeDispatch[] {
    const tape = this.layerTape(layer)
    const values = this.buffers.valuesOf(layer)
    const before = this.buffers.stream[layer] ?? 0
    return [
      ...(tape.keepsInput ? [] : this.copyStream(before, this.valueOf(values, input))),
      ...this.run(tape, values, this.shape.tokens, layer),
    ]
  }

  /** The residual stream goes to the next layer that is run, or behind the last one. */
  private leaveLayer(layer: number, next = this.buffers.tapes.layers.length): NativeDispatch[] {
    const from = this.layerValue(layer, this.layerTape(layer).output)
    return this.copyStream(from, this.buffers.stream[next] ?? 0)
  }

  private run(tape: Tape, values: TapeBuffers, rows = this.shape.tokens, layer?: number): NativeDispatch[] {
    return tape.steps.flatMap((step) => {
      const { op, copied, after } = step
      const name = after.slice(0, after.indexOf('#'))
      const at = (version: string) => this.versionOf(values, version, tape, layer)
      return [
        ...(copied === undefined ? [] : [kernels.copy(at(copied), at(after), rows, this.width(name))]),
        ...forward(
          op,
          this.contextOf(step, values, rows, (version) => at(version), false),
        ),
      ]
    })
  }

  /** Gradients of a tape from those that are there, `filled`, by activation. */
  private back(tape: Tape, values: TapeBuffers, filled: Set<string>, rows: number, layer?: number): NativeDispatch[] {
    const ofLosses = values === this.buffers.finalValues
    return tape.steps.toReversed().flatMap((step) => {
      const { op, after, learns, wanted, before } = step
      const name = after.slice(0, after.indexOf('#'))
      if (!learns || !filled.has(name)) return []
      if (!before.has(name)) filled.delete(name)
      const at = (version: string) => this.versionOf(values, version, tape, layer)
      const context: BackwardContext = {
        ...this.contextOf(step, values, rows, at, true),
        statistics: values.statistics,
        gradient: (activation) => this.buffers.gradient(activation, ofLosses),
        into: (activation) => {
          const add = filled.has(activation)
          const wants = wanted.has(activation)
          if (wants) filled.add(activation)
          return { buffer: this.buffers.gradient(activation, ofLosses), add: add && wants, wanted: wants }
        },
        trained: (tensor) => this.trained(tensor),
        moments: this.buffers.moments,
        buckets: (by) => ({ buffer: this.buffers.buckets[by], count: this.shape.buckets[by] }),
      }
      return backward(op, context)
    })
  }

  private contextOf(
    { before, after }: TapeStep,
    values: TapeBuffers,
    rows: number,
    at: (version: string) => number,
    asRead: boolean,
  ): StackContext {
    const { spec, layout, tensors, tokens, angles } = this.buffers
    const written = after.slice(0, after.indexOf('#'))
    return {
      ...{ rows, tokens, angles, cache: values.cache, forms: layout.forms },
      attention: spec.language.attention,
      activation: (name) => at(name === written && !(asRead && before.has(name)) ? after : (before.get(name) ?? after)),
      width: (name) => this.width(name),
      blocks: (tensor) => tensors.get(tensor) ?? [],
      adapter: (weight) => this.adapterOf(weight),
      statistics: values.statistics,
      dropout: layout.dropout && this.shape.draw && { ...layout.dropout, ...this.shape.draw },
    }
  }

  /** An adapter, of this pass where it is a mixture. */
  private adapterOf(weight: string): Adapter | undefined {
    const { adapters, mixtures, layout } = this.buffers
    const adapter = adapters.get(weight)
    const mixture = adapter && mixtures.of(weight, this.shape.experts ?? [], layout.mix)
    return mixture === undefined ? adapter : { ...(adapter as Adapter), mixture }
  }

  /** Where the gradient of a tensor goes; its first part in a step is written, the others are added. */
  private trained(tensor: string) {
    const mixed = this.buffers.mixtures.gradients.get(tensor)
    if (mixed !== undefined) return { blocks: mixed, add: false }
    const learned = this.buffers.learned.get(tensor)
    if (learned === undefined) return undefined
    const add = this.touched.has(tensor)
    this.touched.add(tensor)
    return { blocks: learned.gradient, add }
  }

  private versionOf(values: TapeBuffers, version: string, tape: Tape, layer?: number): number {
    if (version === input && layer !== undefined && tape.keepsInput) return this.buffers.stream[layer] ?? 0
    return this.valueOf(values, version)
  }

  private layerValue(layer: number, version: string): number {
    return this.versionOf(this.buffers.valuesOf(layer), version, this.layerTape(layer), layer)
  }

  private valueOf({ versions }: TapeBuffers, version: string): number {
    const buffer = versions.get(version)
    if (buffer === undefined) throw new Error(`There is no value ${version}.`)
    return buffer
  }

  /** The last version of an activation that a tape writes. */
  private outputOf({ steps }: Tape, name: string): string {
    return steps.findLast(({ after }) => after.startsWith(`${name}#`))?.after ?? `${name}#0`
  }

  private copyStream(from: number, to: number): NativeDispatch[] {
    return [kernels.copy(from, to, this.shape.tokens, this.width('x'))]
  }

  private width(name: string): number {
    return this.buffers.spec.language.activations[name] ?? 0
  }
}
