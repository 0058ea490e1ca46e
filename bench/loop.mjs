/** How long a merge keeps the event loop of its process from turning. */
import { methods } from '../dist/esm/index.js'
import { mergeInChild, onceAndOften } from './processes.mjs'
import { recipeFor } from './recipes.mjs'
import { atMost, column, targetColumn } from './results.mjs'

export async function loopTables(options) {
  const { paths } = await options.checkpoints()
  const rows = []
  for (const [name, count] of onceAndOften) {
    options.say(`loop: ${name}`)
    const recipe = recipeFor(methods.get(name), paths, count)
    const measured = Array.from({ length: Math.min(options.runs, 3) }, () => mergeInChild('loop', options, recipe))
    const worst = (key) => Math.max(...measured.map((one) => one[key]))
    rows.push({
      method: name,
      checkpoints: count,
      blocked: worst('blocked'),
      late: worst('late'),
      whole: worst('whole'),
      target: atMost(5),
    })
  }
  return [
    {
      title: 'Longest block of the event loop during a merge',
      about: [
        'late: how late a timer of 1 ms came at worst while the engine ran the plan; blocked: the same without the time that the thread was ready and had no core.',
        'The last column counts what comes before and after too: reading headers, planning, publishing.',
      ],
      columns: [
        column('method'),
        column('checkpoints', 'checkpoints', 'number'),
        column('blocked', 'blocked', 'ms'),
        column('late', 'late', 'ms'),
        targetColumn('blocked', 'ms'),
        column('whole', 'blocked, whole merge', 'ms'),
      ],
      rows,
    },
  ]
}
