/** Where NaN and infinite values are, so that an error can name a tensor. They show in the bits of their exponents. */

import { type Checkpoint, cutTensor, isStorable } from '../checkpoint/index.js'
import type { StoreDType } from '../native/border.js'

/** Whether all elements of a tensor are finite, given as it is stored. */
export function allFinite(bytes: Uint8Array, dtype: StoreDType): boolean {
  const halves = new Uint16Array(bytes.slice().buffer)
  const exponent = dtype === 'F16' ? 0x7c00 : 0x7f80
  const [first, every] = dtype === 'F32' ? [1, 2] : [0, 1]
  for (let i = first; i < halves.length; i += every) {
    if (((halves[i] ?? 0) & exponent) === exponent) return false
  }
  return true
}

/** The first tensor of a checkpoint with an element that is not finite; nothing where there is none. */
export async function nonFiniteTensor(checkpoint: Checkpoint): Promise<string | undefined> {
  for (const tensor of checkpoint.tensors.values()) {
    const { name, dtype } = tensor
    if (!isStorable(dtype)) continue
    for await (const bytes of cutTensor(checkpoint, tensor).bytes()) if (!allFinite(bytes, dtype)) return name
  }
  return undefined
}
