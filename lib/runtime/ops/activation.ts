/** An activation function on its own, in place: kernel `unary`. */

import type { Activation } from '../../architectures/index.js'
import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { kindOf, perVec4 } from './dispatch.js'
import type { Op, SpecOf } from './op.js'

/** x = f(x). */
export const unary = (kind: Activation, x: number, rows: number, width: number): NativeDispatch => ({
  kernel: 'model/unary',
  constants: kindOf(kind),
  parameters: packParameters('model/unary', { vec4s: Math.ceil((rows * width) / 4) }),
  buffers: [x],
  grid: perVec4(rows * width),
})

export const activation: Op<SpecOf<'activation'>> = {
  forward: (spec, { rows, activation, width }) => [unary(spec.kind, activation(spec.x), rows, width(spec.x))],
}
