/** What a run is, and how a run is told from others: everything that decides about its result. */

import { createHash } from 'node:crypto'
import { WeightsmithError } from '../../util/errors.js'

/** A file that a run reads. */
export interface InputFile {
  path: string
  /** In bytes. */
  size: number
  mtimeMs: number
  /** SHA-256 of its header. */
  headerHash: string
}

export interface Run {
  /** What is computed, such as `merge`. */
  verb: string
  /** All else that decides about the result, as JSON, by what follows "begun with another" in a refusal: `seed`. */
  facts: Readonly<Record<string, unknown>>
  inputs: readonly InputFile[]
  /**
   * Hash of what comes of all this and the configurations of models, such as tensors and their places; compared last.
   */
  plan?: string
}

/** SHA-256 (hex) of any number of values that JSON can hold. */
export function digest(values: Iterable<unknown>): string {
  const hash = createHash('sha256')
  for (const value of values) hash.update(`${JSON.stringify(value)}\n`)
  return hash.digest('hex')
}

export function isSameRun(before: Run, now: Run): boolean {
  return digest([before]) === digest([now])
}

/**
 * Throws where `before`, whose resume point is at `place`, is not the run `now`, and says what is different:
 * ERR_WEIGHTSMITH_INPUT_CHANGED for an input file, else ERR_WEIGHTSMITH_RESUME.
 */
export function refuseOther(before: Run, now: Run, place: string): void {
  for (const file of now.inputs) {
    const known = before.inputs.find(({ path }) => path === file.path)
    const what = (['size', 'mtimeMs', 'headerHash'] as const).find((key) => known && known[key] !== file[key])
    if (known === undefined || what === undefined) continue
    const label = { size: 'size in bytes', mtimeMs: 'time of change (ms)', headerHash: "header's SHA-256" }[what]
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_INPUT_CHANGED',
      `${place} cannot be continued, because the input ${file.path} has changed: its ${label} was ${known[what]} and ` +
        `is ${file[what]}. ${startOver}`,
      { file: file.path },
    )
  }
  if (isSameRun(before, now)) return
  throw cannotContinue(place, `it was begun with another ${firstChange(before, now)}`)
}

function firstChange(before: Run, now: Run): string {
  if (before.verb !== now.verb) return `verb${change(before.verb, now.verb)}`
  const [name] = changed(before.facts, now.facts)
  if (name !== undefined) return `${name}${change(before.facts[name], now.facts[name])}`
  const inputs = JSON.stringify(before.inputs) !== JSON.stringify(now.inputs)
  return inputs ? 'set of input files' : 'plan (the configuration of a model has changed)'
}

/** The error of a resume point that is of no use to a run. */
export function cannotContinue(place: string, why: string): WeightsmithError {
  const message = `${place} cannot be continued, because ${why.replace(/\.$/, '')}. ${startOver}`
  return new WeightsmithError('ERR_WEIGHTSMITH_RESUME', message, { file: place })
}

const startOver = 'Start over with overwrite (--overwrite) and without resume.'

type Fields = Readonly<Record<string, unknown>>

/** Names of fields that are not the same. */
function changed(before: Fields, now: Fields): string[] {
  const names = [...new Set([...Object.keys(before), ...Object.keys(now)])]
  return names.filter((name) => JSON.stringify(before[name]) !== JSON.stringify(now[name]))
}

/** What is different of a fact, as the end of a sentence: short values themselves, of objects the names of fields. */
function change(before: unknown, now: unknown, path = ''): string {
  if (isFields(before) && isFields(now)) {
    const names = changed(before, now)
    const [first] = names
    if (first === undefined) return ''
    if (names.length > 1) return `: ${names.map((name) => path + name).join(', ')} differ`
    const inner = isFields(before[first]) && isFields(now[first])
    return inner ? change(before[first], now[first], `${path}${first}.`) : `: ${path}${first} differs`
  }
  const shown = [before, now].map((value) => (typeof value === 'string' ? value : (JSON.stringify(value) ?? 'none')))
  return shown.some((text) => text.length > longestShown) ? '' : ` (${shown[0]} then, ${shown[1]} now)`
}

/** Characters; hashes are longer. */
const longestShown = 60

function isFields(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
