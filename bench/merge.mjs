/**
 * Merges of synthetic checkpoints against a plain copy of one of them, both with their output on disk in the end. All
 * rows of a table take turns, so that what else the machine does hits them alike.
 */
import { spawnSync } from 'node:child_process'
import { closeSync, fsyncSync, mkdirSync, openSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { Engine, merge, methods } from '../dist/esm/index.js'
import { checkpointsOf, recipeFor } from './recipes.mjs'
import { atMost, column, spread, targetColumn } from './results.mjs'

/** Rows with a target: method, checkpoints merged (the base included), times the copy. */
const headline = [
  ['linear', 2, atMost(1.15)],
  ['slerp', 2, atMost(1.5)],
  ['ties', 2, atMost(4)],
  ['ties', 3, atMost(4)],
  ['dare_linear', 2, atMost(2)],
  ['dare_linear', 3, atMost(2)],
]
/** What has no target is measured less often, the other methods on smaller checkpoints too: some take minutes. */
const otherRuns = 3
const otherBytes = 2 ** 28

function command(...args) {
  const { status, stderr, error } = spawnSync(args[0], args.slice(1), { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${args.join(' ')} failed: ${error?.message ?? stderr.trim()}`)
}

/** Seconds that `work` takes, with nothing of earlier work still on its way to disk. */
export async function timed(work) {
  command('sync')
  const start = performance.now()
  const result = await work()
  return { seconds: (performance.now() - start) / 1e3, result }
}

export function copy(from, folder) {
  mkdirSync(folder, { recursive: true })
  const to = join(folder, 'model.safetensors')
  command('cp', '--reflink=never', from, to)
  const file = openSync(to, 'r+')
  fsyncSync(file)
  closeSync(file)
}

async function rounds(engine, cases, { checkpoints, folder, runs, say }) {
  const out = join(folder, 'out')
  const copies = []
  const measured = cases.map(() => [])
  const fresh = () => rmSync(out, { recursive: true, force: true })
  for (let round = 0; round < runs; round++) {
    say(`merge: round ${round + 1} of ${runs}`)
    fresh()
    copies.push((await timed(() => copy(join(checkpoints.paths[0], 'model.safetensors'), out))).seconds)
    for (const [i, { recipe, checksum }] of cases.entries()) {
      fresh()
      const { seconds, result } = await timed(() => merge(engine, recipe, { out, checksum }))
      measured[i].push({ seconds, result })
    }
  }
  fresh()
  return { copy: spread(copies), measured }
}

function rowOf(item, measured, copied, bytes) {
  const times = spread(measured.map(({ seconds }) => seconds))
  const { result } = measured.find(({ seconds }) => seconds === times.median)
  return {
    method: item.method.name,
    checkpoints: item.count,
    checksum: item.checksum,
    ms: 1e3 * times.median,
    ratio: times.median / copied.median,
    copied: bytes / copied.median,
    min: times.min / copied.median,
    max: times.max / copied.median,
    ...result.timings,
    tiles: result.tiles,
    ...(item.target ? { target: item.target } : {}),
  }
}

const columns = [
  column('method'),
  column('checkpoints', 'checkpoints', 'number'),
  column('checksum'),
  column('ms', 'time', 'ms'),
  column('ratio', '÷ copy', 'ratio'),
  column('copied', 'the copy', 'rate'),
  column('min', 'min', 'ratio'),
  column('max', 'max', 'ratio'),
  ...['read', 'compute', 'cpuSteps', 'write', 'wait', 'sync'].map((stage) => column(stage, stage, 'ms')),
  targetColumn('ratio'),
]

function about(copied, checkpoints, runs) {
  const seconds = (value) => `${value.toFixed(2)} s`
  return [
    `Checkpoints of ${(checkpoints.size / 2 ** 30).toFixed(2)} GiB in bf16, in the page cache; output synced to disk; median, min and max of ${runs}, by turns.`,
    `Copy of one input and fsync: ${seconds(copied.median)} (${seconds(copied.min)} to ${seconds(copied.max)}); the ratios divide by its median.`,
    'Stages are the busy times of the run with the median time; they overlap. Engine.open and process start-up are not in these times.',
  ]
}

export async function* mergeTables(options) {
  const { runs, deviceName } = options
  const checkpoints = await options.checkpoints()
  const smaller = await options.checkpoints(Math.min(options.size, otherBytes))
  const engine = await Engine.open({ device: deviceName })
  const few = Math.min(runs, otherRuns)
  const withTarget = (checksum) =>
    headline.map(([name, count, limit]) => {
      const method = methods.get(name)
      const recipe = recipeFor(method, checkpoints.paths, count)
      return { method, count, recipe, checksum, ...(checksum === 'none' ? { target: limit } : {}) }
    })
  try {
    const { others, left } = await otherMethods(engine, smaller.paths, options.folder)
    const parts = [
      { title: 'Merges against a copy', cases: withTarget('none'), runs, checkpoints },
      { title: 'The same with checksums', cases: withTarget('outputs'), runs: few, checkpoints },
      { title: 'Every other method', cases: others, runs: few, checkpoints: smaller, left },
    ]
    for (const { title, left = [], ...part } of parts) {
      const result = await rounds(engine, part.cases, { ...options, ...part })
      yield {
        title,
        about: [...about(result.copy, part.checkpoints, part.runs), ...left],
        columns,
        rows: part.cases.map((item, i) => rowOf(item, result.measured[i], result.copy, part.checkpoints.size)),
      }
    }
  } finally {
    await engine.close()
  }
}

async function otherMethods(engine, paths, folder) {
  const others = []
  const left = []
  for (const method of methods.values()) {
    if (headline.some(([name]) => name === method.name)) continue
    try {
      const recipe = recipeFor(method, paths)
      await merge(engine, recipe, { out: join(folder, 'out'), dryRun: true })
      others.push({ method, count: checkpointsOf(method), recipe, checksum: 'none' })
    } catch (error) {
      left.push(`${method.name} is left out: ${error.message}`)
    }
  }
  return { others, left }
}
