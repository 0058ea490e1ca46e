/**
 * One-for-all fine-tuning (AmoebaLLM, arXiv 2411.10606, as its trainer does it): every micro-batch is learned by
 * several subnets that share their adapters, the largest first, whose predictions teach the others.
 */

import type { ModelSpec } from '../../architectures/index.js'
import { factorNames, type Subnet, type TeacherMask, type TrainableModel } from '../../runtime/index.js'
import { type Strategy, shapeOf, subnetOf } from '../../subnets/index.js'
import type { AdapterStart, MicroBatchAt, Objective, TrainingDetails, TrainingExample } from '../../training/index.js'
import { freshAdapter } from '../../training/index.js'
import { type MixtureForm, routerStart, writeAmoebaAdapter } from './mixture.js'
import { gateNoise, type SubnetRange, type SubnetShape, sandwich } from './sandwich.js'

/** With their defaults; see `AmoebaTrainOptions`. */
export interface OneForAllSettings {
  subnets: number
  experts: number
  top: number
  mix: MixtureForm
  noise: boolean
  balance: boolean
  teacherShare: number
  teacherMask: TeacherMask
  compensated: boolean
  dense: boolean
  seed: number
}

/** Width between the two linears of the router. */
export const routerWidth = 16

/** Losses below this are not balanced: there is nothing to learn of them. */
const noLoss = 1e-8

export class OneForAll implements Objective {
  readonly verb = 'amoeba train'
  readonly experts: number | undefined
  readonly trainable: Objective['trainable']
  readonly passes: Objective['passes']
  readonly dense: boolean
  private readonly subnets = new Map<string, Subnet>()

  constructor(
    private readonly spec: ModelSpec,
    private readonly strategy: Strategy,
    private readonly range: SubnetRange,
    private readonly settings: OneForAllSettings,
    readonly facts: Record<string, unknown>,
    readonly sets: Record<string, unknown>,
  ) {
    const { experts, top, mix, dense, teacherShare, subnets } = settings
    const { leastDepth, layers } = range
    const least = leastDepth / layers
    const random = layers > leastDepth ? (leastDepth + layers - 1) / 2 / layers : 1
    this.passes = { learn: 1 + (subnets - 2) * random + least, measure: 1 + least }
    this.dense = dense
    this.experts = experts > 1 ? experts : undefined
    const inputs = strategy.layers + strategy.widths.length
    this.trainable = {
      subnets: true,
      mix,
      ...(teacherShare > 0 && { teacher: 'self' as const }),
      ...(experts > 1 && { router: { inputs, hidden: routerWidth, experts, top } }),
    }
  }

  /** The algorithm: a loss a subnet, each as large as that of the first, and the gradients of all of them added up. */
  async learn(model: TrainableModel, batch: readonly TrainingExample[], at: MicroBatchAt) {
    const { subnets: count, balance, teacherShare, teacherMask: mask, seed } = this.settings
    const targets = batch.reduce((sum, example) => sum + example.targets.reduce((a, b) => a + b, 0), 0)
    const details: TrainingDetails[] = []
    for (const [i, shape] of sandwich(this.range, { ...at, count, seed }).entries()) {
      const largest = i === 0
      const pass = await model.forward(batch, {
        subnet: this.subnet(shape),
        noise: this.noise({ ...at, subnet: i }),
        learns: true,
        teaches: largest && teacherShare > 0,
        ...(teacherShare > 0 && { mask, share: largest ? 0 : teacherShare }),
      })
      const loss = sumOf(pass.losses) / targets
      const first = details[0]?.loss ?? loss
      const weight = balance && !largest && loss >= noLoss ? first / loss : 1
      await pass.backward(weight * at.scale)
      details.push({ ...shape, loss, weight, ...(pass.gates && { gates: [...pass.gates] }) })
    }
    const mean = details.reduce((sum, { loss }) => sum + loss, 0) / details.length
    return { loss: mean * targets * at.scale, details }
  }

  /** The mean of the largest and the smallest subnet. */
  async measure(model: TrainableModel, batch: readonly TrainingExample[]): Promise<number> {
    let sum = 0
    const ends = sandwich(this.range, { count: 2, seed: 0, step: 0, microBatch: 0 })
    for (const shape of ends) {
      const pass = await model.forward(batch, { subnet: this.subnet(shape) })
      sum += sumOf(pass.losses) / ends.length
    }
    return sum
  }

  start(adapters: readonly AdapterStart[]): Map<string, Float32Array> {
    const { experts, seed } = this.settings
    const values = new Map<string, Float32Array>()
    const count = this.experts ?? 1
    for (const adapter of adapters) {
      for (let expert = 0; expert < count; expert++) {
        const number = this.experts === undefined ? undefined : expert
        const names = factorNames(adapter.weight, number)
        const { a, b } = freshAdapter(this.spec, adapter, seed, number)
        values.set(names.a, a)
        values.set(names.b, b)
      }
    }
    const { router } = this.trainable
    if (router !== undefined && experts > 1) for (const [name, own] of routerStart(router, seed)) values.set(name, own)
    return values
  }

  write(...[host, model, adapters, options]: Parameters<Objective['write']>) {
    const { router, mix = 'factor' } = this.trainable
    const widths = this.strategy.widths.map(({ ratio }) => ratio)
    return writeAmoebaAdapter(host, model, adapters, { ...options, ...(router && { router }), mix, widths })
  }

  private subnet({ depth, width }: SubnetShape): Subnet {
    const key = `${depth} ${width}`
    const known = this.subnets.get(key)
    if (known !== undefined) return known
    const made = subnetOf(this.spec, shapeOf(this.strategy, { depth, width }), this.settings.compensated)
    this.subnets.set(key, made)
    return made
  }

  /** For the choice of experts; nothing where there are none, or no noise is wanted. */
  private noise(at: Omit<Parameters<typeof gateNoise>[1], 'seed'>): Float32Array<ArrayBuffer> | undefined {
    const { noise, seed } = this.settings
    return noise && this.experts !== undefined ? gateNoise(this.experts, { ...at, seed }) : undefined
  }
}

/** In float64, in order. */
function sumOf(values: Float32Array): number {
  let sum = 0
  for (const value of values) sum += value
  return sum
}
