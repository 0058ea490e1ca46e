/**
 * Unlearning by neurons on the trained model of test/goldens/tiny-llava: what hook points add to a forward pass, by
 * turns, and how long a run takes that measures its four streams and writes a checkpoint.
 */
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Engine, manu } from '../dist/esm/index.js'
import { ColumnStatistics } from '../dist/esm/runtime/index.js'
import { checkpointOf, modelOf } from '../dist/esm/runtime/open_model.js'
import { modulesOf } from '../dist/esm/workflows/manu/neurons.js'
import { groupsOf, overStream } from '../dist/esm/workflows/manu/statistics.js'
import { manuBatches, readStreams } from '../dist/esm/workflows/manu/streams.js'
import { timed } from './merge.mjs'
import { atMost, column, spread, targetColumn } from './results.mjs'

const model = fileURLToPath(new URL('../test/goldens/tiny-llava', import.meta.url))
const data = (...names) => names.map((name) => join(model, 'data', `${name}.jsonl`))
const sources = {
  forget: data('forget_multimodal', 'forget_text'),
  retain: data('retain_multimodal', 'retain_text'),
}

/** Seconds of the processor where it is the device, which other processes do not disturb; else those of the clock. */
async function costOf(software, work) {
  if (!software) return (await timed(work)).seconds
  const before = process.cpuUsage()
  await work()
  const { user, system } = process.cpuUsage(before)
  return (user + system) / 1e6
}

/** Times of the forward passes of a stream, with and without hook points on all linears of MLPs. */
async function tapped(engine, stream, runs) {
  const cost = (work) => costOf(engine.device.type === 'cpu', work)
  const checkpoint = await checkpointOf(engine, model)
  const open = modelOf(engine, checkpoint, { batchTokens: 1024 })
  const passes = []
  for await (const pass of manuBatches(open, stream.rows, { end: [], batch: 1 })) passes.push(pass)
  // The tower's layers behind those that its features come from are only run to be measured: that is no cost of hook
  // points.
  const modules = modulesOf(open.spec, false).filter(
    ({ tower, layer }) => tower === 'language' || (stream.kind === 'multimodal' && layer < open.spec.vision.layers),
  )
  const observersOf = ({ lines, images }) => {
    const groups = { language: groupsOf(lines, 'stream', 4), vision: groupsOf(images, 'stream', 4) }
    const measures = modules.map(({ neurons, hook, tower }) =>
      overStream(new ColumnStatistics(neurons)).measure(hook, groups[tower], 0.1),
    )
    return [{ statistics: () => measures }]
  }
  const walk = async (watched) => {
    // With losses, so that both kinds of run have the head.
    const losses = () => undefined
    for (const pass of passes) {
      await open.layerwisePass([pass.tokens], { losses, observers: watched ? observersOf(pass) : [] })
    }
  }
  // A model is loaded anew with its gear, so each kind of run has one open.
  const plain = []
  const hooks = []
  for (let round = 0; round < runs; round++) {
    for (const [watched, times] of [
      [false, plain],
      [true, hooks],
    ]) {
      await walk(watched)
      times.push(await cost(() => walk(watched)))
    }
  }
  await open.close()
  return {
    plain: spread(plain).median,
    ratio: spread(hooks).median / spread(plain).median,
    tokens: passes.reduce((sum, { tokens }) => sum + tokens.length, 0),
  }
}

export async function manuTables({ deviceName, folder, runs, say }) {
  const engine = await Engine.open({ device: deviceName })
  const out = join(folder, 'manu')
  try {
    const checkpoint = await checkpointOf(engine, model)
    const { measured } = await readStreams(
      engine,
      { model: modelOf(engine, checkpoint, { batchTokens: 1 }), checkpoint },
      sources,
      { seed: 0 },
    )
    const rows = []
    for (const stream of measured.filter(({ set }) => set === 'forget')) {
      say(`manu: hooks on ${stream.kind} lines`)
      const { plain, ratio, tokens } = await tapped(engine, stream, Math.min(runs, 5))
      rows.push({
        what: `hooks, ${stream.kind} lines (${tokens} tokens)`,
        ms: 1e3 * plain,
        ratio,
        target: atMost(1.15),
      })
    }
    say('manu: a whole run')
    const { seconds } = await timed(() => manu(engine, model, { ...sources, layers: 'all', evaluate: false, out }))
    rmSync(out, { recursive: true })
    rows.push({ what: 'four streams, scores and output', ms: 1e3 * seconds })
    return [
      {
        title: 'Unlearning by neurons',
        about: [
          'tiny-llava in f32. Forward passes without hooks, and what hooks on all linears of the MLPs add; times of passes are of',
          'the processor where that is the device.',
        ],
        columns: [
          column('what', 'work'),
          column('ms', 'time', 'ms'),
          column('ratio', 'with hooks ÷ without', 'ratio'),
          targetColumn('ratio'),
        ],
        rows,
      },
    ]
  } finally {
    await engine.close()
  }
}
