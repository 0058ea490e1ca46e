/** Parameters of a merge method as recipes give them, checked against the method's own list. */

import { ignoredParameters, type MergeMethod, type ParameterScalar, type ParameterSpec } from '../methods/index.js'
import { fail, modelName, record } from './checks.js'
import type { FilteredValue, Parameters, ParameterValue } from './values.js'

export type Level = 'top' | 'slice' | 'model'

export function checkParameters(
  raw: unknown,
  path: string,
  method: MergeMethod,
  level: Level,
  notes: string[],
): Parameters {
  if (raw === undefined || raw === null) return {}
  const entries = record(raw, path, 'a mapping of parameters')
  const checked: Record<string, ParameterValue> = {}
  for (const [name, value] of Object.entries(entries)) {
    const at = `${path}.${name}`
    const spec = method.parameters.find((p) => p.name === name)
    if (spec === undefined) {
      if (!ignoredParameters.has(name)) {
        const known = method.parameters.map((p) => p.name)
        fail(at, `a parameter of method ${method.name} (${known.join(', ')})`, name)
      }
      finite(value, at)
      notes.push(`${at} changes nothing: method ${method.name} has no such parameter.`)
      continue
    }
    if (spec.scope === 'global' && level === 'model') {
      fail(at, `${name} under parameters at top level or of a slice, because it is one for all models`, value)
    }
    if (((spec.type === 'model' && spec.scope === 'global') || spec.name === 'history') && level !== 'top') {
      fail(at, `${name} under parameters at top level`, value)
    }
    checked[name] = checkValue(value, at, spec)
  }
  return checked
}

function checkValue(given: unknown, path: string, spec: ParameterSpec): ParameterValue {
  // a single filter, outside of a list
  const value = typeof given === 'object' && given !== null && 'value' in given ? [given] : given
  if (!Array.isArray(value)) return checkScalar(value, path, spec)
  if (spec.type === 'model' || value.length === 0) return fail(path, expectation(spec), value)
  if (value.every((v) => typeof unquoted(v, spec) === 'number')) return checkGradient(value, path, spec)
  return value.map((raw, i): FilteredValue => {
    const at = `${path}[${i}]`
    const entry = record(raw, at, 'a mapping with filter and value')
    for (const key of Object.keys(entry)) {
      if (key !== 'filter' && key !== 'value') fail(`${at}.${key}`, 'filter or value', key)
    }
    const { filter } = entry
    if (filter !== undefined && filter !== null && typeof filter !== 'string') {
      fail(`${at}.filter`, "a part of a tensor's name", filter)
    }
    const inner = Array.isArray(entry.value)
      ? checkGradient(entry.value, `${at}.value`, spec)
      : checkScalar(entry.value, `${at}.value`, spec)
    return typeof filter === 'string' ? { filter, value: inner } : { value: inner }
  })
}

function checkGradient(values: unknown[], path: string, spec: ParameterSpec): number[] {
  if (spec.type !== 'number' || values.length === 0) fail(path, expectation(spec), values)
  return values.map((v, i) => Number(checkScalar(v, `${path}[${i}]`, spec)))
}

const words: ReadonlyMap<string, boolean> = new Map([
  ['true', true],
  ['yes', true],
  ['on', true],
  ['false', false],
  ['no', false],
  ['off', false],
])

/**
 * What a text in quotes stands for where no text is wanted: mergekit reads "0.5" as a number and "true" as a boolean.
 */
function unquoted(value: unknown, { type, aliases }: ParameterSpec): unknown {
  if (typeof value !== 'string' || type === 'model') return value
  const text = value.trim().toLowerCase()
  if (type === 'number') return /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/.test(text) ? Number(text) : value
  const yes = words.get(text) ?? (text === '1' ? true : text === '0' ? false : undefined)
  return yes !== undefined && (type === 'boolean' || aliases?.has(yes)) ? yes : value
}

function checkScalar(given: unknown, path: string, spec: ParameterSpec): ParameterScalar {
  const value = unquoted(given, spec)
  const scalar = isScalar(value) ? (spec.aliases?.get(value) ?? value) : fail(path, expectation(spec), value)
  switch (spec.type) {
    case 'number':
      finite(scalar, path)
      if (typeof scalar !== 'number') return fail(path, expectation(spec), value)
      if (scalar < (spec.min ?? -Infinity) || scalar > (spec.max ?? Infinity)) fail(path, expectation(spec), value)
      return scalar
    case 'boolean': {
      const yes = scalar === true || scalar === 1
      if (!yes && scalar !== false && scalar !== 0) return fail(path, expectation(spec), value)
      if (spec.values && !spec.values.includes(yes)) return fail(path, expectation(spec), value)
      return yes
    }
    case 'choice':
      return spec.values?.includes(scalar) ? scalar : fail(path, expectation(spec), value)
    case 'model':
      return modelName(scalar, path)
  }
}

function isScalar(value: unknown): value is ParameterScalar {
  return typeof value === 'number' || typeof value === 'boolean' || typeof value === 'string'
}

export function finite(value: unknown, path: string): void {
  if (typeof value === 'number' && !Number.isFinite(value)) fail(path, 'a finite number', value)
  if (Array.isArray(value)) for (const [i, v] of value.entries()) finite(v, `${path}[${i}]`)
}

function expectation(spec: ParameterSpec): string {
  if (spec.type === 'model') return 'a model'
  if (spec.values) return spec.values.map(String).join(', ')
  if (spec.type === 'boolean') return 'true or false'
  if (spec.min !== undefined && spec.max !== undefined) {
    return `a number from ${spec.min} to ${spec.max}, a gradient or a list of filters`
  }
  const least = spec.min === undefined ? '' : ` of at least ${spec.min}`
  return `a number${least}, a gradient or a list of filters`
}
