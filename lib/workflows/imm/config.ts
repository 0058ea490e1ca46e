/** The config of a run of IMM, as YAML or as an object, in which steps may be functions too. */

import { readFile } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import { parse } from 'yaml'
import { describe } from '../../merge/recipe/checks.js'
import type { RecipeInput } from '../../merge/recipe/index.js'
import type { RateSchedule } from '../../training/index.js'
import { codeOf, messageOf, WeightsmithError } from '../../util/errors.js'

/** A text that the model generated for a question. */
export interface Completion {
  prompt: string
  /** The reference. */
  answer: string
  sample: number
  text: string
}

/** Words of a command, run without a shell; `{model}` and the like stand for paths. */
export type ImmCommand = readonly string[]

export interface Sampling {
  samples?: number | undefined
  temperature?: number | undefined
  top_k?: number | undefined
  top_p?: number | undefined
  max_tokens?: number | undefined
  stop?: readonly string[] | undefined
  chat?: boolean | undefined
}

/** Options of `train`, where they are the same in every round; an adapter is folded into the model it came from. */
export interface Trainer {
  /** Defaults to full. */
  method?: 'lora' | 'full' | undefined
  rank?: number | undefined
  alpha?: number | undefined
  rslora?: boolean | undefined
  targets?: string | readonly string[] | undefined
  layers?: readonly number[] | undefined
  epochs?: number | undefined
  steps?: number | undefined
  batch?: number | undefined
  tokens?: number | undefined
  rate?: number | undefined
  schedule?: RateSchedule | undefined
  warmup?: number | undefined
  decay?: number | undefined
  clip?: number | undefined
}

export type ImmAnswerCheck = 'exact' | 'numeric' | 'regex'

export interface ImmConfig {
  /** The original model M0: a path, or `org/name` in the local cache. */
  model: string
  /** A .jsonl file with a line `{"prompt": ..., "answer": ...}` a question. */
  questions: string
  /** Only so many questions, from the first on. */
  limit?: number | undefined
  /** Defaults to 3. */
  rounds?: number | undefined
  /** Of sampling and dropping; a round adds its number. Defaults to 0. */
  seed?: number | undefined
  /**
   * Three samples at temperature 0.7, unless it says otherwise; or a command with `{model}`, `{questions}` and `{out}`
   * that writes lines `{"prompt": ..., "answer": ..., "text": ...}`; or a function.
   */
  generate?:
    | (Sampling & { command?: ImmCommand | undefined })
    | ((step: { model: string; questions: string; round: number; signal: AbortSignal }) => Promise<Completion[]>)
    | undefined
  /**
   * What is kept: texts that are the answer (`exact`, the default), whose last number is the answer's last number
   * (`numeric`), in which the first group of `pattern` is the answer (`regex`); or a command with `{data}` and `{out}`
   * that writes the lines it keeps; or a function.
   */
  filter?:
    | { check?: ImmAnswerCheck | undefined; pattern?: string | undefined; command?: ImmCommand | undefined }
    | ((completion: Completion) => boolean | Promise<boolean>)
    | undefined
  /**
   * Full training with the defaults of `train`, unless it says otherwise; or a command with `{model}`, `{data}` (lines
   * of prompt and answer) and `{out}`, which is to hold the trained model; or a function.
   */
  train?:
    | (Trainer & { command?: ImmCommand | undefined })
    | ((step: { model: string; data: string; out: string; round: number; signal: AbortSignal }) => Promise<void>)
    | undefined
  /**
   * IMM's merge of the original and the trained model; or any `recipe`, in which `{base}` and `{improved}` stand for
   * them.
   */
  merge?:
    | {
        alpha?: number | undefined
        p?: number | undefined
        rescale?: boolean | undefined
        history?: 'last' | 'all' | undefined
        /** The model that M0 itself comes from (R2). */
        pretrained?: string | undefined
        /**
         * An extension, not of the paper: layers that matter for `data` get more of the change (β > 0) or less, α (1 +
         * β z) within 0 and 1, where z is the standard score of the layer's block-ablation loss on M0.
         */
        importance?: { beta: number; data: string } | undefined
        recipe?: RecipeInput | undefined
        /** Of the merged models. Defaults to float32. */
        dtype?: string | undefined
      }
    | undefined
  /** Sets of `{"prompt": ..., "answer": ...}` lines. */
  evaluate?:
    | {
        id?: readonly string[] | undefined
        ood?: readonly string[] | undefined
        /** Held out: what `policy: best` and `patience` go by. */
        valid?: string | undefined
        limit?: number | undefined
        max_tokens?: number | undefined
        /** Answers of each question, drawn to measure collapse, of so many questions a set. 0: none. */
        collapse?:
          | { samples?: number | undefined; temperature?: number | undefined; limit?: number | undefined }
          | undefined
      }
    | undefined
  /** Which model is the result: of the last round (default), or the one best on the validation set, M0 among them. */
  policy?: 'last' | 'best' | undefined
  /** Ends after so many rounds without a better validation accuracy. */
  patience?: number | undefined
}

/** A config with all that was left out, and with paths that do not depend on where it lies. */
export interface Settings extends ImmConfig {
  folder: string
  rounds: number
  seed: number
  generate: NonNullable<ImmConfig['generate']>
  filter: NonNullable<ImmConfig['filter']>
  train: NonNullable<ImmConfig['train']>
  merge: NonNullable<ImmConfig['merge']>
  evaluate: { id: readonly string[]; ood: readonly string[] } & NonNullable<ImmConfig['evaluate']>
  policy: 'last' | 'best'
}

const keys: Record<string, readonly string[]> = {
  '': [
    ...['model', 'questions', 'limit', 'rounds', 'seed', 'generate', 'filter', 'train', 'merge', 'evaluate', 'policy'],
    'patience',
  ],
  generate: ['samples', 'temperature', 'top_k', 'top_p', 'max_tokens', 'stop', 'chat', 'command'],
  filter: ['check', 'pattern', 'command'],
  train: [
    ...['command', 'method', 'rank', 'alpha', 'rslora', 'targets', 'layers', 'epochs', 'steps', 'batch', 'tokens'],
    ...['rate', 'schedule', 'warmup', 'decay', 'clip'],
  ],
  merge: ['alpha', 'p', 'rescale', 'history', 'pretrained', 'importance', 'recipe', 'dtype'],
  'merge.importance': ['beta', 'data'],
  evaluate: ['id', 'ood', 'valid', 'limit', 'max_tokens', 'collapse'],
  'evaluate.collapse': ['samples', 'temperature', 'limit'],
}

/** Names that commands know, beside those they need. */
const places = {
  'generate.command': ['model', 'questions', 'out'],
  'filter.command': ['data', 'out'],
  'train.command': ['model', 'data', 'out'],
} as const

/** A config of a YAML file or an object. Throws ERR_WEIGHTSMITH_RECIPE with the path of a key that is not valid. */
export async function readConfig(config: string | ImmConfig): Promise<Settings> {
  if (typeof config !== 'string') return check(config, process.cwd())
  let text: string
  try {
    text = await readFile(config, 'utf8')
  } catch (cause) {
    const code = codeOf(cause) === 'ENOENT' ? 'ERR_WEIGHTSMITH_NOT_FOUND' : 'ERR_WEIGHTSMITH_IO_READ'
    throw new WeightsmithError(code, `The config ${config} cannot be read: ${messageOf(cause)}.`, {
      cause,
      file: config,
    })
  }
  let value: unknown
  try {
    value = parse(text)
  } catch (cause) {
    const message = `The config ${config} is not YAML: ${messageOf(cause).split('\n', 1)[0]}.`
    throw new WeightsmithError('ERR_WEIGHTSMITH_RECIPE', message, { cause, file: config })
  }
  return check(value, dirname(resolve(config)))
}

function check(value: unknown, folder: string): Settings {
  const given = section(value, '')
  for (const path of ['generate', 'filter', 'train', 'merge', 'evaluate']) {
    if (typeof given[path] === 'function') continue
    const inner = section(given[path] ?? {}, path)
    for (const [key, below] of Object.entries(inner)) {
      if (keys[`${path}.${key}`] !== undefined) section(below, `${path}.${key}`)
      const wanted = places[`${path}.${key}` as keyof typeof places]
      if (wanted !== undefined) checkCommand(below, `${path}.${key}`, wanted)
    }
  }
  const config = given as unknown as ImmConfig
  const { rounds = 3, seed = 0, generate = {}, filter = {}, train = {}, merge = {}, evaluate = {} } = config
  const { policy = 'last' } = config
  for (const path of ['model', 'questions'] as const) text(config[path], path)
  if (typeof train !== 'function') {
    oneOf(train.method, 'train.method', ['full', 'lora'])
    const others = Object.keys(train).filter((key) => key !== 'command')
    if (train.command !== undefined && others.length > 0)
      fail('train', 'either a command or options of training', train)
  }
  whole(rounds, 'rounds', 1)
  whole(seed, 'seed', 0)
  whole(config.limit, 'limit', 1)
  whole(config.patience, 'patience', 1)
  oneOf(policy, 'policy', ['last', 'best'])
  if (typeof filter === 'object') {
    oneOf(filter.check, 'filter.check', ['exact', 'numeric', 'regex'])
    if (filter.check === 'regex') checkPattern(filter.pattern)
  }
  for (const [key, low, high] of [
    ['alpha', 0, 1],
    ['p', 0, 1],
  ] as const) {
    const found = merge[key]
    if (found !== undefined && !(found >= low && found <= high))
      fail(`merge.${key}`, `a number from ${low} to ${high}`, found)
  }
  oneOf(merge.history, 'merge.history', ['last', 'all'])
  if (merge.recipe !== undefined && Object.keys(merge).some((key) => !['recipe', 'dtype'].includes(key))) {
    fail('merge', 'either a recipe or the parameters of IMM', merge)
  }
  if (merge.importance !== undefined) {
    if (typeof merge.importance.beta !== 'number') fail('merge.importance.beta', 'a number', merge.importance.beta)
    text(merge.importance.data, 'merge.importance.data')
    const others = merge.history === 'all' || merge.pretrained !== undefined
    if (others) fail('merge.importance', 'without pretrained and history all', merge.importance)
  }
  const at = (file: string) => resolve(folder, file)
  const all = (files: readonly string[] | undefined, path: string) => {
    if (files !== undefined && !(Array.isArray(files) && files.every((file) => typeof file === 'string'))) {
      fail(path, 'a list of files', files)
    }
    return (files ?? []).map(at)
  }
  if ((policy === 'best' || config.patience !== undefined) && evaluate.valid === undefined) {
    fail('evaluate.valid', 'a held-out set, which policy best and patience go by', undefined)
  }
  return {
    ...config,
    folder,
    questions: at(config.questions),
    rounds,
    seed,
    generate,
    filter,
    train,
    merge: {
      ...merge,
      ...(merge.importance && { importance: { ...merge.importance, data: at(merge.importance.data) } }),
    },
    evaluate: {
      ...evaluate,
      id: all(evaluate.id, 'evaluate.id'),
      ood: all(evaluate.ood, 'evaluate.ood'),
      ...(evaluate.valid !== undefined && { valid: at(evaluate.valid) }),
    },
    policy,
  }
}

function section(value: unknown, path: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return fail(path, 'keys with values', value)
  const known = keys[path] ?? []
  for (const key of Object.keys(value)) {
    if (!known.includes(key)) fail(path === '' ? key : `${path}.${key}`, `one of the keys ${known.join(', ')}`, key)
  }
  return value as Record<string, unknown>
}

function checkCommand(value: unknown, path: string, wanted: readonly string[]): void {
  if (!Array.isArray(value) || value.length === 0 || !value.every((word) => typeof word === 'string')) {
    fail(path, 'a list of words', value)
  }
  const used = (value as string[]).flatMap((word) => [...word.matchAll(/\{(\w+)\}/g)].map(([, name = '']) => name))
  const odd = used.find((name) => !wanted.includes(name))
  if (odd !== undefined) fail(path, `with no places but ${wanted.map((name) => `{${name}}`).join(', ')}`, `{${odd}}`)
  const absent = wanted.find((name) => !used.includes(name))
  if (absent !== undefined) fail(path, `with the places ${wanted.map((name) => `{${name}}`).join(', ')}`, value)
}

function checkPattern(pattern: unknown): void {
  if (typeof pattern !== 'string') fail('filter.pattern', 'a regular expression', pattern)
  try {
    new RegExp(pattern as string)
  } catch (cause) {
    throw new WeightsmithError('ERR_WEIGHTSMITH_RECIPE', `filter.pattern of the config: ${messageOf(cause)}.`, {
      cause,
    })
  }
}

function text(value: unknown, path: string): void {
  if (typeof value !== 'string' || value === '') fail(path, 'a path', value)
}

function whole(value: unknown, path: string, least: number): void {
  if (value !== undefined && !(Number.isSafeInteger(value) && (value as number) >= least)) {
    fail(path, `a whole number from ${least}`, value)
  }
}

function oneOf(value: unknown, path: string, values: readonly string[]): void {
  if (value !== undefined && !values.includes(value as string)) fail(path, `one of ${values.join(', ')}`, value)
}

function fail(path: string, expected: string, found: unknown): never {
  const where = path === '' ? 'The config' : `${path} of the config`
  throw new WeightsmithError('ERR_WEIGHTSMITH_RECIPE', `${where} should be ${expected}, but ${describe(found)}.`)
}
