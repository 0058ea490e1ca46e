/**
 * What adapter_config.json says of a LoRA adapter. Any field may change what the factors mean, so only those that are
 * read here, or are known to matter to training alone, may be set: what PEFT adds later is refused by its name until it
 * is understood. What a field means is what PEFT makes of it (peft/tuners/lora/config.py, layer.py, utils/other.py).
 */

import { Script } from 'node:vm'
import { largestConfig, readSmall } from '../checkpoint/small.js'
import { codeOf, messageOf, WeightsmithError } from '../util/errors.js'
import { parseJson } from '../util/json.js'
import type { StackOrder, Start } from './adapter.js'

export interface AdapterConfig {
  /** The model it was trained on, as the config names it. */
  base?: string
  /** Weights are stored as [in, out]. */
  turned: boolean
  /**
   * Modules that the adapter has factors for, by their names or the ends of them; empty where the config says it in
   * another way.
   */
  targets: string[]
  /** Modules that the adapter has whole, in the same way. */
  saved: string[]
  /** Parameters that the adapter has factors for, such as `mlp.experts.down_proj`, in the same way. */
  parameters: string[]
  /** Ids of the tokens whose rows it has, of a table by its module. */
  tokensOf(module: string): number[] | undefined
  /** Of `parameters` with three dimensions; absent where the config names no version of PEFT. */
  stackOrder?: StackOrder
  dora: boolean
  loraBias: boolean
  start?: Start
  features: string[]
  /** Why it cannot be folded; see `Adapter`. */
  obstacles: string[]
  /** It is a LoRA adapter, so that its tensors can be understood. */
  readable: boolean
  /** It is a mixture of experts, of AmoebaLLM's code. */
  mixture?: MixtureConfig
  /** Rank and scale, alpha / r or alpha / √r, of each of these modules. */
  factorsOf(modules: readonly string[]): { rank: number; scale: number }[]
  /** Throws: what it says makes no sense. */
  refuse(what: string): never
}

/** What a mixture of LoRA experts has beside their factors. */
export interface MixtureConfig {
  experts: number
  /** Experts that count for a shape of the model. */
  top: number
  /** Shares that the router knows, in the order in which it is told them. */
  widths: number[]
  /** Whether factors are mixed, or what they make. */
  mix: 'factor' | 'output'
}

/** Fields that leave W + s (B A) as it is, whatever they hold. */
const harmless: ReadonlySet<string> = new Set([
  // where it comes from
  ...['auto_mapping', 'base_model_name_or_path', 'peft_version', 'revision', 'task_type'],
  // which modules: the tensors say that
  ...['exclude_modules', 'layers_pattern', 'layers_to_transform', 'modules_to_save', 'target_modules'],
  // training and loading
  ...[
    'inference_mode',
    'lora_dropout',
    'lora_dtype',
    'lorap_emb_lr',
    'lorap_lr_ratio',
    'runtime_config',
    'velora_config',
  ],
  // details of what another field switches on
  ...['corda_config', 'eva_config', 'loftq_config', 'lora_ga_config', 'megatron_core', 'qalora_group_size'],
])

/** Fields that are read here. */
const read: ReadonlySet<string> = new Set([
  ...['alpha_pattern', 'bias', 'fan_in_fan_out', 'init_lora_weights', 'lora_alpha', 'peft_type', 'r', 'rank_pattern'],
  ...['use_rslora', 'use_dora', 'lora_bias', 'target_parameters', 'trainable_token_indices'],
  ...['use_moe_lora', 'num_experts', 'top_k', 'width_choice', 'moe_mix'],
])

/** What else these do; the sentence goes on after "it sets …, ". */
const reasons: Readonly<Record<string, string>> = {
  alora_invocation_tokens: 'so it holds behind some tokens only, which no weights can say',
  arrow_config: 'so it is chosen token by token, which no weights can say',
  kasa_config: 'which changes the base model too',
  layer_replication: 'which repeats layers of the base model',
  use_qalora: 'so its A takes means of groups of inputs',
}

/** What other types of adapters are; the sentence goes on after "its peft_type is …, ". */
const otherTypes: Readonly<Record<string, string>> = {
  ADALORA: 'whose ranks are cut while it is trained; save it as LoRA with the trainer first',
  IA3: 'which scales activations',
  LOHA: 'a product of products; convert it to LoRA first',
  LOKR: 'a Kronecker product; convert it to LoRA first',
  OFT: 'which turns weights',
  XLORA: 'a mixture that is chosen token by token, which no weights can say',
}

/** Starts of A and B with which the base model stays as it was. */
const plainStarts: ReadonlySet<unknown> = new Set([
  ...[undefined, null, true, false],
  ...['gaussian', 'eva', 'orthogonal', 'mica'],
])

export async function readAdapterConfig(file: string): Promise<AdapterConfig> {
  const config = await parseConfig(file)
  const refuse = (what: string): never => {
    throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `The adapter ${file} cannot be used: ${what}.`, { file })
  }
  const obstacles: string[] = []
  const kind = config.peft_type
  const readable = kind === 'LORA'
  if (!readable) {
    const known = typeof kind === 'string' ? otherTypes[kind] : undefined
    obstacles.push(`its peft_type is ${JSON.stringify(kind)}, ${known ?? 'and only "LORA" is offered'}`)
  }
  const { bias = 'none', init_lora_weights: init, base_model_name_or_path: base } = config
  if (bias !== 'none' && bias !== 'all' && bias !== 'lora_only') obstacles.push(`its bias is ${JSON.stringify(bias)}`)
  const start = startOf(init)
  if (start === 'other') {
    obstacles.push(
      `its init_lora_weights is ${JSON.stringify(init)}, which changes the base model too, in a way that its files do not ` +
        'say (PEFT converts such adapters to plain ones with path_initial_model_for_weight_conversion)',
    )
  }
  for (const [key, value] of Object.entries(config)) {
    if (read.has(key) || harmless.has(key) || isEmpty(value)) continue
    obstacles.push(`it sets ${key}, ${reasons[key] ?? 'which may mean something else than W + s (B A)'}`)
  }
  const flag = (key: string) => {
    const value = config[key] ?? false
    return typeof value === 'boolean' ? value : refuse(`${key} is ${JSON.stringify(value)}, not true or false`)
  }
  // the defaults of PEFT
  const rank = numberAt(config, 'r', isRank, 8, refuse)
  const alpha = numberAt(config, 'lora_alpha', Number.isFinite, 8, refuse)
  const rooted = flag('use_rslora')
  const ranks = patternsAt(config, 'rank_pattern', isRank, refuse)
  const alphas = patternsAt(config, 'alpha_pattern', Number.isFinite, refuse)
  const mixture = flag('use_moe_lora') ? mixtureOf(config, refuse) : undefined
  const narrowed = !isEmpty(config.exclude_modules) || !isEmpty(config.layers_to_transform)
  const tokens = tokensAt(config.trainable_token_indices, refuse)
  const quiet = ['alpha_pattern', 'modules_to_save', 'rank_pattern', 'trainable_token_indices', 'target_parameters']
  const switches = ['fan_in_fan_out', 'lora_bias', 'use_dora', 'use_rslora']
  return {
    ...(typeof base === 'string' && base !== '' ? { base } : {}),
    turned: flag('fan_in_fan_out'),
    targets: narrowed ? [] : namesAt(config.target_modules),
    saved: namesAt(config.modules_to_save),
    parameters: namesAt(config.target_parameters),
    tokensOf: (module) => tokens.find(([name]) => module === name || module.endsWith(`.${name}`))?.[1],
    ...stackOrderOf(config.peft_version),
    dora: flag('use_dora'),
    loraBias: flag('lora_bias'),
    ...(start === 'pissa' || start === 'olora' ? { start } : {}),
    features: [
      ...[...switches, ...quiet].filter((key) => !isEmpty(config[key])),
      ...(bias === 'none' ? [] : [`bias: ${JSON.stringify(bias)}`]),
      ...(plainStarts.has(init) ? [] : [`init_lora_weights: ${JSON.stringify(init)}`]),
    ],
    obstacles,
    readable,
    ...(mixture === undefined ? {} : { mixture }),
    factorsOf: (modules) => {
      const own = (patterns: Patterns, otherwise: number) => valuesOf(patterns, modules, otherwise, refuse)
      const scales = own(alphas, alpha)
      return own(ranks, rank).map((r, i) => ({ rank: r, scale: (scales[i] ?? alpha) / (rooted ? Math.sqrt(r) : r) }))
    },
    refuse,
  }
}

const mostExperts = 1024

/** Released configs leave `moe_mix` out, and their code mixes factors. */
function mixtureOf(config: Config, refuse: Refuse): MixtureConfig {
  const few = (value: number) => isRank(value) && value <= mostExperts
  const experts = numberAt(config, 'num_experts', few, Number.NaN, refuse)
  const top = numberAt(config, 'top_k', (value) => few(value) && value <= experts, Number.NaN, refuse)
  const { moe_mix: mix = 'factor', width_choice: widths } = config
  if (mix !== 'factor' && mix !== 'output') return refuse(`moe_mix is ${JSON.stringify(mix)}`)
  return { experts, top, widths: widthsOf(widths) ?? refuse(`width_choice is ${JSON.stringify(widths)}`), mix }
}

/** A list such as "[1,7/8,0.75]", which is a text. */
function widthsOf(value: unknown): number[] | undefined {
  const [, list] = (typeof value === 'string' && /^\s*\[([^[\]]{1,4096})\]\s*$/.exec(value)) || []
  const widths = list?.split(',').map((text) => {
    const [, over, under = '1'] = /^\s*([\d.]+)\s*(?:\/\s*([\d.]+)\s*)?$/.exec(text) ?? []
    return Number(over) / Number(under)
  })
  const sound = widths?.every((width) => width > 0 && width <= 1) && new Set(widths).size === widths.length
  return sound ? widths : undefined
}

/** Which order a stack of experts has, PEFT asks its class since 0.19 (peft/tuners/lora/layer.py, ParamWrapper). */
function stackOrderOf(version: unknown): Pick<AdapterConfig, 'stackOrder'> {
  const [, major, minor] = typeof version === 'string' ? (/^(\d+)\.(\d+)/.exec(version) ?? []) : []
  if (major === undefined) return {}
  return { stackOrder: Number(major) === 0 && Number(minor) < 19 ? 'in-out' : 'class' }
}

function startOf(init: unknown): Start | 'plain' | 'other' {
  const name = typeof init === 'string' ? init.toLowerCase() : init
  if (plainStarts.has(name)) return 'plain'
  return name === 'pissa' || name === 'olora' ? name : 'other'
}

/** Ids by the end of a module's name; a plain list is of the embedding. */
function tokensAt(value: unknown, refuse: Refuse): [string, number[]][] {
  if (isEmpty(value)) return []
  const lists = Array.isArray(value) ? { embed_tokens: value } : value
  const wrong = () => refuse(`its trainable_token_indices are ${JSON.stringify(value)}`)
  if (typeof lists !== 'object' || lists === null) return wrong()
  return Object.entries(lists).map(([name, ids]) => {
    const sound = Array.isArray(ids) && ids.every((id) => Number.isSafeInteger(id) && id >= 0)
    return sound && new Set(ids).size === ids.length ? [name, ids as number[]] : wrong()
  })
}

function isEmpty(value: unknown): boolean {
  if (typeof value === 'object' && value !== null) return Object.keys(value).length === 0
  return value === undefined || value === null || value === false || value === ''
}

function isRank(value: number): boolean {
  return Number.isSafeInteger(value) && value > 0
}

export type Config = Readonly<Record<string, unknown>>
type Refuse = (what: string) => never
type Allowed = (value: number) => boolean

function numberAt(config: Config, key: string, allowed: Allowed, otherwise: number, refuse: Refuse): number {
  const value = config[key] ?? otherwise
  return typeof value === 'number' && allowed(value) ? value : refuse(`${key} is ${JSON.stringify(value)}`)
}

/** A single string is a regular expression, or the word for all linears. */
function namesAt(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((name) => typeof name === 'string') : []
}

interface Patterns {
  field: string
  /** Regular expressions for the ends of names, and what holds where they match. */
  entries: [string, number][]
}

function patternsAt(config: Config, field: string, allowed: Allowed, refuse: Refuse): Patterns {
  const raw = config[field] ?? {}
  if (typeof raw !== 'object') return refuse(`${field} is ${JSON.stringify(raw)}`)
  const entries = Object.entries(raw).map(([key, value]): [string, number] =>
    typeof value === 'number' && allowed(value)
      ? [key, value]
      : refuse(`${field} has ${JSON.stringify(value)} for ${key}`),
  )
  return { field, entries }
}

/**
 * Milliseconds that the patterns of an adapter may take. A thousand names and patterns take some hundredths of that;
 * an expression can be written so that it never ends.
 */
const patience = 2000

const firstMatch = new Script(`
  const expressions = keys.map((key) => new RegExp('^(?:(.*\\\\.)?(' + key + ')$)', 'u'))
  modules.map((module) => expressions.findIndex((expression) => expression.test(module)))
`)

/** The first key that matches decides, as in PEFT: re.match(rf"(.*\.)?({key})$", module). */
function valuesOf(
  { field, entries }: Patterns,
  modules: readonly string[],
  otherwise: number,
  refuse: Refuse,
): number[] {
  if (entries.length === 0) return modules.map(() => otherwise)
  const scope = { keys: entries.map(([key]) => key), modules }
  try {
    const found: number[] = firstMatch.runInNewContext(scope, { timeout: patience })
    return Array.from(found, (at) => entries[at]?.[1] ?? otherwise)
  } catch (cause) {
    return refuse(`its ${field} cannot be followed (${messageOf(cause)})`)
  }
}

export async function parseConfig(file: string): Promise<Config> {
  let parsed: unknown
  try {
    parsed = parseJson((await readSmall(file, largestConfig)).toString('utf8'))
  } catch (cause) {
    if (codeOf(cause) === 'ERR_WEIGHTSMITH_IO_READ') throw cause
    const missing = codeOf(cause) === 'ERR_WEIGHTSMITH_NOT_FOUND'
    throw new WeightsmithError(
      missing ? 'ERR_WEIGHTSMITH_NOT_FOUND' : 'ERR_WEIGHTSMITH_FORMAT',
      missing ? `There is no ${file}; an adapter needs one.` : `${file} is not valid: ${messageOf(cause)}.`,
      { cause, file },
    )
  }
  if (typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed)) return parsed as Config
  throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `${file} is not valid: it is not an object.`, { file })
}
