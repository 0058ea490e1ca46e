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

/** g = g y f'(x), and z (+)= g f(x), of the gradient g that x * y had. */
const gluGradient = (
  kind: Activation,
  { x, y, g, z }: Record<'x' | 'y' | 'g' | 'z', number>,
  at: { rows: number; width: number; add: boolean },
): NativeDispatch => ({
  kernel: 'model/glu_gradient',
  constants: { ...kindOf(kind), ADD: at.add ? 1 : 0 },
  parameters: packParameters('model/glu_gradient', { vec4s: Math.ceil((at.rows * at.width) / 4) }),
  buffers: [x, y, g, z],
  grid: perVec4(at.rows * at.width),
})

export const op: Op<Spec> = {
  reads: ({ x, y }) => [x, y],
  writes: ({ x }) => x,
  forward: (spec, { rows, activation, width }) => [
    gated(spec.kind, activation(spec.x), activation(spec.y), rows, width(spec.x)),
  ],
  keeps: ({ x, y }) => [x, y],
  backward({ kind, x, y }, { rows, activation, gradient, into, width }) {
    const of = into(y)
    const buffers = { x: activation(x), y: activation(y), g: gradient(x), z: of.buffer }
    return [gluGradient(kind, buffers, { rows, width: width(x), add: of.add })]
  },
}

export const kernels = { glu: gated, gluGradient }
