/** Gates of a mixture without a model around it, for what is folded or reported. */

import type { Host } from '../native/host.js'
import type { ModelAdapters } from './adapter_buffers.js'
import { modelKernels } from './kernels.js'
import { formsOf } from './ops/index.js'
import { Router, type RouterSpec } from './router.js'

/**
 * The gates of all experts for each description of a subnet, as passes through it have them: 0 for those that do not
 * count. `values`: of the router, by `routerTensors`.
 */
export async function routerGates(
  { device }: Pick<Host, 'device'>,
  spec: RouterSpec,
  values: ModelAdapters['values'],
  descriptions: readonly Float32Array<ArrayBuffer>[],
): Promise<Float32Array<ArrayBuffer>[]> {
  const sizes: number[] = []
  const add = (bytes: number) => sizes.push(bytes) - 1
  const router = new Router(spec, formsOf(device.info), add)
  const pieces = [...router.blocks].flatMap(([name, blocks]) =>
    blocks.map((block) => {
      const { first, rows, columns } = block
      const own = (values.get(name) ?? new Float32Array()).slice(first * columns, (first + rows) * columns)
      return { block, own: Float32Array.from(own) }
    }),
  )
  const staging = add(pieces.reduce((most, { own }) => Math.max(most, own.byteLength), 4))
  const resident = await device.allocate(sizes)
  try {
    for (const { block, own } of pieces) {
      await device.dispatch(resident, {
        writes: [{ buffer: staging, offset: 0, memory: new Uint8Array(own.buffer) }],
        dispatches: [modelKernels.packWeights(staging, block)],
        reads: [],
      })
    }
    const gates: Float32Array<ArrayBuffer>[] = []
    for (const description of descriptions) gates.push(await router.ask(device, resident, description))
    return gates
  } finally {
    await device.release(resident).catch(() => undefined)
  }
}
