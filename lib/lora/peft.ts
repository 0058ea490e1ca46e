/**
 * LoRA adapters as PEFT saves them: adapter_config.json beside adapter_model.safetensors, whatever else is in the
 * folder. The tensors decide what is adapted; the config says what they mean. Tensors that are not understood are
 * refused by name.
 */

import { inside } from '../checkpoint/inside.js'
import { type Checkpoint, type CheckpointTensor, openFiles, peftPrefix } from '../checkpoint/open.js'
import type { NativeAddon } from '../native/border.js'
import { codeOf, WeightsmithError } from '../util/errors.js'
import type { Adapter, LowRank, TokenRows } from './adapter.js'
import { type AdapterConfig, readAdapterConfig } from './adapter_config.js'

const weightsName = 'adapter_model.safetensors'

export async function openPeft(
  addon: Pick<NativeAddon, 'readHeader' | 'readIndex'>,
  path: string,
  name: string,
  configFile: string,
): Promise<Adapter> {
  const config = await readAdapterConfig(await inside(path, configFile))
  const { refuse } = config
  const checkpoint = await openFiles(addon, path, name, { names: [weightsName] }, path).catch(notThere)
  const common = {
    format: 'PEFT' as const,
    checkpoint,
    ...(config.base === undefined ? {} : { base: config.base }),
    turned: config.turned,
    named: [...config.targets, ...config.saved, ...config.parameters],
    features: config.features,
    obstacles: config.mixture === undefined ? config.obstacles : [...config.obstacles, isMixture],
  }
  if (!config.readable || config.mixture !== undefined) {
    return { ...common, matrices: [], replaced: new Map(), biases: new Map(), tokens: new Map() }
  }
  const parts = sorted(checkpoint, refuse)
  const parameters = parts.pairs.map(({ module }) => parameterOf(module, parts, config))
  // PEFT looks a parameter up by its own name, and all else by that of the module.
  const factors = config.factorsOf(parts.pairs.map(({ module }, i) => parameters[i] ?? module))
  const matrices = parts.pairs.map((pair, i) =>
    lowRank(pair, parameters[i], factors[i] ?? { rank: 0, scale: 0 }, parts, config),
  )
  const absent = config.parameters.find((name) => !matrices.some(({ target }) => `.${target}`.endsWith(`.${name}`)))
  if (absent !== undefined) refuse(`its target_parameters name ${absent}, but it has no factors of it`)
  for (const module of parts.below.keys()) refuse(`it has ${module}.base_layer.weight without A and B`)
  for (const [module, { name: key }] of parts.magnitudes) {
    refuse(config.dora ? `it has ${key} without A and B of ${module}` : `it has ${key}, but does not set use_dora`)
  }
  const biases = [...parts.biases].map(([module, tensor]) => {
    const at = parts.pairs.findIndex((pair) => pair.module === module)
    if (at < 0) refuse(`it has ${tensor.name} without A and B`)
    if (!config.loraBias) refuse(`it has ${tensor.name}, but does not set lora_bias`)
    return [`${module}.bias`, { tensor, scale: factors[at]?.scale ?? 0 }] as const
  })
  if (config.loraBias && biases.length === 0) refuse('it sets lora_bias, but has no lora_B.bias')
  const tokens = [...parts.tokens].map(
    ([module, tensor]) => [`${module}.weight`, rowsOf(module, tensor, config)] as const,
  )
  if (config.features.includes('trainable_token_indices') && tokens.length === 0) {
    refuse('it sets trainable_token_indices, but has no trainable_tokens_delta')
  }
  if (matrices.length + parts.whole.size + tokens.length === 0) refuse('it has no tensors')
  return { ...common, matrices, replaced: parts.whole, biases: new Map(biases), tokens: new Map(tokens) }
}

const isMixture =
  'it is a mixture of experts (use_moe_lora), whose gates depend on the shape that a model has; amoeba eval runs it'

function lowRank(
  { module, a, b, embedding }: Pair,
  parameter: string | undefined,
  { rank, scale }: { rank: number; scale: number },
  parts: Sorted,
  config: AdapterConfig,
): LowRank {
  const { refuse } = config
  const experts = a.shape.length === 2 ? (a.shape[0] ?? 0) / rank : 0
  if (a.shape.length !== 2 || b.shape.length !== 2 || b.shape[1] !== a.shape[0]) {
    refuse(
      `A of ${module} has the shape [${a.shape.join(', ')}] and B [${b.shape.join(', ')}], and A has to have as many ` +
        'rows as B has columns',
    )
  }
  if (experts !== 1 && !(parameter !== undefined && Number.isSafeInteger(experts) && experts > 0)) {
    refuse(`A of ${module} has ${a.shape[0]} rows, but its config says rank ${rank}`)
  }
  const below = parts.below.get(module)
  parts.below.delete(module)
  const magnitude = config.dora ? parts.magnitudes.get(module) : undefined
  if (config.dora) parts.magnitudes.delete(module)
  if (config.dora && magnitude === undefined) refuse(`it sets use_dora, but ${module} has no magnitude vector`)
  return {
    target: parameter ?? `${module}.weight`,
    ...{ a, b, rank, scale, turned: embedding, embedding },
    ...(experts === 1 ? {} : { experts, ...(config.stackOrder === undefined ? {} : { order: config.stackOrder }) }),
    ...(magnitude === undefined ? {} : { magnitude }),
    ...(config.start === undefined ? {} : { start: config.start }),
    ...(below === undefined ? {} : { below }),
  }
}

/** Parameters of a module of experts, in the order in which its class has them. */
const inOrder = ['gate_up_proj', 'gate_proj', 'up_proj', 'w1', 'w3', 'down_proj', 'w2', 'weight']

/**
 * The parameter that factors are of, where the config names parameters. Of several in one module PEFT wraps one after
 * the other, so that the last one is the outermost: `experts.lora_A`, and `experts.base_layer.lora_A` before it.
 */
function parameterOf(path: string, { pairs }: Sorted, { parameters, refuse }: AdapterConfig): string | undefined {
  const module = path.replace(/(\.base_layer)+$/, '')
  const depth = (path.length - module.length) / '.base_layer'.length
  const names = parameters.flatMap((name) => {
    const at = name.lastIndexOf('.')
    const [owner, parameter] = at < 0 ? ['', name] : [name.slice(0, at), name.slice(at + 1)]
    return module === owner || module.endsWith(`.${owner}`) ? [parameter] : []
  })
  if (names.length === 0) {
    return depth === 0 ? undefined : refuse(`it has factors of ${path}, which its target_parameters do not name`)
  }
  const unknown = names.find((name) => !inOrder.includes(name))
  if (names.length > 1 && unknown !== undefined) {
    refuse(`it adapts several parameters of ${module}, and where ${unknown} stands among them is not known`)
  }
  const held = pairs.filter((pair) => pair.module.replace(/(\.base_layer)+$/, '') === module).length
  if (held !== names.length) refuse(`its config names ${names.join(' and ')} of ${module}, but it has ${held} of them`)
  const sorted = names.sort((one, two) => inOrder.indexOf(one) - inOrder.indexOf(two))
  return `${module}.${sorted[sorted.length - 1 - depth] ?? ''}`
}

function rowsOf(module: string, tensor: CheckpointTensor, { tokensOf, refuse }: AdapterConfig): TokenRows {
  const ids = tokensOf(module) ?? refuse(`it has ${tensor.name}, but its trainable_token_indices do not name ${module}`)
  if (tensor.shape.length !== 2 || tensor.shape[0] !== ids.length) {
    refuse(`${tensor.name} has the shape [${tensor.shape.join(', ')}], but its config names ${ids.length} tokens`)
  }
  return { tensor, ids }
}

interface Pair {
  module: string
  a: CheckpointTensor
  b: CheckpointTensor
  embedding: boolean
}

/** All but `whole` and the pairs by module. */
interface Sorted {
  pairs: Pair[]
  /** By name. */
  whole: Map<string, CheckpointTensor>
  /** Weights below A and B. */
  below: Map<string, CheckpointTensor>
  magnitudes: Map<string, CheckpointTensor>
  biases: Map<string, CheckpointTensor>
  tokens: Map<string, CheckpointTensor>
}

/** The tensors of the file by what they are. */
function sorted({ tensors }: Checkpoint, refuse: (what: string) => never): Sorted {
  const sides = { A: new Map<string, CheckpointTensor>(), B: new Map<string, CheckpointTensor>() }
  const tables = new Set<string>()
  const found = () => new Map<string, CheckpointTensor>()
  const [whole, below, magnitudes, biases, tokens, trained] = [found(), found(), found(), found(), found(), found()]
  const before: string[] = []
  const put = (map: Map<string, CheckpointTensor>, key: string, tensor: CheckpointTensor) => {
    const twin = map.get(key)
    if (twin !== undefined) refuse(`${twin.name} and ${tensor.name} are for the same place`)
    map.set(key, tensor)
  }
  for (const [key, tensor] of tensors) {
    if (!key.startsWith(peftPrefix)) refuse(`its tensor ${key} does not start with ${peftPrefix}`)
    const plain = key
      .slice(peftPrefix.length)
      .replace('.default.', '.')
      .replace(/\.default$/, '')
    const [, module = '', embedding, side] = /^(.+)\.lora_(embedding_)?(A|B)(?:\.weight)?$/.exec(plain) ?? []
    const [, under = '', kind] = /^(.+)\.base_layer\.(weight|bias)$/.exec(plain) ?? []
    const [, dora] = /^(.+)\.lora_magnitude_vector(?:\.weight)?$/.exec(plain) ?? []
    const [, biased] = /^(.+)\.lora_B\.bias$/.exec(plain) ?? []
    const [, table] = /^(.+?)(?:\.token_adapter)?\.trainable_tokens_delta$/.exec(plain) ?? []
    if (side === 'A' || side === 'B') {
      put(sides[side], module, tensor)
      if (embedding !== undefined) tables.add(module)
    } else if (dora !== undefined) put(magnitudes, dora, tensor)
    else if (biased !== undefined) put(biases, biased, tensor)
    else if (table !== undefined) put(tokens, table, tensor)
    else if (kind === 'weight') put(below, under, tensor)
    else if (kind === 'bias') put(whole, `${under}.bias`, tensor)
    else if (/lora_|magnitude_vector/.test(plain)) refuse(`it has the tensor ${key}, which is not offered`)
    else if (plain.includes('.original_module.')) before.push(plain.replace('.original_module.', '.'))
    else if (plain.includes('.modules_to_save.')) trained.set(plain.replace('.modules_to_save.', '.'), tensor)
    else put(whole, plain, tensor)
  }
  // PEFT saves a module whose vocabulary grew under both names.
  for (const [name, tensor] of trained) if (!whole.has(name)) whole.set(name, tensor)
  // What a saved module was before it was trained is of no more use.
  for (const name of before) if (!whole.has(name)) refuse(`it has ${name} as it was, but not as it became`)
  for (const [module, b] of sides.B) if (!sides.A.has(module)) refuse(`it has ${b.name} without its A`)
  const pairs = [...sides.A].map(([module, a]): Pair => {
    const b = sides.B.get(module) ?? refuse(`it has ${a.name} without its B`)
    if (whole.has(`${module}.weight`)) refuse(`it has ${module}.weight both whole and as A and B`)
    return { module, a, b, embedding: tables.has(module) }
  })
  return { pairs, whole, below, magnitudes, biases, tokens }
}

function notThere(cause: unknown): never {
  if (codeOf(cause) !== 'ERR_WEIGHTSMITH_NOT_FOUND') throw cause
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_NOT_FOUND',
    `There is no ${weightsName} beside the adapter's config; what was saved as .bin or by other programs than PEFT has to ` +
      'be converted first.',
    { cause },
  )
}
