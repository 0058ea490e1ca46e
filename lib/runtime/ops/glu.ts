/** A gated activation, in place. */

import type { Activation } from '../../architectures/index.js'
import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { kindOf, perVec4 } from './dispatch.js'
import type { Op, SpecOf } from './op.js'

/** x = f(x) * y. */
export const gated = (kind: Activation, x: number, y: number, rows: number, width: number): NativeDispatch => ({
  kernel: 'model/glu',
  constants: kindOf(kind),
  parameters: packParameters('model/glu', { vec4s: Math.ceil((rows * width) / 4) }),
  buffers: [y, x],
  grid: perVec4(rows * width),
})

export const glu: Op<SpecOf<'glu'>> = {
  forward: (spec, { rows, activation, width }) => [
    gated(spec.kind, activation(spec.x), activation(spec.y), rows, width(spec.x)),
  ],
}
