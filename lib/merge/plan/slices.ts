/** The inputs of every slice of a merge in the order that the method takes them, with their layers. */

import type { Checkpoint } from '../../checkpoint/index.js'
import { WeightsmithError } from '../../util/errors.js'
import type { ParameterScalar } from '../methods/index.js'
import type { Merge, Parameters, Slice, Source } from '../recipe/index.js'
import { type Evaluation, evaluation } from './parameters.js'

export interface PlannedSlice {
  /** Input order: bases first. */
  inputs: { checkpoint: Checkpoint; first: number }[]
  /** How many of the inputs are bases, which have no parameters of their own. */
  bases: number
  evaluate: Evaluation
  /** Layers. */
  count: number
}

export interface Roles {
  /** Name of the model that deltas of `imm` start from. */
  pretrained?: string
  globals: Readonly<Record<string, ParameterScalar | undefined>>
  /** The tensors of a model that take part. */
  checkpointOf(source: { model: string; prefix?: string }): Checkpoint
}

/** Inputs and their order, for every slice of a merge; `above` are parameters of the module and the recipe. */
export function planSlices(merge: Merge, roles: Roles, above: readonly Parameters[]): PlannedSlice[] {
  return merge.slices.map((slice) => planSlice(merge, roles, above, slice))
}

interface Role {
  checkpoint: Checkpoint
  range?: readonly [number, number]
  parameters: Parameters
  path: string
}

function planSlice(
  { method, base: common }: Merge,
  roles: Roles,
  above: readonly Parameters[],
  slice: Slice,
): PlannedSlice {
  const given = slice.sources.map((source): Role => ({ ...source, checkpoint: roles.checkpointOf(source) }))
  let bases: Role[] = []
  let models = given
  const baseName = slice.base ?? common
  if (method.needsBase && baseName !== undefined) {
    const base = givenOrImplied(baseName, roles, slice.sources, given)
    models = given.filter((_, i) => slice.sources[i]?.model !== baseName)
    bases = [base]
    if (method.arrange !== undefined) {
      const { pretrained: name, globals } = roles
      const pretrained = name === undefined ? undefined : implied(name, roles, slice.sources, given)
      const arranged = method.arrange({ base, models, globals, ...(pretrained && { pretrained }) })
      bases = arranged.bases
      models = arranged.models
    }
  }
  const inputs = [...bases, ...models].map(({ checkpoint, range, path }) => {
    const layers = layersOf(checkpoint)
    if (range !== undefined && range[1] > layers) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_RECIPE',
        `${path}.layer_range of the recipe ends at layer ${range[1]}, but ${checkpoint.name} has ${layers} layers.`,
      )
    }
    return { checkpoint, first: range?.[0] ?? 0 }
  })
  const [reference] = [...bases, ...models]
  const range = reference?.range
  return {
    inputs,
    bases: bases.length,
    evaluate: evaluation(method, above, slice.parameters, models),
    count: range ? range[1] - range[0] : layersOf(inputs[0]?.checkpoint),
  }
}

function givenOrImplied(name: string, roles: Roles, sources: Source[], given: Role[]): Role {
  return given[sources.findIndex((source) => source.model === name)] ?? implied(name, roles, sources, given)
}

/** A base that a slice does not list takes the layers that all of its sources take. */
function implied(name: string, roles: Roles, sources: Source[], given: Role[]): Role {
  const checkpoint = roles.checkpointOf({ model: name })
  const range = sources[0]?.range
  const other = sources.find((source) => `${source.range}` !== `${range}`)
  if (other !== undefined) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_RECIPE',
      `${other.path}.layer_range of the recipe differs from that of ${sources[0]?.path}, so the layers of ` +
        `${checkpoint.name} have to be given: list it among the sources of the slice.`,
    )
  }
  return { checkpoint, ...(range === undefined ? {} : { range }), parameters: {}, path: given[0]?.path ?? 'models' }
}

function layersOf(checkpoint: Checkpoint | undefined): number {
  return checkpoint?.stack === undefined ? 0 : (checkpoint.stacks.get(checkpoint.stack) ?? 0)
}
