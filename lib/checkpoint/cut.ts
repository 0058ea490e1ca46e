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
export const chunkBytes = 8 * 2 ** 20

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
  const shape = shapeOf(tensor.shape, cut)
  const columns = columnCutter(cut, width, size)
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
          yield columns === undefined ? chunk : columns(chunk)
          i += count
        }
      } finally {
        await file.close()
      }
    },
  }
}

/** The shape of a tensor that is cut. */
export function shapeOf(shape: readonly number[], { rows, columns }: Cut): number[] {
  const result = [...shape]
  if (rows !== undefined) result[0] = rows.length
  if (columns !== undefined) result.splice(1, result.length, columns.length)
  return result
}

/** Runs of neighbours of at least so many elements are copied as one. */
const longRun = 16

/**
 * What makes of whole rows (`width` elements of `size` bytes each) those without the columns that a cut leaves out, and
 * with its zeros: new bytes, whatever the number of rows. Nothing for cuts that leave columns alone.
 */
export function columnCutter(
  { columns, zeroColumns }: Cut,
  width: number,
  size: number,
): ((rows: Uint8Array) => Uint8Array) | undefined {
  const zeroed = zeroColumns?.length ? runsOf(zeroColumns) : []
  if (columns === undefined && zeroed.length === 0) return undefined
  const kept = columns && runsOf(columns)
  const pick = kept && columns.length < longRun * kept.length ? Int32Array.from(columns) : undefined
  const rowBytes = width * size
  return (rows) => {
    const count = rows.length / rowBytes
    let cleared = rows
    if (zeroed.length > 0) {
      cleared = rows.slice()
      for (let row = 0; row < count; row++) {
        for (const { first, length } of zeroed) {
          const begin = row * rowBytes + first * size
          cleared.fill(0, begin, begin + length * size)
        }
      }
    }
    if (columns === undefined || kept === undefined) return cleared
    const result = new Uint8Array(count * columns.length * size)
    if (pick !== undefined) {
      gather(elements(cleared, size), elements(result, size), pick, width, count)
      return result
    }
    let to = 0
    for (let row = 0; row < count; row++) {
      for (const { first, length } of kept) {
        const begin = row * rowBytes + first * size
        result.set(cleared.subarray(begin, begin + length * size), to)
        to += length * size
      }
    }
    return result
  }
}

/** Indices as runs of neighbours. */
export function runsOf(indices: readonly number[]): { first: number; length: number }[] {
  const runs: { first: number; length: number }[] = []
  for (const index of indices) {
    const last = runs.at(-1)
    if (last !== undefined && last.first + last.length === index) last.length++
    else runs.push({ first: index, length: 1 })
  }
  return runs
}

type Elements = Uint8Array | Uint16Array | Uint32Array | BigUint64Array

/** Bytes as elements, whose bits nothing looks at. */
function elements(bytes: Uint8Array, size: number): Elements {
  const { buffer, byteOffset, byteLength } = byteOffsetFits(bytes, size) ? bytes : bytes.slice()
  if (size === 2) return new Uint16Array(buffer, byteOffset, byteLength / 2)
  if (size === 4) return new Uint32Array(buffer, byteOffset, byteLength / 4)
  if (size === 8) return new BigUint64Array(buffer, byteOffset, byteLength / 8)
  return new Uint8Array(buffer, byteOffset, byteLength)
}

const byteOffsetFits = ({ byteOffset }: Uint8Array, size: number) => byteOffset % size === 0

function gather(from: Elements, to: Elements, columns: Int32Array, width: number, rows: number): void {
  let place = 0
  for (let row = 0; row < rows; row++) {
    const begin = row * width
    for (let i = 0; i < columns.length; i++) to[place++] = from[begin + (columns[i] as number)] as never
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
