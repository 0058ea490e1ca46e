/** What a mixture of experts begins with, and the adapter that is left of it, with the names of AmoebaLLM's code. */

import { type NewAdapter, saveAdapter } from '../../adapters/index.js'
import type { Content } from '../../checkpoint/index.js'
import { routerPrefix } from '../../lora/index.js'
import type { Host } from '../../native/host.js'
import { factorNames, type RouterSpec, routerTensors, type TrainableModel } from '../../runtime/index.js'
import { type AdapterStart, type OutputOptions, type Written, writeAdapter } from '../../training/index.js'
import { stream } from '../../util/philox.js'

export type MixtureForm = 'factor' | 'output'

/** Weights and biases of linears as PyTorch draws them: evenly from ±1 / √inputs, by seed and name. */
export function routerStart(router: RouterSpec, seed: number): [name: string, values: Float32Array][] {
  const tensors = routerTensors(router)
  const inputs = new Map(tensors.map(([name, , columns]) => [name, columns]))
  return tensors.map(([name, rows, columns]) => {
    const word = stream(name, seed)
    const bound = 1 / Math.sqrt(inputs.get(name.replace(/bias$/, 'weight')) ?? 1)
    return [name, Float32Array.from({ length: rows * columns }, (_, i) => bound * ((word(i) + 0.5) / 2 ** 31 - 1))]
  })
}

/** Writes the adapter: one that PEFT loads, or a mixture with its router. */
export async function writeAmoebaAdapter(
  host: Host,
  model: TrainableModel,
  adapters: readonly AdapterStart[],
  {
    router,
    mix,
    widths,
    dtype,
    ...options
  }: OutputOptions & {
    dtype: 'F32' | 'F16' | 'BF16'
    router?: RouterSpec | undefined
    mix: MixtureForm
    widths: readonly number[]
  },
): Promise<Written> {
  if (router === undefined) return writeAdapter(host, model, adapters, { ...options, dtype, rslora: false })
  const [first] = adapters
  const modules = adapters.flatMap(({ weight, rank }) => {
    const [outputs = 0, inputs = 0] = model.spec.tensors.get(weight) ?? []
    return Array.from({ length: router.experts }, (_, expert) => {
      const names = factorNames(weight, expert)
      return {
        ...{ module: weight.replace(/\.weight$/, ''), rank, outputs, inputs, expert },
        factors: async () => ({ a: await model.read(names.a), b: await model.read(names.b) }),
      }
    })
  })
  const adapter: NewAdapter = {
    modules,
    base: model.checkpoint.name,
    scaling: { alpha: (first?.scale ?? 1) * (first?.rank ?? 1), rslora: false },
    mixture: {
      tensors: new Map(
        routerTensors(router).map(([name, rows, columns]) => {
          const shape = name.endsWith('bias') ? [rows] : [rows, columns]
          return [routerPrefix + name, contentOf(shape, () => model.read(name))]
        }),
      ),
      config: {
        use_moe_lora: true,
        num_experts: router.experts,
        top_k: router.top,
        width_choice: JSON.stringify(widths),
        moe_mix: mix,
      },
    },
  }
  return saveAdapter(host, adapter, { ...options, dtype, inputs: [model.checkpoint] })
}

function contentOf(shape: number[], values: () => Promise<Float32Array<ArrayBuffer>>): Content {
  return {
    dtype: 'F32',
    shape,
    size: 4 * shape.reduce((product, size) => product * size, 1),
    async *bytes() {
      const { buffer } = await values()
      yield new Uint8Array(buffer)
    },
  }
}
