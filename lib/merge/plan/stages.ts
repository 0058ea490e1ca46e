/** The result of an earlier stage of a recipe, as a checkpoint that later stages can name. */

import {
  type Checkpoint,
  type CheckpointTensor,
  type LayerChange,
  mainStack,
  outputConfig,
  stacksOf,
  type Vocabulary,
} from '../../checkpoint/index.js'
import type { StoreDType } from '../../native/border.js'
import { type DerivedTensor, Files, isDerived } from './derived.js'
import type { PlannedTensor } from './planned.js'

export interface Stage {
  tensors: PlannedTensor[]
  donor: Checkpoint
  layers: LayerChange[]
  dtype: StoreDType | undefined
  vocabulary?: number
  untied: boolean
  tokenizer?: Vocabulary | { folder: string }
}

export function stageCheckpoint(
  name: string,
  { tensors, donor, layers, dtype, vocabulary, untied, tokenizer }: Stage,
): Checkpoint {
  const files = new Files()
  const together: DerivedTensor[] = []
  const made = new Map<string, CheckpointTensor>()
  for (const tensor of tensors) {
    const [only] = tensor.origins
    if (tensor.program === undefined && only !== undefined)
      made.set(tensor.name, files.take(only.tensor, only.checkpoint))
    else {
      const derived = derivedFrom(tensor)
      made.set(tensor.name, tensor.program?.shared ? { ...derived, together } : derived)
    }
  }
  for (const tensor of made.values()) if (isDerived(tensor) && tensor.together === together) together.push(tensor)
  const stacks = stacksOf(made.keys())
  const { stack: _, vocabulary: own, notes: __, ...rest } = donor
  const known = tokenizer !== undefined && 'ids' in tokenizer ? tokenizer : own
  const depth = layers.find(({ section }) => section === undefined)?.count ?? stacks.get(donor.stack ?? '')
  const stack = mainStack(stacks, depth)
  return {
    ...rest,
    name,
    files: files.list,
    tensors: made,
    stacks,
    ...(stack === undefined ? {} : { stack }),
    ...(donor.config === undefined
      ? {}
      : { config: outputConfig(donor.config, { dtype, layers, vocabulary, untied }) }),
    ...(known === undefined ? {} : { vocabulary: known }),
  }
}

function derivedFrom(tensor: PlannedTensor): DerivedTensor {
  const { name, shape, elements, program, coefficients, origins, key = name } = tensor
  const operand = { first: 0, elements, coefficients, origins, key, ...(program === undefined ? {} : { program }) }
  return { name, file: -1, dtype: 'F32', shape, begin: 0, end: 4 * elements, as: tensor.dtype, operands: [operand] }
}
