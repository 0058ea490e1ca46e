/**
 * Which vocabulary an output gets. `tokenizer_source` and mergekit's `tokenizer` mapping come to one policy; without
 * either, the tokenizer is copied and vocabularies have to have the same size.
 */

import { entry as entryOf, fail, knownKeys, modelName, record } from './checks.js'

/** Where the embedding of a token comes from. */
export type TokenSource =
  | { kind: 'zero' }
  /** Mean of the models that have the token. */
  | { kind: 'mean' }
  /** That of a model, for the same token, another one or an id of it. */
  | { kind: 'model_token'; model: string; token?: string; token_id?: number }

export interface TokenRule {
  source?: TokenSource
  /** Also for models that have the token. */
  force: boolean
}

export interface TokenizerPolicy {
  /** `base`, `none`, `union` or one of the models. */
  source: string
  tokens: ReadonlyMap<string, TokenRule>
  /** Rows of the output are filled up to a multiple of it. */
  multiple?: number
  /** Whether the recipe says so; else files are copied and nothing else. */
  explicit: boolean
}

/** mergekit's `tokenizer`. */
export interface TokenizerInput {
  source?: string
  tokens?: Record<string, { source?: string | TokenSource; force?: boolean }>
  pad_to_multiple_of?: number
}

export function checkTokenizer(
  top: Record<string, unknown>,
  models: ReadonlySet<string>,
  notes: string[],
): TokenizerPolicy {
  const { tokenizer, tokenizer_source: given } = top
  if (tokenizer === undefined || tokenizer === null) {
    const explicit = given !== undefined && given !== null
    const source = explicit ? checkSource(given, 'tokenizer_source') : 'base'
    return { source, tokens: new Map(), explicit }
  }
  if (given !== undefined) fail('', 'either tokenizer or tokenizer_source', 'both')
  const entry = entryOf(tokenizer, 'tokenizer', 'a mapping with source, tokens and pad_to_multiple_of')
  knownKeys(entry, 'tokenizer', ['source', 'tokens', 'pad_to_multiple_of'], notes)
  const padded = entry.pad_to_multiple_of
  const multiple = typeof padded === 'string' && /^\d+$/.test(padded) ? Number(padded) : padded
  if (
    multiple !== undefined &&
    !(Number.isSafeInteger(multiple) && Number(multiple) >= 1 && Number(multiple) <= 2 ** 20)
  ) {
    fail('tokenizer.pad_to_multiple_of', 'a whole number from 1 to 1048576', multiple)
  }
  const tokens =
    entry.tokens === undefined || entry.tokens === null
      ? {}
      : record(entry.tokens, 'tokenizer.tokens', 'a mapping of tokens')
  return {
    source: entry.source === undefined ? 'union' : checkSource(entry.source, 'tokenizer.source'),
    tokens: new Map(
      Object.entries(tokens).map(([token, rule]) => [
        token,
        checkRule(rule, `tokenizer.tokens.${token}`, models, notes),
      ]),
    ),
    ...(multiple === undefined ? {} : { multiple: Number(multiple) }),
    explicit: true,
  }
}

/** Any model may lend its tokenizer, one that is not merged too. */
function checkSource(value: unknown, path: string): string {
  if (value === 'base' || value === 'none' || value === 'union') return value
  return withoutKind(modelName(value, path))
}

/** mergekit's older recipes write `model:` before the name of a tokenizer's model. */
function withoutKind(name: string): string {
  return name.replace(/^model:(?=.)/, '')
}

/** Its embedding is read, so it has to be merged. */
function checkModel(value: unknown, path: string, models: ReadonlySet<string>): string {
  const given = modelName(value, path)
  const name = models.has(given) ? given : withoutKind(given)
  return models.has(name) ? name : fail(path, `one of the models (${[...models].join(', ')})`, value)
}

function checkRule(value: unknown, path: string, models: ReadonlySet<string>, notes: string[]): TokenRule {
  const entry = entryOf(value ?? {}, path, 'a mapping with source and force')
  knownKeys(entry, path, ['source', 'force'], notes)
  const { force: given = false } = entry
  const force = given === 'true' ? true : given === 'false' ? false : given
  if (typeof force !== 'boolean') fail(`${path}.force`, 'true or false', force)
  const source = checkTokenSource(entry.source, `${path}.source`, models, notes)
  return { ...(source === undefined ? {} : { source }), force: force === true }
}

function checkTokenSource(
  value: unknown,
  path: string,
  models: ReadonlySet<string>,
  notes: string[],
): TokenSource | undefined {
  if (value === undefined || value === null) return undefined
  if (typeof value === 'string' || (typeof value === 'object' && !('kind' in value))) {
    return { kind: 'model_token', model: checkModel(value, path, models) }
  }
  const entry = record(value, path, 'a model or a mapping with kind')
  knownKeys(entry, path, ['kind', 'model', 'token', 'token_id'], notes)
  const { kind, token, token_id: id } = entry
  if (kind === 'zero' || kind === 'mean') return { kind }
  if (kind !== 'model_token') return fail(`${path}.kind`, 'zero, mean or model_token', kind)
  const model = checkModel(entry.model, `${path}.model`, models)
  if (typeof token === 'string' && id === undefined) return { kind, model, token }
  if (token === undefined && typeof id === 'number' && Number.isSafeInteger(id) && id >= 0) {
    return { kind, model, token_id: id }
  }
  return fail(path, 'a mapping with either token or token_id (a whole number from 0)', entry)
}
