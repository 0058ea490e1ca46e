/** Jobs that one read of the inputs serves. */

import { loadRecipe, modelsOf, type Recipe } from '../recipe/index.js'
import type { NamedJob } from './jobs.js'

export interface LoadedJob {
  job: NamedJob
  /** Or why there is none. */
  recipe: Recipe | { error: unknown }
}

/** Jobs that one read of the inputs may serve. */
const mostTogether = 8

/** Jobs of the same models, method and settings together, in the order of their first one. */
export async function inGroups(jobs: NamedJob[]): Promise<LoadedJob[][]> {
  const groups = new Map<string, LoadedJob[]>()
  for (const job of jobs) {
    const recipe = await loadRecipe(job.recipe, job.folder).catch((error: unknown) => ({ error }))
    const key = 'error' in recipe ? job.name : modelsKey(recipe, job)
    const group = groups.get(key)
    if (group === undefined) groups.set(key, [{ job, recipe }])
    else group.push({ job, recipe })
  }
  return [...groups.values()].flatMap((group) =>
    Array.from({ length: Math.ceil(group.length / mostTogether) }, (_, i) =>
      group.slice(i * mostTogether, (i + 1) * mostTogether),
    ),
  )
}

function modelsKey(recipe: Recipe, { dtype, seed }: NamedJob): string {
  const { folder, base, method, stages, sweep } = recipe
  // stages and sweeps have outputs and steps of their own: such a job runs alone
  const alone = stages.size > 0 || sweep.length > 0 ? [JSON.stringify(recipe.input)] : []
  return JSON.stringify([folder, base, method.name, recipe.dtype, dtype, seed, modelsOf(recipe), alone])
}
