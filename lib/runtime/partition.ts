/**
 * Parts of a model that are on the device one after another, where it is larger than the memory there is: what fills
 * the residual stream (with the vision encoder of a model that sees), layers of the language model, and the head.
 */

import type { ModelSpec } from '../architectures/index.js'
import { tensorsOfOp } from './ops/index.js'

export interface Partition {
  /** From tokens on; else from the residual stream before layer `first`. */
  enter: boolean
  first: number
  /** Layers up to this one, which is not in it. */
  end: number
  /** To the logits; else to the residual stream. */
  leave: boolean
}

export function wholeOf({ language }: ModelSpec): Partition {
  return { enter: true, first: 0, end: language.layers.length, leave: true }
}

/** Tensors that a partition needs, each once. */
export function tensorsOf(spec: ModelSpec, { enter, first, end, leave }: Partition): Set<string> {
  const { language, vision, head } = spec
  const seen = vision?.stack
  const ops = [
    ...(enter ? [...(seen?.embed ?? []), ...(seen?.layers ?? []).flatMap((layer) => layer.ops)] : []),
    ...(enter ? [...(seen?.final ?? []), ...language.embed] : []),
    ...language.layers.slice(first, end).flatMap((layer) => layer.ops),
    ...(leave ? language.final : []),
  ]
  return new Set([...ops.flatMap(tensorsOfOp), ...(leave ? [head.weight] : [])])
}

/**
 * The fewest partitions that fit each, from `begin` (a partition without layers) to the end of the model; nothing where
 * one layer, or one end of the model, does not fit.
 */
export function partitionsOf(
  spec: ModelSpec,
  fits: (partition: Partition) => boolean,
  begin: Partition = { ...wholeOf(spec), end: 0, leave: false },
): Partition[] | undefined {
  const depth = spec.language.layers.length
  const partitions: Partition[] = []
  let partition = begin
  const close = () => {
    if (partition.enter || partition.end > partition.first) partitions.push(partition)
    partition = { enter: false, first: partition.end, end: partition.end, leave: false }
  }
  if (!fits(partition)) return undefined
  for (let layer = begin.end; layer < depth; layer++) {
    if (!fits({ ...partition, end: layer + 1 })) close()
    partition = { ...partition, end: layer + 1 }
    if (!fits(partition)) return undefined
  }
  if (!fits({ ...partition, leave: true })) close()
  partition = { ...partition, leave: true }
  return fits(partition) ? [...partitions, partition] : undefined
}
