/** The options of `amoebaStrategy`, what it reports, and its checks. */

import type { ModelFit } from '../../runtime/memory_fit.js'
import { type DepthMetric, type DepthOrder, depthMetrics, depthOrders, sameRatio } from '../../subnets/index.js'
import { misuse, wrongOption } from '../../util/errors.js'
import type { ProgressEvent } from '../../util/progress.js'
import type { DepthSearch } from './depth.js'
import type { StrategySummary } from './summary.js'

export interface AmoebaStrategyOptions {
  /**
   * A .jsonl file with one `{"prompt": ..., "answer": ...}` a line, or with `choices` too; for `nll` also
   * `{"text": ...}`.
   */
  data: string
  /** Where the images of the data are. Defaults to the folder of the data. */
  images?: string | undefined
  /** A file of lines that heads and neurons are measured on. Defaults to `data`. */
  calibration?: string | undefined
  /** The strategy file to write; not needed with `dryRun`. */
  out?: string | undefined
  /**
   * What tells how good a model is without some of its blocks. `accuracy`: the share of the lines of whose answer and
   * end every token is the likeliest after those before it, or whose right choice is the likeliest; `token-accuracy`:
   * the share of the tokens of answers; `nll`: their mean loss, or that of all tokens of texts. Defaults to `accuracy`.
   */
  metric?: DepthMetric | undefined
  /** Which blocks are decided about first. Defaults to `deepest`, as in the published code. */
  order?: DepthOrder | undefined
  /** Last blocks that are never removed. Defaults to 1. */
  keepLast?: number | undefined
  /** Fewest blocks of a subnet. Defaults to half of the model's, rounded up. */
  minDepth?: number | undefined
  /** Shares of the parameters of heads and neurons that stay; 1 is always one. Defaults to 1, 7/8, 3/4 and 5/8. */
  widths?: readonly number[] | undefined
  /** Number of lines of each file to use, chosen by `seed`. Defaults to all. */
  limit?: number | undefined
  /** Defaults to 0. */
  seed?: number | undefined
  /** Go on where an earlier run with the same options was interrupted; where there is none, begin. */
  resume?: boolean | undefined
  /** Replace an existing file, and discard an unfinished one. */
  overwrite?: boolean | undefined
  /** Check everything and estimate the cost, but measure and write nothing. */
  dryRun?: boolean | undefined
  signal?: AbortSignal | undefined
  /** Layers that all lines have been through, of all; phases `depth` and `width`. */
  onProgress?: ((event: ProgressEvent) => void) | undefined
}

export interface AmoebaStrategyForecast extends ModelFit {
  model: string
  metric: DepthMetric
  order: DepthOrder
  /** Blocks of the model, and the fewest of a subnet. */
  layers: number
  minDepth: number
  keepLast: number
  /** Ratios, descending. */
  widths: number[]
  examples: number
  /** That go through the model at once for a mask. */
  tokens: number
  /** Masks that are tried. */
  cells: number
  /**
   * Blocks that all lines are run through for the depths, those of the whole model included; in a forecast at most, if
   * the shallowest are decided about first, and in the report of a resumed run those of this run.
   */
  blockPasses: number
  /** Bytes of the whole model's residual streams, which wait in memory as far as the budget goes, else on disk. */
  waitingBytes: number
  /** Of the run; in a forecast an estimate from one layer. */
  milliseconds: number
}

export interface AmoebaStrategyReport extends AmoebaStrategyForecast, StrategySummary {
  out: string
  bytesWritten: number
  /** Spent on depths and on widths. */
  timings: { depth: number; width: number }
}

const usualWidths = [1, 7 / 8, 3 / 4, 5 / 8]

/** What is searched in a model of so many blocks. Throws ERR_WEIGHTSMITH_ARGUMENT. */
export function searchOf(
  { metric = 'accuracy', order = 'deepest', keepLast = 1, minDepth, limit }: AmoebaStrategyOptions,
  layers: number,
): DepthSearch {
  if (!depthMetrics.includes(metric)) throw wrongOption('metric', `one of ${depthMetrics.join(', ')}`, metric)
  if (!depthOrders.includes(order)) throw wrongOption('order', `one of ${depthOrders.join(', ')}`, order)
  if (limit !== undefined && !(Number.isSafeInteger(limit) && limit >= 1)) {
    throw wrongOption('limit', 'a whole number from 1', limit)
  }
  const within = (value: number, least: number) => Number.isInteger(value) && value >= least && value <= layers
  if (!within(keepLast, 0)) {
    throw misuse(`Of ${layers} blocks the last 0 to ${layers} can be kept, but keepLast is ${keepLast}.`)
  }
  const least = Math.max(1, keepLast)
  const fewest = minDepth ?? Math.max(least, Math.ceil(layers / 2))
  if (!within(fewest, least)) {
    throw misuse(
      `The fewest blocks of a subnet are ${least} to ${layers}, because the last ${keepLast} always stay, but minDepth ` +
        `is ${fewest}.`,
    )
  }
  return { layers, keepLast, most: layers - fewest, order, metric }
}

/** Ratios in descending order, each once, 1 among them. Throws ERR_WEIGHTSMITH_ARGUMENT. */
export function widthsOf(ratios: readonly number[] = usualWidths): number[] {
  const wrong = ratios.find((ratio) => !(ratio > 0 && ratio <= 1))
  if (wrong !== undefined) throw wrongOption('widths', 'above 0 and at most 1', wrong)
  const sorted = [1, ...ratios].sort((a, b) => b - a)
  return sorted.filter((ratio, i) => i === 0 || (sorted[i - 1] ?? 0) - ratio > sameRatio)
}
