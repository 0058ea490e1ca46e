/**
 * From a recipe and opened checkpoints to a plan: every tensor of the output with its program, coefficients and byte
 * ranges. The plan is plain data; it can be shown (`--dry-run`) or handed to the engine. Nothing is read or
 * written here.
 */

import {
  type AddedToken,
  bytesOf,
  type Checkpoint,
  isComputed,
  isFloat,
  isLoadable,
  isStorable,
  type LayerChange,
  layOut,
  type OutputLayout,
  storedAs,
} from '../../checkpoint/index.js'
import type { StoreDType } from '../../native/border.js'
import { WeightsmithError } from '../../util/errors.js'
import { plural } from '../../util/plural.js'
import type { Step } from '../methods/index.js'
import type { Recipe } from '../recipe/index.js'
import {
  fused,
  isDerived,
  linear,
  type Operand,
  type Prepass,
  prepassesOf,
  soleOperand,
  storedType,
} from './derived.js'
import type { Effective } from './parameters.js'
import type { Origin, PlannedTensor } from './planned.js'
import { refuseChanged } from './quantised.js'
import { type Planned, planSources } from './sources.js'
import { stageCheckpoint } from './stages.js'
import { type MadeTensors, prepared, statisticsFor } from './statistics.js'

export interface MergePlan {
  /** In the order of the network. */
  tensors: PlannedTensor[]
  layout: OutputLayout
  /** Model whose config and processors the output gets. */
  donor: Checkpoint
  /** The type most of the output's weights are stored as. */
  dtype?: StoreDType
  /** Modules whose layers the recipe moves. */
  layers: LayerChange[]
  /** Rows of the tables of tokens, where the recipe chooses a vocabulary. */
  vocabulary?: number
  /** Whether the output has a head where the donor's is its embedding. */
  untied: boolean
  /** Whose tokenizer the output gets. */
  tokenizer?: { folder: string; extra: AddedToken[] }
  /** Tensors to make before the merge. */
  prepasses: Prepass[]
  /**
   * Tensors of which the first is copied: the others have to hold the same bytes, which is seen once files are read.
   */
  same: Origin[][]
  /** Tensors that are copied from an adapter, and what they replace; of a plan that is counted. */
  replaced?: { tensor: PlannedTensor; before: Origin }[]
  notes: string[]
}

export interface PlanOptions {
  dtype?: StoreDType | undefined
  shardSize: number
}

export function planMerge(
  recipe: Recipe,
  checkpoints: ReadonlyMap<string, Checkpoint>,
  options: PlanOptions,
): MergePlan {
  const known = new Map(checkpoints)
  const made: MadeTensors = new Map()
  const same: Origin[][] = []
  const planOne = (one: Recipe, asked: StoreDType | undefined) => {
    const planned = planSources(one, known)
    const tensors = planned.sources.map((source) => {
      if (!isNumber(source)) same.push(source.origins)
      return planTensor(source, asked, made)
    })
    refuseChanged(tensors)
    // the scales of a quantised model may have another type than its config says
    const dtype = planned.donor.quantisation === undefined ? mainType(tensors) : undefined
    return { ...planned, tensors, dtype }
  }
  for (const [name, stage] of recipe.stages) {
    const planned = planOne(stage, stage.dtype)
    known.set(name, stageCheckpoint(name, { ...planned, dtype: stage.dtype ?? planned.dtype }))
  }
  const { tensors, dtype, ...planned } = planOne(recipe, options.dtype ?? recipe.dtype)
  const prepasses = prepassesOf(tensors.flatMap(({ origins }) => origins))
  const staged = prepasses.reduce((sum, { places }) => sum + places.size, 0)
  if (staged > 0)
    planned.notes.push(`${plural(staged, 'tensor')} ${staged === 1 ? 'is' : 'are'} made before the merge, in float32.`)
  return {
    tensors,
    layout: layOut(tensors, options.shardSize),
    donor: planned.donor,
    ...(dtype === undefined ? {} : { dtype }),
    layers: planned.layers,
    untied: planned.untied,
    ...(planned.vocabulary === undefined ? {} : { vocabulary: planned.vocabulary }),
    ...(planned.tokenizer === undefined ? {} : { tokenizer: planned.tokenizer }),
    prepasses,
    same: same.filter(({ length }) => length > 1),
    notes: planned.notes,
  }
}

/** Whether it holds floats: all else (indices, masks) is copied, whatever the method. */
function isNumber({ origins: [first] }: Planned): boolean {
  return first !== undefined && isFloat(storedType(first.tensor))
}

function planTensor(source: Planned, asked: StoreDType | undefined, made: MadeTensors): PlannedTensor {
  const { name, origins, merged } = source
  const [first] = origins
  if (first === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `Tensor ${name} has no origin.`)
  const { shape } = first.tensor
  const elements = shape.reduce((a, b) => a * b, 1)
  const same = { name, shape, elements }
  const stored = storedType(first.tensor)
  if (!isNumber(source) || isComputed(first.tensor)) return copyOf(same, first)
  const { step, parameters, statistics } = stepOf(merged)
  const sole = 'copy' in step ? origins[step.copy] : undefined
  // a copy keeps a type that cannot be written by a kernel, unless another one is asked for
  const kept =
    (merged !== undefined && merged.by.method.needsBase !== false) || origins.length > 1 ? storedAs(stored) : stored
  const dtype = asked ?? kept
  // what one program makes is better made in its place than copied there
  const lies = sole !== undefined && !(isDerived(sole.tensor) && soleOperand(sole.tensor))
  if (lies && sole.tensor.dtype === dtype) return { ...copyOf(same, sole), parameters }
  const computed = asked ?? storedAs(stored)
  const given: Omit<Operand, 'first' | 'elements' | 'key'> & { key?: string } =
    'copy' in step
      ? { program: linear, coefficients: [1], origins: origins.slice(step.copy, step.copy + 1) }
      : prepared(step, [...origins, ...statistics], made)
  const { program = linear, coefficients, origins: read, key } = fused(given)
  for (const { tensor, checkpoint } of read) {
    if (!isLoadable(tensor.dtype)) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_DTYPE',
        `Tensor ${tensor.name} of ${checkpoint.name} has the type ${tensor.dtype}, which cannot be computed with ` +
          '(F32, F16, BF16, F64, F8_E4M3 and F8_E5M2 can).',
        { tensor: tensor.name, file: checkpoint.path },
      )
    }
  }
  const bytes = elements * bytesOf(computed)
  return { name, dtype: computed, shape, elements, bytes, origins: read, program, coefficients, key, parameters }
}

/** What the method makes of a tensor, and the tensors of statistics that follow its origins. */
function stepOf(merged: Planned['merged']): { step: Step; parameters?: Effective; statistics: Origin[] } {
  if (merged === undefined) return { step: { copy: 0 }, statistics: [] }
  const { source, by } = merged
  const { slice, name, t, origins } = source
  const parameters = slice.evaluate(name, t)
  const statistics = statisticsFor(by.method, parameters, source, by.checkpointOf, by.notes)
  const shape = origins[0]?.tensor.shape ?? []
  const base = slice.bases > 0
  const step = by.method.step({ ...parameters, shape, base, statistics: statistics.length > 0 })
  return { step, parameters, statistics }
}

function copyOf(same: Pick<PlannedTensor, 'name' | 'shape' | 'elements'>, origin: Origin): PlannedTensor {
  const { dtype, begin, end } = origin.tensor
  return { ...same, dtype, bytes: end - begin, origins: [origin], coefficients: [] }
}

function mainType(tensors: PlannedTensor[]): StoreDType | undefined {
  const bytes = new Map<StoreDType, number>()
  for (const tensor of tensors) {
    if (isStorable(tensor.dtype)) bytes.set(tensor.dtype, (bytes.get(tensor.dtype) ?? 0) + tensor.elements)
  }
  return [...bytes].sort((a, b) => b[1] - a[1])[0]?.[0]
}
