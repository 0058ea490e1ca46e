/**
 * Tables with a row a token, where models have different vocabularies. The output's vocabulary is chosen by the recipe;
 * then every model's table is brought into its order, row by row, before the method sees it, so that any method works
 * and a row is never mixed with that of another token. What a model lacks is filled in as mergekit does: from the one
 * model that has the token, else from the base, else with the mean of those that have it.
 *
 * A table whose rows already are in order is read where it lies. Any other one is put together first (see
 * lib/plan/derived.ts) from runs of consecutive rows; a vocabulary that shares no order with the output's costs a job
 * a row.
 */

import {
  type AddedToken,
  bytesOf,
  type Checkpoint,
  isLoadable,
  isStorable,
  type Vocabulary,
} from '../checkpoint/index.js'
import { WeightsmithError } from '../errors.js'
import type { TokenizerPolicy, TokenRule } from '../recipe/index.js'
import { type DerivedTensor, isDerived, linear, type Origin, type Part, storedType } from './derived.js'

/** Whether the first axis of a tensor counts tokens: embedding and output head. */
export function isVocabulary(name: string): boolean {
  return /(^|\.)(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings|lm_head|embed_out)\.(weight|bias)$/.test(name)
}

export interface OutputVocabulary extends Vocabulary {
  /** Rows a table would have without padding. */
  size: number
  /** Vocabulary of models that come without one. */
  assumed: ReadonlyMap<string, number>
  policy: TokenizerPolicy
}

/** The vocabulary of the output; undefined where the recipe leaves vocabularies alone. */
export function planVocabulary(
  policy: TokenizerPolicy,
  models: Checkpoint[],
  source: Checkpoint,
): OutputVocabulary | undefined {
  if (!policy.explicit || policy.source === 'none') return undefined
  const first = source.vocabulary
  if (first === undefined) {
    if (policy.source !== 'union' && policy.tokens.size === 0 && policy.multiple === undefined) return undefined
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_NOT_FOUND',
      `The recipe's tokenizer needs the vocabulary of ${source.name}, but its folder has no tokenizer.json.`,
      { file: source.path },
    )
  }
  const ids = new Map(first.ids)
  const extra = new Map(first.extra.map((token) => [token.content, token]))
  let next = 1 + max(ids.values())
  const add = (token: AddedToken | string) => {
    const entry =
      typeof token === 'string'
        ? { content: token, single_word: false, lstrip: false, rstrip: false, normalized: true, special: false }
        : token
    const id = ids.get(entry.content) ?? next++
    ids.set(entry.content, id)
    extra.set(entry.content, { ...entry, id })
  }
  if (policy.source === 'union') {
    const others = models.flatMap(({ vocabulary }) => vocabulary ?? [])
    for (const other of others) {
      const sorted = [...other.ids].sort((a, b) => a[1] - b[1])
      for (const [token] of sorted) if (!ids.has(token) && !other.added.has(token)) add(token)
    }
    for (const other of others) {
      for (const [content, token] of other.added) if (!first.added.has(content) && !extra.has(content)) add(token)
    }
  }
  for (const token of policy.tokens.keys()) if (!ids.has(token)) add(token)
  return {
    ids,
    added: first.added,
    folder: first.folder,
    extra: [...extra.values()],
    size: next,
    assumed: first.ids,
    policy,
  }
}

/** A tensor of the output whose rows are tokens, as far as this file needs to know it. */
interface Table {
  name: string
  origins: Origin[]
}

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
  if (zero.size > 0) notes.push(`${zero.size} tokens are in no model and get rows of zeros, such as ${[...zero][0]}.`)
  const from = [...counts].sort((a, b) => a - b).join(' and ')
  notes.push(`The vocabulary has ${vocabulary.ids.size} tokens in ${rows} rows; the models have ${from} rows.`)
  return { sources: mapped, rows }
}

/** Where a row comes from: one row, the mean of several, or zeros. */
type Row = { origin: number; row: number }[]

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

/** The table of origin `index` with its rows as `wanted`; rows of no token get the mean of the others. */
function arrange({ name, origins }: Table, index: number, wanted: (Row | undefined)[], rows: number): Origin {
  const own = origins[index]
  if (own === undefined)
    throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `Tensor ${name} has no origin ${index}.`)
  const columns = own.tensor.shape.slice(1).reduce((a, b) => a * b, 1)
  const runs = runsOf(wanted)
  const tokens = wanted.filter((row) => row !== undefined).length
  const [first] = runs
  const inPlace =
    tokens === wanted.length &&
    runs.length === 1 &&
    first?.row.length === 1 &&
    first.row[0]?.origin === index &&
    first.row[0].row === 0
  const shaped = (count: number) => [count, ...own.tensor.shape.slice(1)]
  const cut = (count: number): Origin =>
    count === own.tensor.shape[0]
      ? own
      : {
          ...own,
          tensor: {
            ...own.tensor,
            shape: shaped(count),
            end: own.tensor.begin + count * columns * widthOf(own.tensor.dtype),
          },
        }
  if (inPlace && rows === wanted.length && (!isDerived(own.tensor) || rows === own.tensor.shape[0])) return cut(rows)

  const read = [...new Set(runs.flatMap(({ row }) => row.map(({ origin }) => origin)))].flatMap((i) => origins[i] ?? [])
  const types = new Set(read.map(({ tensor }) => tensor.dtype))
  const [only = own.tensor.dtype] = types
  const complete = tokens === rows
  const computed = types.size > 1 || !complete || runs.some(({ row }) => row.length > 1)
  const dtype = types.size <= 1 && (isStorable(only) || !computed) ? only : 'F32'
  const derived = (label: string, count: number, parts: Part[]): DerivedTensor => ({
    name: label,
    file: -1,
    dtype,
    shape: shaped(count),
    begin: 0,
    end: count * columns * widthOf(dtype),
    as: storedType(own.tensor),
    parts,
  })
  const parts = runs.flatMap(({ id, count, row }): Part[] => {
    if (row.length === 0) return []
    const sources = row.flatMap(({ origin, row: start }): Origin[] => {
      const from = origins[origin]
      return from === undefined
        ? []
        : [{ ...from, skip: (from.skip ?? 0) + start * columns * widthOf(from.tensor.dtype) }]
    })
    const copy = sources.length === 1 && sources[0]?.tensor.dtype === dtype
    return [
      {
        first: id * columns,
        elements: count * columns,
        ...(copy ? {} : { program: linear }),
        coefficients: copy ? [] : sources.map(() => 1 / sources.length),
        origins: sources,
        key: name,
      },
    ]
  })
  if (complete) {
    return { checkpoint: own.checkpoint, tensor: derived(name, rows, parts) }
  }
  const table: Origin = inPlace ? own : { checkpoint: own.checkpoint, tensor: derived(name, wanted.length, parts) }
  const mean = meanRow(table, wanted.length, columns, tokens)
  const gaps = Array.from({ length: rows }, (_, id) => id).filter((id) => wanted[id] === undefined)
  const filled = gaps.map((id): Part => {
    const copy = dtype === 'F32'
    return {
      first: id * columns,
      elements: columns,
      ...(copy ? {} : { program: linear }),
      coefficients: copy ? [] : [1],
      origins: [mean],
      key: name,
    }
  })
  return { checkpoint: own.checkpoint, tensor: derived(name, rows, [...parts, ...filled]) }
}

const wide = 16

/**
 * Mean of the rows of a table in float32: sums of 16 slices of rows at a time, until one row is left. Rows of no token
 * are zero and do not count.
 */
function meanRow(table: Origin, rows: number, columns: number, tokens: number): Origin {
  let from = table
  for (let left = rows; ; ) {
    const next = Math.ceil(left / wide)
    const last = next === 1
    const width = widthOf(from.tensor.dtype)
    const slice = (start: number): Origin => ({ ...from, skip: (from.skip ?? 0) + start * columns * width })
    // rows [0, cut) have one slice more than those behind
    const slices = Math.ceil(left / next)
    const cut = left - (slices - 1) * next
    const part = (first: number, end: number, count: number): Part[] =>
      end <= first || count === 0
        ? []
        : [
            {
              first: first * columns,
              elements: (end - first) * columns,
              program: linear,
              coefficients: Array.from({ length: count }, () => (last ? 1 / Math.max(tokens, 1) : 1)),
              origins: Array.from({ length: count }, (_, i) => slice(first + i * next)),
              key: from.tensor.name,
            },
          ]
    const tensor: DerivedTensor = {
      name: from.tensor.name,
      file: -1,
      dtype: 'F32',
      shape: [next, columns],
      begin: 0,
      end: 4 * next * columns,
      as: 'F32',
      parts: [...part(0, cut, slices), ...part(cut, next, slices - 1)],
    }
    from = { checkpoint: table.checkpoint, tensor }
    if (last) return from
    left = next
  }
}

/** Rows that follow one another in the output and in everything they come from. */
function runsOf(wanted: (Row | undefined)[]): { id: number; count: number; row: Row }[] {
  const runs: { id: number; count: number; row: Row }[] = []
  for (const [id, row] of wanted.entries()) {
    const run = runs.at(-1)
    if (row === undefined) continue
    const follows =
      run !== undefined &&
      run.id + run.count === id &&
      run.row.length === row.length &&
      run.row.every((from, i) => from.origin === row[i]?.origin && from.row + run.count === row[i]?.row)
    if (follows) run.count++
    else runs.push({ id, count: 1, row })
  }
  return runs
}

function widthOf(dtype: string): number {
  if (isLoadable(dtype)) return bytesOf(dtype)
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_DTYPE',
    `A table of tokens has the type ${dtype}, whose rows cannot be matched by token.`,
  )
}

function equal(a: ReadonlyMap<string, number>, b: ReadonlyMap<string, number>): boolean {
  if (a === b) return true
  return a.size === b.size && [...a].every(([token, id]) => b.get(token) === id)
}

function max(values: Iterable<number>): number {
  let most = -1
  for (const value of values) most = Math.max(most, value)
  return most
}
