/**
 * What the published methods do to models that anyone can train here: `npm run papers -- amoeba`. Every cell of a table
 * is one run with its command, kept in a file as soon as it is done, so that an interrupted table goes on.
 */

import { mkdirSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { amoeba } from './amoeba.mjs'

const papers = { amoeba }

const usage = `npm run papers -- <paper> [options]

Papers: ${Object.keys(papers).join(', ')}.

  --cells <names>   some cells, with commas between them; a name ends with * for all that begin so (default: all)
  --out <folder>    where cells are kept (default: build/papers/<paper>)
  --steps <n>       steps of training (default: 240)
  --limit <n>       lines of each test file (default: 200)
  --device <name>   device to run on
  --list            the cells, and which of them are done

Example: npm run papers -- amoeba --cells 'masks*,smol-1'`

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    ...{ cells: { type: 'string' }, out: { type: 'string' }, device: { type: 'string' }, list: { type: 'boolean' } },
    ...{ steps: { type: 'string' }, limit: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
  },
})
const [name] = positionals
const paper = Object.hasOwn(papers, name ?? '') ? papers[name] : undefined
const wrong = ['steps', 'limit'].find((key) => values[key] !== undefined && !/^[1-9]\d*$/.test(values[key]))
if (values.help || paper === undefined || wrong !== undefined) {
  if (wrong !== undefined) console.error(`--${wrong} is a whole number above 0, not ${values[wrong]}.\n`)
  else if (name !== undefined && !values.help) console.error(`There is no paper ${name}.\n`)
  console.log(usage)
  process.exit(values.help ? 0 : 2)
}
const out = values.out ?? `build/papers/${name}`
mkdirSync(out, { recursive: true })
await paper({ ...values, out, steps: Number(values.steps ?? 240), limit: Number(values.limit ?? 200) })
