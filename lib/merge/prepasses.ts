/**
 * Makes the tensors that a merge reads but no file holds (see lib/plan/derived.ts). Small ones stay in memory, within
 * the budget of the run; the others go to a folder beside the output that is gone before it is published.
 */

import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { NativePlace, NativePlan } from '../native/border.js'
import { isDerived, type JointPlan, prepassToNative } from './plan/index.js'
import type { Origin } from './plan/planned.js'

export interface PrepassResult {
  places: NativePlace[]
  /** What is left of the memory. */
  memory: number
  /** Removes the files. */
  discard(): Promise<void>
}

/** Share of the memory that prepasses may keep. */
const share = 0.25

/** Whoever runs a plan calls this first: it also computes the factors that a plan reads and no file holds. */
export async function runPrepasses(
  plan: JointPlan,
  run: { folder: string; memory: number; seed: number },
  execute: (plan: NativePlan) => Promise<unknown>,
): Promise<PrepassResult> {
  await fill(plan.plans.flatMap(({ tensors }) => tensors.flatMap(({ origins }) => origins)))
  const folder = join(run.folder, 'stages')
  let kept = 0
  const places: NativePlace[] = []
  for (const [index, { bytes }] of plan.prepasses.entries()) {
    if (kept + bytes <= run.memory * share) {
      kept += bytes
      places.push({ memory: new Uint8Array(bytes) })
    } else {
      await mkdir(folder, { recursive: true })
      places.push({ path: join(folder, `prepass-${index}`), size: bytes })
    }
    await execute(prepassToNative(plan, index, { prepasses: places, memory: run.memory - kept, seed: run.seed }))
  }
  return { places, memory: run.memory - kept, discard: () => rm(folder, { recursive: true, force: true }) }
}

async function fill(origins: readonly Origin[]): Promise<void> {
  for (const { checkpoint, tensor } of origins) {
    if (isDerived(tensor)) await fill(tensor.operands.flatMap((operand) => operand.origins))
    else await checkpoint.files[tensor.file]?.fill?.()
  }
}
