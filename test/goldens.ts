/**
 * Where golden files lie. WEIGHTSMITH_GOLDENS names a folder with `lora/` and `reasoner/`, whose numbers may be others:
 * every setting is read from the files. By default they are the copies in this project.
 */
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'

const copies: [string, string][] = [
  ['lora', 'test/goldens/lora'],
  ['reasoner/base-f32', 'test/goldens/base-f32'],
  ['reasoner/base', 'demo/models/base'],
  ['reasoner/improved-1', 'demo/models/improved-1'],
  ['reasoner/improved-2', 'demo/models/improved-2'],
  ['reasoner/improved-3', 'demo/models/improved-3'],
  ['reasoner/tasks', 'test/goldens/tasks'],
  ['reasoner/training', 'test/goldens/training'],
]

/** The path of a golden file or folder, such as `lora/merged.json`. */
export function golden(name: string): string {
  const folder = process.env.WEIGHTSMITH_GOLDENS
  if (folder) return join(folder, name)
  const copy = copies.find(([from]) => name === from || name.startsWith(`${from}/`))
  const path = copy && resolve(copy[1], `.${name.slice(copy[0].length)}`)
  if (path === undefined || !existsSync(path)) throw new Error(`There is no golden ${name}.`)
  return path
}
