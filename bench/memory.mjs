/** Peak memory of whole merges, each in a process of its own, against the budget they were given. */
import { methods } from '../dist/esm/index.js'
import { mergeInChild, onceAndOften } from './processes.mjs'
import { recipeFor } from './recipes.mjs'
import { atMost, column, leftOut, targetColumn } from './results.mjs'

const MiB = 2 ** 20

export async function memoryTables(options) {
  const title = 'Peak memory of a merge'
  if (process.platform !== 'linux') {
    return [leftOut(title, new Error('only Linux tells the peak of a process.'))]
  }
  const { paths, size } = await options.checkpoints()
  const rows = []
  for (const [name, count] of onceAndOften) {
    for (const budget of [256 * MiB, 1024 * MiB]) {
      options.say(`memory: ${name}, budget ${budget / MiB} MiB`)
      const recipe = recipeFor(methods.get(name), paths, count)
      const { peak, afterOpen, anonymous } = mergeInChild('memory', options, recipe, { budget })
      const target = atMost(budget + afterOpen + 64 * MiB)
      rows.push({ method: name, checkpoints: count, budget, afterOpen, peak, anonymous, target })
    }
  }
  return [
    {
      title,
      about: [
        `Checkpoints of ${(size / 2 ** 30).toFixed(2)} GiB each. The target is the budget, what the process held right after Engine.open, and 64 MiB.`,
        'peak is the largest resident set (VmHWM), anonymous the largest part of it without files (RssAnon, sampled every 5 ms).',
      ],
      columns: [
        column('method'),
        column('checkpoints', 'checkpoints', 'number'),
        column('budget', 'budget', 'bytes'),
        column('afterOpen', 'after open', 'bytes'),
        column('peak', 'peak', 'bytes'),
        column('anonymous', 'anonymous', 'bytes'),
        targetColumn('peak', 'bytes'),
      ],
      rows,
    },
  ]
}
