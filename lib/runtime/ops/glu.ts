/** A gated activation, in place. */

import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { type Activation, kindOf, perVec4 } from './dispatch.js'
import type { Op } from './op.js'

/** x = f(x) * y. */
export interface Spec {
  op: 'glu'
  kind: Activation
  x: string
  y: string
}

/** x = f(x) * y. */
const gated = (kind: Activation, x: number, y: number, rows: number, width: number): NativeDispatch => ({
  kernel: 'model/glu',
  constants: kindOf(kind),
  parameters: packParameters('model/glu', { vec4s: Math.ceil((rows * width) / 4) }),
  buffers: [y, x],
  grid: perVec4(rows * width),
})

export const op: Op<Spec> = {
  writes: ({ x }) => x,
  forward: (spec, { rows, activation, width }) => [
    gated(spec.kind, activation(spec.x), activation(spec.y), rows, width(spec.x)),
  ],
}

export const kernels = { glu: gated }
