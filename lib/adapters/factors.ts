/** A and B of an adapter as they are computed with: f32 in memory, row by row. The device converts and scales them. */

import { type Checkpoint, type CheckpointTensor, isLoadable } from '../checkpoint/index.js'
import type { LowRank } from '../lora/index.js'
import type { NativePlace, NativeTensorJob, StoreDType } from '../native/border.js'
import { untilDone } from '../native/job.js'
import { WeightsmithError } from '../util/errors.js'
import { type Array32, bytesOf, type Device, turned } from './device.js'

/** A [rank, inputs] and B [outputs, rank], and of DoRA the lengths of rows. */
export interface Factors {
  a: Array32
  b: Array32
  magnitude?: Array32
}

/**
 * A, times `scale`, and B, and lengths that there are. Of types that f32 holds (F16, BF16, F8) every value is what the
 * file has; F64 is rounded once. Throws ERR_WEIGHTSMITH_DTYPE for others.
 */
export async function readFactors(
  host: Device,
  checkpoint: Checkpoint,
  matrix: LowRank,
  { scale = 1, signal }: { scale?: number; signal?: AbortSignal | undefined } = {},
): Promise<Factors> {
  const { target } = matrix
  // mlx-lm stores A and B turned
  const [a, b] = isSwapped(matrix) ? [matrix.b, matrix.a] : [matrix.a, matrix.b]
  const { magnitude } = matrix
  for (const tensor of [a, b, ...(magnitude === undefined ? [] : [magnitude])]) {
    if (isLoadable(tensor.dtype)) continue
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_DTYPE',
      `The adapter ${checkpoint.path} stores ${tensor.name} as ${tensor.dtype}, which factors of ${target} cannot be.`,
      { file: checkpoint.path, tensor: tensor.name },
    )
  }
  const read = {
    ...{ a: new Float32Array(elementsOf(a)), b: new Float32Array(elementsOf(b)) },
    ...(magnitude && { magnitude: new Float32Array(elementsOf(magnitude)) }),
  }
  const files = checkpoint.files.map(({ path, size }) => ({ path, size }))
  const input = ({ file, begin, dtype }: CheckpointTensor) => ({ place: file, offset: begin, dtype })
  const lengths = magnitude && read.magnitude && { tensor: magnitude, values: read.magnitude }
  const outputs = [read.a, read.b, ...(lengths ? [lengths.values] : [])]
  await convert(host, files, outputs.map(bytesOf), 'F32', signal, [
    { input: input(a), elements: read.a.length, scale },
    { input: input(b), elements: read.b.length, scale: 1 },
    ...(lengths ? [{ input: input(lengths.tensor), elements: lengths.values.length, scale: 1 }] : []),
  ])
  if (!isSwapped(matrix)) return read
  const size = sizeOf(matrix)
  return { ...read, a: turned(read.a, size.inputs, matrix.rank), b: turned(read.b, matrix.rank, size.outputs) }
}

/** Whether the transpose of B A is added where PEFT adds B A, and the other way round. */
function isSwapped({ turned, embedding }: LowRank): boolean {
  return turned !== embedding
}

/** Rows of B and columns of A, as PEFT has them. */
export function sizeOf(matrix: LowRank): { outputs: number; inputs: number } {
  const [outputs = 0, inputs = 0] = [matrix.b.shape[0], matrix.a.shape[1]]
  return isSwapped(matrix) ? { outputs: inputs, inputs: outputs } : { outputs, inputs }
}

/** Arrays as bytes of a type, rounded once; throws ERR_WEIGHTSMITH_NON_FINITE where one of them becomes infinite. */
export async function stored(
  host: Device,
  arrays: readonly Array32[],
  dtype: StoreDType,
  name: string,
  signal?: AbortSignal,
): Promise<Uint8Array[]> {
  const bytes = arrays.map(bytesOf)
  let nonFinite = 0
  let result = bytes
  if (dtype === 'F32') {
    for (const array of arrays) for (const value of array) if (!Number.isFinite(value)) nonFinite++
  } else {
    result = arrays.map((array) => new Uint8Array(2 * array.length))
    const inputs = bytes.map((memory) => ({ memory }))
    const jobs = arrays.map(({ length }, place) => ({
      input: { place, offset: 0, dtype: 'F32' },
      elements: length,
      scale: 1,
    }))
    nonFinite = await convert(host, inputs, result, dtype, signal, jobs)
  }
  if (nonFinite === 0) return result
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_NON_FINITE',
    `The factors of ${name} have ${nonFinite} values that are NaN or infinite as ${dtype}.`,
    { tensor: name },
  )
}

/** Arrays as they are read back when they are stored as a type; throws what `stored` throws. */
export async function roundedFactors(
  host: Device,
  arrays: readonly Float32Array<ArrayBuffer>[],
  dtype: StoreDType,
  name: string,
  signal?: AbortSignal,
): Promise<Float32Array<ArrayBuffer>[]> {
  const bytes = await stored(host, arrays, dtype, name, signal)
  const results = arrays.map(({ length }) => new Float32Array(length))
  const conversions = results.map(({ length }, place) => ({
    input: { place, offset: 0, dtype },
    elements: length,
    scale: 1,
  }))
  const inputs = bytes.map((memory) => ({ memory }))
  await convert(host, inputs, results.map(bytesOf), 'F32', signal, conversions)
  return results
}

/** Each input times its scale into its own output; gives how many results are not finite. */
async function convert(
  { device, memory }: Device,
  inputs: NativePlace[],
  results: readonly Uint8Array[],
  dtype: StoreDType,
  signal: AbortSignal | undefined,
  conversions: { input: NativeTensorJob['inputs'][number]; elements: number; scale: number }[],
): Promise<number> {
  const run = device.run({
    inputs,
    outputs: results.map((result) => ({ memory: result })),
    programs: [{ kernels: [{ kernel: 'linear', writes: 'output' }] }],
    jobs: conversions.map(({ input, elements, scale }, place) => ({
      name: '',
      program: 0,
      elements,
      inputs: [input],
      variants: [{ coefficients: [scale], output: { place, offset: 0, dtype } }],
    })),
    memory,
    seed: 0,
    checksum: false,
    sync: false,
  })
  return (await untilDone(run, signal)).nonFinite
}

export function elementsOf({ shape }: Pick<CheckpointTensor, 'shape'>): number {
  return shape.reduce((product, size) => product * size, 1)
}
