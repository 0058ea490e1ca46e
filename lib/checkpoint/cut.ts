/** Tensors with rows and columns left out, or zeros in their place: bytes that move, a few rows at a time. */

import { type FileHandle, open } from 'node:fs/promises'
import { messageOf, WeightsmithError } from '../util/errors.js'
import type { Checkpoint, CheckpointTensor } from './open.js'

/** Indices of rows (the first dimension) and of columns (all others together), as they are in the source. */
export interface Cut {
  /** Those that stay, in their order; all by default. */
  rows?: readonly number[] | undefined
  columns?: readonly number[] | undefined
  /** Those that become zeros. */
  zeroRows?: readonly number[] | undefined
  zeroColumns?: readonly number[] | undefined
}

/** A tensor of an output. */
export interface Content {
  dtype: string
  shape: number[]
  /** In bytes. */
  size: number
  bytes(): AsyncIterable<Uint8Array>
}

/** Bytes read at a time; a row is read whole. */
const chunkBytes = 8 * 2 ** 20

/** The tensor of a checkpoint, cut. Throws ERR_WEIGHTSMITH_INTERNAL for indices that it does not have. */
export function cutTensor(checkpoint: Checkpoint, tensor: CheckpointTensor, cut: Cut = {}): Content {
  const [height = 1, ...rest] = tensor.shape
  const width = rest.reduce((product, size) => product * size, 1)
  const size = height * width === 0 ? 0 : (tensor.end - tensor.begin) / (height * width)
  for (const [indices, end] of [
    [cut.rows, height],
    [cut.zeroRows, height],
    [cut.columns, width],
    [cut.zeroColumns, width],
  ] as const) {
    const wrong = indices?.find((index) => !Number.isInteger(index) || index < 0 || index >= end)
    if (wrong === undefined) continue
    throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `${tensor.name} has no row or column ${wrong} of ${end}.`)
  }
  const rows = cut.rows ?? Array.from({ length: height }, (_, i) => i)
  const zeros = new Set(cut.zeroRows)
  const shape = [...tensor.shape]
  if (cut.rows !== undefined) shape[0] = cut.rows.length
  if (cut.columns !== undefined) shape.splice(1, shape.length, cut.columns.length)

  /** A row of the source as it is in the output. */
  const changed = (row: Uint8Array): Uint8Array => {
    for (const column of cut.zeroColumns ?? []) row.fill(0, column * size, (column + 1) * size)
    if (cut.columns === undefined) return row
    const kept = new Uint8Array(cut.columns.length * size)
    for (const [i, column] of cut.columns.entries()) {
      kept.set(row.subarray(column * size, (column + 1) * size), i * size)
    }
    return kept
  }
  return {
    dtype: tensor.dtype,
    shape,
    size: shape.reduce((product, length) => product * length, size),
    async *bytes() {
      const path = checkpoint.files[tensor.file]?.path ?? ''
      const file = await open(path, 'r')
      const bytes = width * size
      const most = Math.max(1, Math.floor(chunkBytes / Math.max(1, bytes)))
      try {
        for (let i = 0; i < rows.length; ) {
          // Neighbours in the source are read together.
          let count = 1
          while (count < most && rows[i + count] === (rows[i] ?? 0) + count) count++
          const chunk = new Uint8Array(count * bytes)
          await readFully(file, path, chunk, tensor.begin + (rows[i] ?? 0) * bytes)
          for (let j = 0; j < count; j++) {
            const row = chunk.subarray(j * bytes, (j + 1) * bytes)
            if (zeros.has(rows[i + j] ?? 0)) row.fill(0)
          }
          if (cut.columns === undefined && cut.zeroColumns === undefined) yield chunk
          else for (let j = 0; j < count; j++) yield changed(chunk.subarray(j * bytes, (j + 1) * bytes))
          i += count
        }
      } finally {
        await file.close()
      }
    },
  }
}

/** Fills `into` from a place in a file. */
export async function readFully(file: FileHandle, path: string, into: Uint8Array, position: number): Promise<void> {
  try {
    for (let done = 0; done < into.length; ) {
      const { bytesRead } = await file.read(into, done, into.length - done, position + done)
      if (bytesRead === 0) throw new Error('it ends too early')
      done += bytesRead
    }
  } catch (cause) {
    throw new WeightsmithError('ERR_WEIGHTSMITH_IO_READ', `${path} cannot be read: ${messageOf(cause)}.`, {
      cause,
      file: path,
    })
  }
}
