/** What it takes before work begins: Engine.open in fresh processes, and the smallest kernel calls. */
import { spawnSync } from 'node:child_process'
import { Engine } from '../dist/esm/index.js'
import { child } from './processes.mjs'
import { atMost, column, spread, targetColumn } from './results.mjs'
import { timeCalls } from './timing.mjs'

export async function openTables(options) {
  const { runs, deviceName, say } = options
  say('open: fresh processes')
  child('open', { device: deviceName }) // fills the pipeline cache
  const opened = Array.from({ length: runs }, () => child('open', { device: deviceName }))
  const node = Array.from({ length: runs }, () => {
    const start = performance.now()
    spawnSync(process.execPath, ['-e', '0'])
    return performance.now() - start
  })
  say('open: kernel call')
  const row = (what, values, target) => ({ what, ...spread(values), ...(target ? { target } : {}) })
  const of = (key) => opened.map((one) => one[key])
  const rows = [
    row('Engine.open', of('open'), atMost(150)),
    row('first kernel call, its pipeline in the cache', of('firstCall')),
    row('import of the package', of('imported')),
    row('start of an empty Node process', node),
    row('kernel call of 1 KiB', await smallCalls(deviceName, runs), atMost(0.3)),
  ]
  return [
    {
      title: 'Opening, and small calls',
      about: [`Median, min and max of ${runs}; each Engine.open in a fresh process.`],
      columns: [
        column('what', 'what'),
        column('median', 'time', 'ms'),
        column('min', 'min', 'ms'),
        column('max', 'max', 'ms'),
        targetColumn('median', 'ms'),
      ],
      rows,
    },
  ]
}

/** `linear` on two inputs of 1 KiB. */
async function smallCalls(device, runs) {
  const engine = await Engine.open({ device })
  try {
    const kernel = engine.kernel('linear')
    const inputs = [new Float32Array(256).fill(1), new Float32Array(256).fill(2)]
    const call = () => kernel.run({ inputs, coefficients: [0.3, 0.7] })
    await call()
    return await timeCalls(call, { samples: runs })
  } finally {
    await engine.close()
  }
}
