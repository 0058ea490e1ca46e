/**
 * Recipes for models of several modules (a language model beside a vision tower): each has models or slices of its
 * own. Which tensors a module has is said by its name or by prefixes; see lib/plan/modules.ts.
 */

import type { MergeMethod } from '../methods/index.js'
import { checkMethod, entry as entryOf, fail, knownKeys, record } from './checks.js'
import { checkParameters } from './parameters.js'
import { checkPrefix, checkSources, type Merge } from './sources.js'

export interface Module extends Merge {
  name: string
  /** What the names of its tensors start with; absent: by the module's name. */
  prefix?: string
  path: string
}

export function checkModules(
  raw: unknown,
  top: { method: MergeMethod; base: string | undefined },
  notes: string[],
): Module[] {
  const modules = Object.entries(record(raw, 'modules', 'a mapping of modules'))
  if (modules.length === 0) fail('modules', 'at least one module', {})
  return modules.map(([name, value]) => {
    const path = `modules.${name}`
    const entry = entryOf(value, path, 'a mapping with models or slices')
    knownKeys(entry, path, ['merge_method', 'prefix', 'models', 'slices', 'parameters'], notes)
    const method =
      entry.merge_method === undefined ? top.method : checkMethod(entry.merge_method, `${path}.merge_method`)
    return {
      name,
      path,
      method,
      ...(top.base === undefined ? {} : { base: top.base }),
      ...(entry.prefix === undefined ? {} : { prefix: checkPrefix(entry.prefix, `${path}.prefix`) }),
      ...checkSources(entry, path, { method, base: top.base, modular: true }, notes),
      parameters: checkParameters(entry.parameters, `${path}.parameters`, method, 'top', notes),
    }
  })
}
