/**
 * Adapters of a model that runs with them and is not trained: their factors, and the router of a mixture, are loaded
 * once and stay on the device; the factors that a pass mixes lie in buffers that all linears share.
 */

import type { ModelSpec } from '../architectures/index.js'
import { misuse } from '../util/errors.js'
import { type AdapterSpec, factorNames, type Gate, linearsOf, mixedNames } from './adapters.js'
import { blocksOf, transposed } from './blocks.js'
import { MixtureBuffers } from './mixtures.js'
import { type Adapter, type Block, type Forms, type Mixture, packedBytes } from './ops/index.js'
import { Router, type RouterSpec, routerTensors } from './router.js'

export interface ModelAdapters {
  /** Of linears of the language model's layers, one each. */
  specs: readonly AdapterSpec[]
  /**
   * A [rank, inputs] and B [outputs, rank] of every adapter or expert, by `factorNames`, and the tensors of the router,
   * by `routerTensors`; row-major.
   */
  values: ReadonlyMap<string, Float32Array>
  /** Of adapters with experts. */
  router?: RouterSpec | undefined
  /** How experts are mixed: their factors (default), or their outputs. */
  mix?: Mixture['form'] | undefined
}

/** Throws ERR_WEIGHTSMITH_ARGUMENT for adapters that a model does not have the linears for, or that lack values. */
export function checkAdapters(spec: ModelSpec, adapters: ModelAdapters, name: string): void {
  const { specs, values, router } = adapters
  const linears = linearsOf(spec)
  const known = new Set<string>()
  for (const { weight, rank, dora, experts = 0 } of specs) {
    if (!linears.has(weight)) throw misuse(`The adapter of ${weight} is of no linear of the layers of ${name}.`)
    if (known.has(weight)) throw misuse(`There are two adapters of ${weight}.`)
    known.add(weight)
    if (dora) throw misuse(`The adapter of ${weight} is one of DoRA, which is folded before a model runs with it.`)
    if (!Number.isInteger(rank) || rank < 1) throw misuse(`The adapter of ${weight} has the rank ${rank}.`)
    if (experts > 0 && experts !== router?.experts) {
      const found = router === undefined ? 'the router is missing' : `the router has ${router.experts}`
      throw misuse(`The adapter of ${weight} has ${experts} experts, but ${found}.`)
    }
  }
  if (router !== undefined && !(router.top >= 1 && router.top <= router.experts)) {
    throw misuse(`The router chooses ${router.top} of ${router.experts} experts.`)
  }
  const shapes: [string, number, number][] = [
    ...specs.flatMap((own) => factorShapes(spec, own)),
    ...(router === undefined ? [] : routerTensors(router)),
  ]
  for (const [tensor, rows, columns] of shapes) {
    const length = values.get(tensor)?.length
    if (length === rows * columns) continue
    const found = length === undefined ? 'it is missing' : `${length} were given`
    throw misuse(`The tensor ${tensor} of the adapters has ${rows * columns} values, but ${found}.`)
  }
}

/** Names of factors, and their shapes as `values` has them. */
function factorShapes({ tensors }: ModelSpec, { weight, rank, experts = 0 }: AdapterSpec): [string, number, number][] {
  const [outputs = 0, inputs = 0] = tensors.get(weight) ?? []
  return ownersOf(weight, experts).flatMap(({ a, b }): [string, number, number][] => [
    [a, rank, inputs],
    [b, outputs, rank],
  ])
}

/** The names of the factors of an adapter, or of each of its experts. */
function ownersOf(weight: string, experts: number) {
  if (experts === 0) return [factorNames(weight)]
  return Array.from({ length: experts }, (_, expert) => factorNames(weight, expert))
}

export interface AdapterLayout {
  /** Tokens a pass. */
  tokens: number
  /** Weights that are on the device, now or later. */
  weights: ReadonlySet<string>
  forms: Forms
  /** Bytes a block may have. */
  limit: number
}

export class AdapterBuffers {
  /** Factors, those that are mixed, and the tensors of the router. */
  readonly blocks = new Map<string, readonly Block[]>()
  readonly router: Router | undefined
  /** Factors A, which are held as their transpose, and their shapes. */
  private readonly turned = new Map<string, [rows: number, columns: number]>()
  private readonly own = new Map<string, Adapter>()
  private readonly mixtures: MixtureBuffers
  private readonly mix: Mixture['form']

  constructor(
    spec: ModelSpec,
    private readonly adapters: ModelAdapters,
    { tokens, weights, forms, limit }: AdapterLayout,
    add: (bytes: number) => number,
  ) {
    const { router, mix = 'factor' } = adapters
    const specs = adapters.specs.filter(({ weight }) => weights.has(weight))
    const inner = add(4 * tokens * Math.max(0, ...specs.map(({ rank }) => rank)))
    this.mix = mix
    this.router = router && new Router(router, forms, add)
    this.mixtures = new MixtureBuffers(spec, { adapters: specs, learns: false }, limit, add)
    for (const part of [this.mixtures.factors, this.router?.blocks ?? []]) {
      for (const [name, blocks] of part) this.blocks.set(name, blocks)
    }
    const blocked = (rows: number, columns: number) =>
      blocksOf(rows, columns, 'F32', limit).map((block) => ({ ...block, buffer: add(packedBytes(block)) }))
    for (const [index, { weight, rank, scale, experts = 0 }] of specs.entries()) {
      const [outputs = 0, inputs = 0] = spec.tensors.get(weight) ?? []
      for (const { a, b } of ownersOf(weight, experts)) {
        this.blocks.set(a, blocked(inputs, rank))
        this.turned.set(a, [rank, inputs])
        this.blocks.set(b, blocked(outputs, rank))
      }
      const { a, b } = experts > 0 ? mixedNames(weight) : factorNames(weight)
      this.own.set(weight, { a, b, scale, inner, innerGradient: inner, index })
    }
  }

  /** The adapter of a matrix in a pass with these experts. */
  of(weight: string, experts: readonly Gate[]): Adapter | undefined {
    const adapter = this.own.get(weight)
    if (adapter === undefined || this.blocks.has(factorNames(weight).a)) return adapter
    return { ...adapter, mixture: this.mixtures.of(weight, experts, this.mix) }
  }

  /** What is to be loaded, block by block. */
  *pieces(): Iterable<{ block: Block; values: Float32Array<ArrayBuffer> }> {
    for (const [name, blocks] of this.blocks) {
      const values = this.adapters.values.get(name)
      if (values === undefined) continue
      const shape = this.turned.get(name)
      const held = shape === undefined ? values : transposed(values, ...shape)
      for (const block of blocks) {
        const { first, rows, columns } = block
        yield { block, values: Float32Array.from(held.subarray(first * columns, (first + rows) * columns)) }
      }
    }
  }
}
