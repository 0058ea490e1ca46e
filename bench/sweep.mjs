/**
 * A sweep against copies of as many outputs: k results from one read of the inputs should cost what writing them costs.
 */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { Engine, merge } from '../dist/esm/index.js'
import { copy, timed } from './merge.mjs'
import { atMost, column, spread, targetColumn } from './results.mjs'

const points = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
const most = 2 ** 29
const mostRuns = 3

export async function sweepTables({ deviceName, checkpoints, folder, runs, say, size }) {
  const { paths, size: bytes } = await checkpoints(Math.min(size, most))
  const out = join(folder, 'sweep')
  const engine = await Engine.open({ device: deviceName })
  const recipe = {
    merge_method: 'linear',
    models: paths.slice(0, 2).map((model) => ({ model, parameters: { weight: 0.5 } })),
    parameters: { normalize: false },
    sweep: { 'models[0].parameters.weight': points },
  }
  const copies = []
  const sweeps = []
  let read = 0
  const count = Math.min(runs, mostRuns)
  try {
    for (let round = 0; round < count; round++) {
      say(`sweep: round ${round + 1} of ${count}`)
      const copied = await timed(() => {
        for (const [i] of points.entries()) copy(join(paths[0], 'model.safetensors'), join(out, `${i}`))
      })
      copies.push(copied.seconds)
      rmSync(out, { recursive: true })
      const { seconds, result } = await timed(() => merge(engine, recipe, { out, checksum: 'none' }))
      sweeps.push(seconds)
      read = result.bytesRead
      rmSync(out, { recursive: true })
    }
  } finally {
    await engine.close()
  }
  const row = {
    k: points.length,
    ms: 1e3 * spread(sweeps).median,
    ratio: spread(sweeps).median / spread(copies).median,
    copied: (points.length * bytes) / spread(copies).median,
  }
  return [
    {
      title: 'A sweep against copies of its outputs',
      about: [
        `Two checkpoints of ${(bytes / 2 ** 30).toFixed(2)} GiB, linear, medians of ${count}, by turns; outputs synced to disk.`,
      ],
      columns: [
        column('k', 'outputs', 'number'),
        column('ms', 'time', 'ms'),
        column('read', 'bytes read ÷ inputs', 'ratio'),
        column('ratio', '÷ copies', 'ratio'),
        column('copied', 'the copies', 'rate'),
        targetColumn('ratio'),
      ],
      rows: [{ ...row, read: read / (2 * bytes), target: atMost(1.15) }],
    },
  ]
}
