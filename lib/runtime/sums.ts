/** What is read of the device beside passes: sums of weights, and Gram matrices that passes have added up. */

import { recordWords } from '../native/parameters.js'
import { modelKernels as kernels } from './kernels.js'
import type { HookPoint } from './statistics.js'
import { type OnDevice, Work } from './work.js'

/** Which sums of |W| and W² are asked for: of every input over the outputs, or of every output over the inputs. */
export interface WeightSums {
  names: ReadonlySet<string>
  by?: 'input' | 'output'
  /** Is given both sums of each, in turn. */
  add: (name: string, sums: Float32Array) => void
}

/** Sums of the linears of this partition that are named, for their inputs or their outputs. */
export async function readSums(
  { device, resident, buffers }: OnDevice,
  { names, add, by = 'input' }: WeightSums,
): Promise<void> {
  for (const [name, blocks] of buffers.tensors) {
    if (!names.has(name)) continue
    const work = new Work(device, resident)
    const outputs = blocks.reduce((sum, { rows }) => sum + rows, 0)
    const words = recordWords('WeightSums') * (by === 'output' ? outputs : (blocks[0]?.columns ?? 0))
    work.write(buffers.captured.weights, new Float32Array(words))
    work.add(blocks.map((block) => kernels.weightSums(block, buffers.captured.weights, by)))
    const [bytes] = await work.read([buffers.captured.weights, words])
    add(name, new Float32Array(bytes ?? []))
  }
}

/** Bytes of a Gram matrix that are read at a time. */
const gramBytes = 2 ** 24

/** The Gram matrices of this partition, as all passes have left them, in blocks of rows. */
export async function readGrams(
  { device, resident, buffers }: OnDevice,
  add: (hook: HookPoint, first: number, rows: Float32Array) => Promise<void>,
): Promise<void> {
  for (const { hook, width, blocks } of buffers.captured.grams) {
    if (!buffers.tensors.has(hook.weight)) continue
    for (const { buffer, first, rows } of blocks) {
      // A few rows at a time: what is read exists more than once.
      const most = Math.max(1, Math.floor(gramBytes / (4 * width)))
      for (let row = 0; row < rows; row += most) {
        const count = Math.min(most, rows - row)
        const reads = [{ buffer, offset: 4 * row * width, bytes: 4 * count * width }]
        const [bytes] = await device.dispatch(resident, { writes: [], dispatches: [], reads })
        await add(hook, first + row, new Float32Array((bytes?.buffer ?? new ArrayBuffer(0)) as ArrayBuffer))
      }
    }
  }
}
