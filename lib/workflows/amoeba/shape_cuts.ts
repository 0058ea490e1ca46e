/** A shape of a model as tensors: what is cut from which tensor, what is new, and the config that says so. */

import { describe, type ModelSpec, type Widths, withBiases, withWidths } from '../../architectures/index.js'
import type { CutTensor } from '../../checkpoint/cuts.js'
import {
  type Checkpoint,
  type Content,
  type Cut,
  cutTensor,
  layerLists,
  layerOf,
  outputConfig,
} from '../../checkpoint/index.js'
import type { Host } from '../../native/host.js'
import { biasOf, biasTensor, contributorsOf } from '../../prune/index.js'
import { misuse } from '../../util/errors.js'
import type { Shape, StrategyUnits } from './strategy.js'

export type CutLayout = 'compact' | 'masked'

export interface CutSubject {
  host: Host
  checkpoint: Checkpoint
  spec: ModelSpec
}

export interface ShapeCuts {
  tensors: Map<string, CutTensor>
  config: Record<string, unknown>
  /** Numbers of the blocks that stay, in the model. */
  blocks: number[]
  /** Elements that are not cut away, of tensors that the model has. */
  parameters: number
  notes: string[]
}

/** Cuts that shapes have in common are one object, so that they are made once. */
export class SharedCuts {
  private readonly known = new Map<string, Cut>()

  get(key: string, make: () => Cut): Cut {
    const cut = this.known.get(key) ?? make()
    this.known.set(key, cut)
    return cut
  }
}

/** What becomes of a model at a shape; `key` names the units among all that are cut with the same `shared`. */
export async function cutsOf(
  subject: CutSubject,
  shape: Shape,
  { layout, shared, key }: { layout: CutLayout; shared: SharedCuts; key: string },
): Promise<ShapeCuts> {
  const { checkpoint, spec, host } = subject
  const blocks = shape.blocks.flatMap((stays, block) => (stays ? [block] : []))
  const compact = layout === 'compact'
  const cuts = unitCuts(spec, shape, { layout, shared, key })
  if (!compact) {
    for (const [block, stays] of shape.blocks.entries()) {
      for (const name of stays ? [] : contributorsOf(spec, block, checkpoint)) {
        cuts.set(
          name,
          shared.get(`no block/${name}`, () => ({ zeroRows: range(checkpoint.tensors.get(name)?.shape[0] ?? 0) })),
        )
      }
    }
  }
  const places = new Map(blocks.map((block, place) => [block, place]))
  const whole = shared.get('whole', () => ({}))
  const tensors = new Map<string, CutTensor>()
  let parameters = 0
  for (const { name, shape: full } of checkpoint.tensors.values()) {
    const layer = layerOf(name)
    const inStack = layer !== undefined && layer.stack === checkpoint.stack
    const cut = cuts.get(name) ?? whole
    if (!inStack) parameters += elementsOf(full)
    else if (shape.blocks[layer.index] === true) parameters += elementsKept(full, cut)
    if (inStack && compact) {
      const place = places.get(layer.index)
      if (place !== undefined) tensors.set(`${layer.stack}.${place}.${layer.rest}`, { from: name, cut })
    } else tensors.set(name, { from: name, cut })
  }
  const notes: string[] = []
  const renamed = (name: string) => {
    const layer = layerOf(name)
    if (!compact || layer === undefined || layer.stack !== checkpoint.stack) return name
    return `${layer.stack}.${places.get(layer.index)}.${layer.rest}`
  }
  const narrow = compact ? narrowConfig(subject, shape, blocks, notes) : { ...checkpoint.config }
  const biases = [...shape.biases].filter(([weight]) => shape.blocks[layerOf(weight)?.index ?? 0] === true)
  const config = biases.length === 0 ? narrow : configWithBiases(subject, biases, narrow, notes)
  const dtypeOf = (bias: string) => {
    const source = tensors.get(bias.replace(/bias$/, 'weight'))
    return (source && 'from' in source && checkpoint.tensors.get(source.from)?.dtype) || 'F32'
  }
  if (config !== narrow) {
    // The switch gives all linears biases; those that compensate nothing are zeros.
    const shapes = new Map([...tensors.keys()].map((name) => [name, { shape: [] }]))
    for (const [name, size] of describe(config, shapes, checkpoint.name).tensors) {
      if (tensors.has(name)) continue
      tensors.set(name, await biasTensor(host, dtypeOf(name), new Float32Array(elementsOf(size))))
    }
  }
  for (const [weight, values] of biases) {
    const given = checkpoint.tensors.get(biasOf(weight))
    const name = renamed(biasOf(weight))
    const before: Content | undefined = given && cutTensor(checkpoint, given)
    tensors.set(name, await biasTensor(host, dtypeOf(name), values, before))
  }
  return { tensors, config, blocks, parameters, notes }
}

/** Rows and columns of the units that stay or become zeros, by tensor. */
function unitCuts(
  spec: ModelSpec,
  { units }: Shape,
  { layout, shared, key }: { layout: CutLayout; shared: SharedCuts; key: string },
): Map<string, Cut> {
  const cuts = new Map<string, Cut>()
  for (const { layer, kind, kept } of units) {
    if (!kept.includes(false)) continue
    const own = spec.language.layers[layer]?.units.find((unit) => unit.kind === kind)
    for (const side of ['rows', 'columns'] as const) {
      for (const { tensor, size } of own?.[side] ?? []) {
        const those = (stay: boolean) =>
          kept.flatMap((stays, unit) => (stays === stay ? range(size).map((i) => unit * size + i) : []))
        const make = (): Cut =>
          layout === 'compact'
            ? { [side]: those(true) }
            : { [side === 'rows' ? 'zeroRows' : 'zeroColumns']: those(false) }
        cuts.set(tensor, shared.get(`${layout}/${key}/${tensor}`, make))
      }
    }
  }
  return cuts
}

/** The config of a compact model: its blocks, and its widths where they are not those of the model. */
function narrowConfig(
  { checkpoint, spec }: CutSubject,
  { units }: Shape,
  blocks: readonly number[],
  notes: string[],
): Record<string, unknown> {
  const change = { dtype: undefined, layers: [layerLists(checkpoint, blocks)], vocabulary: undefined }
  const shallow = outputConfig(checkpoint.config ?? {}, change)
  if (!units.some(({ layer, kept }) => blocks.includes(layer) && kept.includes(false))) return shallow
  const { heads, numKvHeads, headSize } = spec.language.attention
  const widths = blocks.map((block): Widths => {
    const count = (kind: StrategyUnits['kind']) =>
      units.find((own) => own.layer === block && own.kind === kind)?.kept.filter((stays) => stays).length ?? 0
    return { heads: (count('group') * heads) / numKvHeads, groups: count('group'), inner: count('neuron') }
  })
  const config = withWidths(shallow, widths, headSize)
  if (config === undefined) {
    throw misuse(
      `${checkpoint.name} is a ${spec.architecture}, whose config has no keys for other widths; cut it masked ` +
        '(--layout masked), or at the width 1.',
    )
  }
  const uniform = widths.every((own) => JSON.stringify(own) === JSON.stringify(widths[0]))
  notes.push(
    uniform
      ? 'All layers have the same widths, which the usual keys of the config say: transformers, vLLM and others load it.'
      : 'Layers have widths of their own, which per_layer_config of the config says. Weightsmith runs it; transformers ' +
          '(5.24) refuses that key for this family, and vLLM and others do not load it. For them cut it with equal widths ' +
          '(--uniform), or masked (--layout masked).',
  )
  return config
}

/** The config with room for biases that compensate; as it is where it has that. */
function configWithBiases(
  { checkpoint, spec }: CutSubject,
  biases: readonly (readonly [string, unknown])[],
  config: Record<string, unknown>,
  notes: string[],
): Record<string, unknown> {
  const without = biases.find(([weight]) => !checkpoint.tensors.has(biasOf(weight)))
  if (without === undefined) return config
  const found = withBiases(config)
  if (found === undefined) {
    throw misuse(
      `${checkpoint.name} is a ${spec.architecture}, which has no bias beside ${without[0]}; cut it without compensation ` +
        '(--no-bias).',
    )
  }
  notes.push(
    'Biases compensate for what was cut, and attention_bias and mlp_bias of the config say that they are there; those of ' +
      'other linears are zeros.',
  )
  return found
}

function elementsKept(shape: readonly number[], { rows, columns, zeroRows, zeroColumns }: Cut): number {
  const [height = 1, ...rest] = shape
  const width = elementsOf(rest)
  const tall = rows?.length ?? height - (zeroRows?.length ?? 0)
  return tall * (columns?.length ?? width - (zeroColumns?.length ?? 0))
}

const elementsOf = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1)
const range = (count: number) => Array.from({ length: count }, (_, i) => i)
