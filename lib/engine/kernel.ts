/**
 * One kernel called with typed arrays: a plan of a single job whose inputs and output are the caller's memory. It runs
 * through the same executor as a merge of files, so what is tested here is what merges.
 */

import { bytesOf, isLoadable, isStorable } from '../checkpoint/index.js'
import type { LoadDType, NativePlan, NativeReport, StoreDType } from '../native/border.js'
import type { Host } from '../native/host.js'
import { untilDone } from '../native/job.js'
import { throwIfAborted, WeightsmithError } from '../util/errors.js'
import { type KernelSpec, kernels } from './kernel_registry.js'

/** Typed arrays say what they hold; 16-bit and 8-bit floats come as bits, with the type beside them. */
export type KernelInput = Float32Array | Float64Array | { dtype: LoadDType; data: ArrayBufferView }

export interface KernelCall {
  /** All of one length. They must not be changed until the promise settles. */
  inputs: KernelInput[]
  /** How elements are stored. Defaults to `F32`. */
  outDtype?: StoreDType | undefined
  /** Numbers, rounded to f32; or the bits as the kernel reads them. */
  coefficients?: readonly number[] | Uint32Array | undefined
  /** WGSL override constants of the kernel. */
  constants?: Readonly<Record<string, number>> | undefined
  /** Seed of the random numbers; they also depend on `name`. Defaults to 0. */
  seed?: number | undefined
  /** The tensor's name. Defaults to the empty name. */
  name?: string | undefined
  signal?: AbortSignal | undefined
}

/** F32 as numbers, F16 and BF16 as bits, partial results as u32 words. */
export type KernelOutput = Float32Array | Uint16Array | Uint32Array

export interface KernelRun {
  output: KernelOutput
  /** NaN and Inf among the stored elements. */
  nonFinite: number
  milliseconds: number
  /** Of `milliseconds`: how long each stage was busy; they overlap. */
  timings: Omit<NativeReport['time'], 'total'>
}

/** One kernel of the registry, on the device of the engine that gave it. */
export class Kernel {
  readonly spec: KernelSpec

  constructor(
    name: string,
    private readonly use: <T>(work: (host: Host) => Promise<T>) => Promise<T>,
  ) {
    const spec = kernels.get(name)
    if (spec === undefined)
      throw kernelError(`There is no kernel "${name}"; there are ${[...kernels.keys()].join(', ')}.`)
    this.spec = spec
  }

  /** Runs the kernel and gives what it wrote. */
  async run(call: KernelCall): Promise<KernelOutput> {
    return (await this.measure(call)).output
  }

  /** The same, with the count of values that are not finite and the times of the stages. */
  async measure(call: KernelCall): Promise<KernelRun> {
    const { plan, bytes, elements } = this.plan(call)
    const { signal } = call
    throwIfAborted(signal, 'The kernel call')
    if (elements === 0) return { output: typed(bytes, call.outDtype), nonFinite: 0, ...noTime }
    return this.use(async ({ device, memory }) => {
      const { results, nonFinite, time } = await untilDone(device.run({ ...plan, memory }), signal)
      const output = this.spec.writes === 'output' ? typed(bytes, call.outDtype) : Uint32Array.from(results[0] ?? [])
      const { total, ...timings } = time
      return { output, nonFinite, milliseconds: total, timings }
    })
  }

  private plan(call: KernelCall): { plan: Omit<NativePlan, 'memory'>; bytes: Uint8Array; elements: number } {
    const { name, inputs: count, writes, constants: known } = this.spec
    const { outDtype = 'F32' } = call
    if (!isStorable(outDtype)) throw kernelError(`Kernel ${name} cannot store ${String(outDtype)}.`)
    if (call.inputs.length < count.min || call.inputs.length > count.max) {
      const range = count.min === count.max ? `${count.min}` : `${count.min} to ${count.max}`
      throw kernelError(`Kernel ${name} takes ${range} inputs, but ${call.inputs.length} were given.`)
    }
    const inputs = call.inputs.map((input, i) => describe(input, `Input ${i} of kernel ${name}`))
    const elements = inputs[0]?.elements ?? 0
    const isWhole = (i: number) => this.spec.whole?.includes(i) === true
    for (const [i, input] of inputs.entries()) {
      if (input.elements !== elements && !isWhole(i)) {
        throw kernelError(
          `Input ${i} of kernel ${name} has ${input.elements} elements, but input 0 has ${elements} of them.`,
        )
      }
    }
    for (const key of Object.keys(call.constants ?? {})) {
      if (!Object.hasOwn(known ?? {}, key)) throw kernelError(`Kernel ${name} has no constant ${key}.`)
    }
    const { seed = 0 } = call
    if (!Number.isSafeInteger(seed) || seed < 0)
      throw kernelError(`A seed is a whole number from 0 to 2^53 - 1, not ${seed}.`)
    const stores = writes === 'output'
    const bytes = new Uint8Array(stores ? bytesOf(outDtype) * elements : 0)
    const plan = {
      inputs: inputs.map(({ memory }) => ({ memory })),
      outputs: stores ? [{ memory: bytes }] : [],
      programs: [
        {
          kernels: [
            {
              kernel: name,
              writes: stores ? ('output' as const) : writes(inputs.length),
              ...(call.constants === undefined ? {} : { constants: { ...call.constants } }),
            },
          ],
        },
      ],
      jobs: [
        {
          name: call.name ?? '',
          program: 0,
          elements,
          inputs: inputs.map(({ dtype, elements: whole }, place) => ({
            place,
            offset: 0,
            dtype,
            ...(isWhole(place) ? { whole } : {}),
          })),
          variants: [
            {
              coefficients: numbers(call.coefficients ?? []),
              ...(stores ? { output: { place: 0, offset: 0, dtype: outDtype } } : {}),
            },
          ],
        },
      ],
      seed,
      checksum: false,
      sync: false,
    }
    return { plan, bytes, elements }
  }
}

const noTime = { milliseconds: 0, timings: { read: 0, compute: 0, write: 0, wait: 0, sync: 0, cpuSteps: 0 } }

function describe(input: KernelInput, what: string): { dtype: LoadDType; memory: Uint8Array; elements: number } {
  const named = 'dtype' in input
  const data = named ? input.data : input
  const dtype = named ? input.dtype : implied(data)
  if (!ArrayBuffer.isView(data) || dtype === undefined || !isLoadable(dtype)) {
    throw kernelError(`${what} should be a Float32Array, a Float64Array or { dtype, data: a typed array }.`)
  }
  const memory = new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  const elements = memory.byteLength / bytesOf(dtype)
  if (!Number.isInteger(elements)) {
    throw kernelError(`${what} has ${memory.byteLength} bytes, which is no whole number of ${dtype} elements.`)
  }
  return { dtype, memory, elements }
}

function implied(data: unknown): LoadDType | undefined {
  const tag = Object.prototype.toString.call(data)
  return tag === '[object Float32Array]' ? 'F32' : tag === '[object Float64Array]' ? 'F64' : undefined
}

/** The border carries numbers that become f32 again; the bits of a NaN would not survive that. */
function numbers(coefficients: readonly number[] | Uint32Array): number[] {
  if (!ArrayBuffer.isView(coefficients)) return [...coefficients]
  const values = [...new Float32Array(Uint32Array.from(coefficients).buffer)]
  const lost = values.findIndex((value) => Number.isNaN(value))
  if (lost < 0) return values
  throw kernelError(`Coefficient ${lost} has the bits of a NaN, which cannot be handed to a kernel called on its own.`)
}

function typed(bytes: Uint8Array, dtype: StoreDType = 'F32'): KernelOutput {
  return dtype === 'F32' ? new Float32Array(bytes.buffer) : new Uint16Array(bytes.buffer)
}

function kernelError(message: string): WeightsmithError {
  return new WeightsmithError('ERR_WEIGHTSMITH_KERNEL', message)
}
