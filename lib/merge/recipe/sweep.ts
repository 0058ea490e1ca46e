/**
 * A sweep: one recipe, several values of some parameters, one output for each combination. The key is explicit because
 * a list as the value of a parameter is a gradient over the layers.
 */

import { fail, list, record } from './checks.js'

export interface SweepPoint {
  /** Name of the output folder: `t=0.1`, or `t=0.1,models.1.weight=2`. */
  label: string
  /** The recipe with the values in place and without `sweep`. */
  recipe: Record<string, unknown>
}

const most = 256

export function expandSweep(top: Record<string, unknown>): SweepPoint[] {
  const { sweep, ...rest } = top
  const axes = Object.entries(record(sweep, 'sweep', 'a mapping of parameters to lists of values'))
  if (axes.length === 0) fail('sweep', 'at least one parameter', {})
  let points: SweepPoint[] = [{ label: '', recipe: rest }]
  for (const [key, raw] of axes) {
    const at = `sweep.${key}`
    const values = list(raw, at, 'a list of values, one an output')
    // a bare name is a parameter of the whole recipe
    const path = /[.[]/.test(key) ? steps(key) : ['parameters', key]
    if (path.length === 2 && path[0] === 'parameters') refuseHidden(rest, key, at)
    points = points.flatMap(({ label, recipe }) =>
      values.map((value) => ({
        label: [...(label === '' ? [] : [label]), `${shortName(path)}=${shortValue(value)}`].join(','),
        recipe: put(recipe, path, value, at),
      })),
    )
    if (points.length > most) fail('sweep', `at most ${most} combinations`, `${points.length}`)
  }
  const twin = points.find(({ label }, i) => points.findIndex((other) => other.label === label) !== i)
  if (twin !== undefined) fail('sweep', 'values that differ', twin.label)
  return points
}

/** `models[1].parameters.weight` as a list of keys. */
function steps(key: string): string[] {
  return key.replace(/\[(\d+)\]/g, '.$1').split('.')
}

function shortName(path: string[]): string {
  return plain(path.filter((step) => step !== 'parameters').join('.'))
}

function shortValue(value: unknown): string {
  return plain(typeof value === 'object' ? JSON.stringify(value) : String(value))
}

/** Letters, digits, dots, plus and minus: what a folder may be called anywhere. */
function plain(text: string): string {
  return text.replace(/[^\w.+]+/g, (gap) => (gap.includes('-') ? '-' : '_')).replace(/^_|_$/g, '')
}

/** What a model or slice says goes before what the recipe says, so the sweep would change nothing there. */
function refuseHidden(recipe: Record<string, unknown>, name: string, at: string): void {
  const visit = (value: unknown, path: string): void => {
    if (typeof value !== 'object' || value === null) return
    for (const [key, inner] of Object.entries(value)) {
      const here = Array.isArray(value) ? `${path}[${key}]` : path === '' ? key : `${path}.${key}`
      if (
        key === 'parameters' &&
        path !== '' &&
        typeof inner === 'object' &&
        inner !== null &&
        Object.hasOwn(inner, name)
      ) {
        fail(at, `the path of the value to change, such as ${here}.${name}, because that goes first`, name)
      }
      visit(inner, here)
    }
  }
  const { stages: _, ...last } = recipe
  visit(last, '')
}

function put(recipe: Record<string, unknown>, path: string[], value: unknown, at: string): Record<string, unknown> {
  const copy = structuredClone(recipe)
  let holder: Record<string, unknown> = copy
  for (const [i, step] of path.slice(0, -1).entries()) {
    if (step === 'parameters' && holder[step] === undefined) holder[step] = {}
    const next = Object.hasOwn(holder, step) ? holder[step] : undefined
    if (typeof next !== 'object' || next === null) fail(at, 'the path of a value', path.slice(0, i + 1).join('.'))
    holder = next as Record<string, unknown>
  }
  const last = path.at(-1) ?? ''
  if (Array.isArray(holder) || last === '__proto__') fail(at, 'the path of a value', path.join('.'))
  holder[last] = value
  return copy
}
