/** The jobs of a batch, from a list, a `.jsonl` file or a folder of recipes: read, checked and named. */

import { readdir, readFile, stat } from 'node:fs/promises'
import { basename, dirname, extname, join, resolve } from 'node:path'
import { codeOf, messageOf, misuse, WeightsmithError } from '../../util/errors.js'
import { withoutByteOrderMark } from '../../util/json.js'
import type { RecipeInput } from '../recipe/index.js'

export interface BatchJob {
  /** Path of a recipe file, or the recipe itself. */
  recipe: string | RecipeInput
  /** Folder of the result within the batch's. Defaults to the recipe file's name without its ending. */
  name?: string | undefined
  /** Goes before the type and the seed of the batch. */
  dtype?: string | undefined
  seed?: number | undefined
}

export interface NamedJob extends BatchJob {
  name: string
  /** Where relative paths start. */
  folder: string
}

const keys = ['recipe', 'name', 'dtype', 'seed']

/** Refuses the whole list, with ERR_WEIGHTSMITH_ARGUMENT, when one entry is no job or two would share a folder. */
export async function readJobs(source: string | BatchJob[], folder: string): Promise<NamedJob[]> {
  const { entries, start, where } = await readEntries(source, resolve(folder))
  const names = new Map<string, number>()
  return entries.map((entry, i) => {
    const job = checkJob(entry, where(i))
    const name = job.name ?? nameOf(job.recipe, i)
    const twin = names.get(name)
    if (twin !== undefined) {
      throw misuse(`${where(i)} would write to the folder "${name}", as ${where(twin)} does; give one of them a name.`)
    }
    names.set(name, i)
    return { ...job, name, folder: start }
  })
}

interface Entries {
  entries: unknown[]
  /** Folder that relative paths start from. */
  start: string
  /** Names an entry in a message. */
  where(index: number): string
}

async function readEntries(source: string | BatchJob[], folder: string): Promise<Entries> {
  if (typeof source !== 'string') return { entries: source, start: folder, where: (i) => `Job ${i + 1}` }
  const path = resolve(folder, source)
  try {
    if ((await stat(path)).isDirectory()) {
      const files = (await readdir(path)).filter((name) => /\.(ya?ml|json)$/.test(name)).sort()
      if (files.length === 0) throw misuse(`The folder ${path} has no recipes (.yml, .yaml or .json).`)
      return { entries: files.map((recipe) => ({ recipe })), start: path, where: (i) => join(path, files[i] ?? '') }
    }
    const lines = withoutByteOrderMark(await readFile(path, 'utf8'))
      .split('\n')
      .map((text, i) => ({ text, number: i + 1 }))
    const full = lines.filter(({ text }) => text.trim() !== '')
    if (full.length === 0) throw misuse(`The file ${path} has no jobs.`)
    const where = (i: number) => `Line ${full[i]?.number} of ${path}`
    return { entries: full.map(({ text }, i) => parseLine(text, where(i))), start: dirname(path), where }
  } catch (cause) {
    if (cause instanceof WeightsmithError) throw cause
    const missing = codeOf(cause) === 'ENOENT'
    throw new WeightsmithError(
      missing ? 'ERR_WEIGHTSMITH_NOT_FOUND' : 'ERR_WEIGHTSMITH_IO_READ',
      missing ? `There are no jobs at ${path}.` : `The jobs of ${path} cannot be read: ${messageOf(cause)}.`,
      { cause, file: path },
    )
  }
}

function parseLine(text: string, where: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw misuse(`${where} is not valid JSON: ${messageOf(cause)}.`)
  }
}

function checkJob(entry: unknown, where: string): BatchJob {
  const wanted = `${where} should be an object with recipe (a path or a recipe) and maybe name, dtype and seed`
  if (typeof entry !== 'object' || entry === null || !('recipe' in entry)) throw misuse(`${wanted}.`)
  const unknown = Object.keys(entry).find((key) => !keys.includes(key))
  if (unknown !== undefined) throw misuse(`${wanted}, but it has ${unknown}.`)
  const { recipe, name, dtype, seed } = entry as Record<string, unknown>
  if (typeof recipe !== 'string' && (typeof recipe !== 'object' || recipe === null)) throw misuse(`${wanted}.`)
  if (name !== undefined && !isFolderName(name))
    throw misuse(`${where} should have the name of a folder, but "${name}" was found.`)
  if (dtype !== undefined && typeof dtype !== 'string') throw misuse(`${where} should have a text as dtype.`)
  if (seed !== undefined && typeof seed !== 'number') throw misuse(`${where} should have a number as seed.`)
  // what the recipe holds is checked when it is loaded
  return { recipe: recipe as BatchJob['recipe'], name, dtype, seed }
}

/** One part of a path, and none that the outputs beside it could need. */
function isFolderName(name: unknown): name is string {
  return typeof name === 'string' && /^[\w-][\w .+=-]{0,199}$/.test(name) && !/\.partial$|[. ]$/.test(name)
}

function nameOf(recipe: BatchJob['recipe'], index: number): string {
  const name = typeof recipe === 'string' ? basename(recipe, extname(recipe)) : ''
  return isFolderName(name) ? name : `job-${String(index + 1).padStart(4, '0')}`
}
