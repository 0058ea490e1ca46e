/** From a shape of a strategy to the subnet that a model on the device runs as. */

import type { ModelSpec } from '../architectures/index.js'
import type { Subnet } from '../runtime/index.js'
import type { Shape } from './strategy.js'

/**
 * The subnet of a shape. `compensated`: whether biases stand for what units gave that are not there. Defaults to true.
 */
export function subnetOf(spec: ModelSpec, { blocks, units, biases }: Shape, compensated = true): Subnet {
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
  return { blocks, masks, offsets: compensated ? biases : new Map() }
}
