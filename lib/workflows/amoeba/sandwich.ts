/**
 * Which subnets a micro-batch is learned by: the largest, some at random, and the smallest (the sandwich rule of
 * AmoebaLLM's trainer).
 */

import { stream } from '../../util/philox.js'

/** A depth in blocks and a width among those of the strategy. */
export interface SubnetShape {
  depth: number
  width: number
}

/** Depths from the least to all blocks, and widths, descending. */
export interface SubnetRange {
  leastDepth: number
  layers: number
  widths: readonly number[]
}

/**
 * The shapes of a micro-batch, `count` of them. Random depths are drawn evenly from all but the whole one; random
 * widths without one twice, until all were drawn, and so on. All follows from seed, step and micro-batch alone.
 */
export function sandwich(
  { leastDepth, layers, widths }: SubnetRange,
  { count, seed, step, microBatch }: { count: number; seed: number; step: number; microBatch: number },
): SubnetShape[] {
  const word = stream(`subnets of step ${step}, micro-batch ${microBatch}`, seed)
  let at = 0
  const below = (end: number) => Math.floor((word(at++) / 2 ** 32) * end)
  const bag: number[] = []
  const random = Array.from({ length: Math.max(0, count - 2) }, (): SubnetShape => {
    const depth = layers > leastDepth ? leastDepth + below(layers - leastDepth) : layers
    if (bag.length === 0) bag.push(...widths)
    const [width = 1] = bag.splice(below(bag.length), 1)
    return { depth, width }
  })
  const largest = { depth: layers, width: widths[0] ?? 1 }
  const smallest = { depth: leastDepth, width: widths.at(-1) ?? 1 }
  return [largest, ...random, smallest].slice(0, count)
}

/** Normal noise for the choice of experts by a subnet, rounded once. */
export function gateNoise(
  experts: number,
  at: { seed: number; step: number; microBatch: number; subnet: number },
): Float32Array<ArrayBuffer> {
  const word = stream(`gate noise of step ${at.step}, micro-batch ${at.microBatch}, subnet ${at.subnet}`, at.seed)
  const uniform = (i: number) => (word(i) + 0.5) / 2 ** 32
  // Box and Muller.
  return Float32Array.from({ length: experts }, (_, i) => {
    return Math.sqrt(-2 * Math.log(uniform(2 * i))) * Math.cos(2 * Math.PI * uniform(2 * i + 1))
  })
}
