/**
 * SparseGPT (arXiv 2301.00774): weights go block by block of columns, and those to the right make up for what went, by
 * the inverse of the Gram matrix of the inputs. The matrix is on the device, turned and in f32; thresholds over a block
 * are found here.
 */

import type { Checkpoint, CheckpointTensor, Content } from '../checkpoint/index.js'
import type { NativeAddon, NativeDevice, StoreDType } from '../native/border.js'
import { modelKernels as kernels } from '../runtime/index.js'
import { WeightsmithError } from '../util/errors.js'
import type { Sparsity } from './weights.js'

const blockColumns = 128
/** Share of the mean of the diagonal that is added to it. */
const damping = 0.01

interface On {
  device: NativeDevice
  memory: number
}

/** What the inputs of a linear are to each other, [inputs, inputs] each. */
export interface Products {
  /** XᵀX. */
  gram: Float32Array
  /** Upper U with (XᵀX + damping)⁻¹ = Uᵀ U. */
  factor: Float32Array<ArrayBuffer>
}

export async function productsOf(addon: Pick<NativeAddon, 'inverseFactor'>, gram: Float32Array): Promise<Products> {
  return { gram, factor: await addon.inverseFactor(gram, Math.sqrt(gram.length), damping) }
}

/** The tensor [outputs, inputs] pruned and updated. */
export function sparseGptTensor(
  on: On,
  checkpoint: Checkpoint,
  tensor: CheckpointTensor,
  sparsity: Sparsity,
  products: () => Promise<Products>,
): Content {
  const { dtype, shape, begin, end } = tensor
  return {
    dtype,
    shape,
    size: end - begin,
    async *bytes() {
      const { path = '', size = 0 } = checkpoint.files[tensor.file] ?? {}
      const elements = shape.reduce((a, b) => a * b, 1)
      const loaded = new Float32Array(elements)
      const stored = { place: 0, offset: begin, dtype: dtype as StoreDType }
      await convert(on, [{ path, size }, stored], [bytesOf(loaded), { ...stored, offset: 0, dtype: 'F32' }], elements)
      const pruned = await sparseGpt(on, loaded, shape, sparsity, await products())
      const result = new Uint8Array(end - begin)
      await convert(
        on,
        [{ memory: bytesOf(pruned) }, { place: 0, offset: 0, dtype: 'F32' }],
        [result, { ...stored, offset: 0 }],
        elements,
      )
      yield result
    },
  }
}

type Source = [
  place: { path: string; size: number } | { memory: Uint8Array },
  at: { place: number; offset: number; dtype: string },
]

/** Elements of one type as those of another. */
async function convert(
  { device, memory }: On,
  [input, source]: Source,
  [result, output]: [Uint8Array, { place: number; offset: number; dtype: string }],
  elements: number,
): Promise<void> {
  await device.run({
    inputs: [input],
    outputs: [{ memory: result }],
    programs: [{ kernels: [{ kernel: 'linear', writes: 'output' }] }],
    jobs: [{ name: '', program: 0, elements, inputs: [source], variants: [{ coefficients: [1], output }] }],
    memory,
    seed: 0,
    checksum: false,
    sync: false,
  }).done
}

async function sparseGpt(
  { device, memory }: On,
  weights: Float32Array,
  [rows = 0, inputs = 0]: readonly number[],
  { share, pattern }: Sparsity,
  { gram, factor }: Products,
): Promise<Float32Array<ArrayBuffer>> {
  const dead = Array.from({ length: inputs }, (_, j) => j).filter((j) => gram[j * inputs + j] === 0)
  // A pattern has to fit the blocks of columns.
  const width = pattern === undefined ? blockColumns : Math.floor(blockColumns / pattern.of) * pattern.of
  const binding = device.info.limits.maxStorageBufferBindingSize ?? 2 ** 27
  const most = Math.floor(binding / (4 * inputs))
  const bytes = 4 * rows * inputs + 4 * width * (inputs + 2 * rows)
  if (most < 1 || 4 * width * inputs > binding || bytes > memory) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_OUT_OF_MEMORY',
      `SparseGPT takes ${bytes} bytes for a matrix of ${rows} x ${inputs} weights, but memory allows ${memory}, and ${binding} a buffer.`,
    )
  }
  // Rows are apart from each other but for the threshold, so that as many go into a buffer as fit.
  const chunks = Array.from({ length: Math.ceil(rows / most) }, (_, i) => {
    const [first, count] = [i * most, Math.min(most, rows - i * most)]
    return { w: 1 + 3 * i, mask: 2 + 3 * i, errors: 3 + 3 * i, first, count }
  })
  const u = 0
  const sizes = chunks.flatMap(({ count }) => [4 * count * inputs, 4 * width * count, 4 * width * count])
  const resident = await device.allocate([4 * width * inputs, ...sizes])
  try {
    const write = (buffer: number, data: Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>) =>
      device.dispatch(resident, { writes: [{ buffer, offset: 0, memory: bytesOf(data) }], dispatches: [], reads: [] })
    /** Columns of all chunks. */
    const read = async (first: number, columns: number) => {
      const reads = chunks.map(({ w, count }) => ({ buffer: w, offset: 4 * first * count, bytes: 4 * columns * count }))
      const read = await device.dispatch(resident, { writes: [], dispatches: [], reads })
      return read.map((part) => new Float32Array(part.slice().buffer))
    }
    for (const { w, first, count } of chunks) {
      const turned = turn(weights.subarray(first * inputs, (first + count) * inputs), count, inputs)
      for (const j of dead) turned.fill(0, j * count, (j + 1) * count)
      await write(w, turned)
    }
    for (let first = 0; first < inputs; first += width) {
      const columns = Math.min(width, inputs - first)
      await write(u, factor.slice(first * inputs, (first + columns) * inputs))
      if (pattern === undefined) {
        const scores = (await read(first, columns)).map((block, i) => {
          const own = chunks[i]?.count ?? 1
          return block.map((value, k) => (value / (factor[(first + Math.floor(k / own)) * (inputs + 1)] ?? 1)) ** 2)
        })
        const masks = masksOf(scores, share)
        for (const [i, { mask }] of chunks.entries()) await write(mask, masks[i] ?? new Uint32Array())
      }
      const rest = first + columns
      const dispatches = chunks.flatMap(({ w, mask, errors, count }) => [
        kernels.sparsegptPrune(
          { u, mask, w, errors },
          { rows: count, inputs, first, count: columns, stay: pattern?.stay ?? 0, of: pattern?.of ?? 0 },
        ),
        ...(rest < inputs
          ? [kernels.sparsegptUpdate({ u, errors, w }, { rows: count, inputs, first: rest, count: columns })]
          : []),
      ])
      await device.dispatch(resident, { writes: [], dispatches, reads: [] })
    }
    const result = new Float32Array(rows * inputs)
    for (const [i, part] of (await read(0, inputs)).entries()) {
      const { first = 0, count = 0 } = chunks[i] ?? {}
      result.set(turn(part, inputs, count), first * inputs)
    }
    return result
  } finally {
    await device.release(resident).catch(() => undefined)
  }
}

/** 1 for all but int(share * n) elements of a block: those of the least scores, of equal ones the first. */
function masksOf(scores: readonly Float32Array[], share: number): Uint32Array<ArrayBuffer>[] {
  const all = new Float32Array(scores.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const part of scores) {
    all.set(part, at)
    at += part.length
  }
  all.sort()
  const goes = Math.floor(share * all.length)
  const threshold = all[goes - 1] ?? -1
  // Of those at the threshold, so many go.
  let equal = goes - all.subarray(0, goes).indexOf(threshold)
  return scores.map((part) =>
    Uint32Array.from(part, (value) => (value < threshold || (value === threshold && equal-- > 0) ? 0 : 1)),
  )
}

/** [rows, columns] to [columns, rows]. */
function turn(matrix: Float32Array, rows: number, columns: number): Float32Array<ArrayBuffer> {
  const result = new Float32Array(matrix.length)
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) result[column * rows + row] = matrix[row * columns + column] ?? 0
  }
  return result
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength)
}
