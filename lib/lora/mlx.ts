/**
 * LoRA adapters as mlx-lm saves them: adapters.safetensors beside adapter_config.json with `fine_tune_type`. Factors
 * are the transposes of PEFT's, and the scale is taken as it is, not divided by the rank (mlx_lm/tuner/lora.py,
 * dora.py).
 */

import { type Checkpoint, type CheckpointTensor, openFiles } from '../checkpoint/open.js'
import type { NativeAddon } from '../native/border.js'
import { WeightsmithError } from '../util/errors.js'
import type { Adapter, LowRank } from './adapter.js'
import type { Config } from './adapter_config.js'
import { mlxTypes } from './kinds.js'

export const mlxWeights = 'adapters.safetensors'

export async function openMlx(
  addon: Pick<NativeAddon, 'readHeader' | 'readIndex'>,
  path: string,
  name: string,
  config: Config,
): Promise<Adapter> {
  const refuse = (what: string): never => {
    throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `The adapter ${path} cannot be used: ${what}.`, { file: path })
  }
  const type = config.fine_tune_type ?? 'lora'
  if (typeof type !== 'string' || !Object.hasOwn(mlxTypes, type))
    refuse(`its fine_tune_type is ${JSON.stringify(type)}`)
  const { scale = 20, rank } = (config.lora_parameters ?? {}) as Config
  if (typeof scale !== 'number' || !Number.isFinite(scale)) return refuse(`its scale is ${JSON.stringify(scale)}`)
  const checkpoint = await openFiles(addon, path, name, { names: [mlxWeights] }, path)
  const { pairs, magnitudes, whole } = sorted(checkpoint, refuse)
  if (type !== 'full' && whole.size > 0) refuse(`it has the tensor ${[...whole.keys()][0]}, which is not offered`)
  if (type === 'dora' && magnitudes.size !== pairs.length) {
    refuse(`it has ${magnitudes.size} vectors m for ${pairs.length} pairs of factors`)
  }
  if (type !== 'dora' && magnitudes.size > 0) refuse(`it has vectors m, but its fine_tune_type is ${type}`)
  const matrices = pairs.map(({ module, a, b }): LowRank => {
    const stacked = a.shape.length === 3
    const embedding = /(^|\.)(embed_tokens|wte|word_embeddings)$/.test(module)
    // [in, r] and [r, out]; of experts [E, r, in] and [E, out, r]
    const own = a.shape[1]
    const other = stacked ? b.shape[2] : b.shape[0]
    if (a.shape.length !== b.shape.length || (!stacked && a.shape.length !== 2) || own !== other || own === undefined) {
      return refuse(`lora_a of ${module} has the shape [${a.shape.join(', ')}] and lora_b [${b.shape.join(', ')}]`)
    }
    if (typeof rank === 'number' && own !== rank)
      refuse(`lora_a of ${module} has rank ${own}, but its config says ${rank}`)
    const magnitude = magnitudes.get(module)
    return {
      target: `${module}.weight`,
      ...(stacked ? { a, b } : { a: b, b: a }),
      ...{ rank: own, scale, turned: !stacked && !embedding, embedding },
      ...(stacked ? { experts: a.shape[0] ?? 0, stacked } : {}),
      ...(magnitude === undefined ? {} : { magnitude }),
    }
  })
  if (matrices.length + whole.size === 0) refuse('it has no tensors')
  return {
    format: 'mlx-lm',
    checkpoint,
    ...(typeof config.model === 'string' ? { base: config.model } : {}),
    matrices,
    replaced: whole,
    biases: new Map(),
    tokens: new Map(),
    turned: false,
    named: [],
    features: type === 'lora' ? [] : [`fine_tune_type: ${JSON.stringify(type)}`],
    obstacles: [],
  }
}

function sorted({ tensors }: Checkpoint, refuse: (what: string) => never) {
  const found = () => new Map<string, CheckpointTensor>()
  const [a, b, magnitudes, whole] = [found(), found(), found(), found()]
  for (const [key, tensor] of tensors) {
    const [, module = '', kind] = /^(.+)\.(lora_a|lora_b|m)$/.exec(key) ?? []
    if (kind === 'lora_a') a.set(module, tensor)
    else if (kind === 'lora_b') b.set(module, tensor)
    else if (kind === 'm') magnitudes.set(module, tensor)
    else whole.set(key, tensor)
  }
  for (const [module, { name }] of b) if (!a.has(module)) refuse(`it has ${name} without lora_a`)
  for (const [module, { name }] of magnitudes) if (!a.has(module)) refuse(`it has ${name} without lora_a`)
  const pairs = [...a].map(([module, tensor]) => ({
    module,
    a: tensor,
    b: b.get(module) ?? refuse(`it has ${tensor.name} without lora_b`),
  }))
  return { pairs, magnitudes, whole }
}
