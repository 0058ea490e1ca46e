/**
 * What a merge does to a model that has improved itself until it forgot the rest: base and its three successors, seven
 * merges of them, where their weights have moved, and what they still can do.
 * The models: a character-level LLaMA of 1.5 M parameters that adds, subtracts, reverses, sorts and picks maxima, and
 * three rounds of self-improvement on addition alone.
 */
import { join } from 'node:path'
import { changeMap, diff, evaluate, merge, score, verify, writePage } from '../dist/esm/index.js'
import { percent, shown, table, under } from './table.mjs'

/** Addition is in the domain of the self-improvement, the others are not. */
const tasks = [
  { name: 'ID addition', file: 'id_test' },
  { name: 'subtraction', file: 'ood_sub_test' },
  { name: 'reversal', file: 'ood_reverse_test' },
  { name: 'sorting', file: 'ood_sort_test' },
  { name: 'maximum', file: 'ood_max_test' },
]
/** Of each task. */
export const allPrompts = 500

const merges = [
  { name: 'imm', about: 'half way to improved-3, a fifth of the change dropped at random' },
  { name: 'linear', about: 'the mean of base and improved-3' },
  { name: 'slerp', about: 'half way to improved-3, on the arc' },
  { name: 'ties', about: 'the largest half of three rounds of change, by a vote on the sign' },
  { name: 'dare', about: 'half way to improved-3, half of the change dropped at random' },
  { name: 'regmean', about: 'base and improved-3, each counting where its own data lies' },
  { name: 'model_stock', about: 'towards the mean of three rounds, as far as their angle says' },
]

/** `here`: the folder of the demo; `out`: where results go. */
export async function merging(engine, { here, out, prompts }) {
  const model = (name) => join(here, 'models', name)
  const base = model('base')
  // What RegMean asks for: Gram matrices of the inputs, on what the models were trained on.
  for (const [name, data] of [
    ['base', 'calibration'],
    ['improved-3', 'id_train'],
  ]) {
    const gram = { methods: ['gram'], data: join(here, 'tasks', `${data}.jsonl`) }
    await score(engine, model(name), { ...gram, out: join(out, `${name}.gram.safetensors`), overwrite: true })
  }
  const done = []
  for (const { name, about } of merges) {
    const folder = join(out, name)
    const report = await merge(engine, join(here, 'recipes', `${name}.yml`), { out: folder, overwrite: true, seed: 1 })
    await verify(folder)
    done.push([name, shown(folder), `${report.tensors.computed}`, `${Math.round(report.milliseconds)} ms`, about])
  }
  console.log(table(['merge', 'output', 'tensors', 'time', 'what it is'], done))

  const results = merges.map(({ name, about }) => ({ name, about, folder: join(out, name) }))
  const improved = [1, 2, 3].map((round) => ({
    name: `improved-${round}`,
    about: `after ${round} of 3 rounds of self-improvement, no merging`,
    folder: model(`improved-${round}`),
  }))
  const moved = [improved.at(-1), ...results]
  const diffs = []
  for (const { folder } of moved) diffs.push(await diff(engine, base, folder))
  console.log('\nHow far each layer has moved: ‖Δ‖ / ‖A‖ against the base\n')
  const layers = diffs[0].layers.map(({ layer }) => layer)
  console.log(
    table(
      ['layer', ...moved.map(({ name }) => name)],
      layers.map((layer) => [
        layer.replace(/^.*\./, 'layer '),
        ...diffs.map((report) => report.layers.find((entry) => entry.layer === layer).relative.toFixed(4)),
      ]),
    ),
  )
  console.log('\n"outside": embeddings, final norm and head.\n')

  console.log(
    `Exact answers, percent: greedy, ${prompts} of ${allPrompts} prompts a task (--prompts changes that). ID is addition, the task of ` +
      'the self-improvement; OOD are the others.\n',
  )
  const data = tasks.map(({ file }) => join(here, 'tasks', `${file}.jsonl`))
  const models = [{ name: 'base', about: 'trained on all tasks', folder: base }, ...improved, ...results]
  const scores = []
  for (const [i, { name, folder }] of models.entries()) {
    under(`model ${i + 1} of ${models.length}: ${name}`)
    const { sets } = await evaluate(engine, folder, { data, metric: 'exact-match', limit: prompts })
    const shares = sets.map(({ value }) => value)
    const [, ...others] = shares
    scores.push([name, ...shares.map(percent), percent(others.reduce((a, b) => a + b) / others.length)])
  }
  under('')
  const head = ['model', ...tasks.map(({ name }) => name), 'OOD mean']
  console.log(table(head, scores))

  const page = join(out, 'report.html')
  const among = diffs.flatMap(({ cells }) => cells.flatMap(({ relative }) => relative ?? []))
  await writePage(page, {
    title: 'Merging what self-improvement gained with what it lost',
    summary:
      'A tiny reasoner improved itself on addition for three rounds and forgot other tasks. Merges of the original and the ' +
      'improved models, what they can do, and where their weights have moved.',
    facts: [
      ['device', engine.device.name],
      ['prompts a task', String(prompts)],
    ],
    sections: [
      {
        title: 'Exact answers, percent',
        text: 'Greedy answers. ID: the task of the self-improvement. OOD mean: the mean of the others.',
        figure: { kind: 'table', head, rows: scores.map(([name, ...cells]) => [name, ...cells.map(Number)]) },
      },
      ...moved.map(({ name, about }, i) => ({ title: name, text: about, figure: changeMap(diffs[i], among) })),
    ],
  })
  console.log(`\nWith figures: ${shown(page)}`)
  console.log(`Look closer:  npx weightsmith diff ${shown(base)} ${shown(join(out, 'imm'))}`)
}
