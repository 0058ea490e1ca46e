/** Rotary embedding of heads, in place; part of `attention`. */

import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { perRow } from './dispatch.js'

/** Turns x[tokens, heads * size] by the angles of the tokens' positions, or `back` by them, in place. */
export const rope = (
  { angles, tokens, x }: { angles: number; tokens: number; x: number },
  { rows, heads, size, back = false }: { rows: number; heads: number; size: number; back?: boolean },
): NativeDispatch => ({
  kernel: 'model/rope',
  parameters: packParameters('model/rope', { rows, heads, size, back: back ? 1 : 0 }),
  buffers: [angles, tokens, x],
  grid: perRow(rows),
})

export const kernels = { rope }
