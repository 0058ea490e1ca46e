/**
 * `npm run soak`: whether a process that goes on working goes on growing. One process and one engine, which is never
 * reopened, and no collection is forced. Merges of five methods in turn, every seventh one aborted; then a model
 * opened, run, scored, evaluated, continued and closed, again and again. Once each part is warm, what the process holds
 * may grow by so much until its end; the exit code is 1 where it grows more. Then trainings are killed, in processes of
 * their own (kills.mjs).
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Command, InvalidArgumentError } from 'commander'
import { Engine, evaluate, generate, merge, openModel, openScores, score } from '../dist/esm/index.js'
import { killTrainings } from './kills.mjs'

const MiB = 2 ** 20
/** How often what the process holds is looked at, in merges and in rounds of models. */
const steps = { merges: 50, models: 10 }
/** After so many, or half of them, the caches of V8, of the allocator and of the driver are full. */
const warmAfter = { merges: 200, models: 60 }
/** Every so many merges and continuations are aborted under way. */
const abortEvery = 7

const demo = fileURLToPath(new URL('../demo', import.meta.url))
const base = join(demo, 'models/base')
const models = [1, 2, 3].map((round) => join(demo, `models/improved-${round}`))
const data = join(demo, 'tasks/id_test.jsonl')

function count(text) {
  const value = Number(text)
  if (Number.isInteger(value) && value >= 0) return value
  throw new InvalidArgumentError('It should be a whole number from 0.')
}

const flags = new Command('npm run soak --')
  .description('Merge, score, evaluate and generate in one process for long, and see whether it grows.')
  .option('--merges <number>', 'merges in turn', count, 600)
  .option('--rounds <number>', 'models opened and closed in turn', count, 120)
  .option('--kills <number>', 'processes that train and are killed', count, 20)
  .option('--methods <names>', 'of the merges', 'linear,ties,dare_ties,della,breadcrumbs')
  .option('--memory <size>', 'what the buffers of a run may take together', '256MiB')
  .option('--growth <MiB>', 'most growth of a part once it is warm', count, 24)
  .option('--device <name>', "auto, discrete, integrated, cpu, or a part of the device's name")
  .option('--json', 'print one JSON document')
  .addHelpText('after', '\nExample:\n  npm run soak -- --merges 200 --rounds 120 --device swiftshader')
  .parse()
  .opts()

const say = (text) => {
  if (!flags.json) console.log(text)
}

const folder = mkdtempSync(join(tmpdir(), 'weightsmith-soak-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(130))

const methods = flags.methods.split(',')

function recipe(method) {
  // What only takes all weights refuses a density, and a base that it does not need.
  const linear = method === 'linear'
  const parameters = linear ? { weight: 1 / 3 } : { weight: 1 / 3, density: 0.5 }
  return {
    merge_method: method,
    ...(linear ? {} : { base_model: base }),
    models: models.map((model) => ({ model, parameters })),
    dtype: 'bfloat16',
  }
}

/** Milliseconds that each kind of work takes when it is not aborted. */
const takes = new Map()

/**
 * Does `work`, aborted where it is the turn of `i`: at another point each time, so that reading, computing and writing
 * are all interrupted. Gives whether it was.
 */
async function aborting(i, kind, work) {
  const abort = new AbortController()
  const time = takes.get(kind)
  const turn = i % abortEvery === 0 && time !== undefined
  const timer = turn ? setTimeout(() => abort.abort(), (time * (1 + ((i / abortEvery) % 8))) / 10) : undefined
  const begin = performance.now()
  try {
    await work(abort.signal)
    takes.set(kind, performance.now() - begin)
    return false
  } catch (error) {
    if (error.code !== 'ERR_WEIGHTSMITH_ABORTED') throw error
    return true
  } finally {
    clearTimeout(timer)
  }
}

function mergeOnce(engine, i) {
  const method = methods[i % methods.length]
  const out = join(folder, 'merged')
  return aborting(i, method, (signal) =>
    merge(engine, recipe(method), { out, overwrite: true, seed: i, sync: false, signal }),
  )
}

async function modelOnce(engine, i) {
  const model = await openModel(engine, base, { batchTokens: 64 })
  await model.run(model.pack([[1, 2, 3, 4 + (i % 8)]]), { logits: true })
  await model.close()
  const out = join(folder, 'scores.safetensors')
  await score(engine, base, { methods: ['flap', 'bi'], data, limit: 4, seed: i, out, overwrite: true })
  await openScores(engine, out, base)
  await evaluate(engine, base, { data, metric: 'exact-match', limit: 4 })
  await evaluate(engine, base, { data, metric: 'ppl', limit: 4 })
  const prompts = ['785+60=', '12+833=', '96+246=']
  const sampling = { temperature: 1, samples: 1 + (i % 3), seed: i, maxTokens: 8 }
  return aborting(i, 'generate', (signal) => generate(engine, base, prompts, { ...sampling, signal }))
}

/** Runs `once` so many times; gives what the process held (bytes) on the way and by how much it grew. */
async function part(name, times, once) {
  const step = Math.min(steps[name], Math.ceil(times / 4))
  const samples = []
  let aborted = 0
  for (let i = 1; i <= times; i++) {
    if (await once(i)) aborted++
    if (i % step !== 0 && i !== times) continue
    const resident = process.memoryUsage.rss()
    samples.push({ done: i, resident })
    say(`${name}: ${String(i).padStart(4)} of ${times}, ${(resident / MiB).toFixed(1)} MiB resident`)
  }
  const [warm, ...later] = samples.filter(({ done }) => done >= Math.min(warmAfter[name], times / 2))
  const growth = Math.max(0, ...later.map(({ resident }) => resident - warm.resident))
  const passed = growth <= flags.growth * MiB
  say(
    `${name}: ${times}, ${aborted} of them aborted; grew by ${(growth / MiB).toFixed(1)} MiB after the first ${warm.done}, ` +
      `at most ${flags.growth}: ${passed ? 'passed' : 'FAILED'}`,
  )
  return { name, times, aborted, samples, growth, most: flags.growth * MiB, passed }
}

const engine = await Engine.open({ device: flags.device, memory: flags.memory })
const device = engine.device.name
say(`device: ${device}`)
const parts = []
if (flags.merges > 0) parts.push(await part('merges', flags.merges, (i) => mergeOnce(engine, i)))
if (flags.rounds > 0) parts.push(await part('models', flags.rounds, (i) => modelOnce(engine, i)))
if (flags.kills > 0) parts.push(await killTrainings(engine, { count: flags.kills, folder, device: flags.device, say }))
await engine.close()

const passed = parts.every((each) => each.passed)
if (flags.json) console.log(JSON.stringify({ device, memory: flags.memory, methods, parts, passed }, null, 2))
else say(`soak: ${passed ? 'passed' : 'FAILED'}`)
process.exitCode = passed ? 0 : 1
