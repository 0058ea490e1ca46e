/**
 * The same recipes on the same checkpoints by mergekit, in the same run: whole commands against each other, and the
 * merges alone, without start-up, imports and opening a device.
 */
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Engine, merge, methods } from '../../dist/esm/index.js'
import { recipeFor } from '../recipes.mjs'
import { atMost, column, leftOut, spread, targetColumn } from '../results.mjs'
import { installPeers, run } from './install.mjs'

const most = 2 ** 29
const runsAtMost = 3
const cli = fileURLToPath(new URL('../../dist/esm/cli/main.js', import.meta.url))
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
  ]
}
