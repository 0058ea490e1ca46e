/**
 * Buffers of mixtures of experts. The factors that a pass mixes, and their gradients, are needed for one linear at a
 * time, so all linears of one shape share them.
 */

import type { ModelSpec } from '../architectures/index.js'
import { type AdapterSpec, factorNames, type Gate, mixedNames } from './adapters.js'
import { blocksOf } from './blocks.js'
import { type Block, dotsOfExpert, type Mixture, packedBytes } from './ops/index.js'
import type { RouterSpec } from './router.js'

export class MixtureBuffers {
  /** Factors, and gradients of them where they are wanted, by their names. */
  readonly factors = new Map<string, Block[]>()
  readonly gradients = new Map<string, Block[]>()
  /** Sums that add up to the gradients of gates: of every linear, expert after expert. */
  readonly sums: number
  /** Of an expert, and where those of a linear begin. */
  private readonly count: number
  private readonly starts = new Map<string, number>()

  constructor(
    spec: ModelSpec,
    {
      adapters,
      router,
      learns = true,
    }: { adapters: readonly AdapterSpec[]; router?: RouterSpec | undefined; learns?: boolean },
    limit: number,
    add: (bytes: number) => number,
  ) {
    const mixed = adapters.filter(({ experts = 0 }) => experts > 0)
    const blocks = mixed.map(({ weight, rank }) => {
      const [rows = 1, columns = 1] = spec.tensors.get(weight) ?? []
      // As experts are held: A as its transpose.
      return { weight, a: blocksOf(columns, rank, 'F32', limit), b: blocksOf(rows, rank, 'F32', limit) }
    })
    for (const factor of ['a', 'b'] as const) {
      for (const into of learns ? [this.factors, this.gradients] : [this.factors]) {
        // Only those of one shape share a buffer: what pads the panels of one may be elements of another.
        const buffers = new Map<string, number>()
        for (const of of blocks) {
          const placed = of[factor].map((block) => {
            const shape = [block.first, block.rows, block.columns].join()
            const buffer = buffers.get(shape) ?? add(packedBytes(block))
            buffers.set(shape, buffer)
            return { ...block, buffer }
          })
          into.set(mixedNames(of.weight)[factor], placed)
        }
      }
    }
    let count = 0
    for (const { weight, a, b } of blocks) {
      this.starts.set(weight, count)
      count += dotsOfExpert([...a, ...b].map((block) => ({ ...block, buffer: 0 })))
    }
    this.count = count
    this.sums = learns ? add(4 * count * (router?.top ?? 0)) : 0
  }

  /** The sums of the expert that counts as number `place`. */
  sumsOf(place: number): { first: number; count: number } {
    return { first: place * this.count, count: this.count }
  }

  /** Names of the factors of an expert, of all matrices. */
  tensorsOf(expert: number): string[] {
    return [...this.starts.keys()].flatMap((weight) => {
      const { a, b } = factorNames(weight, expert)
      return [a, b]
    })
  }

  /** The mixture of a matrix in a pass; nothing for one that has no experts. */
  of(weight: string, gates: readonly Gate[], form: Mixture['form']): Mixture | undefined {
    const start = this.starts.get(weight)
    if (start === undefined) return undefined
    const experts = gates.map(({ expert, gate }, place) => {
      const { a, b } = factorNames(weight, expert)
      return { a, b, gate, dots: place * this.count + start }
    })
    return { form, experts, sums: this.sums }
  }
}
