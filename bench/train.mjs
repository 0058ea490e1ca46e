/** Training: the kernels of the backward pass against those of the forward pass, steps against PyTorch, and memory. */
import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Engine, openModel } from '../dist/esm/index.js'
import {
  factorNames,
  formsOf,
  modelKernels,
  packedBytes,
  packTokens,
  TrainableModel,
} from '../dist/esm/runtime/index.js'
import { checkpointOf } from '../dist/esm/runtime/open_model.js'
import { installPeers, run } from './peers/install.mjs'
import { atLeast, atMost, column, leftOut, spread, targetColumn } from './results.mjs'
import { normal, writeCheckpoints } from './synthetic.mjs'

const MiB = 2 ** 20
const timer = fileURLToPath(new URL('peers/time_train.py', import.meta.url))
const child = fileURLToPath(new URL('child.mjs', import.meta.url))
const reasoner = fileURLToPath(new URL('../demo/models/base', import.meta.url))
/** Of the synthetic model, about 100 M parameters. */
const modelBytes = 200 * MiB

/** Milliseconds of dispatches, by turns, after one call of each. */
async function timesOf(engine, sizes, works, runs, writes = []) {
  return engine.use(async ({ device }) => {
    const resident = await device.allocate(sizes)
    const times = Object.fromEntries(Object.keys(works).map((name) => [name, []]))
    await device.dispatch(resident, { writes, dispatches: [], reads: [] })
    for (let round = 0; round <= runs; round++) {
      for (const [name, dispatches] of Object.entries(works)) {
        const start = performance.now()
        await device.dispatch(resident, { writes: [], dispatches, reads: [] })
        if (round > 0) times[name].push(performance.now() - start)
      }
    }
    await device.release(resident)
    return Object.fromEntries(Object.entries(times).map(([name, values]) => [name, spread(values).median]))
  })
}

async function productTable(engine, { size, runs }) {
  const [rows, inner, columns] = size < 4 * MiB ? [16, 64, 256] : [512, 1024, 1024]
  const found = []
  for (const dtype of ['BF16', 'F32']) {
    const block = { buffer: 0, dtype, first: 0, rows: columns, columns: inner }
    const gradient = { ...block, buffer: 3, dtype: 'F32' }
    const sizes = [packedBytes(block), 4 * rows * inner, 4 * rows * columns, packedBytes(gradient)]
    const forms = formsOf(await engine.use(async ({ device }) => device.info))
    const at = { rows, stride: columns, forms }
    const works = {
      forward: [modelKernels.gemm(block, 1, 2, at)],
      dX: [modelKernels.gemmTransposed(block, 2, 1, at)],
      dW: [modelKernels.gemmOuter(gradient, 2, 1, at)],
    }
    const times = await timesOf(engine, sizes, works, runs)
    for (const [name, ms] of Object.entries(times)) {
      const row = { name: `${name}, ${dtype} weights`, rate: (2 * rows * inner * columns) / ms / 1e6 }
      if (name === 'forward') found.push(row)
      else
        found.push({
          ...row,
          ratio: times.forward / ms,
          ...(name === 'dX' && dtype === 'BF16' && { target: atLeast(0.8) }),
        })
    }
  }
  return {
    title: `Products of a layer and their gradients, ${rows} x ${inner} x ${columns}`,
    about: [
      `GFLOP/s, medians of ${runs} dispatches, by turns; ratio: to the forward product. Gradients of weights are f32.`,
    ],
    columns: [
      column('name', 'product'),
      column('rate', 'GFLOP/s', 'ratio'),
      column('ratio', '÷ forward', 'ratio'),
      targetColumn('ratio'),
    ],
    rows: found,
  }
}

async function attentionTable(engine, { size, runs }) {
  const shapes =
    size < 4 * MiB
      ? [[16, 4, 2, 16]]
      : [
          [256, 16, 4, 64],
          [512, 9, 3, 64],
          [256, 32, 8, 128],
        ]
  const rows = []
  for (const [tokens, heads, numKvHeads, headSize] of shapes) {
    const forms = formsOf(await engine.use(async ({ device }) => device.info))
    const table = packTokens(Array.from({ length: tokens }, (_, row) => ({ id: 0, start: 0, row })))
    const [q, k] = [4 * tokens * heads * headSize, 4 * tokens * numKvHeads * headSize]
    const sizes = [table.byteLength, q, k, k, q, 8 * tokens * heads, q, q, k, k]
    const at = {
      rows: tokens,
      heads,
      numKvHeads,
      size: headSize,
      scale: headSize ** -0.5,
      window: 0,
      sequenceLength: 0,
      forms,
    }
    const of = { tokens: 0, q: 1, keys: 2, values: 3 }
    const works = {
      forward: [modelKernels.attention({ ...of, y: 4 }, at)],
      kept: [modelKernels.attention({ ...of, y: 4, statistics: 5 }, at)],
      backward: [
        modelKernels.attentionDelta({ y: 4, g: 6, statistics: 5 }, at),
        modelKernels.attentionQueries({ ...of, g: 6, statistics: 5, y: 7 }, at),
        modelKernels.attentionKeys({ ...of, g: 6, statistics: 5, y: 8, z: 9 }, at),
      ],
    }
    const writes = [{ buffer: 0, offset: 0, memory: new Uint8Array(table.buffer) }]
    for (const buffer of [1, 2, 3, 6]) {
      writes.push({
        buffer,
        offset: 0,
        memory: new Uint8Array(normal(sizes[buffer] / 4, 1, buffer).buffer, 0, sizes[buffer]),
      })
    }
    const { forward, kept, backward } = await timesOf(engine, sizes, works, runs, writes)
    const rate = (2 * heads * headSize * tokens * (tokens + 1)) / forward / 1e6
    rows.push({
      shape: `${tokens} tokens, ${heads} heads of ${headSize}, ${numKvHeads} KV heads`,
      ...{ rate, kept: kept / forward, ratio: backward / forward, target: atMost(4.5) },
    })
  }
  return {
    title: 'Attention and its gradient',
    about: [
      `Medians of ${runs} dispatches, by turns. kept: the forward pass that leaves the log-sum-exp for the backward pass ÷ the plain one; ratio: backward ÷ forward.`,
    ],
    columns: [
      column('shape'),
      column('rate', 'forward GFLOP/s', 'ratio'),
      column('kept', 'kept', 'ratio'),
      column('ratio', 'backward ÷ forward', 'ratio'),
      targetColumn('ratio'),
    ],
    rows,
  }
}

/** Seconds of steps on some sequences; the first one compiles. */
async function stepsOf(engine, path, method, sequences, length, count) {
  const checkpoint = await checkpointOf(engine, path)
  const { spec } = await openModel(engine, path)
  const linears = spec.language.layers.flatMap(({ ops }) =>
    ops.flatMap((op) => (op.op === 'linear' ? [op.weight] : [])),
  )
  const what =
    method === 'lora'
      ? { adapters: linears.map((weight) => ({ weight, rank: 16, scale: 2 })) }
      : { tensors: [...spec.tensors.keys()] }
  const model = await TrainableModel.open((work) => engine.use(work), checkpoint, {
    tokens: sequences * length,
    ...what,
  })
  try {
    for (const { weight } of what.adapters ?? []) {
      const { a } = factorNames(weight)
      const [rows, columns] = model.shapeOf(a)
      await model.write(a, normal(rows * columns, 0.02, 3))
    }
    const batch = Array.from({ length: sequences }, (_, i) => ({
      ids: Array.from({ length }, (_, j) => (7 * (i * length + j)) % spec.vocabulary),
      targets: Array.from({ length }, (_, j) => j > 0),
    }))
    const seconds = []
    for (let step = 1; step <= count + 1; step++) {
      const start = performance.now()
      await model.run(batch, 1 / (sequences * (length - 1)))
      const clip = Math.min(1, 1 / (await model.gradientNorm()))
      await model.step({ rate: 1e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8, clip, decay: () => 0 })
      if (step > 1) seconds.push((performance.now() - start) / 1e3)
    }
    return spread(seconds).median
  } finally {
    await model.close()
  }
}

async function stepTable(engine, options) {
  const { size, folder, say, venv } = options
  const runs = Math.min(options.runs, 3)
  const small = size < 4 * MiB
  const { paths } = await writeCheckpoints(join(folder, 'train'), Math.min(size, modelBytes), 1)
  const cases = [
    {
      name: 'LoRA r 16, synthetic 100 M',
      path: paths[0],
      method: 'lora',
      sequences: 2,
      length: small ? 8 : 256,
      least: 0.4,
    },
    {
      name: 'full, reasoner of the demo',
      path: reasoner,
      method: 'full',
      sequences: small ? 2 : 32,
      length: 16,
      least: 0.5,
    },
    { name: 'LoRA r 16, reasoner of the demo', path: reasoner, method: 'lora', sequences: small ? 2 : 32, length: 16 },
  ]
  const about = []
  let bin
  try {
    bin = await installPeers(venv, say)
  } catch (error) {
    about.push(`PyTorch is left out: ${error.message}`)
  }
  const rows = []
  for (const { name, path, method, sequences, length, least } of cases) {
    say(`train: ${name}`)
    const seconds = await stepsOf(engine, path, method, sequences, length, runs)
    const tokens = sequences * length
    const row = { name, tokens, rate: tokens / seconds }
    if (bin !== undefined) {
      const text = await run(join(bin, 'python'), [timer, path, method, sequences, length, runs].map(String), {
        env: { ...process.env, HF_HUB_OFFLINE: '1' },
      })
      const theirs = spread(JSON.parse(text.trim().split('\n').at(-1))).median
      Object.assign(row, { theirs: tokens / theirs, ratio: theirs / seconds }, least && { target: atLeast(least) })
    }
    rows.push(row)
  }
  return {
    title: 'Steps of training',
    about: [
      `Tokens a second through forward, backward, clipping and AdamW; medians of ${runs}. PyTorch: f32 on 2 threads, gradient checkpointing, the same sequences in the same run; ratio: ours ÷ theirs.`,
      ...about,
    ],
    columns: [
      column('name', 'training'),
      column('tokens', 'tokens a step', 'number'),
      column('rate', 'tokens/s', 'ratio'),
      column('theirs', 'PyTorch', 'ratio'),
      column('ratio', 'ratio', 'ratio'),
      targetColumn('ratio'),
    ],
    rows,
  }
}

/** What training took, each in a process of its own, against what the dry run says. */
async function memoryTable({ size, folder, deviceName, say }) {
  const title = 'Memory of training an adapter'
  if (process.platform !== 'linux') return leftOut(title, new Error('only Linux tells the peak of a process.'))
  const rows = []
  for (const bytes of size < 4 * MiB ? [MiB] : [32 * MiB, 96 * MiB, 192 * MiB]) {
    say(`train: memory at ${bytes / MiB} MiB`)
    const { paths, size: own } = await writeCheckpoints(join(folder, `train-${bytes}`), bytes, 1)
    const options = { device: deviceName, model: paths[0], tokens: 512 }
    const { forecast, afterOpen, peak } = JSON.parse(
      execFileSync(process.execPath, [child, 'train', JSON.stringify(options)]),
    )
    rows.push({ size: own, forecast, afterOpen, peak, ratio: peak / (forecast + afterOpen), target: atMost(1.15) })
  }
  return {
    title,
    about: [
      'forecast: bytes on the device and beside it, such as compiled kernels, as the dry run says; peak: the largest resident set (VmHWM); after open: what the process held right after Engine.open; ratio: peak ÷ (forecast + after open).',
    ],
    columns: [
      column('size', 'model', 'bytes'),
      column('forecast', 'forecast', 'bytes'),
      column('afterOpen', 'after open', 'bytes'),
      column('peak', 'peak', 'bytes'),
      column('ratio', 'ratio', 'ratio'),
      targetColumn('ratio'),
    ],
    rows,
  }
}

export async function* trainTables(options) {
  const engine = await Engine.open({ device: options.deviceName, memory: '3GiB' })
  try {
    options.say('train: kernels')
    yield await productTable(engine, options)
    yield await attentionTable(engine, options)
    yield await stepTable(engine, options)
  } finally {
    await engine.close()
  }
  yield await memoryTable(options)
}
