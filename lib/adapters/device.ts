/** Arithmetic on arrays in memory, on the device: a kernel or a program of a merge method, called with plain arrays. */

import type { NativeProgram, StoreDType } from '../native/border.js'
import type { Host } from '../native/host.js'
import { untilDone } from '../native/job.js'

export type Device = Pick<Host, 'device' | 'memory'>

export type Array32 = Float32Array<ArrayBuffer>

export interface Computation {
  program: NativeProgram
  coefficients: number[]
  inputs: readonly Array32[]
  /** Of the result. */
  elements: number
  /** Inputs of other sizes, which the program reads as a whole. */
  whole?: readonly number[]
  /** Keys the random numbers, with the seed. */
  name?: string
  seed?: number
  signal?: AbortSignal | undefined
}

/** What a program makes of arrays: f32 arithmetic, one rounding. */
export async function compute({ device, memory }: Device, computation: Computation): Promise<Array32> {
  const { program, coefficients, inputs, elements, whole = [], name = '', seed = 0, signal } = computation
  const result = new Float32Array(elements)
  const job = device.run({
    inputs: inputs.map((input) => ({ memory: bytesOf(input) })),
    outputs: [{ memory: bytesOf(result) }],
    programs: [program],
    jobs: [
      {
        name,
        program: 0,
        elements,
        inputs: inputs.map(({ length }, place) => ({
          ...{ place, offset: 0, dtype: 'F32' satisfies StoreDType },
          ...(whole.includes(place) ? { whole: length } : {}),
        })),
        variants: [{ coefficients, output: { place: 0, offset: 0, dtype: 'F32' } }],
      },
    ],
    memory,
    seed,
    checksum: false,
    sync: false,
  })
  await untilDone(job, signal)
  return result
}

const sum: NativeProgram = { kernels: [{ kernel: 'linear', writes: 'output' }] }

/** The weighted sum of arrays of one length. */
export function weightedSum(
  on: Device,
  inputs: readonly Array32[],
  coefficients: number[],
  signal: AbortSignal | undefined,
): Promise<Array32> {
  return compute(on, { program: sum, coefficients, inputs, elements: inputs[0]?.length ?? 0, signal })
}

const lora: NativeProgram = { kernels: [{ kernel: 'lora', writes: 'output' }] }

/** `scale` times the product of B [rows, rank] and A [rank, columns], added to a matrix: by default to zeros. */
export function product(
  on: Device,
  [b, a]: readonly [Array32, Array32],
  { rows, rank, columns, scale = 1 }: { rows: number; rank: number; columns: number; scale?: number },
  signal: AbortSignal | undefined,
  onto?: Array32,
): Promise<Array32> {
  const elements = rows * columns
  return compute(on, {
    program: lora,
    coefficients: [columns, rows, rank, scale, 1, 0],
    inputs: [onto ?? new Float32Array(elements), b, a],
    elements,
    whole: [1, 2],
    signal,
  })
}

export function bytesOf({ buffer, byteOffset, byteLength }: Array32): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength)
}

/** [rows, columns] to [columns, rows]. */
export function turned(matrix: Array32, rows: number, columns: number): Array32 {
  const result = new Float32Array(matrix.length)
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) result[column * rows + row] = matrix[row * columns + column] ?? 0
  }
  return result
}
