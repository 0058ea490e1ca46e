/**
 * Makes the tensors that a merge reads but no file holds (see lib/plan/derived.ts). Small ones stay in memory, within
 * the budget of the run; the others go to a folder beside the output that is gone before it is published.
 */

import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { NativePlace, NativePlan } from '../native/border.js'
import { type JointPlan, levelToNative } from './plan/index.js'

export interface MadeLevels {
  places: NativePlace[]
  /** What is left of the memory. */
  memory: number
  /** Removes the files. */
  discard(): Promise<void>
}

/** Share of the memory that levels may keep. */
const share = 0.25

export async function makeLevels(
  plan: JointPlan,
  run: { folder: string; memory: number; seed: number },
  execute: (plan: NativePlan) => Promise<unknown>,
): Promise<MadeLevels> {
  const folder = join(run.folder, 'stages')
  let kept = 0
  const places: NativePlace[] = []
  for (const [index, { bytes }] of plan.levels.entries()) {
    if (kept + bytes <= run.memory * share) {
      kept += bytes
      places.push({ memory: new Uint8Array(bytes) })
    } else {
      await mkdir(folder, { recursive: true })
      places.push({ path: join(folder, `level-${index}`), size: bytes })
    }
    await execute(levelToNative(plan, index, { levels: places, memory: run.memory - kept, seed: run.seed }))
  }
  return { places, memory: run.memory - kept, discard: () => rm(folder, { recursive: true, force: true }) }
}
