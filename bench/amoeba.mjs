/**
 * The search for depths of AmoebaLLM on the reasoner: how long it takes, and against the passes of the whole model that
 * its blocks amount to.
 */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { amoebaStrategy, Engine, evaluate } from '../dist/esm/index.js'
import { timed } from './merge.mjs'
import { atMost, column, spread, targetColumn } from './results.mjs'

const path = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url))
const model = path('demo/models/base')
const data = path('test/goldens/tasks/calibration.jsonl')

export async function amoebaTables({ deviceName, folder, runs, say }) {
  const engine = await Engine.open({ device: deviceName })
  const out = join(folder, 'strategy')
  try {
    const [seconds, ratios] = [[], []]
    let found
    for (let run = 0; run < Math.min(runs, 5); run++) {
      say(`amoeba: search ${run + 1}`)
      const whole = (await timed(() => evaluate(engine, model, { data }))).seconds
      found = await amoebaStrategy(engine, model, { data, out, overwrite: true, minDepth: 4 })
      seconds.push(found.timings.depth / 1e3)
      ratios.push(found.timings.depth / 1e3 / ((whole * found.blockPasses) / found.layers))
    }
    rmSync(out)
    const { cells, blockPasses, examples } = found
    return [
      {
        title: 'Strategies of AmoebaLLM',
        about: [
          `The reasoner in bf16, ${examples} lines, ${cells} masks, ${blockPasses} passes through a block.`,
          'A pass of the whole model is an evaluation of the same lines, which loads the model too.',
        ],
        columns: [
          column('what', 'work'),
          column('seconds', 'time, s', 'ratio'),
          column('ratio', '÷ passes of the whole model', 'ratio'),
          targetColumn('seconds'),
        ],
        rows: [
          {
            what: 'search for depths',
            seconds: spread(seconds).median,
            ratio: spread(ratios).median,
            target: atMost(6),
          },
        ],
      },
    ]
  } finally {
    await engine.close()
  }
}
