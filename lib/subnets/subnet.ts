/** From a shape of a strategy to the subnet that a model on the device runs as. */

import type { ModelSpec } from '../architectures/index.js'
import type { Subnet } from '../runtime/index.js'
import { misuse } from '../util/errors.js'
import { type Shape, sameRatio } from './strategy.js'

/**
 * The subnet of a shape. `compensated`: whether biases stand for what units gave that are not there; defaults to true.
 * `widths`: those that the router of a mixture knows; defaults to those of the strategy. Throws
 * ERR_WEIGHTSMITH_ARGUMENT where the shape's is none of them.
 */
export function subnetOf(
  spec: ModelSpec,
  shape: Shape,
  compensated = true,
  widths: readonly number[] = shape.widths,
): Subnet {
  const { blocks, width, units, biases } = shape
  const masks = new Map<string, Float32Array<ArrayBuffer>>()
  for (const { layer, kind, kept } of units) {
    const owner = spec.language.layers[layer]?.units.find((unit) => unit.kind === kind)
    for (const { tensor, size } of owner?.columns ?? []) {
      masks.set(
        tensor,
        Float32Array.from({ length: kept.length * size }, (_, column) => Number(kept[Math.floor(column / size)])),
      )
    }
  }
  const own = widths.findIndex((ratio) => Math.abs(ratio - width) < sameRatio)
  if (own < 0) throw misuse(`The mixture was trained on the widths ${widths.join(', ')}, and not on ${width}.`)
  const description = Float32Array.from([...blocks.map(Number), ...widths.map((_, i) => Number(i === own))])
  return { blocks, masks, offsets: compensated ? biases : new Map(), description }
}
