/** The licence of a model, which goes with what is made of it: its files, and what its card says. */

import { readdir } from 'node:fs/promises'
import { parse } from 'yaml'
import { inside } from './inside.js'
import type { Checkpoint } from './open.js'
import { readSmall } from './small.js'

/** Bytes of a file; long licences have some ten thousands. */
const largest = 1e6

const names = /^(licen[cs]e|notice|use_policy)[\w.-]*$/i
const keys = ['license', 'license_name', 'license_link', 'language', 'pipeline_tag']

/** Files of the model's folder that say what may be done with it. */
export async function licenceFiles({ folder }: Checkpoint): Promise<{ name: string; data: Uint8Array }[]> {
  if (folder === undefined) return []
  const entries = await readdir(folder, { withFileTypes: true })
  const found = entries.filter((entry) => !entry.isDirectory() && names.test(entry.name)).map(({ name }) => name)
  const files: { name: string; data: Uint8Array }[] = []
  for (const name of found.sort()) files.push({ name, data: await readSmall(await inside(folder, name), largest) })
  return files
}

/** What the front matter of the model's card says of its licence, and what kind of model it is; nothing without one. */
export async function licenceFront({ folder }: Checkpoint): Promise<Record<string, unknown>> {
  if (folder === undefined || !(await readdir(folder)).includes('README.md')) return {}
  const card = (await readSmall(await inside(folder, 'README.md'), largest)).toString('utf8')
  const [, matter = ''] = /^---\r?\n(.*?)\r?\n---\r?\n/s.exec(card) ?? []
  let front: unknown
  try {
    front = parse(matter, { maxAliasCount: 0 })
  } catch {
    // A card that people wrote is no input that has to be understood.
    return {}
  }
  if (typeof front !== 'object' || front === null) return {}
  return Object.fromEntries(Object.entries(front).filter(([key]) => keys.includes(key)))
}
