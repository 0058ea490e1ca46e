/**
 * LoRA adapters as PEFT saves them: adapter_config.json beside adapter_model.safetensors, whatever else is in the
 * folder. What changes a model in a way that is not W + s (B A), or whole tensors, is refused by name.
 */

import { inside } from '../checkpoint/inside.js'
import { adapterConfigName, type Checkpoint, type CheckpointTensor, openFiles, peftPrefix } from '../checkpoint/open.js'
import type { NativeAddon } from '../native/border.js'
import { codeOf, WeightsmithError } from '../util/errors.js'
import { readAdapterConfig } from './adapter_config.js'

/** One adapted matrix. */
export interface LowRank {
  /** Name of the weight in the base model, as PEFT has it. */
  target: string
  a: CheckpointTensor
  b: CheckpointTensor
  rank: number
  /** alpha / r, or alpha / √r. */
  scale: number
  /** A and B of a table of tokens, whose weight is the transpose of B A. */
  embedding: boolean
  /**
   * The weight that A and B were trained on, where the adapter has it itself: tables of tokens, maybe with more rows.
   */
  below?: CheckpointTensor
}

export interface Adapter {
  checkpoint: Checkpoint
  matrices: LowRank[]
  /** Tensors that replace those of the base (`modules_to_save`, `bias`), by name. */
  replaced: ReadonlyMap<string, CheckpointTensor>
  /** Weights of linears are stored as [in, out], and so the transpose of B A too (`fan_in_fan_out`). */
  turned: boolean
  /** Modules, or the ends of their names, that the config says the adapter has. */
  named: string[]
}

const weightsName = 'adapter_model.safetensors'

export async function openAdapter(
  addon: Pick<NativeAddon, 'readHeader' | 'readIndex'>,
  path: string,
  name: string,
): Promise<Adapter> {
  const config = await readAdapterConfig(await inside(path, adapterConfigName))
  const { refuse } = config
  const checkpoint = await openFiles(addon, path, name, { names: [weightsName] }, path).catch(notThere)
  const { pairs, whole, below } = sorted(checkpoint, refuse)
  const factors = config.factorsOf(pairs.map(({ module }) => module))
  const matrices = pairs.map(({ module, a, b, embedding }, i): LowRank => {
    const { rank = 0, scale = 0 } = factors[i] ?? {}
    if (a.shape.length !== 2 || b.shape.length !== 2 || b.shape[1] !== a.shape[0]) {
      refuse(
        `A of ${module} has the shape [${a.shape.join(', ')}] and B [${b.shape.join(', ')}], and A has to have as many ` +
          'rows as B has columns',
      )
    }
    if (a.shape[0] !== rank) refuse(`A of ${module} has ${a.shape[0]} rows, but its config says rank ${rank}`)
    const own = below.get(module)
    below.delete(module)
    return { target: `${module}.weight`, a, b, rank, scale, embedding, ...(own === undefined ? {} : { below: own }) }
  })
  for (const module of below.keys()) refuse(`it has ${module}.base_layer.weight without A and B`)
  if (matrices.length + whole.size === 0) refuse('it has no tensors')
  return { checkpoint, matrices, replaced: whole, turned: config.turned, named: [...config.targets, ...config.saved] }
}

interface Pair {
  module: string
  a: CheckpointTensor
  b: CheckpointTensor
  embedding: boolean
}

interface Sorted {
  pairs: Pair[]
  whole: Map<string, CheckpointTensor>
  /** Weights below A and B, by module. */
  below: Map<string, CheckpointTensor>
}

/** The tensors of the file by what they are. */
function sorted({ tensors }: Checkpoint, refuse: (what: string) => never): Sorted {
  const sides = { A: new Map<string, CheckpointTensor>(), B: new Map<string, CheckpointTensor>() }
  const tables = new Set<string>()
  const whole = new Map<string, CheckpointTensor>()
  const below = new Map<string, CheckpointTensor>()
  const trained = new Map<string, CheckpointTensor>()
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
    if (side === 'A' || side === 'B') {
      put(sides[side], module, tensor)
      if (embedding !== undefined) tables.add(module)
    } else if (kind === 'weight') put(below, under, tensor)
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
  return { pairs, whole, below }
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
