/**
 * What a fold reports of weights that kernel `lora` does not write itself: lengths of DoRA, stacks of experts, and what
 * an adapter replaces as a whole. The step that stores one also reads what the weight was, and counts against it; where
 * bytes are only copied they are compared afterwards.
 */

import { type Checkpoint, isLoadable, isStorable, kernelCode } from '../../checkpoint/index.js'
import type { NativeProgram } from '../../native/border.js'
import { isDerived, sameShape } from './derived.js'
import type { MergePlan } from './plan.js'
import type { Origin, PlannedTensor } from './planned.js'
import { tieOf, weightOf } from './tie.js'

/** The plan of a model with adapters, whose weights are counted against those of the model. */
export function counted(plan: MergePlan, base: Checkpoint): MergePlan {
  const tie = tieOf(base)
  const replaced: NonNullable<MergePlan['replaced']> = []
  const tensors = plan.tensors.map((planned): PlannedTensor => {
    const [origin] = planned.origins
    const tensor = weightOf(planned.name, base, tie)
    if (origin === undefined || tensor === undefined || !sameShape(tensor.shape, planned.shape)) return planned
    if (!isLoadable(tensor.dtype) || !isStorable(planned.dtype)) return planned
    const before = { checkpoint: base, tensor }
    if (isSame(origin, before)) return planned
    const program = countedProgram(planned, before)
    if (program !== undefined) {
      return { ...planned, program, origins: [...planned.origins, before], coefficients: coefficientsOf(planned) }
    }
    if (planned.program === undefined && !isDerived(origin.tensor) && isStorable(tensor.dtype)) {
      replaced.push({ tensor: planned, before })
    }
    return planned
  })
  return { ...plan, tensors, replaced }
}

/** A copy, or a conversion, has no factors any more. */
const coefficientsOf = ({ program, coefficients }: PlannedTensor) => (program?.cpuStep === 'dora' ? coefficients : [])

function countedProgram({ program, coefficients, origins }: PlannedTensor, before: Origin): NativeProgram | undefined {
  const [given = before] = origins
  const types = { GIVEN: kernelCode(given.tensor.dtype), WEIGHT: kernelCode(before.tensor.dtype) }
  const [first, last] = program?.kernels ?? []
  if (program?.cpuStep === 'dora') {
    // A matrix of one row has no lines.
    if (program.lines === undefined || first === undefined || last === undefined) return undefined
    return {
      ...program,
      kernels: [
        { ...first, constants: { ...first.constants, VECTORS: 1, GIVEN: types.GIVEN } },
        { ...last, constants: { ...last.constants, COUNTED: 1, ...types } },
      ],
    }
  }
  // Bytes are copied where nothing was computed.
  const made = isDerived(given.tensor)
  const cast = program === undefined ? made : first?.kernel === 'linear' && String(coefficients) === '1'
  return cast ? { kernels: [{ kernel: 'recast', writes: 'output', constants: types }] } : undefined
}

/** Whether a program counts how many elements changed. */
export function isCounted({ program }: PlannedTensor): boolean {
  const last = program?.kernels.at(-1)
  return last?.kernel === 'lora' || last?.kernel === 'recast' || last?.constants?.COUNTED === 1
}

function isSame(one: Origin, two: Origin): boolean {
  const path = ({ checkpoint, tensor }: Origin) => checkpoint.files[tensor.file]?.path
  return !isDerived(one.tensor) && one.tensor.begin === two.tensor.begin && path(one) === path(two)
}
