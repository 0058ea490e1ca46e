/** What is done already. */

import { areThere, describeInputs, type Manifest, readManifest } from '../../checkpoint/index.js'
import { isSameRun, type Run } from '../../checkpoint/resume/index.js'
import type { NativeAddon } from '../../native/border.js'
import { type PreparedMerge, typeName } from '../index.js'

/** Whether the outputs are complete and are of the run that this merge would be. */
export async function isMerged(
  addon: NativeAddon,
  { checkpoints, outputs }: PreparedMerge,
  seed: number,
): Promise<boolean> {
  const inputs = await describeInputs(addon, checkpoints, false)
  for (const { out, plan, recipe } of outputs) {
    const manifest = await readManifest(out).catch(() => undefined)
    const now = runOf({ recipe: recipe.input, seed, dtype: typeName(plan), inputs })
    if (manifest === undefined || !isSameRun(runOf(manifest), now)) return false
    if (!(await areThere(out, manifest.outputs))) return false
  }
  return true
}

/** A run as a manifest knows it; its inputs may have been hashed or not. */
function runOf({ recipe, seed, dtype, inputs }: Pick<Manifest, 'recipe' | 'seed' | 'dtype' | 'inputs'>): Run {
  const known = JSON.stringify(inputs, (key, value: unknown) => (key === 'sha256' ? undefined : value))
  return { verb: 'merge', facts: { recipe, seed, dtype, inputs: known }, inputs: [] }
}
