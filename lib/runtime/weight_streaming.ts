/**
 * A model that is larger than the memory and goes through the device again and again, as it does for every token that
 * it says: as many layers as fit stay there, the others pass by through buffers that all of them share. Keys and values
 * of all layers stay.
 */

import type { ModelSpec } from '../architectures/index.js'
import { type Partition, partitionsOf, tensorsOf } from './partition.js'

export interface WeightStreaming {
  /** In the order of the model; the first one stays where `stays` is true. */
  partitions: Partition[]
  stays: boolean
  /** Bytes of the buffers that the weights of other partitions go to, the largest first. */
  slots: number[]
}

/**
 * The stream that reads the fewest bytes each time, with weights in `room` bytes; nothing where not even one layer at a
 * time fits. `blocksOf`: sizes of the buffers of a tensor.
 */
export function streamingOf(
  spec: ModelSpec,
  room: number,
  blocksOf: (tensor: string) => readonly number[],
): WeightStreaming | undefined {
  const bytesOf = (names: Iterable<string>) => sum([...names].flatMap(blocksOf))
  const depth = spec.language.layers.length
  for (let layers = depth; layers >= -1; layers--) {
    const first = { enter: layers < 0, first: Math.max(0, layers), end: Math.max(0, layers), leave: false }
    const staying: Partition | undefined = layers < 0 ? undefined : { enter: true, first: 0, end: layers, leave: false }
    const held = staying === undefined ? new Set<string>() : tensorsOf(spec, staying)
    const left = room - bytesOf(held)
    if (left < 0) continue
    const passing = (partition: Partition) => [...tensorsOf(spec, partition)].filter((name) => !held.has(name))
    // One layer at a time, so that more can stay; the head may take as much as several layers.
    const units = Array.from({ length: depth - first.end }, (_, i) => ({
      ...first,
      enter: false,
      first: first.end + i,
      end: first.end + i + 1,
    }))
    const ends = [
      { ...first, enter: layers < 0 },
      { enter: false, first: depth, end: depth, leave: true },
    ]
    const window = Math.max(...[...units, ...ends].map((partition) => bytesOf(passing(partition))))
    const partitions = partitionsOf(spec, (partition) => bytesOf(passing(partition)) <= window, first)
    if (partitions === undefined) continue
    const slots = slotsOf(partitions.map((partition) => passing(partition).flatMap(blocksOf)))
    if (sum(slots) > left) continue
    return {
      partitions: staying === undefined ? partitions : [staying, ...partitions],
      stays: staying !== undefined,
      slots,
    }
  }
  return undefined
}

/** The n-th buffer holds the n-th largest block of every partition. */
function slotsOf(partitions: readonly number[][]): number[] {
  const slots: number[] = []
  for (const partition of partitions) {
    for (const [i, bytes] of [...partition].sort((a, b) => b - a).entries()) slots[i] = Math.max(slots[i] ?? 0, bytes)
  }
  return slots
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0)
}
