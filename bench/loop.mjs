/** How long a merge keeps the event loop of its process from turning. */
import { methods } from '../dist/esm/index.js'
import { mergeInChild, onceAndOften } from './processes.mjs'
import { recipeFor } from './recipes.mjs'
import { atMost, column, spread, targetColumn } from './results.mjs'

const runsAtMost = 3

export async function loopTables(options) {
  const runs = Math.min(options.runs, runsAtMost)
  const { paths } = await options.checkpoints()
  const rows = []
  for (const [name, count] of onceAndOften) {
    options.say(`loop: ${name}`)
    const recipe = recipeFor(methods.get(name), paths, count)
    const measured = Array.from({ length: runs }, () => mergeInChild('loop', options, recipe))
    const of = (key) => spread(measured.map((one) => one[key]))
    const { median, min, max } = of('blocked')
    rows.push({
      method: name,
      checkpoints: count,
      median,
      min,
      max,
      late: of('late').median,
      whole: of('whole').median,
      target: atMost(5),
    })
  }
  return [
    {
      title: 'Longest block of the event loop during a merge',
      about: [
        `Each the longest of a merge; median, min and max of ${runs} merges, each in a process of its own: what the code does itself comes back every time.`,
        'late: how late a timer of 1 ms came while the engine ran the plan; blocked: the part of it in which the loop was busy and the thread had a core.',
        'whole merge: blocked, with what comes before and after: reading headers, planning, publishing.',
      ],
      columns: [
        column('method'),
        column('checkpoints', 'checkpoints', 'number'),
        column('median', 'blocked', 'ms'),
        column('min', 'min', 'ms'),
        column('max', 'max', 'ms'),
        column('late', 'late', 'ms'),
        targetColumn('median', 'ms'),
        column('whole', 'whole merge', 'ms'),
      ],
      rows,
    },
  ]
}
