/**
 * What unlearning by neurons (MANU) takes from a model: a LLaVA of 1.4 M parameters that knows forty invented people,
 * four of whom it is to forget, beside as many neurons at random and those of the smallest weights.
 */
import { join } from 'node:path'
import { manu, manuPage, manuRows, writePage } from '../dist/esm/index.js'
import { percent, shown, table, under } from './table.mjs'

const alphas = [5, 20]
const sets = ['forget', 'retain', 'utility']

/** `lines`: so many of each set are asked. */
export async function unlearning(engine, { here, out, lines }) {
  const model = join(here, '../test/goldens/tiny-llava')
  const files = (set) => ['multimodal', 'text'].map((kind) => join(model, 'data', `${set}_${kind}.jsonl`))
  const folder = join(out, 'unlearned')
  const report = await manu(engine, model, {
    ...Object.fromEntries(sets.map((set) => [set, files(set)])),
    alpha: alphas,
    layers: 'all',
    limit: lines,
    compare: true,
    out: folder,
    overwrite: true,
    onProgress: ({ done, total }) => under(`unlearning: ${done} of ${total} lines`),
  })
  under('')
  console.log(`\nUnlearning by neurons: exact answers in percent, at most ${lines} lines a set.\n`)
  const rows = manuRows(report)
  const columns = report.before.map(({ set, kind }) => ({ set, kind }))
  console.log(
    table(
      ['neurons', ...columns.map(({ set, kind }) => `${set} ${kind === 'text' ? 'text' : 'images'}`)],
      rows.map(({ name, answers }) => [
        name,
        ...columns.map(({ set, kind }) =>
          percent(answers.find((entry) => entry.set === set && entry.kind === kind).accuracy),
        ),
      ]),
    ),
  )
  const page = join(out, 'unlearning.html')
  await writePage(page, manuPage(report, rows))
  console.log(`\nWith figures: ${shown(page)}; docs/guide/manu.md says what the table shows.`)
}
