/**
 * Tables with a row a token in the order of the output's vocabulary: every model's table is brought into it, row by
 * row, before the method sees it, so that any method works and a row is never mixed with that of another token. What a
 * model lacks is filled in as mergekit does: from the one model that has the token, else from the base, else with the
 * mean of those that have it.
 */

import { WeightsmithError } from '../../util/errors.js'
import { plural } from '../../util/plural.js'
import type { TokenRule } from '../recipe/index.js'
import type { Origin } from './planned.js'
import { arrange, type Row, type Table } from './rows.js'
import { isVocabulary, type OutputVocabulary } from './vocabulary.js'

/** Brings tables into the order of the vocabulary. Returns the number of their rows. */
export function mapTables<T extends Table>(
  vocabulary: OutputVocabulary,
  sources: T[],
  base: string | undefined,
  notes: string[],
): { sources: T[]; rows?: number } {
  const { policy, size } = vocabulary
  const tables = sources.filter(({ name }) => isVocabulary(name))
  if (tables.length === 0) return { sources }
  const counts = new Set(tables.flatMap(({ origins }) => origins.map(({ tensor }) => tensor.shape[0] ?? 0)))
  const [only = size] = counts
  const idsOf = ({ checkpoint }: Origin) => checkpoint.vocabulary?.ids ?? vocabulary.assumed
  const same = tables.every(({ origins }) => origins.every((origin) => equal(idsOf(origin), vocabulary.ids)))
  if (
    same &&
    counts.size <= 1 &&
    only >= size &&
    policy.multiple === undefined &&
    ![...policy.tokens.values()].some((rule) => rule.force)
  ) {
    return { sources, rows: only }
  }
  const rows = Math.ceil(size / (policy.multiple ?? 1)) * (policy.multiple ?? 1)
  const silent = new Set(tables.flatMap(({ origins }) => origins.filter(({ checkpoint }) => !checkpoint.vocabulary)))
  for (const name of new Set([...silent].map(({ checkpoint }) => checkpoint.name))) {
    notes.push(`${name} has no tokenizer.json; its vocabulary is taken to be that of the tokenizer source.`)
  }
  const zero = new Set<string>()
  const mapped = sources.map((source) => {
    if (!isVocabulary(source.name)) return source
    const lookups = source.origins.map((origin) => lookup(origin, idsOf(origin), vocabulary))
    const fallback = [...vocabulary.ids].map(([token, id]) => {
      const rule = policy.tokens.get(token)
      const needed = rule?.force === true || lookups.some((rowOf) => rowOf[id] === -1)
      const row = needed ? fillIn(token, id, rule, source, lookups, base) : undefined
      if (row?.length === 0 && rule?.source === undefined) zero.add(token)
      return [id, { row, force: rule?.force === true }] as const
    })
    const fills = new Map(fallback)
    const origins = source.origins.map((_, i): Origin => {
      const wanted = Array.from({ length: size }, (_, id): Row | undefined => {
        const fill = fills.get(id)
        if (fill === undefined) return undefined
        const own = lookups[i]?.[id] ?? -1
        return own >= 0 && !fill.force ? [{ origin: i, row: own }] : (fill.row ?? [])
      })
      return arrange(source, i, wanted, rows)
    })
    return { ...source, origins }
  })
  const [one] = zero
  if (zero.size === 1) notes.push(`The token ${one} is in no model and gets a row of zeros.`)
  if (zero.size > 1) notes.push(`${plural(zero.size, 'token')} are in no model and get rows of zeros, such as ${one}.`)
  const from = [...counts].sort((a, b) => a - b).join(' and ')
  notes.push(
    `The vocabulary has ${plural(vocabulary.ids.size, 'token')} in ${plural(rows, 'row')}; the models have ${from} rows.`,
  )
  return { sources: mapped, rows }
}

/** Row of each token of the output in a model's table, or -1. */
function lookup(origin: Origin, ids: ReadonlyMap<string, number>, { ids: all, size }: OutputVocabulary): Int32Array {
  const rows = new Int32Array(size).fill(-1)
  const limit = origin.tensor.shape[0] ?? 0
  for (const [token, id] of all) {
    const row = ids.get(token)
    if (row !== undefined && row < limit) rows[id] = row
  }
  return rows
}

function fillIn(
  token: string,
  id: number,
  rule: TokenRule | undefined,
  { name, origins }: Table,
  lookups: Int32Array[],
  base: string | undefined,
): Row {
  const present = lookups.flatMap((rows, origin) => {
    const row = rows[id] ?? -1
    return row < 0 ? [] : [{ origin, row }]
  })
  const from = rule?.source
  if (from?.kind === 'zero') return []
  if (from?.kind === 'mean') return present
  if (from !== undefined) {
    const origin = origins.findIndex(({ checkpoint }) => checkpoint.name === from.model)
    const model = origins[origin]
    const ids = model?.checkpoint.vocabulary?.ids
    const row = from.token_id ?? (from.token === undefined ? lookups[origin]?.[id] : ids?.get(from.token)) ?? -1
    if (model !== undefined && row >= 0 && row < (model.tensor.shape[0] ?? 0)) return [{ origin, row }]
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_RECIPE',
      `tokenizer.tokens.${token}.source of the recipe should be a token that ${from.model} has, but its tensor ${name} ` +
        `has no row for ${from.token_id ?? from.token ?? token}.`,
      { tensor: name },
    )
  }
  if (present.length <= 1) return present
  const own = present.find(({ origin }) => origins[origin]?.checkpoint.name === base)
  return own === undefined ? present : [own]
}

function equal(a: ReadonlyMap<string, number>, b: ReadonlyMap<string, number>): boolean {
  if (a === b) return true
  return a.size === b.size && [...a].every(([token, id]) => b.get(token) === id)
}
