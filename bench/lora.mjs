/**
 * Folding a LoRA adapter into a model against a plain copy of the model, both with their output on disk in the end, and
 * the memory that takes; the adapter has factors of every linear of the model, as float32. And extracting an adapter
 * from two matrices.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Engine, extractAdapter, foldAdapters } from '../dist/esm/index.js'
import { loadAddon } from '../dist/esm/native/load.js'
import { copy, timed } from './merge.mjs'
import { child } from './processes.mjs'
import { atMost, column, leftOut, spread, targetColumn } from './results.mjs'
import { normal, toBf16 } from './synthetic.mjs'

const ranks = [8, 16, 64]
const most = 2 ** 30
const mostRuns = 3
const MiB = 2 ** 20
/** Matrices that adapters are extracted from. */
export const extracted = [
  [2048, 2048],
  [4096, 1024],
]

function safetensors(header, parts) {
  const text = JSON.stringify(header)
  const head = Buffer.from(text.padEnd(8 * Math.ceil(text.length / 8)))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(head.length))
  return Buffer.concat([length, head, ...parts])
}

/**
 * Two models of one linear in bf16, whose difference is noise over 24 directions that fall as 1 / k. Gives their
 * folders.
 */
export function writePair(folder, rows, columns) {
  const [base, noise] = [normal(rows * columns, 0.02, 1), normal(rows * columns, 5e-4, 2)]
  const [left, right] = [normal(rows * 24, 1, 3), normal(columns * 24, 1, 4)]
  const tuned = base.map((value, at) => {
    const [i, j] = [Math.floor(at / columns), at % columns]
    let sum = value + noise[at]
    for (let k = 0; k < 24; k++) sum += (1e-3 / (k + 1)) * left[24 * i + k] * right[24 * j + k]
    return sum
  })
  return [base, tuned].map((values, i) => {
    const path = join(folder, i === 0 ? 'one-base' : 'one-tuned')
    mkdirSync(path, { recursive: true })
    const name = 'model.layers.0.mlp.up_proj.weight'
    const header = { [name]: { dtype: 'BF16', shape: [rows, columns], data_offsets: [0, 2 * values.length] } }
    writeFileSync(join(path, 'model.safetensors'), safetensors(header, [Buffer.from(toBf16(values).buffer)]))
    writeFileSync(join(path, 'config.json'), JSON.stringify({ model_type: 'llama', num_hidden_layers: 1 }))
    return path
  })
}

/** Milliseconds from two files to an adapter of rank 16, as the library reports them. */
export async function timeExtract(engine, [base, tuned], out, runs) {
  const times = []
  let residual = 0
  for (let i = 0; i <= runs; i++) {
    const report = await extractAdapter(engine, base, tuned, { out, rank: 16, sync: false, overwrite: true })
    // The first round compiles the kernels.
    if (i > 0) times.push(report.milliseconds)
    residual = report.residual / report.norm
  }
  rmSync(out, { recursive: true })
  return { times, residual }
}

async function extractTable({ deviceName, folder, runs, say }) {
  const rows = []
  const engine = await Engine.open({ device: deviceName })
  try {
    for (const [high, wide] of extracted) {
      say(`lora: extract ${high} × ${wide}`)
      const pair = writePair(folder, high, wide)
      const { times, residual } = await timeExtract(engine, pair, join(folder, 'extracted'), runs)
      const { median, min } = spread(times)
      rows.push({ matrix: `${high} × ${wide}`, ms: median, min, residual })
      for (const path of pair) rmSync(path, { recursive: true })
    }
  } finally {
    await engine.close()
  }
  return {
    title: 'Extracting an adapter of rank 16',
    about: [
      `From two files in bf16 to the folder of the adapter, not synced; medians of ${runs}, without opening a device.`,
    ],
    columns: [
      column('matrix'),
      column('ms', 'time', 'ms'),
      column('min', 'min', 'ms'),
      column('residual', 'residual ÷ ‖Δ‖', 'ratio'),
    ],
    rows,
  }
}

function memoryTable({ deviceName, folder, say }, model, adapter) {
  const title = 'Peak memory of a fold'
  if (process.platform !== 'linux') return leftOut(title, new Error('only Linux tells the peak of a process.'))
  const out = join(folder, 'folded')
  const rows = [256 * MiB, 1024 * MiB].map((budget) => {
    say(`lora: memory, budget ${budget / MiB} MiB`)
    const found = child('memory', { device: deviceName, model, adapters: [adapter], out, budget })
    rmSync(out, { recursive: true })
    return { budget, ...found, target: atMost(budget + found.afterOpen + 64 * MiB) }
  })
  return {
    title,
    about: [
      'Rank 16, of the same model. The target is the budget, what the process held right after Engine.open, and 64 MiB.',
      'peak is the largest resident set (VmHWM), anonymous the largest part of it without files (RssAnon, sampled every 5 ms).',
    ],
    columns: [
      column('budget', 'budget', 'bytes'),
      column('afterOpen', 'after open', 'bytes'),
      column('peak', 'peak', 'bytes'),
      column('anonymous', 'anonymous', 'bytes'),
      targetColumn('peak', 'bytes'),
    ],
    rows,
  }
}

/** An adapter of every linear in the layers of the model. */
async function writeAdapter(folder, model, rank) {
  const { tensors } = await loadAddon().readHeader(join(model, 'model.safetensors'))
  const linears = tensors.filter(({ name, shape }) => name.startsWith('model.layers.') && shape.length === 2)
  const pool = normal(2 ** 20, 0.01, rank)
  const header = {}
  const parts = []
  let end = 0
  const add = (name, shape) => {
    const elements = shape[0] * shape[1]
    header[`base_model.model.${name}`] = { dtype: 'F32', shape, data_offsets: [end, end + 4 * elements] }
    end += 4 * elements
    parts.push(Buffer.from(pool.buffer, 0, 4 * elements))
  }
  for (const { name, shape } of linears) {
    const module = name.replace(/\.weight$/, '')
    add(`${module}.lora_A.weight`, [rank, shape[1]])
    add(`${module}.lora_B.weight`, [shape[0], rank])
  }
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'adapter_model.safetensors'), safetensors(header, parts))
  writeFileSync(
    join(folder, 'adapter_config.json'),
    JSON.stringify({ peft_type: 'LORA', r: rank, lora_alpha: 2 * rank }),
  )
  return linears.length
}

export async function loraTables(options) {
  const { deviceName, checkpoints, folder, runs, say, size } = options
  const { paths, size: bytes } = await checkpoints(Math.min(size, most))
  const [model] = paths
  const out = join(folder, 'folded')
  const count = Math.min(runs, mostRuns)
  const copies = []
  const rows = []
  for (const rank of ranks) {
    const adapter = join(folder, `adapter-${rank}`)
    rows.push({ rank, adapter, linears: await writeAdapter(adapter, model, rank), folds: [] })
  }
  const engine = await Engine.open({ device: deviceName })
  const fold = ({ adapter }) => foldAdapters(engine, model, { adapters: [adapter], out, checksum: 'none' })
  try {
    for (let round = 0; round <= count; round++) {
      say(`lora: round ${round} of ${count}`)
      const copied = await timed(() => copy(join(model, 'model.safetensors'), out))
      rmSync(out, { recursive: true })
      // The first round compiles the kernels.
      if (round > 0) copies.push(copied.seconds)
      for (const row of rows) {
        const { seconds, result } = await timed(() => fold(row))
        rmSync(out, { recursive: true })
        if (round > 0) row.folds.push({ seconds, result })
      }
    }
  } finally {
    await engine.close()
  }
  const memory = memoryTable(options, model, rows.find(({ rank }) => rank === 16).adapter)
  for (const { adapter } of rows) rmSync(adapter, { recursive: true })
  const extract = await extractTable(options)
  const copied = spread(copies).median
  return [
    {
      title: 'Folding an adapter against a copy of the model',
      about: [
        `A checkpoint of ${(bytes / 2 ** 30).toFixed(2)} GiB in bf16, ${rows[0].linears} linears, factors in float32; output ` +
          `synced to disk, no checksums; medians of ${count}, by turns.`,
        `Copy of the model and fsync: ${copied.toFixed(2)} s, ${(bytes / copied / 1e9).toFixed(2)} GB/s.`,
      ],
      columns: [
        column('rank', 'rank', 'number'),
        column('ms', 'time', 'ms'),
        column('ratio', '÷ copy', 'ratio'),
        column('compute', 'compute', 'ms'),
        column('changed', 'elements changed', 'ratio'),
        targetColumn('ratio'),
      ],
      rows: rows.map(({ rank, folds }) => {
        const seconds = spread(folds.map((one) => one.seconds)).median
        const { folded, timings } = folds[0].result
        return {
          rank,
          ms: 1e3 * seconds,
          ratio: seconds / copied,
          compute: timings.compute,
          changed: folded.changed / folded.elements,
          ...(rank === 16 ? { target: atMost(1.8) } : {}),
        }
      }),
    },
    memory,
    extract,
  ]
}
