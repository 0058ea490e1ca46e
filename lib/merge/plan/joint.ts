/** Plans that run together: what they derive alike is made once. */

import { type DerivedTensor, isDerived, type Prepass, prepassesOf } from './derived.js'
import type { MergePlan } from './plan.js'
import type { Origin } from './planned.js'

/** Plans that run together. */
export interface JointPlan {
  plans: MergePlan[]
  /** Tensors to make before, for all of them. */
  prepasses: Prepass[]
}

/** Plans of several recipes for the same models; what they derive alike is made once. */
export function joinPlans(plans: MergePlan[]): JointPlan {
  const [first, ...others] = plans
  if (first === undefined || others.length === 0) return { plans, prepasses: first?.prepasses ?? [] }
  const known = new Interned()
  const joined = plans.map((plan) => ({
    ...plan,
    tensors: plan.tensors.map((tensor) => ({
      ...tensor,
      origins: tensor.origins.map((origin) => known.origin(origin)),
    })),
  }))
  return {
    plans: joined,
    prepasses: prepassesOf(joined.flatMap(({ tensors }) => tensors.flatMap(({ origins }) => origins))),
  }
}

/** Derived tensors that are made alike, as one. */
class Interned {
  private readonly known = new Map<string, DerivedTensor>()
  private readonly seen = new Map<DerivedTensor, DerivedTensor>()
  private readonly numbers = new Map<DerivedTensor, number>()

  origin(origin: Origin): Origin {
    return isDerived(origin.tensor) ? { ...origin, tensor: this.tensor(origin.tensor) } : origin
  }

  private tensor(tensor: DerivedTensor): DerivedTensor {
    const seen = this.seen.get(tensor)
    if (seen !== undefined) return seen
    if (tensor.together !== undefined) return tensor
    const operands = tensor.operands.map((operand) => ({
      ...operand,
      origins: operand.origins.map((origin) => this.origin(origin)),
    }))
    const key = JSON.stringify([
      tensor.dtype,
      tensor.shape,
      operands.map(({ origins, ...operand }) => [operand, origins.map((origin) => this.keyOf(origin))]),
    ])
    const one = this.known.get(key) ?? { ...tensor, operands }
    this.known.set(key, one)
    this.seen.set(tensor, one)
    this.numbers.set(one, this.numbers.get(one) ?? this.numbers.size)
    return one
  }

  private keyOf({ checkpoint, tensor, skip, whole }: Origin): unknown[] {
    const from = isDerived(tensor) ? this.numbers.get(tensor) : [checkpoint.files[tensor.file]?.path, tensor.begin]
    return [from, tensor.dtype, skip ?? 0, whole ?? 0]
  }
}
