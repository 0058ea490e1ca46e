/** Reads tensors as numbers: lengths of DoRA, and what an adapter replaces. */

import { open } from 'node:fs/promises'
import type { Checkpoint, CheckpointTensor } from '../checkpoint/open.js'
import { WeightsmithError } from '../util/errors.js'

/** All elements of a tensor, exactly. Throws ERR_WEIGHTSMITH_DTYPE for what is no float of at least 16 bits. */
export async function readValues({ files }: Checkpoint, tensor: CheckpointTensor): Promise<Float64Array> {
  const path = files[tensor.file]?.path ?? ''
  const bytes = new Uint8Array(tensor.end - tensor.begin)
  const file = await open(path)
  try {
    const { bytesRead } = await file.read(bytes, 0, bytes.length, tensor.begin)
    if (bytesRead !== bytes.length) {
      throw new WeightsmithError('ERR_WEIGHTSMITH_IO_READ', `${path} ended within ${tensor.name}.`, { file: path })
    }
  } finally {
    await file.close()
  }
  return valuesOf(bytes.buffer, tensor)
}

/** Elements that are compared at a time. */
const chunk = 2 ** 18

/** How many elements of two tensors of one shape have different values, whatever types they are stored as. */
export async function countDifferent(
  one: { checkpoint: Checkpoint; tensor: CheckpointTensor },
  two: { checkpoint: Checkpoint; tensor: CheckpointTensor },
): Promise<number> {
  const elements = one.tensor.shape.reduce((a, b) => a * b, 1)
  let count = 0
  for (let first = 0; first < elements; first += chunk) {
    const [a, b] = await Promise.all([one, two].map(({ checkpoint, tensor }) => readPart(checkpoint, tensor, first)))
    if (a === undefined || b === undefined) break
    for (let i = 0; i < a.length; i++) if (!Object.is(a[i], b[i])) count++
  }
  return count

  function readPart(checkpoint: Checkpoint, tensor: CheckpointTensor, first: number): Promise<Float64Array> {
    const width = (tensor.end - tensor.begin) / elements
    const begin = tensor.begin + width * first
    return readValues(checkpoint, { ...tensor, begin, end: Math.min(tensor.end, begin + width * chunk) })
  }
}

function valuesOf(bytes: ArrayBuffer, { dtype, name }: CheckpointTensor): Float64Array {
  switch (dtype) {
    case 'F64':
      return new Float64Array(bytes)
    case 'F32':
      return Float64Array.from(new Float32Array(bytes))
    case 'BF16': {
      const halves = new Uint16Array(bytes)
      const wide = new Uint32Array(halves.length)
      for (let i = 0; i < halves.length; i++) wide[i] = (halves[i] ?? 0) << 16
      return Float64Array.from(new Float32Array(wide.buffer))
    }
    case 'F16':
      return Float64Array.from(new Uint16Array(bytes), half)
    default:
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_DTYPE',
        `Tensor ${name} is ${dtype}, which has no place in an adapter.`,
        {
          tensor: name,
        },
      )
  }
}

function half(bits: number): number {
  const exponent = (bits >> 10) & 31
  const fraction = bits & 1023
  const sign = bits & 0x8000 ? -1 : 1
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25))
}
