/**
 * The demo: what merges keep of trained models, what unlearning takes from one, and what subnets of one can do.
 * Everything runs on this machine.
 */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Engine } from '../dist/esm/index.js'
import { allPrompts, merging } from './merging.mjs'
import { subnets } from './subnets.mjs'
import { unlearning } from './unlearning.mjs'

const { values: flags } = parseArgs({ options: { prompts: { type: 'string' } } })
/** Of each set of the unlearning. */
const allLines = 48
/** What is asked where nobody says how much: less than a minute's worth. The bundled driver is ten times slower. */
const usual = { bundled: { prompts: 25, lines: 4, asked: 4 }, system: { prompts: 100, lines: 16, asked: 40 } }

const here = fileURLToPath(new URL('.', import.meta.url))
const out = join(here, 'out')
const engine = await Engine.open()
try {
  const { device, slots } = engine
  console.log(`Device: ${device.name} (${device.type}, ${device.driver} driver, ${slots} slots)\n`)
  await mkdir(out, { recursive: true })
  const asked =
    flags.prompts === undefined
      ? usual[device.driver]
      : { prompts: flags.prompts, lines: flags.prompts, asked: flags.prompts }
  await merging(engine, { here, out, prompts: Math.min(allPrompts, Number(asked.prompts)) })
  await unlearning(engine, { here, out, lines: Math.min(allLines, Number(asked.lines)) })
  await subnets(engine, { here, prompts: Math.min(allPrompts, Number(asked.asked)) })
} finally {
  await engine.close()
}
