/**
 * Kernels called with typed arrays: bytes read + written a second, as a share of what one thread's memcpy reads and
 * writes. `compute` is the stage of the report in which the device works, and is what the target is about; `call` is
 * all a caller waits for, with the copies into and out of the device's buffers.
 */
import { Engine, kernels, lowRankResidual, thinProduct } from '../dist/esm/index.js'
import { loadAddon } from '../dist/esm/native/load.js'
import { atLeast, column, leftOut, spread, targetColumn } from './results.mjs'
import { normal, toBf16 } from './synthetic.mjs'
import { timeCalls } from './timing.mjs'

const MiB = 2 ** 20
const headline = { kernel: 'linear', dtype: 'BF16', bytes: 128 * MiB }
const usual = 32 * MiB

const targets = [
  [/llvmpipe/i, atLeast(0.3)],
  [/swiftshader/i, atLeast(0.1)],
]

/** Some weights, repeated: kernels take as long for any finite values. */
function inputs(dtype, bytes, count) {
  return Array.from({ length: count }, (_, i) => {
    const some = normal(Math.min(bytes / 4, MiB), 0.02, i + 1)
    const values = dtype === 'BF16' ? toBf16(some) : some
    const data = new Uint8Array(bytes)
    const pattern = new Uint8Array(values.buffer, 0, Math.min(bytes, values.byteLength))
    for (let at = 0; at < bytes; at += pattern.length) data.set(pattern.subarray(0, bytes - at), at)
    return { dtype, data }
  })
}

async function measure(engine, { kernel: name, dtype, bytes }, memcpyBytes, runs) {
  const kernel = engine.kernel(name)
  const { spec } = kernel
  const count = Math.min(spec.inputs.max, Math.max(2, spec.inputs.min))
  const call = { inputs: inputs(dtype, bytes, count), outDtype: dtype, coefficients: spec.example(count) }
  const first = await kernel.measure(call) // compiles the pipeline and touches the memory
  const compute = []
  const { bytesPerSecond: memcpy } = await loadAddon().memcpyBandwidth(Math.max(4 * MiB, memcpyBytes))
  const calls = await timeCalls(async () => compute.push((await kernel.measure(call)).timings.compute), {
    samples: runs,
    single: true,
  })
  const moved = count * bytes + first.output.byteLength
  const share = (ms) => ((moved / ms) * 1e3) / memcpy
  const times = spread(compute)
  return {
    kernel: name,
    dtype,
    inputs: count,
    inputBytes: bytes,
    rate: (moved / times.median) * 1e3,
    compute: share(times.median),
    min: share(times.max),
    max: share(times.min),
    call: share(spread(calls).median),
    memcpy,
  }
}

/** Thin products of a matrix, as `extractAdapter` runs them: 32 columns, or rank 16. */
async function measureThin(engine, dtype, memcpyBytes, runs) {
  const [rows, columns, width, rank] = [2048, 2048, 32, 16]
  const bytes = rows * columns * (dtype === 'BF16' ? 2 : 4)
  const [data] = inputs(dtype, bytes, 1)
  const matrix = { data, rows, columns }
  const { bytesPerSecond: memcpy } = await loadAddon().memcpyBandwidth(Math.max(4 * MiB, memcpyBytes))
  const [x, a, b] = [columns * width, rank * columns, rows * rank].map((length, i) => normal(length, 0.02, i + 3))
  const ways = [
    ['thin_product', width, () => thinProduct(engine, matrix, x)],
    ['thin_product (transposed)', width, () => thinProduct(engine, matrix, x, { transposed: true })],
    ['low_rank_residual', rank, () => lowRankResidual(engine, matrix, { a, b })],
  ]
  const rowsOf = []
  for (const [name, thin, call] of ways) {
    await call()
    const times = spread(await timeCalls(call, { samples: runs, single: true }))
    // Each number of the matrix is read once more as f32, besides the thin matrices.
    const moved = bytes + 4 * rows * columns + 8 * thin * (rows + columns)
    const share = (ms) => ((moved / ms) * 1e3) / memcpy
    rowsOf.push({ kernel: name, dtype, inputs: 2, inputBytes: bytes, memcpy, call: share(times.median) })
  }
  return rowsOf
}

const columns = [
  column('kernel'),
  column('dtype'),
  column('inputs', 'inputs', 'number'),
  column('inputBytes', 'an input', 'bytes'),
  column('rate', 'compute', 'rate'),
  column('memcpy', 'memcpy', 'rate'),
  column('compute', 'compute ÷ memcpy', 'ratio'),
  column('min', 'min', 'ratio'),
  column('max', 'max', 'ratio'),
  column('call', 'call ÷ memcpy', 'ratio'),
  targetColumn('compute'),
]

async function deviceTable(engine, { size, runs, say }) {
  const { name: device } = engine.device
  const small = (bytes) => Math.min(bytes, Math.max(8192, 16 * Math.floor(size / 16)))
  const target = targets.find(([name]) => name.test(device))?.[1]
  const rows = []
  const add = async (item, extra = {}) => {
    say(`kernels: ${item.kernel} ${item.dtype} on ${device}`)
    rows.push({
      ...(await measure(engine, { ...item, bytes: small(item.bytes) }, small(headline.bytes), runs)),
      ...extra,
    })
  }
  await add(headline, target ? { target } : {})
  const left = []
  for (const name of kernels.keys()) {
    for (const dtype of ['BF16', 'F32']) {
      try {
        await add({ kernel: name, dtype, bytes: usual })
      } catch (error) {
        left.push(`${name} ${dtype} is left out: ${error.message}`)
      }
    }
  }
  for (const dtype of ['BF16', 'F32']) {
    say(`kernels: thin products, ${dtype} on ${device}`)
    rows.push(...(await measureThin(engine, dtype, small(headline.bytes), runs)))
  }
  return {
    title: `Kernels on ${device}`,
    about: [
      `Bytes read and written a second, as a share of memcpy (one thread, read and written); median, min and max of ${runs} calls.`,
      'compute is the time the device works, rounding and finite count included, and is what the target is about; call is all a caller waits for, and for thin products the reading of the matrix too.',
      ...left,
    ],
    columns,
    rows,
  }
}

/** One table a device: the one in use and the bundled SwiftShader, or only the one asked for. */
export async function kernelTables(options) {
  const tables = []
  for (const device of new Set([options.deviceName, ...(options.device ? [] : ['SwiftShader'])])) {
    let engine
    try {
      engine = await Engine.open({ device })
    } catch (error) {
      tables.push(leftOut(`Kernels on ${device}`, error))
      continue
    }
    try {
      if (tables.some(({ title }) => title === `Kernels on ${engine.device.name}`)) continue
      tables.push(await deviceTable(engine, options))
    } finally {
      await engine.close()
    }
  }
  return tables
}
