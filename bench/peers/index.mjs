/**
 * The same recipes on the same checkpoints by mergekit, in the same run: whole commands against each other, and the
 * merges alone, without start-up, imports and opening a device. And extracting adapters, against mergekit's command and
 * torch's randomised SVD.
 */
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Engine, merge, methods } from '../../dist/esm/index.js'
import { extracted, timeExtract, writePair } from '../lora.mjs'
import { recipeFor } from '../recipes.mjs'
import { atMost, column, leftOut, spread, targetColumn } from '../results.mjs'
import { installPeers, run } from './install.mjs'

const most = 2 ** 29
const runsAtMost = 3
const cli = fileURLToPath(new URL('../../dist/esm/cli/main.js', import.meta.url))
const extractTimer = fileURLToPath(new URL('time_extract.py', import.meta.url))
const extractBytes = 2 ** 25
const timer = fileURLToPath(new URL('time_merge.py', import.meta.url))
const cases = [
  ['linear', 2],
  ['slerp', 2],
  ['ties', 3],
]

async function seconds(work) {
  await run('sync', [])
  const start = performance.now()
  const own = await work()
  return own ?? (performance.now() - start) / 1e3
}

/** One table row: four ways to the same output, by turns. */
async function compare(engine, bin, recipe, { folder, deviceName, runs }) {
  const file = join(folder, 'recipe.yml')
  writeFileSync(file, JSON.stringify(recipe)) // JSON is YAML
  const out = join(folder, 'out')
  const offline = { env: { ...process.env, HF_HUB_OFFLINE: '1' } }
  const ways = {
    theirCommand: async () => {
      await run(join(bin, 'mergekit-yaml'), [file, out, '--quiet', '--no-copy-tokenizer'], offline)
    },
    ourCommand: async () => {
      await run(process.execPath, [cli, 'merge', file, out, '--device', deviceName])
    },
    theirMerge: async () =>
      Number((await run(join(bin, 'python'), [timer, file, out], offline)).trim().split('\n').at(-1)),
    ourMerge: async () => {
      await merge(engine, recipe, { out, checksum: 'none', sync: false })
    },
  }
  const times = Object.fromEntries(Object.keys(ways).map((way) => [way, []]))
  for (let round = 0; round < runs; round++) {
    for (const [way, work] of Object.entries(ways)) {
      rmSync(out, { recursive: true, force: true })
      times[way].push(1e3 * (await seconds(work)))
    }
  }
  rmSync(out, { recursive: true, force: true })
  return Object.fromEntries(Object.entries(times).map(([way, values]) => [way, spread(values).median]))
}

/** Whole commands that extract an adapter of rank 16; of a small model, for theirs takes minutes: an SVD a matrix. */
async function extractCommands(bin, { folder, deviceName, runs, checkpoints, say }) {
  const { paths, size } = await checkpoints(extractBytes)
  const [base, tuned] = paths
  const out = join(folder, 'out')
  const offline = { env: { ...process.env, HF_HUB_OFFLINE: '1' } }
  const theirs = ['--model', tuned, '--base-model', base, '--out-path', out, '--max-rank', '16', '--quiet']
  const ways = {
    ours: () =>
      run(process.execPath, [cli, 'lora', 'extract', base, tuned, out, '--rank', '16', '--device', deviceName]),
    theirs: () => run(join(bin, 'mergekit-extract-lora'), theirs, offline),
  }
  const times = { ours: [], theirs: [] }
  for (let round = 0; round < Math.min(runs, runsAtMost); round++) {
    for (const [way, work] of Object.entries(ways)) {
      say(`peers: extract, ${way}`)
      rmSync(out, { recursive: true, force: true })
      times[way].push(1e3 * (await seconds(async () => void (await work()))))
    }
  }
  rmSync(out, { recursive: true, force: true })
  const [ours, other] = [spread(times.ours).median, spread(times.theirs).median]
  const what = `whole command, ${(size / 2 ** 20).toFixed(0)} MiB, against mergekit-extract-lora`
  return { what, ours, theirs: other, ratio: ours / other, target: atMost(0.2) }
}

async function extractTable(bin, options) {
  const { folder, deviceName, say } = options
  const runs = Math.min(options.runs, 2 * runsAtMost)
  const rows = []
  const engine = await Engine.open({ device: deviceName })
  try {
    for (const [high, wide] of extracted) {
      say(`peers: extract ${high} × ${wide}`)
      const pair = writePair(folder, high, wide)
      const ours = []
      const theirs = []
      // By turns, a few at a time.
      for (let round = 0; round < 2; round++) {
        ours.push(...(await timeExtract(engine, pair, join(folder, 'extracted'), runs)).times)
        const lines = (await run(join(bin, 'python'), [extractTimer, ...pair, String(runs)])).trim().split('\n')
        theirs.push(...lines.slice(1).map((line) => 1e3 * Number(line)))
      }
      for (const path of pair) rmSync(path, { recursive: true })
      const [own, other] = [spread(ours).median, spread(theirs).median]
      const what = `two files of ${high} × ${wide} to an adapter, against torch.svd_lowrank`
      rows.push({ what, ours: own, theirs: other, ratio: own / other, target: atMost(2) })
    }
  } finally {
    await engine.close()
  }
  rows.push(await extractCommands(bin, options))
  return {
    title: 'Extracting an adapter of rank 16, against torch and mergekit',
    about: [
      'Medians, by turns. torch.svd_lowrank(D, q=32, niter=2) on two threads has the difference in memory already; ours reads',
      'both files and writes the folder, not synced. The command of ours opens the device and syncs the folder to disk.',
    ],
    columns: [
      column('what'),
      column('ours', 'ours', 'ms'),
      column('theirs', 'theirs', 'ms'),
      column('ratio', 'ratio', 'ratio'),
      targetColumn('ratio'),
    ],
    rows,
  }
}

export async function peerTables(options) {
  const title = 'Against mergekit 0.1.5 on the CPU'
  let bin
  try {
    bin = await installPeers(options.venv, options.say)
  } catch (error) {
    return [leftOut(title, new Error(`mergekit cannot be installed: ${error.message}`))]
  }
  const { paths, size } = await options.checkpoints(Math.min(options.size, most))
  const runs = Math.min(options.runs, runsAtMost)
  const engine = await Engine.open({ device: options.deviceName })
  const rows = []
  try {
    for (const [name, count] of cases) {
      options.say(`peers: ${name}`)
      const times = await compare(engine, bin, recipeFor(methods.get(name), paths, count), { ...options, runs })
      rows.push({
        method: name,
        checkpoints: count,
        ...times,
        command: times.ourCommand / times.theirCommand,
        merge: times.ourMerge / times.theirMerge,
        target: atMost(0.2),
      })
    }
  } finally {
    await engine.close()
  }
  return [
    {
      title,
      about: [
        `Checkpoints of ${(size / 2 ** 30).toFixed(2)} GiB in bf16, in the page cache; medians of ${runs}, by turns; our time ÷ theirs.`,
        'command: both as commands with default flags (mergekit: --quiet --no-copy-tokenizer), start-up included; our output is hashed and synced to disk, theirs is not.',
        'merge: only the merge, in a process that has loaded all it needs; no output is hashed or synced.',
      ],
      columns: [
        column('method'),
        column('checkpoints', 'checkpoints', 'number'),
        column('ourCommand', 'our command', 'ms'),
        column('theirCommand', 'their command', 'ms'),
        column('command', 'ratio', 'ratio'),
        targetColumn('command'),
        column('ourMerge', 'our merge', 'ms'),
        column('theirMerge', 'their merge', 'ms'),
        column('merge', 'ratio', 'ratio'),
        targetColumn('merge'),
      ],
      rows,
    },
    await extractTable(bin, options),
  ]
}
