/** Rotary embedding of heads, in place; part of `attention`. */

import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { perRow } from './dispatch.js'

/** Turns x[tokens, heads * size] by the angles of the tokens' positions, in place. */
export const rope = (
  { angles, tokens, x }: { angles: number; tokens: number; x: number },
  { rows, heads, size }: { rows: number; heads: number; size: number },
): NativeDispatch => ({
  kernel: 'model/rope',
  parameters: packParameters('model/rope', { rows, heads, size }),
  buffers: [angles, tokens, x],
  grid: perRow(rows),
})

export const kernels = { rope }
