/**
 * Does one-for-all fine-tuning show on the demo's reasoner? Sixteen shapes (8 to 5 blocks, widths 1, 7/8, 3/4, 5/8),
 * greedy answers to the first lines of five test files, learned from lines that no file of the demo has.
 */

import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { amoebaEval, amoebaStrategy, amoebaTrain, Engine } from '../dist/esm/index.js'
import { chosen, keep, known } from './cells.mjs'
import { freshLines, promptsIn } from './tasks.mjs'

const model = 'demo/models/base'
const tests = ['id', 'ood_sub', 'ood_reverse', 'ood_sort', 'ood_max'].map((task) => `demo/tasks/${task}_test.jsonl`)
const depths = [8, 7, 6, 5]
const widths = [1, 7 / 8, 3 / 4, 5 / 8]
const batch = 32

/** A mixture counts alpha / rank = 2 times, as one LoRA does. Rates are those that a search on other lines gave. */
const mixture = { experts: 5, rank: 8, alpha: 16, rate: 1e-3 }
const single = { experts: 1, rank: 40, alpha: 80, rate: 6e-4 }

/** What is trained, and how shapes are measured. */
const cells = {
  masks: { bias: false },
  'masks-compensated': {},
  ...Object.fromEntries([1, 2, 3].map((seed) => [`smol-${seed}`, { train: { ...mixture, seed } }])),
  ...Object.fromEntries([1, 2, 3].map((seed) => [`lora-${seed}`, { train: { ...single, seed } }])),
  'lora-rank-8': { train: { ...single, rank: 8, alpha: 16, rate: 1.5e-3, seed: 1 } },
  'smol-no-balance': { train: { ...mixture, balance: false, seed: 1 } },
  'smol-targets-only': { train: { ...mixture, teacherShare: 0, seed: 1 } },
  'smol-own-label': { train: { ...mixture, teacherMask: 'own-label', seed: 1 } },
  'smol-no-noise': { train: { ...mixture, noise: false, seed: 1 } },
  'smol-output': { train: { ...mixture, mix: 'output', seed: 1 } },
}

export async function amoeba({ cells: asked, out, steps, limit, device, list }) {
  const names = chosen(Object.keys(cells), asked)
  const settingsOf = (name) => ({ ...cells[name], limit, ...(cells[name].train && { steps, batch }) })
  const found = new Map(Object.keys(cells).map((name) => [name, known(out, name, settingsOf(name))]))
  if (list) {
    for (const name of Object.keys(cells)) console.log(`${found.get(name) ? 'done   ' : 'to do  '} ${name}`)
    return
  }
  const engine = await Engine.open({ device })
  const stop = new AbortController()
  process.once('SIGINT', () => stop.abort())
  const { signal } = stop
  try {
    const strategy = join(out, 'base.strategy')
    if (!existsSync(strategy)) {
      const data = 'demo/tasks/calibration.jsonl'
      await amoebaStrategy(engine, model, { data, out: strategy, metric: 'nll', minDepth: 4, widths, signal })
    }
    const data = join(out, `train-${steps * batch}.jsonl`)
    if (!existsSync(data)) {
      const lines = freshLines(steps * batch, 1, promptsIn('demo/tasks'))
      writeFileSync(data, lines.map((line) => `${JSON.stringify(line)}\n`).join(''))
    }
    for (const name of names) {
      if (found.get(name)) continue
      const settings = settingsOf(name)
      const { train, bias } = settings
      const adapter = train && join(out, name)
      const begin = performance.now()
      const shown = show(name)
      if (adapter !== undefined && !existsSync(adapter)) {
        const common = { out: adapter, data, strategy, steps, batch, minDepth: depths.at(-1) }
        const resumable = { resume: true, saveEvery: 20, log: `${adapter}.jsonl` }
        await amoebaTrain(engine, model, { ...common, ...resumable, ...train, signal, onProgress: shown })
      }
      const trained = performance.now()
      const report = await amoebaEval(engine, model, {
        ...{ strategy, adapter, bias, data: tests, depths, widths, limit, maxTokens: 9, signal, onProgress: shown },
      })
      const shapes = report.shapes.map(({ depth, width, accuracy, sets }) => ({
        ...{ depth, width, accuracy, tasks: sets.map((set) => set.accuracy) },
      }))
      const seconds = { train: (trained - begin) / 1e3, eval: (performance.now() - trained) / 1e3 }
      const command = `npm run papers -- amoeba --cells ${name} --steps ${steps} --limit ${limit}`
      const cell = { command, settings, device: engine.device.name, seconds, shapes }
      keep(out, name, cell)
      found.set(name, cell)
      process.stderr.write('\r\x1b[K')
      console.log(
        `${name}: ${seconds.train.toFixed(0)} s of training, ${seconds.eval.toFixed(0)} s of measuring; ${command}`,
      )
    }
  } finally {
    await engine.close()
  }
  print(found, limit)
}

/** One line of progress, where somebody sees it. */
function show(name) {
  if (!process.stderr.isTTY) return undefined
  return ({ phase, done, total, item }) =>
    process.stderr.write(`\r\x1b[K${name}: ${phase} ${done} of ${total} ${item ?? ''}`)
}

/** The table in Markdown: means over shapes in percent, with standard errors over prompts. */
function print(found, limit) {
  const percent = (value) => (100 * value).toFixed(1)
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length
  const prompts = limit * tests.length
  console.log('\n| cell | mean | (8, 1) | (6, 3/4) | (5, 5/8) | seconds |')
  console.log('| --- | --- | --- | --- | --- | --- |')
  for (const [name, cell] of found) {
    if (cell === undefined) continue
    const at = (depth, width) => {
      const { accuracy } = cell.shapes.find((shape) => shape.depth === depth && shape.width === width)
      return `${percent(accuracy)} ± ${percent(Math.sqrt((accuracy * (1 - accuracy)) / prompts))}`
    }
    const all = percent(mean(cell.shapes.map(({ accuracy }) => accuracy)))
    const { train, eval: measured } = cell.seconds
    console.log(
      `| ${name} | ${all} | ${at(8, 1)} | ${at(6, 0.75)} | ${at(5, 0.625)} | ${train.toFixed(0)} + ${measured.toFixed(0)} |`,
    )
  }
}
