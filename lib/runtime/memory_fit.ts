/** How many tokens go through a model at a time, and how long they take, within the memory there is. */

import type { ModelSpec } from '../architectures/index.js'
import type { Checkpoint } from '../checkpoint/index.js'
import type { Engine } from '../engine/engine.js'
import { codeOf } from '../util/errors.js'
import { type Model, type ModelOptions, tensorsOf } from './index.js'
import { modelOf } from './open_model.js'

const usualTokens = 2048
const mostRows = 16384
/** Share of the memory that the cache takes at most, unless the longest prompt needs more. */
const cacheShare = 1 / 4
/** And what a pass holds of its tokens. */
const activationShare = 1 / 4

/** How a model lies on the device, as reports and forecasts say it. */
export interface ModelFit {
  /** Bytes that the model, its cache and its activations take on the device, or as much of it as is there at a time. */
  deviceBytes: number
  /** Partitions of the model that take turns on the device; 1 if it fits the memory. */
  partitions: number
  /**
   * Bytes of weights that are read from the files for every pass through the model, which is a decoding step where it
   * generates and one pass per data set where it does not; 0 where the model fits.
   */
  bytesReadPerPass: number
  /** What was decided on the way. */
  notes: string[]
  device: string
}

/**
 * The model with room for sequences of up to `longest` tokens and `total` together: as much as leaves it on the device,
 * or else as much as leaves place for a layer. Without `cached` passes are on their own, and all of them go through a
 * partition at a time. Throws ERR_WEIGHTSMITH_OUT_OF_MEMORY where the longest sequence alone is too much.
 */
export async function fitModel(
  engine: Engine,
  checkpoint: Checkpoint,
  {
    longest,
    total,
    cached,
    options = {},
  }: { longest: number; total: number; cached: boolean; options?: Pick<ModelOptions, 'subnet' | 'adapters'> },
): Promise<{ model: Model; fit: ModelFit }> {
  const { spec } = modelOf(engine, checkpoint, {})
  let first: { model: Model; fit: ModelFit } | undefined
  for (let share = 1; ; share /= 2) {
    const layout = await engine.use(async ({ memory }) => layoutFor(spec, memory * share, longest, total))
    const room = { batchTokens: layout.tokens, ...(cached && { cache: layout.cache }) }
    const model = modelOf(engine, checkpoint, { ...options, ...room })
    const least = layout.tokens === longest && layout.cache === longest
    try {
      const { bytes, partitions, bytesReadPerPass } = await model.forecast({ mode: cached ? 'repeated' : 'layerwise' })
      const notes = cached && partitions > 1 ? [streamingNotice(checkpoint.name, bytesReadPerPass)] : []
      const found = {
        model,
        fit: { deviceBytes: bytes, partitions, bytesReadPerPass, notes, device: engine.device.name },
      }
      if (partitions === 1) return found
      first ??= found
    } catch (error) {
      if (codeOf(error) !== 'ERR_WEIGHTSMITH_OUT_OF_MEMORY' || (least && first === undefined)) throw error
    }
    if (least && first !== undefined) return first
  }
}

/** Tokens a pass, and rows of the cache, for sequences of up to `longest` tokens and `total` together. */
function layoutFor(spec: ModelSpec, memory: number, longest: number, total: number) {
  const { activations, attention, layers } = spec.language
  const row = 8 * attention.numKvHeads * attention.headSize * layers.length
  const token = 4 * Object.values(activations).reduce((sum, width) => sum + width, 0)
  const most = Math.min(usualTokens, Math.floor((memory * activationShare) / token))
  const rows = Math.min(total, mostRows, Math.floor((memory * cacheShare) / row))
  return { tokens: Math.max(longest, Math.min(total, most)), cache: Math.max(longest, rows) }
}

/** Notice for a model that does not fit in memory. */
function streamingNotice(model: string, bytesReadPerPass: number): string {
  return (
    `${model} is larger than the memory: for every token of all continuations that are under way together, ` +
    `${(bytesReadPerPass / 1e6).toPrecision(3)} MB of weights are read from its files. More memory (--memory) is faster.`
  )
}

/**
 * Milliseconds that continuations take at most, from the pace of the first layer: the prompts, and then pass after pass
 * a token of each of those that the cache has room for.
 */
export async function estimateGeneration(
  model: Model,
  asked: { sequences: number; promptTokens: number; maxTokens: number; together: number; bytesReadPerPass: number },
): Promise<number> {
  const { spec } = model
  const together = Math.max(1, Math.min(asked.sequences, asked.together, model.batchTokens))
  const elements = ([, shape]: readonly [string, readonly number[]]) => shape.reduce((a, b) => a * b, 1)
  const weights = (names: ReadonlySet<string>) =>
    [...spec.tensors].filter(([name]) => names.has(name)).reduce((sum, tensor) => sum + elements(tensor), 0)
  const depth = spec.language.layers.length
  const layer = weights(tensorsOf(spec, { enter: false, first: 0, end: 1, leave: false }))
  const head = weights(tensorsOf(spec, { enter: false, first: depth, end: depth, leave: true }))
  const tokensOf = (count: number) => Array.from({ length: count }, (_, row) => ({ id: 0, start: row, row }))
  const ahead = Math.min(asked.promptTokens, model.batchTokens)
  const prompts = await model.paceOf(tokensOf(ahead))
  const each = await model.paceOf(tokensOf(together))
  const passes = Math.ceil(asked.sequences / together) * asked.maxTokens
  return (
    (prompts.run * depth * asked.promptTokens) / ahead +
    passes * (each.run * (depth + head / layer) + each.load * asked.bytesReadPerPass)
  )
}
