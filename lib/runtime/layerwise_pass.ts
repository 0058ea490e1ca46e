/**
 * Batches that go through a model, and what is seen of them on their way. Where the model is larger than the memory, it
 * goes through the device partition by partition: all batches go through one partition before the next one is read, and
 * their residual streams wait meanwhile. The kernels, and the order of all that is added up, are the same either way.
 */

import type { ModelSpec } from '../architectures/index.js'
import { type CaptureOptions, noCapture } from './activation_statistics.js'
import { ActivationStore, type WaitingRows } from './activation_store.js'
import type { Pass, PassOptions, Token, Wanted, WeightSums } from './forward_pass.js'
import type { Partition } from './partition.js'
import type { StatisticSpec, Tap } from './statistics.js'

/**
 * Observers of a layerwise pass, called with the number of the batch; all of them have been through a layer of one
 * batch's number before.
 */
export interface Observers {
  /** Statistics of taps, of every batch. */
  statistics?: (batch: number) => readonly StatisticSpec[]
  /** How every row of the residual stream is moved by a block: words of kernel `residual_delta`. */
  residualDelta?: (batch: number, layer: number, words: Float32Array) => void
  /** The residual stream before layer `boundary`, or after the last one. */
  residualStream?: (batch: number, boundary: number, x: Float32Array) => void
  /** Sums of weights of linears, once a layerwise pass. */
  weights?: WeightSums
  /** Gram matrices of the inputs of linears over all batches, in blocks of rows, once all batches have been there. */
  grams?: { taps: readonly Tap[]; add: (tap: Tap, first: number, rows: Float32Array) => Promise<void> }
}

/** Where a layerwise pass stands: before which batch, in which partition; and the residual streams that wait there, by number. */
export interface PassState {
  partition: number
  batch: number
  streams: ReadonlyMap<number, WaitingRows>
}

export interface LayerwiseOptions {
  observers?: readonly Observers[]
  /**
   * Layers of the language model that batches go through, from the first one on; 0: no further than the vision encoder.
   * Defaults to all.
   */
  depth?: number | undefined
  /** Sets of blocks to leave out: every batch goes through once more for each of them, from its first block on. */
  skips?: readonly ReadonlySet<number>[]
  /** What passes of a batch are to give beside losses. The head is run only where this, `onPass` or `losses` is given. */
  wanted?: ((batch: number) => Wanted) | undefined
  /** What a partition gave for a batch with no block left out; the last one gives what the model says. */
  onPass?: ((batch: number, pass: Pass, partition: Partition) => void) | undefined
  /** Losses of the tokens of a batch; `skip`: the number of the set that was left out, where one was. */
  losses?: ((batch: number, nll: Float32Array, skip?: number) => void) | undefined
  /** Called before every pass; what it throws ends the layerwise pass. */
  check?: (() => void) | undefined
  /** Where an earlier layerwise pass of the same kind stood. */
  from?: PassState | undefined
  /**
   * Called between batches, and when the layerwise pass ends early there, with what another layerwise pass can go on from. Where Gram matrices
   * are made it can do so between partitions alone.
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
    tokens: readonly Token[],
    passOptions: PassOptions,
    wanted?: Wanted,
  ): Promise<Pass & { x?: Float32Array<ArrayBuffer> }>
  sums(wanted: WeightSums): Promise<void>
  grams(add: (tap: Tap, first: number, rows: Float32Array) => Promise<void>): Promise<void>
}

/** Which buffers the observers need beside the model. */
export function captureOf({ observers = [] }: LayerwiseOptions): CaptureOptions {
  return {
    ...noCapture,
    statistics: observers.some(({ statistics }) => statistics !== undefined),
    residualDelta: observers.some(({ residualDelta }) => residualDelta !== undefined),
    sums: observers.some(({ weights }) => weights !== undefined),
    grams: observers.flatMap(({ grams }) => grams?.taps ?? []),
  }
}

export async function layerwisePass(
  model: LayerwiseModel,
  batches: readonly (readonly Token[])[],
  options: LayerwiseOptions,
): Promise<void> {
  const { spec } = model
  const { observers = [], skips = [], wanted, losses, check, onPass, onStep, onState, from } = options
  const { depth = spec.language.layers.length } = options
  const partitions = model.partitions.filter(
    ({ enter, first }) => enter || first < depth || depth >= spec.language.layers.length,
  )
  const head = wanted !== undefined || onPass !== undefined || losses !== undefined
  // Without a block to leave out, all are run.
  const firsts = skips.map((skip) => (skip.size === 0 ? 0 : Math.min(...skip)))
  const streams = new ActivationStore(model.room)
  const lanes = 1 + skips.length
  const total = batches.length * firsts.reduce((sum, first) => sum + depth - first, depth)
  let done = 0
  const warming = new AbortController()
  let warm: Promise<void> | undefined
  const grams = observers.some((one) => one.grams !== undefined)
  /** What is done of a batch cannot be told apart from the rest of it. */
  let between: { partition: number; batch: number } | undefined
  const report = async (last: boolean) => {
    if (between === undefined || (between.partition === 0 && between.batch === 0)) return
    await onState?.({ ...between, streams: streams.entries() }, last)
  }
  try {
    for (const [key, { values }] of from?.streams ?? []) await streams.put(key, await values())
    for (const [number, partition] of partitions.entries()) {
      const begun = from !== undefined && number <= from.partition
      if (begun && number < from.partition) {
        done +=
          batches.length *
          firsts.reduce((sum, first) => sum + layersOf(partition, first, depth), layersOf(partition, 0, depth))
        continue
      }
      if (!begun) between = { partition: number, batch: 0 }
      check?.()
      const loaded = await model.load(partition)
      await warm
      const next = partitions[number + 1]
      warm = next && model.prefetch(next, warming.signal).catch(() => undefined)
      for (const { weights } of observers) if (weights) await loaded.sums(weights)
      for (const [batch, tokens] of batches.entries()) {
        if (begun && batch < from.batch) {
          done += firsts.reduce((sum, first) => sum + layersOf(partition, first, depth), layersOf(partition, 0, depth))
          continue
        }
        if (!grams || batch === 0) between = { partition: number, batch }
        await report(false)
        /** Streams that sets begin with, in this partition. */
        const begins = new Map<number, Float32Array<ArrayBuffer>>()
        const waits = (layer: number) =>
          firsts.some((first) => first === layer && layer >= partition.first && layer < partition.end)
        const through = async (lane: number, passOptions: PassOptions) => {
          check?.()
          const { x, ...pass } = await loaded.run(tokens, passOptions, wanted?.(batch))
          between = undefined
          if (x !== undefined) await streams.put(batch * lanes + lane, x)
          if (lane === 0) onPass?.(batch, pass, partition)
          if (partition.leave) losses?.(batch, pass.nll, lane === 0 ? undefined : lane - 1)
          done += layersOf(partition, lane === 0 ? 0 : (firsts[lane - 1] ?? 0), depth)
          onStep?.(done, total)
        }
        const before = partition.enter ? undefined : await streams.get(batch * lanes)
        if (before && waits(partition.first)) begins.set(partition.first, before)
        await through(0, {
          depth,
          head,
          ...(before && { from: { layer: partition.first, x: before } }),
          ...seenOf(observers, batch, (boundary) => (waits(boundary) ? (x) => begins.set(boundary, x) : undefined)),
        })
        for (const [i, skip] of skips.entries()) {
          const first = firsts[i] ?? 0
          if (first >= partition.end) continue
          const layer = Math.max(partition.first, first)
          const x = begins.get(first) ?? (await streams.get(batch * lanes + 1 + i))
          await through(1 + i, { depth, head, from: { layer, x }, skip })
        }
      }
      for (const { grams } of observers) if (grams) await loaded.grams(grams.add)
    }
  } catch (error) {
    await report(true)
    throw error
  } finally {
    warming.abort()
    await warm
    await streams.close()
  }
}

/** Layers of a partition that a set of blocks goes through, from its first one on, of `depth` layers. */
function layersOf({ first, end }: Partition, from: number, depth: number): number {
  return Math.max(0, Math.min(end, depth) - Math.max(first, from))
}

/** What all observers see of a batch. */
function seenOf(
  observers: readonly Observers[],
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
      return (x) => {
        begin?.(x)
        for (const see of lookers) see(batch, boundary, x)
      }
    },
  }
}
