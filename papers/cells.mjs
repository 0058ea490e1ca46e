/** Cells of a table: each is run once, and its result kept in a file of its own. */

import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

/** Names that were asked for, of those that there are. Throws for one that is not there. */
export function chosen(all, asked) {
  if (asked === undefined) return [...all]
  return asked.split(',').flatMap((word) => {
    const fits = word.endsWith('*') ? (name) => name.startsWith(word.slice(0, -1)) : (name) => name === word
    const found = all.filter(fits)
    if (found.length > 0) return found
    throw new Error(`There is no cell ${word}; there are ${all.join(', ')}.`)
  })
}

/** What is known of a cell run with these settings; nothing where it has not been run, or with others. */
export function known(out, name, settings) {
  const path = join(out, `${name}.json`)
  if (!existsSync(path)) return undefined
  const cell = JSON.parse(readFileSync(path, 'utf8'))
  return JSON.stringify(cell.settings) === JSON.stringify(settings) ? cell : undefined
}

/** Keeps a cell; at any moment there is all of it or nothing. */
export function keep(out, name, cell) {
  const path = join(out, `${name}.json`)
  writeFileSync(`${path}.new`, `${JSON.stringify(cell, null, 1)}\n`)
  renameSync(`${path}.new`, path)
}
