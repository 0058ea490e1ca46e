/**
 * What a merge may do with a quantised model: copy it as a whole, with the config that says how it is to be read. A
 * packed number cannot be computed with, and beside tensors of another model, or under another name, the config may be
 * wrong about it.
 */

import { type Checkpoint, refuseQuantised } from '../../checkpoint/index.js'
import type { PlannedTensor } from './planned.js'

const can = 'a merge can only copy such a model whole, so convert it to float16 or bfloat16 before it is merged'

/** Refuses a quantised model beside another one; before their tensors are compared, which have other names. */
export function refuseBesideOthers(models: readonly Checkpoint[]): void {
  if (new Set(models.map(({ path }) => path)).size < 2) return
  for (const model of models) refuseQuantised(model, can)
}

/** Refuses tensors of a quantised model that are not copied as they are. */
export function refuseChanged(tensors: readonly PlannedTensor[]): void {
  for (const { name, origins, program } of tensors) {
    for (const { checkpoint, tensor } of origins) {
      if (program !== undefined || tensor.name !== name) refuseQuantised(checkpoint, can)
    }
  }
}
