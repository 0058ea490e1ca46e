/**
 * SparseGPT (arXiv 2301.00774): weights go block by block of columns, and those to the right make up for what went, by the
 * inverse of the Gram matrix of the inputs. The matrix is on the device, turned and in f32; thresholds over a block are
 * found here.
 */

import type { Checkpoint, CheckpointTensor, Content } from '../checkpoint/index.js'
import { WeightsmithError } from '../errors.js'
import { forwardKernels as kernels } from '../forward/index.js'
import type { NativeAddon, NativeDevice, StoreDType } from '../native/border.js'
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
  const turned = turn(weights, rows, inputs)
  for (let j = 0; j < inputs; j++) if (gram[j * inputs + j] === 0) turned.fill(0, j * rows, (j + 1) * rows)
  // A pattern has to fit the blocks of columns.
  const width = pattern === undefined ? blockColumns : Math.floor(blockColumns / pattern.of) * pattern.of
  const sizes = [turned.byteLength, 4 * width * inputs, 4 * width * rows, 4 * width * rows]
  const binding = device.adapter.limits.maxStorageBufferBindingSize ?? 2 ** 27
  const most = Math.max(...sizes)
  if (most > binding || sizes.reduce((a, b) => a + b, 0) > memory) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_OUT_OF_MEMORY',
      `A matrix of ${rows} x ${inputs} weights takes ${most} bytes in one buffer, but SparseGPT has ${Math.min(binding, memory)}.`,
    )
  }
  const [w, u, mask, errors] = [0, 1, 2, 3]
  const resident = await device.allocate(sizes)
  try {
    const write = (buffer: number, data: Float32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>) =>
      device.dispatch(resident, { writes: [{ buffer, offset: 0, memory: bytesOf(data) }], dispatches: [], reads: [] })
    const read = async (first: number, count: number) => {
      const reads = [{ buffer: w, offset: 4 * first * rows, bytes: 4 * count * rows }]
      const [bytes] = await device.dispatch(resident, { writes: [], dispatches: [], reads })
      return new Float32Array(bytes?.slice().buffer ?? [])
    }
    await write(w, turned)
    for (let first = 0; first < inputs; first += width) {
      const count = Math.min(width, inputs - first)
      await write(u, factor.slice(first * inputs, (first + count) * inputs))
      if (pattern === undefined) {
        await write(
          mask,
          maskOf(await read(first, count), rows, share, (j) => factor[(first + j) * (inputs + 1)] ?? 1),
        )
      }
      const at = { rows, inputs, first, count, stay: pattern?.stay ?? 0, of: pattern?.of ?? 0 }
      const rest = first + count
      const dispatches = [
        kernels.obs({ u, mask, w, errors }, at),
        ...(rest < inputs ? [kernels.carry({ u, errors, w }, { rows, inputs, first: rest, count })] : []),
      ]
      await device.dispatch(resident, { writes: [], dispatches, reads: [] })
    }
    return turn(await read(0, inputs), inputs, rows)
  } finally {
    await device.release(resident).catch(() => undefined)
  }
}

/** 1 for all but int(share * n) elements of a block [columns, rows]: those of least (w / U_jj)², of equal ones the first. */
function maskOf(block: Float32Array, rows: number, share: number, diagonal: (j: number) => number) {
  const scores = block.map((value, i) => (value / diagonal(Math.floor(i / rows))) ** 2)
  const goes = Math.floor(share * scores.length)
  const mask = new Uint32Array(scores.length).fill(1)
  if (goes === 0) return mask
  const threshold = scores.toSorted()[goes - 1] ?? 0
  let equal = goes
  for (const value of scores) if (value < threshold) equal--
  for (const [i, value] of scores.entries()) {
    if (value < threshold || (value === threshold && equal-- > 0)) mask[i] = 0
  }
  return mask
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
