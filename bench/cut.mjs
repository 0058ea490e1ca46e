/**
 * Sixteen shapes cut from one model against plain copies of the outputs. What is cut is chosen at random, which is the
 * hardest case for columns: hardly any neighbours stay together.
 */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { modelSpec } from '../dist/esm/architectures/index.js'
import { amoebaCut, Engine } from '../dist/esm/index.js'
import { checkpointOf } from '../dist/esm/runtime/open_model.js'
import { fingerprint } from '../dist/esm/score/index.js'
import { writeStrategy } from '../dist/esm/workflows/amoeba/index.js'
import { copy, timed } from './merge.mjs'
import { atMost, column, spread, targetColumn } from './results.mjs'

const most = 2 ** 29
const mostRuns = 3
const widths = [1, 7 / 8, 3 / 4, 5 / 8]

/** A strategy that was measured on nothing; gives its depths, four of them. */
async function writeRandom(path, checkpoint) {
  const spec = modelSpec(checkpoint.config, checkpoint.tensors, checkpoint.name)
  const { layers } = spec.language
  let state = 1
  const chance = () => {
    state = Math.imul(state, 1103515245) + 12345
    return ((state >>> 8) & 0xffff) / 0x10000
  }
  const unitsAt = (ratio) =>
    layers.flatMap(({ units }, layer) =>
      units.map(({ kind, count, columns }) => {
        const kept = Array.from({ length: count }, () => ratio === 1 || chance() < ratio)
        if (!kept.includes(true)) kept[0] = true
        return { layer, kind, kept, columns }
      }),
    )
  const biases = (units) =>
    new Map(
      units.flatMap(({ kept, columns }) =>
        kept.includes(false)
          ? columns.map(({ tensor }) => [tensor, new Float32Array(checkpoint.tensors.get(tensor).shape[0]).fill(0.01)])
          : [],
      ),
    )
  const removed = Math.floor(layers.length / 3)
  const masks = Array.from({ length: removed + 1 }, (_, m) =>
    layers.map((_, block) => block < layers.length - 1 - m || block === layers.length - 1),
  )
  const row = masks.map(() => Number.NaN)
  const rows = layers.map((_, n) => row.slice(0, n + 1))
  const lines = { file: '', sha256: '', examples: 0, tokens: 0 }
  const strategy = {
    model: { name: checkpoint.name, fingerprint: await fingerprint(checkpoint) },
    layers: layers.length,
    depth: {
      ...{ order: 'deepest', metric: 'nll', keepLast: 1, masks, values: row },
      table: { values: rows, tried: rows, masks: rows.map((cells) => cells.map(() => masks[0])) },
    },
    widths: widths.map((ratio) => {
      const units = unitsAt(ratio)
      return { ratio, units: units.map(({ columns: _, ...own }) => own), biases: biases(units) }
    }),
    origin: { weightsmith: '', device: '', data: lines, calibration: lines, seed: 0 },
  }
  await writeStrategy(path, strategy, spec)
  return [0, 1, 2, 3].map((i) => layers.length - Math.round((i * removed) / 3))
}

export async function cutTables({ deviceName, checkpoints, folder, runs, say, size }) {
  const { paths, size: bytes } = await checkpoints(Math.min(size, most))
  const [out, copied, strategy] = ['cut', 'cut-copies', 'cut.strategy'].map((name) => join(folder, name))
  const engine = await Engine.open({ device: deviceName })
  const depths = await writeRandom(strategy, await checkpointOf(engine, paths[0]))
  const [cuts, copies, processor] = [[], [], []]
  let report
  const count = Math.min(runs, mostRuns)
  try {
    for (let round = 0; round < count; round++) {
      say(`cut: round ${round + 1} of ${count}`)
      const before = process.cpuUsage()
      const { seconds, result } = await timed(() => amoebaCut(engine, paths[0], { out, strategy, depths, widths }))
      processor.push(process.cpuUsage(before).user / 1e6)
      cuts.push(seconds)
      report = result
      const plain = await timed(() => {
        for (const [i, shape] of report.shapes.entries())
          copy(join(shape.out, 'model.safetensors'), join(copied, `${i}`))
      })
      copies.push(plain.seconds)
      for (const used of [out, copied]) rmSync(used, { recursive: true })
    }
  } finally {
    await engine.close()
  }
  const row = {
    shapes: report.shapes.length,
    ms: 1e3 * spread(cuts).median,
    processor: 1e3 * spread(processor).median,
    read: report.bytesRead / bytes,
    ratio: spread(cuts).median / spread(copies).median,
    copied: report.bytesWritten / spread(copies).median,
    target: atMost(1.3),
  }
  return [
    {
      title: 'Shapes cut from one model against copies of the outputs',
      about: [
        `A checkpoint of ${(bytes / 2 ** 30).toFixed(2)} GiB in bf16, depths ${depths.join(', ')}, widths 1, 7/8, 3/4, 5/8; ` +
          `medians of ${count}, by turns; outputs hashed, and synced to disk.`,
      ],
      columns: [
        column('shapes', 'shapes', 'number'),
        column('ms', 'time', 'ms'),
        column('processor', 'of the processor (user)', 'ms'),
        column('read', 'bytes read ÷ model', 'ratio'),
        column('ratio', '÷ copies', 'ratio'),
        column('copied', 'the copies', 'rate'),
        targetColumn('ratio'),
      ],
      rows: [row],
    },
  ]
}
