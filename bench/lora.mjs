/**
 * Folding a LoRA adapter into a model against a plain copy of the model, both with their output on disk in the end. The
 * adapter has factors of every linear of the model, as float32.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Engine, foldAdapters } from '../dist/esm/index.js'
import { loadAddon } from '../dist/esm/native/load.js'
import { copy, timed } from './merge.mjs'
import { atMost, column, spread, targetColumn } from './results.mjs'
import { normal } from './synthetic.mjs'

const ranks = [8, 16, 64]
const most = 2 ** 30
const mostRuns = 3

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
  const text = JSON.stringify(header)
  const head = Buffer.from(text.padEnd(8 * Math.ceil(text.length / 8)))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(head.length))
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'adapter_model.safetensors'), Buffer.concat([length, head, ...parts]))
  writeFileSync(
    join(folder, 'adapter_config.json'),
    JSON.stringify({ peft_type: 'LORA', r: rank, lora_alpha: 2 * rank }),
  )
  return linears.length
}

export async function loraTables({ deviceName, checkpoints, folder, runs, say, size }) {
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
    for (const { adapter } of rows) rmSync(adapter, { recursive: true })
  }
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
  ]
}
