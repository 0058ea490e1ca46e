/**
 * Mixtures of LoRA experts as AmoebaLLM's code saves them: an adapter of PEFT whose factors have the number of their
 * expert, and the linears of one router beside them. What is not understood is refused by its name.
 */

import { join } from 'node:path'
import { inside } from '../checkpoint/inside.js'
import { adapterConfigName, type Checkpoint, type CheckpointTensor, openFiles, peftPrefix } from '../checkpoint/open.js'
import type { NativeAddon } from '../native/border.js'
import { type MixtureConfig, parseConfig, readAdapterConfig } from './adapter_config.js'

/** Before the names of the tensors of a router. */
export const routerPrefix = 'base_model.lora_sparsemoe.'

export interface Mixture extends MixtureConfig {
  checkpoint: Checkpoint
  /** A [rank, inputs] and B [outputs, rank] of every expert of a module, and what their product is multiplied by. */
  modules: { module: string; rank: number; scale: number; experts: Record<'a' | 'b', CheckpointTensor>[] }[]
  /** Tensors of the router by their names without `routerPrefix`. */
  router: ReadonlyMap<string, CheckpointTensor>
}

/** Whether a folder has an adapter that is a mixture. */
export async function isMixture(path: string): Promise<boolean> {
  const config = await parseConfig(await inside(path, adapterConfigName)).catch(() => undefined)
  return config?.use_moe_lora === true
}

/** Opens a mixture; throws ERR_WEIGHTSMITH_FORMAT for a folder that holds none, or one that contradicts itself. */
export async function openMixture(
  addon: Pick<NativeAddon, 'readHeader' | 'readIndex'>,
  path: string,
  name: string,
): Promise<Mixture> {
  const file = join(path, adapterConfigName)
  const config = await readAdapterConfig(await inside(path, adapterConfigName))
  const { mixture, refuse } = config
  if (mixture === undefined) return refuse(`${file} does not set use_moe_lora`)
  const [obstacle] = [...config.obstacles, ...config.features.map((feature) => `it sets ${feature}`)].filter(
    (what) => !/^it sets (rank_pattern|alpha_pattern|use_rslora)$/.test(what),
  )
  if (obstacle !== undefined) return refuse(obstacle)
  const checkpoint = await openFiles(addon, path, name, { names: ['adapter_model.safetensors'] }, path)
  const router = new Map<string, CheckpointTensor>()
  const found = new Map<string, Map<string, CheckpointTensor>>()
  for (const [key, tensor] of checkpoint.tensors) {
    if (key.startsWith(routerPrefix)) {
      router.set(key.slice(routerPrefix.length), tensor)
      continue
    }
    const own = key.startsWith(peftPrefix) ? key.slice(peftPrefix.length) : ''
    const [, module, side, expert] = /^(.+)\.lora_([AB])\.(0|[1-9]\d{0,3})\.weight$/.exec(own) ?? []
    if (module === undefined || Number(expert) >= mixture.experts) {
      return refuse(`it has the tensor ${key}, which no mixture of ${mixture.experts} experts has`)
    }
    const parts = found.get(module) ?? new Map<string, CheckpointTensor>()
    found.set(module, parts.set(`${side}.${expert}`, tensor))
  }
  if (found.size === 0) return refuse('it has no factors')
  const factors = config.factorsOf([...found.keys()])
  const modules = [...found].map(([module, parts], i) => {
    const { rank = 0, scale = 0 } = factors[i] ?? {}
    const part = (side: string, expert: number) =>
      parts.get(`${side}.${expert}`) ?? refuse(`it has no lora_${side} of expert ${expert} of ${module}`)
    const experts = Array.from({ length: mixture.experts }, (_, expert) => {
      const [a, b] = [part('A', expert), part('B', expert)]
      if (a.shape.length !== 2 || b.shape.length !== 2 || a.shape[0] !== rank || b.shape[1] !== rank) {
        const shapes = `[${a.shape.join(', ')}] and [${b.shape.join(', ')}]`
        refuse(
          `the factors of expert ${expert} of ${module} have the shapes ${shapes}, but its config says rank ${rank}`,
        )
      }
      return { a, b }
    })
    return { module, rank, scale, experts }
  })
  return { ...mixture, checkpoint, modules, router }
}
