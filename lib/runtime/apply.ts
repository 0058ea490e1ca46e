/** One matrix of a checkpoint applied to vectors, without a model around it. */

import type { Checkpoint, CheckpointTensor } from '../checkpoint/index.js'
import type { NativeDevice, StoreDType } from '../native/border.js'
import { blocksOf, stagingBytes } from './blocks.js'
import { modelKernels as kernels } from './kernels.js'
import { packedBytes } from './ops/index.js'

/** x Wᵀ, f32 [rows, outputs], for x [rows, inputs] and a matrix [outputs, inputs] stored as F32, F16 or BF16. */
export async function apply(
  device: NativeDevice,
  checkpoint: Checkpoint,
  { dtype, shape, begin, file }: CheckpointTensor,
  x: Float32Array<ArrayBuffer>,
): Promise<Float32Array> {
  const [outputs = 0, inputs = 0] = shape
  const rows = x.length / inputs
  const limit = Math.min(stagingBytes, device.info.limits.maxStorageBufferBindingSize ?? stagingBytes)
  const blocks = blocksOf(outputs, inputs, dtype as StoreDType, limit)
  const row = inputs * (dtype === 'F32' ? 4 : 2)
  const most = blocks.reduce((size, block) => Math.max(size, packedBytes(block)), 4)
  const [staging, packed, from, to] = [0, 1, 2, 3]
  const resident = await device.allocate([
    Math.max(4, (blocks[0]?.rows ?? 0) * row),
    most,
    x.byteLength,
    4 * rows * outputs,
  ])
  try {
    await device.dispatch(resident, {
      writes: [{ buffer: from, offset: 0, memory: new Uint8Array(x.buffer) }],
      dispatches: [],
      reads: [],
    })
    for (const block of blocks) {
      const own = { ...block, buffer: packed }
      const path = checkpoint.files[file]?.path ?? ''
      const at = { begin: begin + block.first * row, bytes: block.rows * row }
      await device.dispatch(resident, {
        writes: [{ buffer: staging, offset: 0, path, ...at }],
        dispatches: [kernels.packWeights(staging, own), kernels.gemm(own, from, to, { rows, stride: outputs })],
        reads: [],
      })
    }
    const reads = [{ buffer: to, offset: 0, bytes: 4 * rows * outputs }]
    const [bytes] = await device.dispatch(resident, { writes: [], dispatches: [], reads })
    return new Float32Array(bytes?.slice().buffer ?? [])
  } finally {
    await device.release(resident).catch(() => undefined)
  }
}
