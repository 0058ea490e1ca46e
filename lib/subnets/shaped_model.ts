/** A model that runs as one of its shapes, without being cut. */

import { type AdaptedOptions, openWithAdapters } from '../adapters/adapted_model.js'
import { splitAdapters } from '../adapters/index.js'
import { modelSpec } from '../architectures/index.js'
import { type Checkpoint, resolveModel } from '../checkpoint/index.js'
import { isMixture } from '../lora/index.js'
import type { Host } from '../native/host.js'
import type { ModelOptions } from '../runtime/index.js'
import { misuse } from '../util/errors.js'
import { readShapeAdapter } from './mixture_file.js'
import { readStrategy, shapeOf } from './strategy.js'
import { subnetOf } from './subnet.js'

/** Which shape of a model is run. */
export interface ShapeChoice {
  /** A strategy file of the model. */
  strategy: string
  /** Blocks that stay. Defaults to all. */
  depth?: number | undefined
  /** Share of the parameters of heads and neurons that stays. Defaults to 1. */
  width?: number | undefined
  /** Whether biases stand for what heads and neurons gave that are not there. Defaults to true. */
  bias?: boolean | undefined
}

/** What a model runs as, beside its weights. */
export interface ShapedModel {
  checkpoint: Checkpoint
  options: Pick<ModelOptions, 'subnet' | 'adapters'>
}

/**
 * The checkpoint of a folder or a name, or of `model+adapter`; with a choice, the subnet of it. A mixture of experts
 * runs beside the model with the gates of the shape; other adapters are folded in memory. Throws what
 * `openWithAdapters` and `readStrategy` throw, and ERR_WEIGHTSMITH_ARGUMENT for a shape that the strategy, or the
 * mixture, does not have.
 */
export async function openShaped(
  host: Host,
  path: string,
  choice: ShapeChoice | undefined,
  options: Pick<AdaptedOptions, 'signal' | 'values'> = {},
): Promise<ShapedModel> {
  if (choice === undefined) return { checkpoint: await openWithAdapters(host, path, options), options: {} }
  const { strategy: file, depth, width, bias } = choice
  const { model, adapters } = (await splitAdapters(path, process.cwd())) ?? { model: path, adapters: [] }
  const base = await openWithAdapters(host, model, options)
  const shape = shapeOf(await readStrategy(host.addon, file, base), {
    ...(depth !== undefined && { depth }),
    ...(width !== undefined && { width }),
  })
  const spec = modelSpec(base.config, base.tensors, base.name)
  const mixtures: string[] = []
  for (const { adapter } of adapters) {
    if (typeof adapter === 'string' && (await isMixture(await resolveModel(adapter, process.cwd()))))
      mixtures.push(adapter)
  }
  const [mixture] = mixtures
  if (mixture === undefined) {
    const checkpoint = adapters.length === 0 ? base : await openWithAdapters(host, path, options)
    return { checkpoint, options: { subnet: subnetOf(spec, shape, bias) } }
  }
  if (adapters.length > 1) throw misuse(`The mixture ${mixture} is the one adapter that a model has.`)
  const { widths, ...own } = await readShapeAdapter(host, mixture, spec)
  return { checkpoint: base, options: { subnet: subnetOf(spec, shape, bias, widths), adapters: own } }
}
