/**
 * `npm run bench`: every figure the project promises, as ratios measured in one run. Nothing here fails on a time; a
 * missed target is printed as missed.
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Command, InvalidArgumentError, Option } from 'commander'
import { Engine } from '../dist/esm/index.js'
import { parseBytes } from '../dist/esm/util/bytes.js'
import { amoebaTables } from './amoeba.mjs'
import { batchTables } from './batch.mjs'
import { cutTables } from './cut.mjs'
import { forwardTables } from './forward.mjs'
import { kernelTables } from './kernels.mjs'
import { loopTables } from './loop.mjs'
import { loraTables } from './lora.mjs'
import { machineFacts } from './machine.mjs'
import { manuTables } from './manu.mjs'
import { memoryTables } from './memory.mjs'
import { mergeTables } from './merge.mjs'
import { openTables } from './open.mjs'
import { peerTables } from './peers/index.mjs'
import { asText, resultsPage } from './results.mjs'
import { scoreTables } from './score.mjs'
import { sweepTables } from './sweep.mjs'
import { writeCheckpoints } from './synthetic.mjs'
import { trainTables } from './train.mjs'

/** In this order: the kernels come last, because they open the bundled driver, which stays visible to the process. */
const groups = {
  open: openTables,
  loop: loopTables,
  memory: memoryTables,
  merge: mergeTables,
  sweep: sweepTables,
  lora: loraTables,
  cut: cutTables,
  batch: batchTables,
  forward: forwardTables,
  train: trainTables,
  manu: manuTables,
  amoeba: amoebaTables,
  score: scoreTables,
  peers: peerTables,
  kernels: kernelTables,
}

function whole(text) {
  const value = Number(text)
  if (Number.isInteger(value) && value > 0) return value
  throw new InvalidArgumentError('It should be a whole number from 1.')
}

function size(text) {
  try {
    return parseBytes(text, 'size')
  } catch (error) {
    throw new InvalidArgumentError(error.message)
  }
}

const program = new Command('npm run bench --')
  .description(
    'Print the figures of this machine: kernels, merges, sweeps, LoRA, shapes, batches, forward passes, training, memory, event loop, opening, Python peers.',
  )
  .addOption(new Option('--only <group...>', 'only these groups').choices(Object.keys(groups)))
  .option('--size <size>', 'of a synthetic checkpoint; also the most a kernel is given', size, 2 ** 31)
  .option('--runs <number>', 'measurements a figure', whole, 7)
  .option('--device <name>', "auto, discrete, integrated, cpu, or a part of the device's name")
  .option('--folder <path>', 'where the synthetic checkpoints go (default: a temporary folder)')
  .option('--venv <path>', "where the Python peers are installed (default: the user's cache folder)")
  .option('--json', 'print one JSON document')
  .addOption(new Option('--write', 'put these groups into bench/RESULTS.md').conflicts('size'))
  .addHelpText('after', '\nExample:\n  npm run bench -- --only merge --size 512MiB --runs 3')
  .parse()
const flags = program.opts()

/** What is going on, for people who wait. */
const say = (text) => {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
}

async function probe() {
  const engine = await Engine.open({ device: flags.device })
  try {
    return engine.device
  } finally {
    await engine.close()
  }
}

if (flags.folder !== undefined) mkdirSync(flags.folder, { recursive: true })
const folder = mkdtempSync(join(flags.folder ?? tmpdir(), 'weightsmith-bench-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(130))

const device = await probe()
const written = new Map()
const options = {
  ...flags,
  folder,
  say,
  deviceName: device.name,
  /** A base and two siblings of `bytes` each, written when the first group asks for them. */
  checkpoints: (bytes = flags.size) => {
    if (!written.has(bytes)) {
      say('writing the synthetic checkpoints')
      written.set(bytes, writeCheckpoints(join(folder, `checkpoints-${bytes}`), bytes, 3))
    }
    return written.get(bytes)
  },
}

const machine = machineFacts(device)
const print = (text) => {
  if (!flags.json) console.log(text)
}
const tables = []
const lines = Object.entries(machine).map(([name, value]) => `${name}: ${value}`)
print(lines.join('\n'))
for (const [group, tablesOf] of Object.entries(groups)) {
  if (flags.only !== undefined && !flags.only.includes(group)) continue
  for await (const table of await tablesOf(options)) {
    tables.push({ group, ...table })
    say('')
    print(`\n${asText(table)}`)
  }
}
const given = process.argv.slice(2)
const command = ['npm run bench', ...(given.length > 0 ? ['--', ...given] : [])].join(' ')
const report = { command, machine, tables }
if (flags.json) console.log(JSON.stringify(report, null, 2))
if (flags.write) {
  const file = fileURLToPath(new URL('RESULTS.md', import.meta.url))
  const page = existsSync(file) ? readFileSync(file, 'utf8') : ''
  writeFileSync(file, resultsPage(page, Object.keys(groups), report))
}
