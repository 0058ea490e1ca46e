/** A sum, in place: the way back into the residual stream. */

import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { perVec4 } from './dispatch.js'
import type { Op, SpecOf } from './op.js'

/** x += y. */
export const sum = (x: number, y: number, rows: number, width: number): NativeDispatch => ({
  kernel: 'model/add',
  parameters: packParameters('model/add', { vec4s: Math.ceil((rows * width) / 4) }),
  buffers: [y, x],
  grid: perVec4(rows * width),
})

export const add: Op<SpecOf<'add'>> = {
  forward: (spec, { rows, activation, width }) => [sum(activation(spec.x), activation(spec.y), rows, width(spec.x))],
}
