/**
 * The router of a mixture of experts, one for the whole model: from what a subnet is to the gates of its experts, by
 * two linears without anything between them, and noise that a third one spreads (AmoebaLLM's code; noisy top-k of
 * Shazeer et al.). Its parameters are trained as any tensor is.
 */

import type { NativeDevice, NativeDispatch } from '../native/border.js'
import { type Gate, gatesOf } from './adapters.js'
import { blocksOf } from './blocks.js'
import { modelKernels as kernels } from './kernels.js'
import {
  type Block,
  backward,
  type Forms,
  formsOf,
  forward,
  type OpSpec,
  packedBytes,
  type StackContext,
  type TensorGradient,
} from './ops/index.js'

export interface RouterSpec {
  /** Elements of what describes a subnet. */
  inputs: number
  /** Width between the two linears. */
  hidden: number
  experts: number
  /** How many of them a subnet has. */
  top: number
}

/** Names of its tensors, as AmoebaLLM's code has them without its prefix. */
const linears: readonly (OpSpec & { op: 'linear'; bias: string })[] = (
  [
    ['topkroute_linear.0', 'u', 'h'],
    ['topkroute_linear.1', 'h', 'z'],
    ['noise_linear', 'u', 'n'],
  ] as const
).map(([name, x, y]) => ({ op: 'linear', x, y, weight: `router.${name}.weight`, bias: `router.${name}.bias` }))

/** The tensors of a router and their shapes. */
export function routerTensors({
  inputs,
  hidden,
  experts,
}: RouterSpec): [name: string, rows: number, columns: number][] {
  const width = { u: inputs, h: hidden, z: experts, n: experts } as Readonly<Record<string, number>>
  return linears.flatMap(({ x, y, weight, bias }): [string, number, number][] => [
    [weight, width[y] ?? 0, width[x] ?? 0],
    [bias, width[y] ?? 0, 1],
  ])
}

export class Router {
  readonly blocks: ReadonlyMap<string, Block[]>
  /** Of what describes a subnet, of noise, and of gates (then 1 for each expert that counts). */
  readonly input: number
  readonly noise: number
  readonly gates: number
  private readonly values: Readonly<Record<string, number>>
  private readonly gradients: Readonly<Record<string, number>>

  constructor(
    readonly spec: RouterSpec,
    private readonly forms: Forms,
    add: (bytes: number) => number,
  ) {
    const { inputs, hidden, experts } = spec
    this.blocks = new Map(
      routerTensors(spec).map(([name, rows, columns]) => [
        name,
        blocksOf(rows, columns, 'F32', 2 ** 25).map((block) => ({ ...block, buffer: add(packedBytes(block)) })),
      ]),
    )
    this.input = add(4 * inputs)
    this.noise = add(4 * experts)
    this.gates = add(8 * experts)
    this.values = { u: this.input, h: add(4 * hidden), z: add(4 * experts), n: add(4 * experts) }
    this.gradients = { h: add(4 * hidden), z: add(4 * experts), n: add(4 * experts), g: add(4 * experts) }
  }

  /** The gates of all experts for what describes a subnet; 0 for those that do not count. */
  async ask(
    device: NativeDevice,
    resident: number,
    input: Float32Array<ArrayBuffer>,
    noise = new Float32Array(this.spec.experts),
  ): Promise<Float32Array<ArrayBuffer>> {
    const [gates] = await device.dispatch(resident, {
      writes: [
        { buffer: this.input, offset: 0, memory: new Uint8Array(input.slice().buffer) },
        { buffer: this.noise, offset: 0, memory: new Uint8Array(noise.slice().buffer) },
      ],
      dispatches: this.forward(),
      reads: [{ buffer: this.gates, offset: 0, bytes: 4 * this.spec.experts }],
    })
    return new Float32Array((gates?.buffer ?? new ArrayBuffer(0)) as ArrayBuffer)
  }

  /** From the description of a subnet to its gates. */
  forward(): NativeDispatch[] {
    const { z: logits = 0, n: spread = 0 } = this.values
    const { noise, gates, spec } = this
    return [
      ...linears.flatMap((op) => forward(op, this.context())),
      kernels.gates({ logits, spread, noise, y: gates }, spec),
    ]
  }

  /**
   * Gradients of its tensors from sums that add up to those of gates: `parts` says where those of an expert are. The
   * linear of noise has none where there was no noise.
   */
  backward(
    sums: number,
    parts: readonly { expert: number; first: number; count: number }[],
    { noisy, trained }: { noisy: boolean; trained: (tensor: string) => TensorGradient | undefined },
  ): NativeDispatch[] {
    const { gates, noise, spec } = this
    const { n: spread = 0 } = this.values
    const { g = 0, z = 0, n = 0 } = this.gradients
    const at = (name: string) => this.gradients[name] ?? 0
    const back = (op: (typeof linears)[number]) =>
      backward(op, {
        ...this.context(),
        gradient: at,
        into: (name) => ({ buffer: at(name), add: false, wanted: name !== 'u' }),
        trained,
        moments: 0,
        buckets: () => ({ buffer: 0, count: 0 }),
        statistics: 0,
      })
    return [
      ...parts.map(({ expert, first, count }) => kernels.total(sums, g, { first, count, at: expert })),
      kernels.gatesGradient({ gates, spread, noise, g, y: z, z: n }, spec),
      ...linears.toReversed().flatMap((op) => (op.y === 'n' && !noisy ? [] : back(op))),
    ]
  }

  private context(): StackContext {
    return {
      rows: 1,
      attention: { heads: 1, numKvHeads: 1, headSize: 1, sequenceLength: 0 },
      forms: this.forms,
      tokens: 0,
      angles: undefined,
      cache: { keys: 0, values: 0 },
      activation: (name) => this.values[name] ?? 0,
      width: () => 0,
      blocks: (tensor) => this.blocks.get(tensor) ?? [],
    }
  }
}

/** The gates of a router that belongs to no model on the device, without noise; `values`: of its tensors. */
export async function gatesOfRouter(
  device: NativeDevice,
  { router: spec, values }: { router: RouterSpec; values: ReadonlyMap<string, Float32Array> },
  description: Float32Array<ArrayBuffer>,
): Promise<Gate[]> {
  const sizes: number[] = []
  const add = (bytes: number) => sizes.push(Math.max(16, bytes)) - 1
  const router = new Router(spec, formsOf(device.info), add)
  const staging = add(4 * Math.max(...routerTensors(spec).map(([, rows, columns]) => rows * columns)))
  const resident = await device.allocate(sizes)
  try {
    for (const [name, blocks] of router.blocks) {
      for (const block of blocks) {
        const { first, rows, columns } = block
        const own = Float32Array.from(values.get(name)?.subarray(first * columns, (first + rows) * columns) ?? [])
        await device.dispatch(resident, {
          writes: [{ buffer: staging, offset: 0, memory: new Uint8Array(own.buffer) }],
          dispatches: [kernels.packWeights(staging, block)],
          reads: [],
        })
      }
    }
    return gatesOf(await router.ask(device, resident, description))
  } finally {
    await device.release(resident)
  }
}
