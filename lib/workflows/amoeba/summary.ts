/** Strategy files as people see them. */

import { stat } from 'node:fs/promises'
import type { Engine } from '../../engine/engine.js'
import { loadAddon } from '../../native/load.js'
import { checkpointOf } from '../../runtime/open_model.js'
import { type DepthMetric, type DepthOrder, isStrategy, readStrategy, type Strategy } from '../../subnets/index.js'

/** What stays, in numbers. */
export interface StrategySummary {
  metric: DepthMetric
  order: DepthOrder
  /** Last blocks that are never removed. */
  keepLast: number
  /** Blocks of the model. */
  layers: number
  /** From the whole model to the fewest blocks: which are removed, and the metric. */
  depths: { depth: number; removed: number[]; value: number }[]
  /** Groups of heads and neurons that stay at each ratio, by layer. */
  kept: { ratio: number; groups: number[]; neurons: number[] }[]
}

export interface StrategyInspection extends StrategySummary {
  path: string
  model: Strategy['model']
  origin: Strategy['origin']
}

export function summaryOf({ layers, depth, widths }: Strategy): StrategySummary {
  const { metric, order, keepLast, masks, values } = depth
  const counts = (units: Strategy['widths'][number]['units'], kind: string) =>
    units.filter((own) => own.kind === kind).map(({ kept }) => kept.filter((stays) => stays).length)
  return {
    ...{ metric, order, keepLast, layers },
    depths: masks.map((mask, m) => ({
      depth: layers - m,
      removed: mask.flatMap((stays, block) => (stays ? [] : [block])),
      value: values[m] ?? Number.NaN,
    })),
    kept: widths.map(({ ratio, units }) => {
      return { ratio, groups: counts(units, 'group'), neurons: counts(units, 'neuron') }
    }),
  }
}

/**
 * What a strategy file holds; nothing for a folder, and for a file that does not say it is one. Throws
 * ERR_WEIGHTSMITH_FORMAT for a strategy that contradicts itself.
 */
export async function inspectStrategy(path: string): Promise<StrategyInspection | undefined> {
  const found = await stat(path).catch(() => undefined)
  if (found?.isFile() !== true) return undefined
  const addon = loadAddon()
  const header = await addon.readHeader(path).catch(() => undefined)
  if (header === undefined || !isStrategy(header.metadata)) return undefined
  const strategy = await readStrategy(addon, path)
  return { path, model: strategy.model, ...summaryOf(strategy), origin: strategy.origin }
}

/**
 * Opens a strategy file. With the model that it should be of, throws ERR_WEIGHTSMITH_INPUT_CHANGED where it is of
 * another one; throws ERR_WEIGHTSMITH_FORMAT for a file that is none.
 */
export async function openStrategy(engine: Engine, path: string, model?: string): Promise<Strategy> {
  const checkpoint = model === undefined ? undefined : await checkpointOf(engine, model)
  return engine.use(({ addon }) => readStrategy(addon, path, checkpoint))
}
