/**
 * Configs as they were written: JavaScript knows one kind of number, so `1.0` would become `1`, which readers that check
 * types (transformers from version 5 on) refuse where they expect a float.
 */

import { inside } from './inside.js'
import type { Checkpoint } from './open.js'
import { largestConfig, readSmall } from './small.js'

/** Stands before a number that is to be written as it was. */
const mark = '\u0000'

/** config.json of an output: indented, and with the numbers that have not changed as the checkpoint's own config has them. */
export async function configText(config: unknown, { folder }: Pick<Checkpoint, 'folder'>): Promise<string> {
  const file = folder === undefined ? undefined : await inside(folder, 'config.json')
  const source = file === undefined ? '{}' : (await readSmall(file, largestConfig)).toString('utf8')
  return textWithFloats(config, source)
}

function textWithFloats(value: unknown, source: string): string {
  const floats: unknown = JSON.parse(
    source.replace(/"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g, (word) =>
      /[.eE]/.test(word) && !word.startsWith('"') ? `"\\u0000${word}"` : word,
    ),
  )
  const marked = JSON.stringify(restored(value, floats), null, 2)
  return `${marked.replace(/"\\u0000(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"/g, '$1')}\n`
}

/** Numbers of `value` as `floats` has them, where both are the same. */
function restored(value: unknown, floats: unknown): unknown {
  if (typeof value === 'number') {
    return typeof floats === 'string' && floats.startsWith(mark) && Number(floats.slice(1)) === value ? floats : value
  }
  if (typeof value !== 'object' || value === null || typeof floats !== 'object' || floats === null) return value
  if (Array.isArray(value)) return value.map((one, i) => restored(one, (floats as unknown[])[i]))
  const known = new Map(Object.entries(floats))
  return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, restored(one, known.get(key))]))
}
