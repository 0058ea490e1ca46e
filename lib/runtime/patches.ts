/** Images as the vision encoder takes them. */

import type { Vision } from '../architectures/index.js'
import { packTokens } from './kernels.js'

/** A normalised image, [channels, height, width] of the size that the model sees. */
export type ImagePixels = Float32Array

/** Every image is a sequence of its own. */
export function imageTokens(count: number, { stack }: Vision): Uint32Array<ArrayBuffer> {
  const { sequenceLength } = stack.attention
  return packTokens(
    Array.from({ length: count * sequenceLength }, (_, row) => ({ id: 0, start: row - (row % sequenceLength), row })),
  )
}

/** A row [channels, patch, patch] a patch; the rows that are no patches are 0. */
export function patchesOf(
  images: readonly ImagePixels[],
  { stack, size, patch, patches }: Vision,
): Float32Array<ArrayBuffer> {
  const width = stack.activations[patches] ?? 0
  const { sequenceLength } = stack.attention
  const side = Math.floor(size / patch)
  const others = sequenceLength - side ** 2
  const result = new Float32Array(images.length * sequenceLength * width)
  for (const [i, pixels] of images.entries()) {
    for (let row = others; row < sequenceLength; row++) {
      const [top, left] = [Math.floor((row - others) / side) * patch, ((row - others) % side) * patch]
      let at = (i * sequenceLength + row) * width
      for (let line = 0; line < width / patch; line++, at += patch) {
        const [channel, y] = [Math.floor(line / patch), line % patch]
        const from = (channel * size + top + y) * size + left
        result.set(pixels.subarray(from, from + patch), at)
      }
    }
  }
  return result
}
