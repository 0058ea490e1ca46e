/**
 * Batches that go through a model, and what is seen of them on their way. Where the model is larger than the memory, it
 * goes through the device part by part: all batches go through one part before the next one is read, and their residual
 * streams wait meanwhile. The kernels, and the order of all that is added up, are the same either way.
 */

import type { ModelSpec } from '../architectures/index.js'
import { type Gear, noGear } from './activation_statistics.js'
import { Spill } from './activation_store.js'
import type { Pass, Stretch, Token, Wanted, WeightSums } from './forward_pass.js'
import type { Part } from './partition.js'
import type { Measure, Tap } from './statistics.js'

/** What is seen of a walk. Batches go by their number; all of them have been through a layer of one batch's number before. */
export interface Watch {
  /** Statistics of taps, of every batch. */
  measures?: (batch: number) => readonly Measure[]
  /** How every row of the residual stream is moved by a block: words of kernel move. */
  moves?: (batch: number, layer: number, words: Float32Array) => void
  /** The residual stream before layer `boundary`, or after the last one. */
  boundaries?: (batch: number, boundary: number, x: Float32Array) => void
  /** Sums of weights of linears, once a walk. */
  weights?: WeightSums
  /** Gram matrices of the inputs of linears over all batches, in blocks of rows, once all batches have been there. */
  grams?: { taps: readonly Tap[]; add: (tap: Tap, first: number, rows: Float32Array) => Promise<void> }
}

/** Where a walk stands: before which batch, in which part; and the residual streams that wait there, by number. */
export interface Standing {
  part: number
  batch: number
  streams(): AsyncIterable<[number, Float32Array<ArrayBuffer>]>
}

export interface WalkOptions {
  watch?: readonly Watch[]
  /** Batches go through the tower of a model that sees, and no further. */
  towerOnly?: boolean | undefined
  /** Sets of blocks to leave out: every batch goes through once more for each of them, from its first block on. */
  skips?: readonly ReadonlySet<number>[]
  /** What passes of a batch are to give beside losses. */
  wanted?: ((batch: number) => Wanted) | undefined
  /** What a part gave for a batch with no block left out; the last one gives what the model says. */
  onPass?: ((batch: number, pass: Pass, part: Part) => void) | undefined
  /** Losses of the tokens of a batch; `skip`: the number of the set that was left out, where one was. */
  losses?: ((batch: number, nll: Float32Array, skip?: number) => void) | undefined
  /** Called before every pass; what it throws ends the walk. */
  check?: (() => void) | undefined
  /** Where an earlier walk of the same kind stood. */
  from?: Standing | undefined
  /**
   * Called between batches, and when the walk ends early there, with what another walk can go on from. Where Gram matrices
   * are made it can do so between parts alone.
   */
  onStanding?: ((standing: Standing, last: boolean) => Promise<void>) | undefined
  /** After every pass: layers that batches have been through, of all. */
  onStep?: ((done: number, total: number) => void) | undefined
}

/** What a walk needs of a model. */
export interface Walker {
  spec: ModelSpec
  parts: readonly Part[]
  /** Bytes that residual streams may take. */
  room: number
  /** Has a part on the device. */
  load: (part: Part) => Promise<Loaded>
  /** Reads the files of a part, so that they are in memory when it is loaded. */
  prefetch: (part: Part, signal: AbortSignal) => Promise<void>
}

export interface Loaded {
  run(tokens: readonly Token[], stretch: Stretch, wanted?: Wanted): Promise<Pass & { x?: Float32Array<ArrayBuffer> }>
  sums(wanted: WeightSums): Promise<void>
  grams(add: (tap: Tap, first: number, rows: Float32Array) => Promise<void>): Promise<void>
}

/** What the device needs beside the model. */
export function gearOf({ watch = [] }: WalkOptions): Gear {
  return {
    ...noGear,
    measures: watch.some(({ measures }) => measures !== undefined),
    moves: watch.some(({ moves }) => moves !== undefined),
    sums: watch.some(({ weights }) => weights !== undefined),
    grams: watch.flatMap(({ grams }) => grams?.taps ?? []),
  }
}

export async function walk(
  walker: Walker,
  batches: readonly (readonly Token[])[],
  options: WalkOptions,
): Promise<void> {
  const { spec } = walker
  const { watch = [], skips = [], wanted, losses, check, onPass, onStep, onStanding, from } = options
  const { towerOnly = false } = options
  const parts = towerOnly ? walker.parts.slice(0, 1) : walker.parts
  const depth = spec.language.layers.length
  // Without a block to leave out, all are run.
  const firsts = skips.map((skip) => (skip.size === 0 ? 0 : Math.min(...skip)))
  const streams = new Spill(walker.room)
  const lanes = 1 + skips.length
  const total = batches.length * firsts.reduce((sum, first) => sum + depth - first, depth)
  let done = 0
  const warming = new AbortController()
  let warm: Promise<void> | undefined
  const grams = watch.some((one) => one.grams !== undefined)
  /** What is done of a batch cannot be told apart from the rest of it. */
  let between: Standing | undefined
  const stand = (part: number, batch: number): Standing => ({
    part,
    batch,
    async *streams() {
      for (const key of streams.keys()) yield [key, await streams.get(key)]
    },
  })
  try {
    for await (const [key, rows] of from?.streams() ?? []) await streams.put(key, rows)
    for (const [number, part] of parts.entries()) {
      const begun = from !== undefined && number <= from.part
      if (begun && number < from.part) {
        done += batches.length * firsts.reduce((sum, first) => sum + layersOf(part, first), layersOf(part, 0))
        continue
      }
      if (!begun) between = stand(number, 0)
      check?.()
      const loaded = await walker.load(part)
      await warm
      const next = parts[number + 1]
      warm = next && walker.prefetch(next, warming.signal).catch(() => undefined)
      for (const { weights } of watch) if (weights) await loaded.sums(weights)
      for (const [batch, tokens] of batches.entries()) {
        if (begun && batch < from.batch) {
          done += firsts.reduce((sum, first) => sum + layersOf(part, first), layersOf(part, 0))
          continue
        }
        if (!grams || batch === 0) between = stand(number, batch)
        if (between !== undefined && done > 0) await onStanding?.(between, false)
        /** Streams that sets begin with, in this part. */
        const begins = new Map<number, Float32Array<ArrayBuffer>>()
        const waits = (layer: number) =>
          firsts.some((first) => first === layer && layer >= part.first && layer < part.end)
        const through = async (lane: number, stretch: Stretch) => {
          check?.()
          const { x, ...pass } = await loaded.run(tokens, stretch, wanted?.(batch))
          between = undefined
          if (x !== undefined) await streams.put(batch * lanes + lane, x)
          if (lane === 0) onPass?.(batch, pass, part)
          if (part.leave) losses?.(batch, pass.nll, lane === 0 ? undefined : lane - 1)
          done += layersOf(part, lane === 0 ? 0 : (firsts[lane - 1] ?? 0))
          onStep?.(done, total)
        }
        const before = part.enter ? undefined : await streams.get(batch * lanes)
        if (before && waits(part.first)) begins.set(part.first, before)
        await through(0, {
          towerOnly,
          ...(before && { from: { layer: part.first, x: before } }),
          ...seenOf(watch, batch, (boundary) => (waits(boundary) ? (x) => begins.set(boundary, x) : undefined)),
        })
        for (const [i, skip] of skips.entries()) {
          const first = firsts[i] ?? 0
          if (first >= part.end) continue
          const layer = Math.max(part.first, first)
          const x = begins.get(first) ?? (await streams.get(batch * lanes + 1 + i))
          await through(1 + i, { from: { layer, x }, skip })
        }
      }
      for (const { grams } of watch) if (grams) await loaded.grams(grams.add)
    }
  } catch (error) {
    if (between !== undefined && (between.part > 0 || between.batch > 0)) await onStanding?.(between, true)
    throw error
  } finally {
    warming.abort()
    await warm
    await streams.close()
  }
}

/** Layers of a part that a set of blocks goes through, from its first one on. */
function layersOf({ first, end }: Part, from: number): number {
  return Math.max(0, end - Math.max(first, from))
}

/** What all who watch see of a batch. */
function seenOf(
  watch: readonly Watch[],
  batch: number,
  begins: (boundary: number) => ((x: Float32Array<ArrayBuffer>) => void) | undefined,
): Stretch {
  const movers = watch.flatMap(({ moves }) => moves ?? [])
  const lookers = watch.flatMap(({ boundaries }) => boundaries ?? [])
  return {
    measures: watch.flatMap(({ measures }) => measures?.(batch) ?? []),
    grams: true,
    ...(movers.length > 0 && {
      moves: (layer, words) => {
        for (const see of movers) see(batch, layer, words)
      },
    }),
    boundaries: (boundary) => {
      const begin = begins(boundary)
      if (lookers.length === 0) return begin
      return (x) => {
        begin?.(x)
        for (const see of lookers) see(batch, boundary, x)
      }
    },
  }
}
