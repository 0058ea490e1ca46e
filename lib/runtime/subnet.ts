/**
 * Subnets: parts of a model on the device that run without weights of their own. Blocks are left out, units count or do
 * not (a mask on what the linear behind them reads), and a vector makes up for what is missing.
 */

import type { ModelSpec } from '../architectures/index.js'
import type { Block } from './ops/index.js'

/** Which part of a model a pass goes through. Objects that are the same are the same subnet, and do not change. */
export interface Subnet {
  /** Blocks that stay; what comes into others goes on. */
  blocks: readonly boolean[]
  /** 1 for columns that count and 0 for others, by the weight of the linear that reads them; by default all count. */
  masks: ReadonlyMap<string, Float32Array<ArrayBuffer>>
  /** What is added to what a linear makes, by its weight; nothing by default. */
  offsets: ReadonlyMap<string, Float32Array<ArrayBuffer>>
  /** What the router of a mixture is told: 1 or 0 for each block, then 1 for its own of the widths and 0 for others. */
  description?: Float32Array<ArrayBuffer> | undefined
}

const maskOf = (weight: string) => `${weight}, mask`
const offsetOf = (weight: string) => `${weight}, offset`

/** Linears that read units, in the order of their layers. */
function readersOf(spec: ModelSpec): Set<string> {
  const units = spec.language.layers.flatMap((layer) => layer.units)
  return new Set(units.flatMap(({ columns }) => columns.map(({ tensor }) => tensor)))
}

/** The model with a mask before, and an offset behind every linear that reads units. */
export function withSubnets(spec: ModelSpec): ModelSpec {
  const readers = readersOf(spec)
  const layers = spec.language.layers.map((layer) => ({
    ...layer,
    ops: layer.ops.flatMap((op) =>
      op.op === 'linear' && readers.has(op.weight)
        ? [
            { op: 'mask' as const, x: op.x, by: maskOf(op.weight) },
            op,
            { op: 'offset' as const, x: op.y, by: offsetOf(op.weight) },
          ]
        : [op],
    ),
  }))
  return { ...spec, language: { ...spec.language, layers } }
}

/** The buffers of masks and offsets, by name as ops have them. */
export class SubnetBuffers {
  readonly blocks = new Map<string, readonly Block[]>()
  private readonly readers: readonly string[]
  /** What they hold; null: nothing yet. */
  private held: Subnet | undefined | null = null

  constructor(spec: ModelSpec, add: (bytes: number) => number) {
    const named = new Set(
      spec.language.layers.flatMap(({ ops }) => ops.flatMap((op) => (op.op === 'mask' ? [op.by] : []))),
    )
    this.readers = [...readersOf(spec)].filter((weight) => named.has(maskOf(weight)))
    for (const weight of this.readers) {
      const [outputs = 1, inputs = 1] = spec.tensors.get(weight) ?? []
      for (const [name, rows] of [
        [maskOf(weight), inputs],
        [offsetOf(weight), outputs],
      ] as const) {
        this.blocks.set(name, [{ dtype: 'F32', first: 0, rows, columns: 1, buffer: add(4 * rows) }])
      }
    }
  }

  /** What is to be written before a pass through a subnet, or through all of the model; nothing where it is there. */
  writesFor(subnet: Subnet | undefined): { buffer: number; values: Float32Array<ArrayBuffer> }[] {
    if (this.readers.length === 0 || this.held === subnet) return []
    this.held = subnet
    return this.readers.flatMap((weight) =>
      [
        { name: maskOf(weight), given: subnet?.masks.get(weight), usual: 1 },
        { name: offsetOf(weight), given: subnet?.offsets.get(weight), usual: 0 },
      ].flatMap(({ name, given, usual }) => {
        const [block] = this.blocks.get(name) ?? []
        if (block === undefined) return []
        return [{ buffer: block.buffer, values: given?.slice() ?? new Float32Array(block.rows).fill(usual) }]
      }),
    )
  }
}
