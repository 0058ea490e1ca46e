/** What a resume point of scores holds: the numbers that were added up, and the residual streams that wait. */

import type { ResumePoint, SavedTensor, SavedTensors } from '../checkpoint/resume/index.js'
import type { NativeAddon } from '../native/border.js'
import type { PassState, WaitingRows } from '../runtime/index.js'
import type { SavedArrays } from './collectors.js'

export async function saveScores(point: ResumePoint, state: PassState, sums: SavedArrays): Promise<void> {
  const { partition, batch, streams } = state
  const tensors = new Map<string, SavedTensor>()
  for (const [i, array] of sums.arrays.entries()) {
    const dtype = array instanceof Float64Array ? 'F64' : 'F32'
    tensors.set(`sum.${i}`, { dtype, shape: [array.length], values: async () => array })
  }
  for (const [key, { length, values }] of streams)
    tensors.set(`stream.${key}`, { dtype: 'F32', shape: [length], values })
  await point.save({ partition, batch }, tensors)
}

/**
 * Fills `sums` with what a run has left, and gives where its pass stood. Throws ERR_WEIGHTSMITH_RESUME where that is
 * torn.
 */
export async function restoreScores(
  addon: Pick<NativeAddon, 'readHeader'>,
  point: ResumePoint,
  sums: SavedArrays,
): Promise<PassState> {
  const { partition, batch } = (point.done ?? {}) as Partial<PassState>
  const whole = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) >= 0
  if (!whole(partition) || !whole(batch)) throw point.damaged('its note is torn')
  const tensors: SavedTensors = await point.tensors(addon)
  for (const [i, array] of sums.arrays.entries()) {
    const values = await tensors.get(`sum.${i}`)?.values()
    if (values?.length !== array.length || values.constructor !== array.constructor) {
      throw point.damaged('its tensors are torn')
    }
    array.set(values)
  }
  const streams: Map<number, WaitingRows> = new Map()
  for (const [name, { dtype, shape, values }] of tensors) {
    const key = /^stream\.(\d+)$/.exec(name)?.[1]
    if (key === undefined) continue
    if (dtype !== 'F32') throw point.damaged('its tensors are torn')
    streams.set(Number(key), { length: shape[0] ?? 0, values: values as WaitingRows['values'] })
  }
  return { partition, batch, streams }
}
