/**
 * LoRA adapters as PEFT saves them: adapter_config.json beside one safetensors file. What changes a model in a way
 * that is not W + s (B A), or whole tensors, is refused by name.
 */

import { codeOf, messageOf, WeightsmithError } from '../errors.js'
import type { NativeAddon } from '../native/border.js'
import { inside } from './inside.js'
import { type Checkpoint, type CheckpointTensor, openCheckpoint } from './open.js'
import { largestConfig, readSmall } from './small.js'

/** One adapted matrix. */
export interface LowRank {
  /** Name of the weight in the base model, as PEFT has it. */
  target: string
  a: CheckpointTensor
  b: CheckpointTensor
  rank: number
  /** alpha / r, or alpha / √r. */
  scale: number
  /** The weight is the transpose of B A: embeddings, and `fan_in_fan_out`. */
  transposed: boolean
}

export interface Adapter {
  checkpoint: Checkpoint
  matrices: LowRank[]
  /** Tensors that replace those of the base (`modules_to_save`), by name. */
  replaced: ReadonlyMap<string, CheckpointTensor>
}

export async function openAdapter(
  addon: Pick<NativeAddon, 'readHeader' | 'readIndex'>,
  path: string,
  name: string,
): Promise<Adapter> {
  const file = await inside(path, 'adapter_config.json')
  const config = await readConfig(file)
  const refuse = (what: string): never => {
    throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `The adapter ${file} cannot be merged: ${what}.`, { file })
  }
  const kind = config.peft_type ?? 'LORA'
  if (kind !== 'LORA') refuse(`its peft_type is ${JSON.stringify(kind)}, and only LORA is offered`)
  if (config.use_dora === true) refuse('it is a DoRA adapter (use_dora), which also scales the weights')
  if (config.bias !== undefined && config.bias !== 'none') {
    refuse(`its bias is ${JSON.stringify(config.bias)}, and only "none" is offered`)
  }
  for (const key of [
    'lora_bias',
    'layer_replication',
    'megatron_config',
    'use_qalora',
    'trainable_token_indices',
    'target_parameters',
  ]) {
    const value = config[key]
    const empty =
      value === undefined || value === null || value === false || (Array.isArray(value) && value.length === 0)
    if (!empty) refuse(`it has ${key}, which is not offered`)
  }
  const alpha =
    positive(config.lora_alpha) ?? refuse(`lora_alpha is ${JSON.stringify(config.lora_alpha)}, not a number`)
  const alphas = patterns(config.alpha_pattern, (key) => refuse(`alpha_pattern has ${key}, which is no module's name`))
  const checkpoint = await openCheckpoint(addon, path, name)
  const matrices: LowRank[] = []
  const replaced = new Map<string, CheckpointTensor>()
  for (const [key, tensor] of checkpoint.tensors) {
    const plain = key
      .replace(/^base_model\.model\./, '')
      .replace('.default.', '.')
      .replace(/\.default$/, '')
    const match = /^(.+)\.lora_(embedding_)?(A|B)(?:\.weight)?$/.exec(plain)
    if (match === null) {
      if (/lora_|magnitude_vector/.test(plain)) refuse(`it has the tensor ${key}, which is not offered`)
      replaced.set(plain.replace('.modules_to_save.', '.'), tensor)
      continue
    }
    const [, module = '', embedding, side] = match
    const other = checkpoint.tensors.get(key.replace(/lora_(embedding_)?A/, 'lora_$1B'))
    if (side === 'B') {
      if (!checkpoint.tensors.has(key.replace(/lora_(embedding_)?B/, 'lora_$1A'))) refuse(`it has ${key} without its A`)
      continue
    }
    const [rank = 0, ...rest] = tensor.shape
    if (other === undefined) return refuse(`it has ${key} without its B`)
    if (rest.length !== 1 || other.shape.length !== 2 || other.shape[1] !== rank || rank === 0) {
      refuse(
        `A of ${module} has the shape [${tensor.shape.join(', ')}] and B [${other.shape.join(', ')}], and A has to have as many rows as B has columns`,
      )
    }
    const own = alphas.find(([name]) => module === name || module.endsWith(`.${name}`))?.[1] ?? alpha
    matrices.push({
      target: `${module}.weight`,
      a: tensor,
      b: other,
      rank,
      scale: own / (config.use_rslora === true ? Math.sqrt(rank) : rank),
      transposed: embedding !== undefined || config.fan_in_fan_out === true,
    })
  }
  return { checkpoint, matrices, replaced }
}

function positive(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) ? value : undefined
}

/** PEFT takes regular expressions; what it writes are names, which is all that is read from a file here. */
function patterns(raw: unknown, refuse: (key: string) => never): [string, number][] {
  if (typeof raw !== 'object' || raw === null) return []
  return Object.entries(raw).map(([key, value]) => {
    const name = key.replace(/^\^/, '').replace(/\$$/, '').replaceAll('\\.', '.')
    const number = positive(value)
    return /^[\w.-]+$/.test(name) && number !== undefined ? [name, number] : refuse(JSON.stringify(key))
  })
}

async function readConfig(file: string): Promise<Record<string, unknown>> {
  let parsed: unknown
  try {
    parsed = JSON.parse((await readSmall(file, largestConfig)).toString('utf8'))
  } catch (cause) {
    if (codeOf(cause) === 'ERR_WEIGHTSMITH_IO_READ') throw cause
    const missing = codeOf(cause) === 'ERR_WEIGHTSMITH_NOT_FOUND'
    throw new WeightsmithError(
      missing ? 'ERR_WEIGHTSMITH_NOT_FOUND' : 'ERR_WEIGHTSMITH_FORMAT',
      missing ? `There is no ${file}; an adapter needs one.` : `${file} is not valid: ${messageOf(cause)}.`,
      { cause, file },
    )
  }
  if (typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed)) return parsed as Record<string, unknown>
  throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `${file} is not valid: it is not an object.`, { file })
}
