/**
 * Strategies: which blocks stay at every depth and which heads and neurons at every width, in one file. A shape of the
 * model is one of its depths with one of its widths. docs/internals/strategy-file.md describes the file.
 */

import { readFile } from 'node:fs/promises'
import { type ModelSpec, modelSpec, type Units } from '../architectures/index.js'
import type { Checkpoint } from '../checkpoint/index.js'
import { replaceFile } from '../checkpoint/resume/index.js'
import type { NativeAddon, NativeTensor } from '../native/border.js'
import { fingerprint } from '../score/index.js'
import { misuse, WeightsmithError } from '../util/errors.js'
import { safetensorsHeader } from '../util/safetensors.js'

/**
 * What tells how good a model is without some of its blocks: `accuracy`, the share of the lines that are answered
 * exactly; `token-accuracy`, the share of the tokens of answers; `nll`, their mean loss in nats, or that of all tokens
 * where lines are texts.
 */
export const depthMetrics = ['accuracy', 'token-accuracy', 'nll'] as const
export type DepthMetric = (typeof depthMetrics)[number]

/** Which blocks are decided about first. */
export const depthOrders = ['deepest', 'shallowest'] as const
export type DepthOrder = (typeof depthOrders)[number]

/** The table of the dynamic programme: row n has what is known after n decisions, column m of m blocks removed. */
export interface DepthTable {
  /** [n][m], m <= n: the metric of the best mask; NaN where none has one. */
  values: number[][]
  /** [n][m][block]: that mask; true = stays. */
  masks: boolean[][][]
  /** [n][m]: the metric of the mask that was tried for the cell; NaN where there was none to try, as for m = 0. */
  tried: number[][]
}

export interface DepthStrategy {
  order: DepthOrder
  metric: DepthMetric
  /** Last blocks that always stay. */
  keepLast: number
  /** [m][block]: true = stays; index m = blocks removed, from 0 to the most. */
  masks: boolean[][]
  /** The metric of each mask. */
  values: number[]
  table: DepthTable
}

/** The units of one kind of a layer: groups of heads, or neurons. */
export interface StrategyUnits {
  layer: number
  kind: Units['kind']
  kept: boolean[]
}

export interface StrategyWidth {
  /** Share of the parameters of heads and neurons that stays. */
  ratio: number
  /** By layer and kind, in the order of `spec.language.layers[].units`. */
  units: StrategyUnits[]
  /**
   * What pruned inputs of a linear gave on average, f32 [out], by the name of its weight. Linears that lose no input
   * have none.
   */
  biases: ReadonlyMap<string, Float32Array<ArrayBuffer>>
}

/** Lines that something was measured on. */
export interface StrategyData {
  file: string
  /** Of the file. */
  sha256: string
  examples: number
  /** That went through the model. */
  tokens: number
}

export interface Strategy {
  /** Of the model that it was made of, as score files have it. */
  model: { name: string; fingerprint: string }
  /** Blocks of the model. */
  layers: number
  depth: DepthStrategy
  /** Ratios descending, first 1. */
  widths: StrategyWidth[]
  /** How it was made; nothing reads it. */
  origin: { weightsmith: string; device: string; data: StrategyData; calibration: StrategyData; seed: number }
}

/** One subnet: what stays of a model. */
export interface Shape {
  /** By block: true = stays. */
  blocks: boolean[]
  /** The ratio of the strategy. */
  width: number
  /** All ratios of the strategy. */
  widths: number[]
  units: StrategyUnits[]
  biases: ReadonlyMap<string, Float32Array<ArrayBuffer>>
}

/**
 * The subnet with `depth` blocks (default: all) and the width `width` (default: 1). Throws ERR_WEIGHTSMITH_ARGUMENT for
 * a depth or a width that the strategy does not have.
 */
export function shapeOf(strategy: Strategy, { depth, width = 1 }: { depth?: number; width?: number } = {}): Shape {
  const { layers, widths } = strategy
  const blocks = strategy.depth.masks[layers - (depth ?? layers)]
  if (blocks === undefined) {
    const least = layers - strategy.depth.masks.length + 1
    throw misuse(`The depths of the strategy are ${least} to ${layers} blocks, but ${depth} was asked for.`)
  }
  const distance = ({ ratio }: StrategyWidth) => Math.abs(ratio - width)
  const nearest = widths.reduce((best, own) => (distance(own) < distance(best) ? own : best))
  if (!(distance(nearest) < sameRatio)) {
    const all = widths.map(({ ratio }) => ratio).join(', ')
    throw misuse(`The widths of the strategy are ${all}, but ${width} was asked for; the nearest is ${nearest.ratio}.`)
  }
  const { ratio, units, biases } = nearest
  return { blocks, width: ratio, widths: widths.map((own) => own.ratio), units, biases }
}

/** Ratios that are nearer are the same: 0.33333333 is 1/3. */
export const sameRatio = 1e-6

const key = 'weightsmith_strategy'

/** What the metadata has, beside what the tensors say. */
interface Head {
  format: 1
  model: Strategy['model']
  layers: number
  depth: Pick<DepthStrategy, 'order' | 'metric' | 'keepLast'>
  widths: number[]
  /** In order; `weights`: of the linears that take the units. */
  units: { layer: number; kind: Units['kind']; count: number; weights: string[] }[]
  origin: Strategy['origin']
}

interface Stored {
  name: string
  dtype: 'U8' | 'F32' | 'F64'
  shape: number[]
  values: Uint8Array<ArrayBuffer> | Float32Array<ArrayBuffer> | Float64Array<ArrayBuffer>
}

/**
 * Writes a file whole, so that there is the old one or the new one, and gives its size. Throws ERR_WEIGHTSMITH_IO_WRITE
 * or _DISK_FULL.
 */
export async function writeStrategy(path: string, strategy: Strategy, spec: ModelSpec): Promise<number> {
  const { model, layers, depth, widths, origin } = strategy
  const { order, metric, keepLast, table } = depth
  const [rows, columns] = [table.values.length, depth.masks.length]
  /** A row a decision, with gaps where more would be removed than were decided about. */
  const cells = (values: number[][]) =>
    Float64Array.from(
      { length: rows * columns },
      (_, i) => values[Math.floor(i / columns)]?.[i % columns] ?? Number.NaN,
    )
  const masks = Array.from({ length: rows * columns }, (_, i) => table.masks[Math.floor(i / columns)]?.[i % columns])
  const none = Array.from({ length: layers }, () => false)
  const tensors: Stored[] = [
    { name: 'depth/masks', dtype: 'U8', shape: [columns, layers], values: flags(depth.masks.flat()) },
    { name: 'depth/values', dtype: 'F64', shape: [columns], values: Float64Array.from(depth.values) },
    { name: 'table/values', dtype: 'F64', shape: [rows, columns], values: cells(table.values) },
    { name: 'table/tried', dtype: 'F64', shape: [rows, columns], values: cells(table.tried) },
    {
      name: 'table/masks',
      dtype: 'U8',
      shape: [rows, columns, layers],
      values: flags(masks.flatMap((mask) => mask ?? none)),
    },
    ...widths.flatMap(({ ratio, units, biases }): Stored[] => [
      ...units.map(({ layer, kind, kept }): Stored => {
        return { name: keptName(ratio, layer, kind), dtype: 'U8', shape: [kept.length], values: flags(kept) }
      }),
      ...[...biases].map(([weight, values]): Stored => {
        return { name: `bias/${ratio}/${weight}`, dtype: 'F32', shape: [values.length], values }
      }),
    ]),
  ]
  const head: Head = {
    ...{ format: 1, model, layers, depth: { order, metric, keepLast } },
    ...{ widths: widths.map(({ ratio }) => ratio), units: unitsOf(spec), origin },
  }
  const described = tensors.map((tensor) => ({ ...tensor, bytes: tensor.values.byteLength }))
  const { header } = safetensorsHeader(described, { [key]: JSON.stringify(head) })
  const bytes = tensors.map(({ values: { buffer, byteOffset, byteLength } }) => {
    return new Uint8Array(buffer, byteOffset, byteLength)
  })
  const file = Buffer.concat([header, ...bytes])
  await replaceFile(path, file)
  return file.length
}

const keptName = (ratio: number, layer: number, kind: string) => `kept/${ratio}/${layer}/${kind}`
const flags = (values: readonly boolean[]) => Uint8Array.from(values, Number)

/**
 * Reads a strategy. With `model`, throws ERR_WEIGHTSMITH_INPUT_CHANGED for a strategy of another one; throws
 * ERR_WEIGHTSMITH_FORMAT for a file that holds none, or one that contradicts itself.
 */
export async function readStrategy(
  addon: Pick<NativeAddon, 'readHeader'>,
  path: string,
  model?: Checkpoint,
): Promise<Strategy> {
  const { metadata, tensors, fileSize } = await addon.readHeader(path)
  const refuse = (what: string) => {
    const message = `${path} is no strategy: ${what}. Make one with weightsmith amoeba strategy.`
    return new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', message, { file: path })
  }
  const head = headOf(metadata[key])
  if (head === undefined) throw refuse('its metadata does not describe one')
  if (model !== undefined && head.model.fingerprint !== (await fingerprint(model))) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_INPUT_CHANGED',
      `The strategy ${path} is of the model ${head.model.name} as it was then, but ${model.name} has other weights; ` +
        'make one of this model.',
      { file: path },
    )
  }
  if (model !== undefined) {
    // Weights that are the same under another config are no other model to the fingerprint.
    const spec = modelSpec(model.config, model.tensors, model.name)
    if (JSON.stringify([spec.language.layers.length, unitsOf(spec)]) !== JSON.stringify([head.layers, head.units])) {
      throw refuse(`its blocks and units are not those of ${model.name}`)
    }
  }
  const file = await readFile(path)
  if (file.length !== fileSize) throw new WeightsmithError('ERR_WEIGHTSMITH_IO_READ', `${path} changes as it is read.`)
  return new Reader(head, tensors, file, refuse).strategy()
}

/** Whether the metadata of a safetensors file says that it is a strategy. */
export function isStrategy(metadata: Readonly<Record<string, string>>): boolean {
  return metadata[key] !== undefined
}

/** The metadata of a file, where it is what a strategy has. */
function headOf(text: string | undefined): Head | undefined {
  const whole = (value: unknown, least: number) => Number.isSafeInteger(value) && Number(value) >= least
  const data = (value: StrategyData | undefined) =>
    typeof value?.file === 'string' && whole(value.examples, 0) && whole(value.tokens, 0)
  try {
    const head = JSON.parse(text ?? '') as Partial<Head> | null
    const { model, layers, depth, widths, units, origin } = head ?? {}
    const fits =
      head?.format === 1 &&
      typeof model?.name === 'string' &&
      typeof model.fingerprint === 'string' &&
      whole(layers, 1) &&
      depthOrders.some((order) => order === depth?.order) &&
      depthMetrics.some((metric) => metric === depth?.metric) &&
      whole(depth?.keepLast, 0) &&
      Array.isArray(widths) &&
      widths[0] === 1 &&
      widths.every((ratio, i) => ratio > 0 && (i === 0 || ratio < (widths[i - 1] ?? 0))) &&
      Array.isArray(units) &&
      units.every(
        (unit) =>
          whole(unit.layer, 0) &&
          unit.layer < Number(layers) &&
          (unit.kind === 'group' || unit.kind === 'neuron') &&
          whole(unit.count, 1) &&
          Array.isArray(unit.weights),
      ) &&
      typeof origin?.weightsmith === 'string' &&
      typeof origin.device === 'string' &&
      data(origin.data) &&
      data(origin.calibration)
    return fits ? (head as Head) : undefined
  } catch {
    return undefined
  }
}

/** The tensors of a file, which have to be what its metadata says. */
class Reader {
  private readonly places: ReadonlyMap<string, NativeTensor>

  constructor(
    private readonly head: Head,
    tensors: readonly NativeTensor[],
    private readonly file: Buffer,
    private readonly refuse: (what: string) => WeightsmithError,
  ) {
    this.places = new Map(tensors.map((tensor) => [tensor.name, tensor]))
  }

  strategy(): Strategy {
    const { layers, widths, model, origin } = this.head
    return { model, layers, depth: this.depth(), widths: widths.map((ratio) => this.width(ratio)), origin }
  }

  private depth(): DepthStrategy {
    const { layers, depth } = this.head
    const rows = layers - depth.keepLast + 1
    const columns = this.places.get('depth/masks')?.shape[0] ?? 0
    if (rows < 1 || columns < 1 || columns > Math.min(rows, layers)) throw this.refuse('its depths are out of range')
    const cells = <T>(all: readonly T[]) => rowsOf(all, columns).map((row, n) => row.slice(0, n + 1))
    const masks = rowsOf(this.flags('depth/masks', [columns, layers]), layers)
    for (const [m, mask] of masks.entries()) {
      const gone = mask.filter((stays) => !stays).length
      if (gone === m && !mask.slice(layers - depth.keepLast).includes(false)) continue
      throw this.refuse(`its mask for ${layers - m} blocks leaves out others than it should`)
    }
    return {
      ...depth,
      masks,
      values: this.numbers('depth/values', [columns]),
      table: {
        values: cells(this.numbers('table/values', [rows, columns])),
        masks: cells(rowsOf(this.flags('table/masks', [rows, columns, layers]), layers)),
        tried: cells(this.numbers('table/tried', [rows, columns])),
      },
    }
  }

  private width(ratio: number): StrategyWidth {
    const biases = new Map<string, Float32Array<ArrayBuffer>>()
    const units = this.head.units.map(({ layer, kind, count, weights }): StrategyUnits => {
      const name = keptName(ratio, layer, kind)
      const kept = this.flags(name, [count])
      if (!kept.includes(true)) throw this.refuse(`${name} leaves nothing of a layer`)
      if (ratio === 1 && kept.includes(false)) throw this.refuse(`${name} leaves something out at the whole width`)
      for (const weight of kept.includes(false) ? weights : []) {
        const bias = `bias/${ratio}/${weight}`
        const bytes = this.bytes(bias, 'F32', this.places.get(bias)?.shape.slice(0, 1) ?? [])
        biases.set(weight, new Float32Array(bytes.buffer))
      }
      return { layer, kind, kept }
    })
    return { ratio, units, biases }
  }

  private flags(name: string, shape: readonly number[]): boolean[] {
    const bytes = this.bytes(name, 'U8', shape)
    if (bytes.some((value) => value > 1)) throw this.refuse(`${name} has values that are neither 0 nor 1`)
    return Array.from(bytes, (value) => value === 1)
  }

  private numbers(name: string, shape: readonly number[]): number[] {
    return [...new Float64Array(this.bytes(name, 'F64', shape).buffer)]
  }

  private bytes(name: string, dtype: string, shape: readonly number[]): Uint8Array<ArrayBuffer> {
    const place = this.places.get(name)
    if (place === undefined) throw this.refuse(`it has no ${name}`)
    if (place.dtype !== dtype || place.shape.join() !== shape.join()) {
      const found = `${place.dtype} [${place.shape.join(', ')}]`
      throw this.refuse(`${name} should be ${dtype} [${shape.join(', ')}], but is ${found}`)
    }
    return new Uint8Array(this.file.subarray(place.begin, place.end))
  }
}

/** The units of a model as a file has them. */
function unitsOf({ language }: ModelSpec): Head['units'] {
  return language.layers.flatMap(({ units }, layer) =>
    units.map(({ kind, count, columns }) => ({ layer, kind, count, weights: columns.map(({ tensor }) => tensor) })),
  )
}

function rowsOf<T>(values: readonly T[], width: number): T[][] {
  return Array.from({ length: values.length / width }, (_, i) => values.slice(i * width, (i + 1) * width))
}
