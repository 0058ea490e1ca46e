/**
 * Parts of a model that are on the device one after another, where it is larger than the memory there is: what fills the
 * residual stream (with the tower of a model that sees), layers of the language model, and the head.
 */

import type { ModelSpec, Op } from '../architectures/index.js'

export interface Part {
  /** From tokens on; else from the residual stream before layer `first`. */
  enter: boolean
  first: number
  /** Layers up to this one, which is not in it. */
  end: number
  /** To the logits; else to the residual stream. */
  leave: boolean
}

export function wholeOf({ language }: ModelSpec): Part {
  return { enter: true, first: 0, end: language.layers.length, leave: true }
}

/** Tensors that a part needs, each once. */
export function tensorsOf(spec: ModelSpec, { enter, first, end, leave }: Part): Set<string> {
  const { language, vision, head } = spec
  const seen = vision?.stack
  const ops = [
    ...(enter ? [...(seen?.embed ?? []), ...(seen?.layers ?? []).flatMap((layer) => layer.ops)] : []),
    ...(enter ? [...(seen?.final ?? []), ...language.embed] : []),
    ...language.layers.slice(first, end).flatMap((layer) => layer.ops),
    ...(leave ? language.final : []),
  ]
  return new Set([...ops.flatMap(namesOf), ...(leave ? [head.weight] : [])])
}

function namesOf(op: Op): string[] {
  const { table, weight, bias } = op as { table?: string; weight?: string; bias?: string }
  return [table, weight, bias].filter((name) => name !== undefined)
}

/**
 * The fewest parts that fit each, from `begin` (a part without layers) to the end of the model; nothing where one layer, or
 * one end of the model, does not fit.
 */
export function partsOf(
  spec: ModelSpec,
  fits: (part: Part) => boolean,
  begin: Part = { ...wholeOf(spec), end: 0, leave: false },
): Part[] | undefined {
  const depth = spec.language.layers.length
  const parts: Part[] = []
  let part = begin
  const close = () => {
    if (part.enter || part.end > part.first) parts.push(part)
    part = { enter: false, first: part.end, end: part.end, leave: false }
  }
  if (!fits(part)) return undefined
  for (let layer = begin.end; layer < depth; layer++) {
    if (!fits({ ...part, end: layer + 1 })) close()
    part = { ...part, end: layer + 1 }
    if (!fits(part)) return undefined
  }
  if (!fits({ ...part, leave: true })) close()
  part = { ...part, leave: true }
  return fits(part) ? [...parts, part] : undefined
}
