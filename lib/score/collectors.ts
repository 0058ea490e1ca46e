/**
 * What a walk through a model collects for each method. A collector says what it has to see, and gives the tensors of a
 * score file. All sums are float64 and taken in the order of the data.
 */

import { inputsOf, type Layer, type ModelSpec } from '../architectures/index.js'
import type { Batch } from '../data/index.js'
import { recordWords, wordOf } from '../native/parameters.js'
import {
  ColumnStatistics,
  groupMean,
  type HookPoint,
  type LayerwiseObservers,
  rowGroups,
  type StatisticSpec,
} from '../runtime/index.js'

/** Where collectors keep what they add up, so that an interrupted run can go on from there. */
export class SavedArrays {
  readonly arrays: (Float64Array<ArrayBuffer> | Float32Array<ArrayBuffer>)[] = []

  readonly f64 = (length: number): Float64Array<ArrayBuffer> => this.add(new Float64Array(length))
  readonly f32 = (length: number): Float32Array<ArrayBuffer> => this.add(new Float32Array(length))

  private add<T extends Float64Array<ArrayBuffer> | Float32Array<ArrayBuffer>>(array: T): T {
    this.arrays.push(array)
    return array
  }
}

export interface Setting {
  kept: SavedArrays
  spec: ModelSpec
  batches: readonly Batch[]
  /** Layers that are measured. */
  layers: readonly number[]
  /** Neurons count as active above it. */
  tau: number
}

export interface Collected {
  name: string
  shape: number[]
  values: ArrayLike<number>
}

export interface Collector {
  observers?: LayerwiseObservers
  /** Sets of blocks to leave out, and the losses that come of it. */
  skips?: ReadonlySet<number>[]
  losses?: (batch: number, nll: Float32Array, skip?: number) => void
  /** Names, shapes and what was found so far: zeros before the walk. */
  collected(): Collected[]
  /** Tensors that are too large to be held: they are written on the way. */
  written?: Omit<Collected, 'values'>[]
}

/** Writes a part of a tensor from element `first` on. */
export type Write = (name: string, values: Float32Array, first: number) => Promise<void>

export function widthOf(spec: ModelSpec, { weight, side }: HookPoint): number {
  return spec.tensors.get(weight)?.[side === 'input' ? 1 : 0] ?? 0
}

function layersOf({ spec, layers }: Setting): Layer[] {
  return layers.flatMap((index) => spec.language.layers[index] ?? [])
}

/** Statistics of hook points over all tokens. */
class TokenStatistics {
  readonly columns: ReadonlyMap<HookPoint, ColumnStatistics>

  constructor(
    private readonly setting: Setting,
    hooks: readonly HookPoint[],
  ) {
    this.columns = new Map(
      hooks.map((hook) => [hook, new ColumnStatistics(widthOf(setting.spec, hook), setting.kept.f64)]),
    )
  }

  statistics(batch: number): StatisticSpec[] {
    const { batches, tau } = this.setting
    const groups = rowGroups([...(batches[batch]?.tokens.keys() ?? [])])
    return [...this.columns].map(([hook, columns]) => ({
      hook,
      groups,
      tau,
      add: (group, words) => columns.add(words, groups[group]?.length ?? 0),
    }))
  }
}

const sumWords = recordWords('WeightSums')

/** Sums of |W| and W² over the outputs of linears, one an input: with them a score of a column needs no weights. */
class WeightSums {
  private readonly sums: Map<string, Float32Array>
  readonly observers: NonNullable<LayerwiseObservers['weights']>

  constructor({ spec, kept }: Setting, names: readonly string[]) {
    this.sums = new Map(names.map((weight) => [weight, kept.f32(sumWords * widthOf(spec, { weight, side: 'input' }))]))
    this.observers = { names: new Set(names), add: (name, sums) => this.sums.get(name)?.set(sums) }
  }

  collected(): Collected[] {
    return [...this.sums].flatMap(([name, sums]) => {
      return (['absolute', 'squares'] as const).map((kind) => ({
        name: `${kind}/${name}`,
        shape: [sums.length / sumWords],
        values: sums.filter((_, i) => i % sumWords === wordOf('WeightSums', kind)),
      }))
    })
  }
}

function linearsOf(setting: Setting): string[] {
  return layersOf(setting).flatMap((layer) => inputsOf(layer).flat())
}

/**
 * Linears whose columns belong to units that can be removed: what follows attention, and what follows the activation.
 */
function consumersOf(setting: Setting): string[] {
  return layersOf(setting).flatMap(({ units }) => units.flatMap(({ columns }) => columns.map(({ tensor }) => tensor)))
}

/** Sums of the weights alone. */
export function magnitude(setting: Setting): Collector {
  const weights = new WeightSums(setting, linearsOf(setting))
  return { observers: { weights: weights.observers }, collected: () => weights.collected() }
}

/** ‖X_j‖ of every input of every linear. */
export function wanda(setting: Setting): Collector {
  const shared = layersOf(setting).flatMap((layer) => inputsOf(layer))
  const hooks = new Map(
    shared.map((names): [HookPoint, string[]] => [{ weight: names[0] ?? '', side: 'input' }, names]),
  )
  const statistics = new TokenStatistics(setting, [...hooks.keys()])
  const weights = new WeightSums(setting, shared.flat())
  return {
    observers: { statistics: (batch) => statistics.statistics(batch), weights: weights.observers },
    collected: () => [
      ...[...statistics.columns].flatMap(([hook, { width, squares }]) =>
        (hooks.get(hook) ?? []).map((name) => ({
          name: `norm/${name}`,
          shape: [width],
          values: squares.map(Math.sqrt),
        })),
      ),
      ...weights.collected(),
    ],
  }
}

/** Mean and fluctuation of every input of what consumes units, by FLAP's recursion over lines. */
export function flap(setting: Setting): Collector {
  const { spec, batches, kept } = setting
  const names = consumersOf(setting)
  const weights = new WeightSums(setting, names)
  const states = names.map((weight) => {
    const hook: HookPoint = { weight, side: 'input' }
    const width = widthOf(spec, hook)
    return { hook, width, lines: kept.f64(1), mean: kept.f64(width), fluctuation: kept.f64(width) }
  })
  const step = (state: (typeof states)[number], words: Float32Array, length: number) => {
    const { width, mean, fluctuation, lines } = state
    const i = (lines[0] ?? 0) + 1
    lines[0] = i
    for (let j = 0; j < width; j++) {
      const line = groupMean(words, width, j, length)
      const old = mean[j] ?? 0
      // The published code updates the mean in place, so that squares are of distances from the new one.
      const fresh = (old * (i - 1)) / i + line.mean / i
      mean[j] = fresh
      const sum = line.spread + length * (line.mean - fresh) ** 2
      fluctuation[j] = i === 1 ? 0 : ((fluctuation[j] ?? 0) * (i - 2)) / (i - 1) + sum / i
    }
  }
  return {
    observers: {
      statistics: (batch) => {
        const lines = batches[batch]?.lines ?? []
        const groups = lines.map(({ first, length }) => Uint32Array.from({ length }, (_, i) => first + i))
        return states.map((state) => ({
          hook: state.hook,
          groups,
          add: (group, words) => step(state, words, lines[group]?.length ?? 0),
        }))
      },
      weights: weights.observers,
    },
    collected: () => [
      ...states.flatMap(({ hook, width, mean, fluctuation }) => [
        { name: `mean/${hook.weight}`, shape: [width], values: mean },
        { name: `fluctuation/${hook.weight}`, shape: [width], values: fluctuation },
      ]),
      ...weights.collected(),
    ],
  }
}

/** How active neurons are: outputs of the linears that make them, inputs of the one that takes them. */
export function neuron(setting: Setting): Collector {
  const hooks = layersOf(setting).flatMap(({ units }) =>
    units
      .filter(({ kind }) => kind === 'neuron')
      .flatMap(({ rows, columns }): HookPoint[] => [
        ...rows
          .filter(({ tensor }) => setting.spec.tensors.get(tensor)?.length === 2)
          .map(({ tensor }): HookPoint => ({ weight: tensor, side: 'output' })),
        ...columns.map(({ tensor }): HookPoint => ({ weight: tensor, side: 'input' })),
      ]),
  )
  const statistics = new TokenStatistics(setting, hooks)
  return {
    observers: { statistics: (batch) => statistics.statistics(batch) },
    collected: () =>
      [...statistics.columns].flatMap(([{ weight, side }, columns]) => {
        const { width, count, mean, spread, absolute, squares, above } = columns
        const tensor = (kind: string, values: Float64Array) => ({
          name: `${kind}/${side}/${weight}`,
          shape: [width],
          values,
        })
        return [
          tensor('mean', mean),
          tensor(
            'deviation',
            spread.map((sum) => Math.sqrt(sum / Math.max(1, count - 1))),
          ),
          tensor(
            'mean_absolute',
            absolute.map((sum) => sum / Math.max(1, count)),
          ),
          tensor(
            'rms',
            squares.map((sum) => Math.sqrt(sum / Math.max(1, count))),
          ),
          tensor(
            'frequency',
            above.map((sum) => sum / Math.max(1, count)),
          ),
        ]
      }),
  }
}

/** 1 - mean cos(x before a block, x after it), over all tokens. */
export function blockInfluence({ spec, kept }: Setting): Collector {
  const deltaWords = recordWords('ResidualDelta')
  const [aa, ad, dd] = (['aa', 'ad', 'dd'] as const).map((field) => wordOf('ResidualDelta', field)) as [
    number,
    number,
    number,
  ]
  const layers = spec.language.layers.length
  const sums = kept.f64(layers)
  const rows = kept.f64(layers)
  return {
    observers: {
      residualDelta: (_, layer, words) => {
        for (let i = 0; i < words.length; i += deltaWords) {
          sums[layer] = (sums[layer] ?? 0) + cosineDistance(words[i + aa] ?? 0, words[i + ad] ?? 0, words[i + dd] ?? 0)
        }
        rows[layer] = (rows[layer] ?? 0) + words.length / deltaWords
      },
    },
    collected: () => [
      { name: 'block_influence', shape: [layers], values: sums.map((sum, i) => sum / Math.max(1, rows[i] ?? 0)) },
    ],
  }
}

/** 1 - cos(a, a + d) from a·a, a·d and d·d, without the difference of numbers close to 1. */
function cosineDistance(aa: number, ad: number, dd: number): number {
  const norms = Math.sqrt(aa * (aa + 2 * ad + dd))
  return norms === 0 ? 0 : (aa * dd - ad * ad) / (norms * (norms + aa + ad))
}

/** Losses with each block left out, over all tokens and over those of answers. */
export function ablation({ spec, batches, layers, kept }: Setting): Collector {
  const kinds = ['all', 'answer'] as const
  const sums = kinds.map(() => kept.f64(1 + layers.length))
  const counts = kinds.map(() => kept.f64(1 + layers.length))
  const depth = spec.language.layers.length
  const skips = layers.map((layer) => new Set([layer]))
  return {
    skips,
    losses: (batch, nll, skip = -1) => {
      for (const { first, length, prompt } of batches[batch]?.lines ?? []) {
        // Row t has the loss of token t + 1; the last row has none.
        for (let t = 0; t < length - 1; t++) {
          if (batches[batch]?.tokens[first + t]?.target === undefined) continue
          for (const kind of t + 1 < prompt ? [0] : [0, 1]) {
            bump(sums[kind], skip + 1, nll[first + t] ?? 0)
            bump(counts[kind], skip + 1, 1)
          }
        }
      }
    },
    collected: () => {
      const means = sums.map((sum, kind) => sum.map((value, i) => value / Math.max(1, counts[kind]?.[i] ?? 0)))
      const spread = (values: Float64Array) =>
        Float64Array.from({ length: depth }, (_, layer) => values[1 + layers.indexOf(layer)] ?? 0).map(
          (value, layer) => (layers.includes(layer) ? value : Number.NaN),
        )
      return [
        { name: 'nll', shape: [2], values: means.map((values) => values[0] ?? 0) },
        ...kinds.flatMap((kind, k) => {
          const values = spread(means[k] ?? new Float64Array())
          const dense = means[k]?.[0] ?? 0
          return [
            { name: `ablation/${kind}`, shape: [depth], values },
            { name: `importance/${kind}`, shape: [depth], values: values.map((value) => value - dense) },
          ]
        }),
      ]
    },
  }
}

function bump(values: Float64Array | undefined, i: number, by: number): void {
  if (values !== undefined) values[i] = (values[i] ?? 0) + by
}

/** XᵀX of every input. */
export function gram(setting: Setting, write: Write): Collector {
  const hooks = layersOf(setting).flatMap((layer) =>
    inputsOf(layer).map(([weight = '']): HookPoint => ({ weight, side: 'input' })),
  )
  const nameOf = ({ weight }: HookPoint) => `gram/${weight}`
  return {
    observers: {
      grams: {
        hooks,
        add: (hook, first, rows) => write(nameOf(hook), rows, first * widthOf(setting.spec, hook)),
      },
    },
    collected: () => [],
    written: hooks.map((hook) => {
      const width = widthOf(setting.spec, hook)
      return { name: nameOf(hook), shape: [width, width] }
    }),
  }
}

/** acos(cos(x_l, x_{l+n})) / π on the last token of each line, for every n. */
export function angular({ spec, batches, kept }: Setting): Collector {
  const layers = spec.language.layers.length
  const width = spec.language.activations.x ?? 0
  /** The last row of every line, by boundary. */
  const lasts = batches.map(({ lines }) => lines.map(() => kept.f32((layers + 1) * width)))
  const all = () => lasts.flat()
  const at = (rows: Float32Array, boundary: number) => rows.subarray(boundary * width, (boundary + 1) * width)
  return {
    observers: {
      residualStream: (batch, boundary, x) => {
        for (const [i, { first, length }] of (batches[batch]?.lines ?? []).entries()) {
          const last = (first + length - 1) * width
          lasts[batch]?.[i]?.set(x.subarray(last, last + width), boundary * width)
        }
      },
    },
    collected: () =>
      Array.from({ length: layers }, (_, n) => ({
        name: `angular/${n + 1}`,
        shape: [layers - n],
        values: Float64Array.from(
          { length: layers - n },
          (_, l) => all().reduce((sum, rows) => sum + angle(at(rows, l), at(rows, l + n + 1)), 0) / all().length,
        ),
      })),
  }
}

function angle(a: Float32Array, b: Float32Array): number {
  let aa = 0
  let ab = 0
  let bb = 0
  for (let i = 0; i < a.length; i++) {
    const [x, y] = [a[i] ?? 0, b[i] ?? 0]
    aa += x * x
    ab += x * y
    bb += y * y
  }
  return Math.acos(Math.min(1, Math.max(-1, ab / Math.sqrt(aa * bb)))) / Math.PI
}
