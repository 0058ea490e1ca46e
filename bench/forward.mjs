/**
 * Forward passes: products of matrices against the frozen baseline of gemm.wgsl, by turns; of one row against memcpy;
 * the ops of test/ops.cases.ts, each on a shape that they name; and prefill and decode of a synthetic LLaMA, with the
 * same by transformers on the CPU where pip can install it.
 */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Engine, generateIds, openModel } from '../dist/esm/index.js'
import { loadAddon } from '../dist/esm/native/load.js'
import { packParameters } from '../dist/esm/native/parameters.js'
import { formsOf, modelKernels, packedBytes } from '../dist/esm/runtime/index.js'
import { compileTests } from '../scripts/compile_tests.mjs'
import { installPeers, run } from './peers/install.mjs'
import { atLeast, column, leftOut, spread, targetColumn } from './results.mjs'
import { normal, toBf16, writeCheckpoints } from './synthetic.mjs'

const MiB = 2 ** 20
const timer = fileURLToPath(new URL('peers/time_forward.py', import.meta.url))
const dtypes = ['BF16', 'F16', 'F32']
/** Of the synthetic model, about 100 M parameters. */
const modelBytes = 200 * MiB
const prompt = 512
const steps = 16

const bytesOf = ({ buffer, byteOffset, byteLength }) => new Uint8Array(buffer, byteOffset, byteLength)

/** Small normal f16 numbers: the bits of 2^-6 to 2^-3 with random mantissas. */
function half(values) {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  return Uint16Array.from(bits, (word) => ((word >>> 16) & 0x8000) | 0x2400 | ((word >>> 8) & 0xfff))
}

const packed = { BF16: toBf16, F16: half, F32: (values) => values }

/** Products of `rows` of x with a matrix: ours for each type, and the baseline. Calls `time(name, work)` to measure. */
async function products(engine, [rows, inner, columns], time) {
  await engine.use(async ({ device }) => {
    const forms = formsOf(device.info)
    const { lanes } = forms
    const values = normal(inner * columns, 0.02, 1)
    const x = normal(rows * inner, 1, 2)
    const blocks = dtypes.map((dtype, i) => ({ buffer: 3 + i, dtype, first: 0, rows: columns, columns: inner }))
    const sizes = [4 * values.length, x.byteLength, 4 * rows * columns, ...blocks.map(packedBytes)]
    const resident = await device.allocate(sizes)
    const dispatch = (dispatches, writes = []) => device.dispatch(resident, { writes, dispatches, reads: [] })
    const write = (buffer, content) => ({ buffer, offset: 0, memory: bytesOf(content) })
    await dispatch([], [write(1, x)])
    for (const block of blocks) {
      await dispatch([modelKernels.packWeights(0, block)], [write(0, packed[block.dtype](values))])
    }
    const works = Object.fromEntries(
      blocks.map((block) => [block.dtype, modelKernels.gemm(block, 1, 2, { rows, stride: columns, forms })]),
    )
    if (rows % 8 === 0 && lanes > 0) {
      works.baseline = {
        kernel: 'bench/gemm',
        constants: { SUBGROUP: lanes },
        parameters: packParameters('bench/gemm', { rows, inner, columns }),
        buffers: [0, 1, 2],
        grid: [columns / 4 / lanes, rows / 8, 1],
      }
    }
    await time(Object.fromEntries(Object.entries(works).map(([name, work]) => [name, () => dispatch([work])])))
    await device.release(resident)
  })
}

/** Milliseconds of each work, by turns, after one call of each. */
async function byTurns(works, runs) {
  const times = Object.fromEntries(Object.keys(works).map((name) => [name, []]))
  for (let round = 0; round <= runs; round++) {
    for (const [name, work] of Object.entries(works)) {
      const start = performance.now()
      await work()
      if (round > 0) times[name].push(performance.now() - start)
    }
  }
  return times
}

async function gemmTable(engine, { size, runs }) {
  const shape = size < 4 * MiB ? [16, 64, 256] : [512, 1024, 1024]
  const rows = []
  await products(engine, shape, async (works) => {
    const times = await byTurns(works, runs)
    const rate = (ms) => (2 * shape.reduce((a, b) => a * b)) / ms / 1e6
    // Devices without subgroups have no baseline.
    const base = times.baseline ? spread(times.baseline).median : undefined
    for (const [name, values] of Object.entries(times)) {
      const { median, min } = spread(values)
      rows.push({
        name: name === 'baseline' ? 'baseline, F32' : `gemm, ${name}`,
        rate: rate(median),
        best: rate(min),
        ...(base === undefined ? {} : { ratio: base / median }),
        ...(base === undefined || name === 'baseline' ? {} : { target: atLeast(1.2) }),
      })
    }
  })
  return {
    title: `Products of matrices, ${shape.join(' x ')}`,
    about: [
      `GFLOP/s, median and best of ${runs} dispatches, by turns; ratio: to the median of the frozen baseline (8 rows of one vec4 of columns an invocation, f32 weights [in, out]), which is to reach 18 on two idle cores.`,
    ],
    columns: [
      column('name', 'kernel'),
      column('rate', 'GFLOP/s', 'ratio'),
      column('best', 'best', 'ratio'),
      column('ratio', '÷ baseline', 'ratio'),
      targetColumn('ratio'),
    ],
    rows: rows.reverse(),
  }
}

async function gemvTable(engine, { size, runs }) {
  const side = size < 4 * MiB ? 256 : 4096
  const rows = []
  await products(engine, [1, side, side], async (works) => {
    const copies = []
    const memcpy = async () => {
      const { bytesPerSecond } = await loadAddon().memcpyBandwidth(Math.max(4 * MiB, 2 * side * side))
      copies.push(bytesPerSecond)
    }
    const { memcpy: _, ...times } = await byTurns({ ...works, memcpy }, runs)
    const { median: copied } = spread(copies)
    for (const [name, values] of Object.entries(times)) {
      const bytes = side * side * (name === 'F32' ? 4 : 2)
      const rate = (bytes / spread(values).median) * 1e3
      rows.push({ dtype: name, bytes, rate, memcpy: copied, ratio: rate / copied, target: atLeast(0.3) })
    }
  })
  return {
    title: `One row times a matrix, ${side} x ${side}`,
    about: [
      `Bytes of weights read a second, median of ${runs}, as a share of memcpy (one thread, read and written), by turns.`,
    ],
    columns: [
      column('dtype'),
      column('bytes', 'matrix', 'bytes'),
      column('rate', 'rate', 'rate'),
      column('memcpy', 'memcpy', 'rate'),
      column('ratio', '÷ memcpy', 'ratio'),
      targetColumn('ratio'),
    ],
    rows,
  }
}

/** Each op once: its dispatches on the buffers of its case, which the tests compare with float64. */
async function opTable(engine, { size, runs }) {
  await compileTests()
  const { opCases } = await import('../build/test/ops.cases.js')
  const rows = []
  for (const { bench, dtypes } of opCases) {
    if (bench === undefined) continue
    // The type that most checkpoints have, where there are weights.
    const dtype = dtypes.at(-1)
    const { buffers, prepare = [], dispatches } = bench.make(size < 4 * MiB, dtype)
    const sizes = buffers.map((content) => (typeof content === 'number' ? content : content.byteLength))
    const times = await engine.use(async ({ device }) => {
      const resident = await device.allocate(sizes)
      const writes = buffers.flatMap((content, buffer) =>
        typeof content === 'number' ? [] : [{ buffer, offset: 0, memory: bytesOf(content) }],
      )
      await device.dispatch(resident, { writes, dispatches: prepare, reads: [] })
      const works = dispatches(formsOf(device.info))
      const { op } = await byTurns(
        { op: () => device.dispatch(resident, { writes: [], dispatches: works, reads: [] }) },
        runs,
      )
      await device.release(resident)
      return op
    })
    const { median, min } = spread(times)
    rows.push({ op: bench.op, dtype: dtypes.length > 1 ? dtype : '', median, best: min })
  }
  return {
    title: 'Ops',
    about: [`Milliseconds a call, median and best of ${runs}, each with the way to the device and back.`],
    columns: [column('op'), column('dtype', 'weights'), column('median', 'median', 'ms'), column('best', 'best', 'ms')],
    rows,
  }
}

/** Seconds of prefill and decode by transformers, or why there are none. */
async function theirs(path, tokens, count, runs, { venv, say }) {
  try {
    const bin = await installPeers(venv, say)
    say('forward: transformers')
    const args = [timer, path, tokens, count, runs].map(String)
    const text = await run(join(bin, 'python'), args, { env: { ...process.env, HF_HUB_OFFLINE: '1' } })
    const { prefill, decode } = JSON.parse(text.trim().split('\n').at(-1))
    return { prefill: spread(prefill).median, decode: spread(decode).median }
  } catch (error) {
    return { problem: error.message }
  }
}

async function modelTable(engine, options) {
  const { size, folder, say } = options
  const runs = Math.min(options.runs, 3)
  const small = size < 4 * MiB
  const [tokens, count] = small ? [16, 2] : [prompt, steps]
  const home = join(folder, 'forward')
  say('forward: writing the synthetic model')
  const { paths, size: bytes } = await writeCheckpoints(home, Math.min(size, modelBytes), 1)
  const rows = []
  const about = [
    `A synthetic LLaMA of ${(bytes / 2e6).toFixed(0)} M parameters in bf16; medians of ${runs}; loading is not counted.`,
  ]
  try {
    const model = await openModel(engine, paths[0], { batchTokens: 2 * tokens, cache: 8 * (tokens + count) })
    const ids = Array.from({ length: tokens }, (_, i) => (7 * i) % model.spec.vocabulary)
    const wants = { eosTokenIds: new Set() }
    const timed = async (sequences, length, most) => {
      const prompts = Array.from({ length: sequences }, () => ids.slice(0, length))
      const start = performance.now()
      await generateIds(model, prompts, { ...wants, maxTokens: most })
      return (performance.now() - start) / 1e3
    }
    say('forward: prefill and decode')
    await timed(1, tokens, 2)
    const sample = { prefill: [], decode: [], eight: [] }
    for (let i = 0; i < runs; i++) {
      const prefill = await timed(1, tokens, 1)
      sample.prefill.push(prefill)
      sample.decode.push(Math.max(1e-6, (await timed(1, tokens, 1 + count)) - prefill))
      const short = await timed(8, 8, 1)
      sample.eight.push(Math.max(1e-6, (await timed(8, 8, 1 + count)) - short))
    }
    await model.close()
    const peer = await theirs(paths[0], tokens, count, runs, options)
    if (peer.problem !== undefined) about.push(`transformers is left out: ${peer.problem}`)
    const row = (what, done, seconds, their) => ({
      what,
      rate: done / seconds,
      ...(their === undefined ? {} : { their: done / their, ratio: their / seconds }),
    })
    rows.push(
      row(`prefill of ${tokens} tokens`, tokens, spread(sample.prefill).median, peer.prefill),
      row(`decode after ${tokens} tokens`, count, spread(sample.decode).median, peer.decode),
      row('decode of 8 sequences', 8 * count, spread(sample.eight).median),
    )
  } finally {
    rmSync(home, { recursive: true, force: true })
  }
  return {
    title: 'Prefill and decode',
    about: [
      ...about,
      'transformers: PyTorch on the CPU, weights in f32, the same model in the same run; ratio: our tokens a second ÷ theirs.',
    ],
    columns: [
      column('what', 'what'),
      column('rate', 'tokens/s', 'ratio'),
      column('their', 'transformers', 'ratio'),
      column('ratio', 'ratio', 'ratio'),
    ],
    rows,
  }
}

export async function* forwardTables(options) {
  let engine
  try {
    engine = await Engine.open({ device: options.deviceName, memory: '3GiB' })
  } catch (error) {
    yield leftOut('Forward passes', error)
    return
  }
  try {
    options.say('forward: products of matrices')
    yield await gemmTable(engine, options)
    yield await gemvTable(engine, options)
    options.say('forward: ops')
    yield await opTable(engine, options)
    yield await modelTable(engine, options)
  } finally {
    await engine.close()
  }
}
