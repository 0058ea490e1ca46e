/**
 * Subnets of one model (AmoebaLLM): what some shapes of the reasoner can do as they are cut, and with one adapter that
 * all shapes share, a LoRA or a mixture of five whose router knows the shape.
 */
import { join } from 'node:path'
import { amoebaEval } from '../dist/esm/index.js'
import { percent, table, under } from './table.mjs'

const shapes = [
  [8, 1],
  [7, 7 / 8],
  [6, 3 / 4],
  [5, 5 / 8],
]
const tasks = ['id', 'ood_sub', 'ood_reverse', 'ood_sort', 'ood_max']

/** `prompts`: so many of each task are asked. */
export async function subnets(engine, { here, prompts }) {
  const folder = join(here, 'adapters')
  const data = tasks.map((task) => join(here, 'tasks', `${task}_test.jsonl`))
  const columns = [{ name: 'masks' }, ...['lora', 'mixture'].map((name) => ({ name, adapter: join(folder, name) }))]
  const found = []
  for (const [i, { adapter }] of columns.entries()) {
    const all = []
    for (const [j, [depth, width]] of shapes.entries()) {
      under(`subnets: ${i * shapes.length + j} of ${columns.length * shapes.length}`)
      const report = await amoebaEval(engine, join(here, 'models/base'), {
        ...{ strategy: join(folder, 'base.strategy'), data, limit: prompts, maxTokens: 9 },
        ...{ depths: [depth], widths: [width], ...(adapter && { adapter }) },
      })
      all.push(report.shapes[0])
    }
    found.push(all)
  }
  under('')
  console.log(`\nSubnets of one model: exact answers in percent, ${prompts} prompts of each of five tasks.\n`)
  console.log(
    table(
      ['blocks', 'width', 'parameters', ...columns.map(({ name }) => name)],
      shapes.map(([depth, width], row) => [
        ...[String(depth), String(width), found[0][row].parameters.toLocaleString('en-US')],
        ...found.map((all) => percent(all[row].accuracy)),
      ]),
    ),
  )
  console.log('\nOne adapter serves all shapes; docs/guide/amoeba.md says how it is trained and what that does.')
}
