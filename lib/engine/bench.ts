/** `bench`: every kernel of the registry, timed on the user's own device. */

import { bytesOf, isStorable, parseDType } from '../checkpoint/index.js'
import type { StoreDType } from '../native/border.js'
import { layout } from '../native/layouts.js'
import { kernelFolder, loadAddon } from '../native/load.js'
import { parseBytes } from '../util/bytes.js'
import { WeightsmithError, wrongOption } from '../util/errors.js'
import type { DeviceInfo, Engine } from './engine.js'
import { type KernelSpec, kernels } from './kernel_registry.js'

export interface BenchReport {
  device: DeviceInfo
  slots: 'mapped' | 'staging'
  /** Bytes read + written a second, one thread. */
  memcpy: number
  dtype: StoreDType
  /** Bytes an input. */
  size: number
  runs: number
  kernels: { kernel: string; inputs: number; bytesPerSecond: number; milliseconds: number }[]
}

const runs = 5

export interface BenchOptions {
  /** The kernel to time. Defaults to all of `kernels`. */
  kernel?: string | undefined
  /** Of the inputs: float32, float16 or bfloat16 (the default). */
  dtype?: string | undefined
  /** Of each input: bytes, or a text such as `16MiB` (the default). */
  size?: number | string | undefined
  signal?: AbortSignal | undefined
}

/** Times kernels on inputs of the bench's own. Throws ERR_WEIGHTSMITH_KERNEL for one that there is not. */
export async function bench(engine: Engine, options: BenchOptions = {}): Promise<BenchReport> {
  const size = parseBytes(options.size ?? '16MiB', 'size')
  const dtype = parseDType(options.dtype ?? 'bfloat16')
  if (dtype === undefined || !isStorable(dtype)) {
    throw wrongOption('dtype', 'float32, float16 or bfloat16', options.dtype)
  }
  const specs = options.kernel === undefined ? [...kernels.values()] : [engine.kernel(options.kernel).spec]
  const elements = Math.max(1, Math.floor(size / bytesOf(dtype)))
  const data = [fill(dtype, elements, 1), fill(dtype, elements, 2)]
  const { bytesPerSecond: memcpy } = await loadAddon().memcpyBandwidth(Math.max(2 ** 20, size))
  const report: BenchReport = {
    device: engine.device,
    slots: engine.slots,
    memcpy,
    dtype,
    size: elements * bytesOf(dtype),
    runs,
    kernels: [],
  }
  for (const spec of specs) report.kernels.push(await time(engine, spec, dtype, data, options.signal))
  return report
}

/** The WGSL of any kernel as Dawn compiles it, with its includes in place. */
export function kernelSource(kernel: string): string {
  const { kernels: names, kernelSource } = loadAddon()
  if (!names.includes(kernel)) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_KERNEL',
      `There is no kernel "${kernel}"; there are ${names.join(', ')}.`,
    )
  }
  return kernelSource(kernel, kernelFolder().kernels)
}

async function time(
  engine: Engine,
  spec: KernelSpec,
  dtype: StoreDType,
  data: Uint8Array[],
  signal: AbortSignal | undefined,
): Promise<BenchReport['kernels'][number]> {
  const count = Math.max(2, spec.inputs.min)
  const inputs = Array.from({ length: count }, (_, i) => ({ dtype, data: data[i % data.length] ?? new Uint8Array() }))
  const call = { inputs, outDtype: dtype, coefficients: spec.example(count), signal }
  const times: number[] = []
  // The first run compiles the pipeline and touches the memory.
  for (let run = 0; run <= runs; run++) {
    const { timings } = await engine.kernel(spec.name).measure(call)
    if (run > 0) times.push(timings.compute)
  }
  times.sort((a, b) => a - b)
  const median = times[Math.floor(runs / 2)] ?? 0
  const size = data[0]?.byteLength ?? 0
  const elements = size / bytesOf(dtype)
  const written = spec.writes === 'output' ? size : 4 * spec.writes(count) * Math.ceil(elements / layout.block)
  return {
    kernel: spec.name,
    inputs: count,
    bytesPerSecond: ((count * size + written) / median) * 1e3,
    milliseconds: median,
  }
}

/** Weights between 2^-7 and 2^-3 with either sign, from a small generator: no zeros, nothing that is not finite. */
function fill(dtype: StoreDType, elements: number, seed: number): Uint8Array {
  let state = seed
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state
  }
  const exponentAndSign = (bits: number, bias: number, mantissa: number) =>
    ((bits >>> 31) << (mantissa === 23 ? 31 : 15)) | ((bias - 7 + ((bits >>> 28) & 3)) << mantissa)
  if (dtype === 'F32') {
    const out = new Uint32Array(elements)
    for (let i = 0; i < elements; i++) {
      const bits = next()
      out[i] = exponentAndSign(bits, 127, 23) | ((bits >>> 4) & 0x7fffff)
    }
    return new Uint8Array(out.buffer)
  }
  const out = new Uint16Array(elements)
  const [bias, mantissa] = dtype === 'BF16' ? [127, 7] : [15, 10]
  for (let i = 0; i < elements; i++) {
    const bits = next()
    out[i] = exponentAndSign(bits, bias, mantissa) | ((bits >>> 8) & ((1 << mantissa) - 1))
  }
  return new Uint8Array(out.buffer)
}
