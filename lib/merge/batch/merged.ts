/** What is done already. */

import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { describeInputs, readManifest } from '../../checkpoint/index.js'
import type { NativeAddon } from '../../native/border.js'
import { type PreparedMerge, typeName } from '../index.js'

/** Whether the outputs are complete and are what this merge would make; their bytes are not read (`verify` does that). */
export async function isMerged(
  addon: NativeAddon,
  { checkpoints, outputs }: PreparedMerge,
  seed: number,
): Promise<boolean> {
  const facts = (inputs: unknown) =>
    JSON.stringify(inputs, (key, value: unknown) => (key === 'sha256' ? undefined : value))
  const inputs = facts(await describeInputs(addon, checkpoints, false))
  for (const { out, plan, recipe } of outputs) {
    const manifest = await readManifest(out).catch(() => undefined)
    const same =
      manifest?.seed === seed &&
      manifest.dtype === typeName(plan) &&
      JSON.stringify(manifest.recipe) === JSON.stringify(recipe.input) &&
      facts(manifest.inputs) === inputs
    if (!same) return false
    for (const { name, size } of manifest.outputs) {
      const info = await stat(join(out, name)).catch(() => undefined)
      if (info?.size !== size) return false
    }
  }
  return true
}
