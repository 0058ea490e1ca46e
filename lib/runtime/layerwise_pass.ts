/**
 * Batches that go through a model, and what is seen of them on their way. Where the model is larger than the memory, it
 * goes through the device partition by partition: all batches go through one partition before the next one is read, and
 * their residual streams wait meanwhile. The kernels, and the order of all that is added up, are the same either way.
 */

import type { ModelSpec } from '../architectures/index.js'
import { type CaptureOptions, noCapture } from './activation_statistics.js'
import { ActivationStore, type WaitingRows } from './activation_store.js'
import type { ForwardOptions, ForwardOutput, PackedToken, PassOptions } from './forward_pass.js'
import type { Partition } from './partition.js'
import type { HookPoint, StatisticSpec } from './statistics.js'
import type { WeightSums } from './sums.js'

/**
 * Observers of a layerwise pass, called with the number of the batch; all of them have been through a layer of one
 * batch's number before.
 */
export interface LayerwiseObservers {
  /** Statistics of hook points, of every batch. */
  statistics?: (batch: number) => readonly StatisticSpec[]
  /** How every row of the residual stream is moved by a block: words of kernel `residual_delta`. */
  residualDelta?: (batch: number, layer: number, words: Float32Array) => void
  /** The residual stream before layer `boundary`, or after the last one; the pass goes on when this is done. */
  residualStream?: (batch: number, boundary: number, x: Float32Array<ArrayBuffer>) => void | Promise<void>
  /** Sums of weights of linears, once a layerwise pass. */
  weights?: WeightSums
  /** Gram matrices of the inputs of linears over all batches, in blocks of rows, once all batches have been there. */
  grams?: { hooks: readonly HookPoint[]; add: (hook: HookPoint, first: number, rows: Float32Array) => Promise<void> }
}

/**
 * Where a layerwise pass stands: before which batch, in which partition; and the residual streams that wait there, by
 * number.
 */
export interface PassState {
  partition: number
  batch: number
  streams: ReadonlyMap<number, WaitingRows>
}

export interface LayerwiseOptions {
  observers?: readonly LayerwiseObservers[]
  /**
   * Layers of the language model that batches go through, from the first one on; 0: no further than the vision encoder.
   * Defaults to all.
   */
  depth?: number | undefined
  /** Sets of blocks to leave out: every batch goes through once more for each of them, from its first block on. */
  skips?: readonly ReadonlySet<number>[]
  /**
   * The residual stream before a layer, where an earlier pass of the same batches has seen it: they go through for each
   * of `skips` alone, from its first block on, and not with all blocks again.
   */
  before?: ((batch: number, layer: number) => Promise<Float32Array<ArrayBuffer>>) | undefined
  /**
   * What passes of a batch are to give beside losses. The head is run only where this, `onPass` or `losses` is given.
   */
  wanted?: ((batch: number) => ForwardOptions) | undefined
  /** What a partition gave for a batch with no block left out; the last one gives what the model says. */
  onPass?: ((batch: number, pass: ForwardOutput, partition: Partition) => void) | undefined
  /**
   * Losses of the tokens of a batch, and the likeliest token after each; `skip`: the number of the set that was left
   * out, where one was.
   */
  losses?: ((batch: number, nll: Float32Array, skip: number | undefined, best: Uint32Array) => void) | undefined
  /** Called for every layer that a batch is run through. */
  onLayer?: ((batch: number, layer: number) => void) | undefined
  /** Called before every pass; what it throws ends the layerwise pass. */
  check?: (() => void) | undefined
  /** Where an earlier layerwise pass of the same kind stood. */
  from?: PassState | undefined
  /**
   * Called between batches, and when the layerwise pass ends early there, with what another layerwise pass can go on
   * from. Where Gram matrices are made it can do so between partitions alone.
   */
  onState?: ((state: PassState, last: boolean) => Promise<void>) | undefined
  /** After every pass: layers that batches have been through, of all. */
  onStep?: ((done: number, total: number) => void) | undefined
}

/** What a layerwise pass needs of a model. */
export interface LayerwiseModel {
  spec: ModelSpec
  partitions: readonly Partition[]
  /** Bytes that residual streams may take. */
  room: number
  /** Has a partition on the device. */
  load: (partition: Partition) => Promise<LoadedPartition>
  /** Reads the files of a partition, so that they are in memory when it is loaded. */
  prefetch: (partition: Partition, signal: AbortSignal) => Promise<void>
}

export interface LoadedPartition {
  run(
    tokens: readonly PackedToken[],
    passOptions: PassOptions,
    wanted?: ForwardOptions,
  ): Promise<ForwardOutput & { x?: Float32Array<ArrayBuffer> }>
  sums(wanted: WeightSums): Promise<void>
  grams(add: (hook: HookPoint, first: number, rows: Float32Array) => Promise<void>): Promise<void>
}

/** Which buffers the observers need beside the model. */
export function captureOf({ observers = [] }: LayerwiseOptions): CaptureOptions {
  return {
    ...noCapture,
    statistics: observers.some(({ statistics }) => statistics !== undefined),
    residualDelta: observers.some(({ residualDelta }) => residualDelta !== undefined),
    sums: observers.some(({ weights }) => weights !== undefined),
    grams: observers.flatMap(({ grams }) => grams?.hooks ?? []),
  }
}

/** Batches go through a model, each as one pass, and are seen by observers; see `Model.layerwisePass`. */
export async function layerwisePass(
  model: LayerwiseModel,
  batches: readonly (readonly PackedToken[])[],
  options: LayerwiseOptions,
): Promise<void> {
  const pass = new LayerwisePass(model, batches, options)
  try {
    await pass.run()
  } finally {
    await pass.close()
  }
}

/**
 * A batch has a lane for itself, and one for each set of blocks that is left out; a lane's residual stream waits
 * between partitions.
 */
class LayerwisePass {
  private readonly partitions: readonly Partition[]
  private readonly observers: readonly LayerwiseObservers[]
  private readonly skips: readonly ReadonlySet<number>[]
  /** Where each set begins. Without a block to leave out, all are run. */
  private readonly firsts: readonly number[]
  private readonly depth: number
  private readonly head: boolean
  private readonly streams: ActivationStore
  private readonly prefetching = new AbortController()
  private prefetched: Promise<void> | undefined
  /** Where another pass could go on; nothing where what is done of a batch cannot be told apart from the rest of it. */
  private between: { partition: number; batch: number } | undefined
  /** Layers that batches have been through. */
  private done = 0

  constructor(
    private readonly model: LayerwiseModel,
    private readonly batches: readonly (readonly PackedToken[])[],
    private readonly options: LayerwiseOptions,
  ) {
    const { observers = [], skips = [], depth = model.spec.language.layers.length } = options
    this.observers = observers
    this.skips = skips
    this.firsts = skips.map((skip) => (skip.size === 0 ? 0 : Math.min(...skip)))
    this.depth = depth
    this.head = options.wanted !== undefined || options.onPass !== undefined || options.losses !== undefined
    const whole = this.head && depth === model.spec.language.layers.length
    const begin = Math.min(...this.firsts)
    const begins = ({ end }: Partition) => options.before === undefined || begin < end
    // The first partition may be one that only fills the residual stream, and the last a head, without layers.
    this.partitions = model.partitions.filter(
      (own) => (begins(own) && (own.enter || own.first < depth)) || (own.leave && whole),
    )
    this.streams = new ActivationStore(model.room)
  }

  async run(): Promise<void> {
    const { from } = this.options
    try {
      for (const [key, { values }] of from?.streams ?? []) await this.streams.put(key, await values())
      for (const [number, partition] of this.partitions.entries()) {
        if (from !== undefined && number < from.partition) {
          this.done += this.batches.length * this.layersOfBatch(partition)
        } else {
          await this.runPartition(number, partition)
        }
      }
    } catch (error) {
      await this.reportState(true)
      throw error
    }
  }

  async close(): Promise<void> {
    this.prefetching.abort()
    await this.prefetched
    await this.streams.close()
  }

  /** All batches go through a partition, but for those that went through it in an earlier pass. */
  private async runPartition(number: number, partition: Partition): Promise<void> {
    const { from, check } = this.options
    const begun = number === from?.partition ? from : undefined
    if (begun === undefined) this.between = { partition: number, batch: 0 }
    check?.()
    const loaded = await this.loadAndPrefetch(number, partition)
    for (const { weights } of this.observers) if (weights) await loaded.sums(weights)
    const makesGrams = this.observers.some(({ grams }) => grams !== undefined)
    for (const batch of this.batches.keys()) {
      if (begun !== undefined && batch < begun.batch) {
        this.done += this.layersOfBatch(partition)
        continue
      }
      if (!makesGrams || batch === 0) this.between = { partition: number, batch }
      await this.reportState(false)
      await this.runBatch(loaded, partition, batch)
    }
    for (const { grams } of this.observers) if (grams) await loaded.grams(grams.add)
  }

  /** Has a partition on the device, while the system reads the next one. */
  private async loadAndPrefetch(number: number, partition: Partition): Promise<LoadedPartition> {
    const loaded = await this.model.load(partition)
    await this.prefetched
    const next = this.partitions[number + 1]
    this.prefetched = next && this.model.prefetch(next, this.prefetching.signal).catch(() => undefined)
    return loaded
  }

  /** The batch with all blocks, whose residual stream the sets begin with; then once for each set. */
  private async runBatch(loaded: LoadedPartition, partition: Partition, batch: number): Promise<void> {
    const { depth, head } = this
    const begins = new Map<number, Float32Array<ArrayBuffer>>()
    const isBegin = (layer: number) =>
      layer >= partition.first && layer < partition.end && this.firsts.some((first) => first === layer)
    const { before } = this.options
    if (before === undefined) await this.runWhole(loaded, partition, batch, isBegin, begins)
    for (const layer of new Set(this.firsts.filter(isBegin))) {
      if (before !== undefined) begins.set(layer, await before(batch, layer))
    }
    for (const [i, skip] of this.skips.entries()) {
      const first = this.firsts[i] ?? 0
      if (first >= partition.end) continue
      const layer = Math.max(partition.first, first)
      const x = begins.get(first) ?? (await this.streams.get(this.keyOf(batch, 1 + i)))
      await this.runLane(loaded, partition, batch, 1 + i, { depth, head, from: { layer, x }, skip })
    }
  }

  /** The batch with all blocks; what stands before the layers that sets begin at is put into `begins`. */
  private async runWhole(
    loaded: LoadedPartition,
    partition: Partition,
    batch: number,
    isBegin: (layer: number) => boolean,
    begins: Map<number, Float32Array<ArrayBuffer>>,
  ): Promise<void> {
    const { depth, head } = this
    const before = partition.enter ? undefined : await this.streams.get(this.keyOf(batch, 0))
    if (before && isBegin(partition.first)) begins.set(partition.first, before)
    await this.runLane(loaded, partition, batch, 0, {
      ...{ depth, head },
      ...(before && { from: { layer: partition.first, x: before } }),
      ...seenOf(this.observers, batch, (boundary) =>
        isBegin(boundary) ? (x) => void begins.set(boundary, x) : undefined,
      ),
    })
  }

  private async runLane(
    loaded: LoadedPartition,
    partition: Partition,
    batch: number,
    lane: number,
    passOptions: PassOptions,
  ): Promise<void> {
    const { wanted, losses, check, onPass, onLayer, onStep } = this.options
    check?.()
    const counted = { ...passOptions, ...(onLayer && { onLayer: (layer: number) => onLayer(batch, layer) }) }
    const { x, ...pass } = await loaded.run(this.batches[batch] ?? [], counted, wanted?.(batch))
    this.between = undefined
    if (x !== undefined) await this.streams.put(this.keyOf(batch, lane), x)
    if (lane === 0) onPass?.(batch, pass, partition)
    if (partition.leave) losses?.(batch, pass.nll, lane === 0 ? undefined : lane - 1, pass.best)
    this.done += layersOf(partition, lane === 0 ? 0 : (this.firsts[lane - 1] ?? 0), this.depth)
    const whole = this.options.before === undefined ? this.depth : 0
    const total = this.batches.length * this.firsts.reduce((sum, first) => sum + this.depth - first, whole)
    onStep?.(this.done, total)
  }

  /** Under which the residual stream of a lane waits. */
  private keyOf(batch: number, lane: number): number {
    return batch * (1 + this.skips.length) + lane
  }

  private async reportState(last: boolean): Promise<void> {
    const { between } = this
    if (between === undefined || (between.partition === 0 && between.batch === 0)) return
    await this.options.onState?.({ ...between, streams: this.streams.entries() }, last)
  }

  /** Layers of a partition that all lanes of a batch go through. */
  private layersOfBatch(partition: Partition): number {
    return this.firsts.reduce(
      (sum, first) => sum + layersOf(partition, first, this.depth),
      layersOf(partition, 0, this.depth),
    )
  }
}

/** Layers of a partition that a set of blocks goes through, from its first one on, of `depth` layers. */
function layersOf({ first, end }: Partition, from: number, depth: number): number {
  return Math.max(0, Math.min(end, depth) - Math.max(first, from))
}

/** What all observers see of a batch. */
function seenOf(
  observers: readonly LayerwiseObservers[],
  batch: number,
  begins: (boundary: number) => ((x: Float32Array<ArrayBuffer>) => void) | undefined,
): PassOptions {
  const movers = observers.flatMap(({ residualDelta }) => residualDelta ?? [])
  const lookers = observers.flatMap(({ residualStream }) => residualStream ?? [])
  return {
    statistics: observers.flatMap(({ statistics }) => statistics?.(batch) ?? []),
    grams: true,
    ...(movers.length > 0 && {
      residualDelta: (layer, words) => {
        for (const see of movers) see(batch, layer, words)
      },
    }),
    residualStream: (boundary) => {
      const begin = begins(boundary)
      if (lookers.length === 0) return begin
      return async (x) => {
        begin?.(x)
        for (const see of lookers) await see(batch, boundary, x)
      }
    },
  }
}
