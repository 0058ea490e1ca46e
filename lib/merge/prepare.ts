/** What is done before a merge touches a disk: models are opened, recipes planned, outputs checked. */

import { join } from 'node:path'
import { type Checkpoint, checkDisk, checkOutput, refuseDifferent } from '../checkpoint/index.js'
import { throwIfAborted } from '../util/errors.js'
import type { Models } from './models.js'
import { checkOptions, type MergeOptions } from './options.js'
import { counted, type JointPlan, joinPlans, type MergePlan, planMerge } from './plan/index.js'
import type { Recipe } from './recipe/index.js'

/** What a merge knows before it looks at its output. */
export interface PreparedMerge {
  /** By the models' names in the recipe. */
  checkpoints: ReadonlyMap<string, Checkpoint>
  /** One, or one a point of a sweep; where recipes for the same models run together, those of all. */
  outputs: PlannedOutput[]
}

/** One folder that comes out of a merge: the only one, or one of several. */
export interface PlannedOutput {
  /** In a sweep: name of the folder. */
  label?: string
  recipe: Recipe
  plan: MergePlan
  /** Where it is to be. */
  out: string
}

/** An output with its folder, absolute and without links. */
export interface Target extends PlannedOutput {
  target: string
}

/** Reads headers, plans, and compares what is to be copied from all models alike; computes and writes nothing. */
export async function prepareMerge(models: Models, recipe: Recipe, options: MergeOptions): Promise<PreparedMerge> {
  const { out, signal } = options
  const settings = checkOptions(options)
  throwIfAborted(signal, 'The merge')
  const checkpoints = await models.open(recipe)
  throwIfAborted(signal, 'The merge')
  const { base } = models
  const count = (plan: MergePlan) => (base === undefined ? plan : counted(plan, base))
  const points = recipe.sweep.length > 0 ? recipe.sweep : [{ recipe }]
  const outputs = points.map((point) => ({
    ...point,
    plan: count(planMerge(point.recipe, checkpoints, settings)),
    out: 'label' in point ? join(out, point.label) : out,
  }))
  // The points of a sweep copy the same tensors.
  for (const origins of outputs[0]?.plan.same ?? []) await refuseDifferent(origins)
  return { checkpoints, outputs }
}

/** Refuses outputs that would mix with an input, destroy something or not fit. */
export async function checkTargets(
  { checkpoints, outputs: planned }: PreparedMerge,
  options: MergeOptions,
): Promise<{ outputs: Target[]; joint: JointPlan }> {
  const outputs: Target[] = []
  for (const output of planned) {
    const target = await checkOutput(output.out, [...new Set(checkpoints.values())], options)
    outputs.push({ ...output, target })
  }
  const joint = joinPlans(outputs.map(({ plan }) => plan))
  const bytes = [...outputs.map(({ plan }) => plan.layout.bytes), ...joint.prepasses.map((prepass) => prepass.bytes)]
  const [first] = outputs
  if (first !== undefined) {
    await checkDisk(
      first.target,
      bytes.reduce((a, b) => a + b, 0),
    )
  }
  return { outputs, joint }
}
