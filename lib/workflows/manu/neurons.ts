/**
 * What a neuron is (methods of MANU): a row of a linear of an MLP, scored by what it gives out; or, coupled, an element
 * between the matrices of an MLP, scored by what comes into the last one, which can be removed with its rows and
 * column.
 */

import type { Layer, ModelSpec, OpSpec, Units } from '../../architectures/index.js'
import type { HookPoint } from '../../runtime/index.js'

export type Tower = 'language' | 'vision'

/** Neurons that are scored by one hook point. */
export interface Module {
  name: string
  tower: Tower
  layer: number
  /** Which of the modules of its layer it is. */
  kind: string
  neurons: number
  hook: HookPoint
  /** What becomes zero with neuron n: row n of these, and column n of those. */
  rows: string[]
  columns: string[]
}

export type Layers = 'last3' | 'all' | readonly number[]

/** Every module of the MLPs of a model. */
export function modulesOf(spec: ModelSpec, coupled: boolean): Module[] {
  const towers: [Tower, Layer[]][] = [
    ['vision', spec.vision?.stack.layers ?? []],
    ['language', spec.language.layers],
  ]
  return towers.flatMap(([tower, layers]) =>
    layers.flatMap((layer, index) =>
      layer.units
        .flatMap((units) =>
          units.kind === 'neuron' ? (coupled ? [coupledOf(units)] : rowsOf(units, layer, spec)) : [],
        )
        .map((module) => ({ ...module, tower, layer: index })),
    ),
  )
}

type Local = Omit<Module, 'tower' | 'layer'>

/** A module for the neurons between the matrices. */
function coupledOf({ count, rows, columns }: Units): Local {
  const consumer = columns[0]?.tensor ?? ''
  return {
    name: consumer.replace(/\.[^.]+\.weight$/, ''),
    kind: 'neuron',
    neurons: count,
    hook: { weight: consumer, side: 'input' },
    rows: rows.map(({ tensor }) => tensor),
    columns: columns.map(({ tensor }) => tensor),
  }
}

/** A module for each matrix. */
function rowsOf({ rows, columns }: Units, { ops }: Layer, { tensors }: ModelSpec): Local[] {
  const linears = ops.filter((op): op is OpSpec & { op: 'linear' } => op.op === 'linear')
  const named = new Set([...rows, ...columns].map(({ tensor }) => tensor))
  return linears
    .filter(({ weight }) => named.has(weight))
    .map(({ weight, bias }) => {
      const name = weight.replace(/\.weight$/, '')
      return {
        name,
        kind: name.slice(name.lastIndexOf('.') + 1),
        neurons: tensors.get(weight)?.[0] ?? 0,
        hook: { weight, side: 'output' },
        rows: [weight, ...(bias === undefined ? [] : [bias])],
        columns: [],
      }
    })
}

/** Whether a layer is one of `layers`. */
export function isChosen(layers: Layers, layer: number, depth: number): boolean {
  if (layers === 'all') return true
  return layers === 'last3' ? layer >= depth - 3 : layers.includes(layer)
}
