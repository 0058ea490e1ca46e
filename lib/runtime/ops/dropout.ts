/** Dropout of what adapters read; part of `linear`. */

import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { perVec4 } from './dispatch.js'
import type { Dropout } from './op.js'

/** y (+)= x / (1 - share) where an element stays; `module` tells the draws of adapters apart. */
export const dropout = (
  x: number,
  y: number,
  elements: number,
  { share, seed, step, microBatch, module, add = false }: Dropout & { module: number; add?: boolean },
): NativeDispatch => ({
  kernel: 'model/dropout',
  parameters: packParameters('model/dropout', {
    vec4s: Math.ceil(elements / 4),
    threshold: Math.min(2 ** 32 - 1, Math.round(share * 2 ** 32)),
    scale: 1 / (1 - share),
    add: add ? 1 : 0,
    adapter: module,
    step,
    micro_batch: microBatch,
    seed_low: seed % 2 ** 32,
    seed_high: Math.floor(seed / 2 ** 32),
  }),
  buffers: [x, y],
  grid: perVec4(elements),
})

export const kernels = { dropout }
