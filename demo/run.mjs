/** The demo: what merges keep of trained models, then what unlearning takes from one. Everything runs on this machine. */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Engine } from '../dist/esm/index.js'
import { allPrompts, merging } from './merging.mjs'
import { unlearning } from './unlearning.mjs'

const { values: flags } = parseArgs({ options: { prompts: { type: 'string' } } })
/** Where nothing is asked for: about a minute. The bundled driver is several times slower. */
const usual = { bundled: { prompts: 50, lines: 8 }, system: { prompts: allPrompts, lines: 48 } }

const here = fileURLToPath(new URL('.', import.meta.url))
const out = join(here, 'out')
const engine = await Engine.open()
try {
  const { adapter, slots } = engine
  console.log(`Device: ${adapter.info.device} (${adapter.type}, ${adapter.driver} driver, ${slots} slots)\n`)
  await mkdir(out, { recursive: true })
  const { prompts, lines } = usual[adapter.driver]
  await merging(engine, { here, out, prompts: Math.min(allPrompts, Number(flags.prompts ?? prompts)) })
  await unlearning(engine, { here, out, lines })
} finally {
  await engine.close()
}
