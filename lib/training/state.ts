/** What an interrupted training goes on from: what is trained, its moments, and what was measured so far. */

import type { ResumePoint, SavedTensor, SavedTensors } from '../checkpoint/resume/index.js'
import type { NativeAddon } from '../native/border.js'
import type { TrainableModel } from '../runtime/index.js'

const parts = ['master', 'm', 'v'] as const

/** How far a run is. */
export interface Progress {
  /** Steps that are done. */
  step: number
  tokens: number
  /** The best measurement on data held out, and how many have followed it. */
  best?: { step: number; loss: number } | undefined
  worse: number
  /** Losses of the first and of the last step, and those of data held out. */
  losses: { first: number; last: number }
  held?: { step: number; first: number; last: number } | undefined
  /** Whether the run has ended, and its output is being written. */
  ended: boolean
  /** Tensors that were moved less often than in every step: some experts. */
  updates?: [name: string, count: number][] | undefined
}

/** Values of the best state, where that is what is kept. */
export type Best = Map<string, Float32Array<ArrayBuffer>>

export async function saveState(
  point: ResumePoint,
  model: TrainableModel,
  progress: Progress,
  best: Best | undefined,
): Promise<void> {
  const tensors = new Map<string, SavedTensor>()
  for (const name of model.learned) {
    const shape = model.shapeOf(name)
    for (const part of parts) {
      tensors.set(`${part}/${name}`, { dtype: 'F32', shape, values: () => model.read(name, part) })
    }
    const values = best?.get(name)
    if (values !== undefined) tensors.set(`best/${name}`, { dtype: 'F32', shape, values: async () => values })
  }
  const updates = model.learned.flatMap((name): [string, number][] => {
    const count = model.updates.get(name) ?? 0
    return count === progress.step ? [] : [[name, count]]
  })
  await point.save({ ...progress, ...(updates.length > 0 && { updates }) }, tensors)
}

/** Puts back what `saveState` has saved. Throws ERR_WEIGHTSMITH_RESUME where that is torn. */
export async function restoreState(
  addon: Pick<NativeAddon, 'readHeader'>,
  point: ResumePoint,
  model: TrainableModel,
): Promise<{ progress: Progress; best: Best | undefined }> {
  const progress = point.done as Partial<Progress> | null
  const whole = (value: unknown) => Number.isSafeInteger(value) && Number(value) >= 0
  if (!whole(progress?.step) || !whole(progress?.tokens) || !whole(progress?.worse)) {
    throw point.damaged('its note is torn')
  }
  const tensors: SavedTensors = await point.tensors(addon)
  const valuesOf = async (name: string, elements: number) => {
    const values = await tensors.get(name)?.values()
    if (values instanceof Float32Array && values.length === elements) return values
    throw point.damaged(`its tensor ${name} is torn`)
  }
  const best: Best = new Map()
  for (const name of model.learned) {
    const [rows, columns] = model.shapeOf(name)
    for (const part of parts) await model.write(name, await valuesOf(`${part}/${name}`, rows * columns), part)
    if (progress?.best !== undefined && tensors.has(`best/${name}`)) {
      best.set(name, await valuesOf(`best/${name}`, rows * columns))
    }
  }
  const { updates = [], ...rest } = progress as Progress
  for (const name of model.learned) model.updates.set(name, rest.step)
  for (const [name, count] of updates) model.updates.set(name, count)
  return { progress: rest, best: best.size > 0 ? best : undefined }
}
