/** How large a shape of a model is when it is cut. */

import type { ModelSpec } from '../architectures/index.js'
import { type Checkpoint, layerOf } from '../checkpoint/index.js'
import type { Shape } from './strategy.js'

export interface ShapeSize {
  /** Elements that stay, of tensors that the model has. */
  parameters: number
  /** That these take in the dtypes of the model. */
  bytes: number
}

export function sizeOf(
  checkpoint: Checkpoint,
  spec: ModelSpec,
  { blocks, units }: Pick<Shape, 'blocks' | 'units'>,
): ShapeSize {
  /** What is left of the rows and of the columns of a tensor. */
  const shares = new Map<string, number>()
  for (const { layer, kind, kept } of units) {
    const share = kept.filter((stays) => stays).length / kept.length
    const own = spec.language.layers[layer]?.units.find((unit) => unit.kind === kind)
    // A unit is some of the rows or of the columns, and a tensor has one kind of units on a side.
    for (const { tensor } of [...(own?.rows ?? []), ...(own?.columns ?? [])]) {
      shares.set(tensor, (shares.get(tensor) ?? 1) * share)
    }
  }
  const size: ShapeSize = { parameters: 0, bytes: 0 }
  for (const { name, shape, begin, end } of checkpoint.tensors.values()) {
    const layer = layerOf(name)
    if (layer !== undefined && layer.stack === checkpoint.stack && blocks[layer.index] === false) continue
    const elements = shape.reduce((product, length) => product * length, 1)
    const kept = Math.round(elements * (shares.get(name) ?? 1))
    size.parameters += kept
    size.bytes += elements === 0 ? 0 : ((end - begin) / elements) * kept
  }
  return size
}
