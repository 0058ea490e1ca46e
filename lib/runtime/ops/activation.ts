/** An activation function on its own, in place: kernel `unary`. */

import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { type Activation, kindOf, perVec4 } from './dispatch.js'
import type { Op } from './op.js'

/** x = f(x). */
export interface Spec {
  op: 'activation'
  kind: Activation
  x: string
}

/** x = f(x). */
const unary = (kind: Activation, x: number, rows: number, width: number): NativeDispatch => ({
  kernel: 'model/unary',
  constants: kindOf(kind),
  parameters: packParameters('model/unary', { vec4s: Math.ceil((rows * width) / 4) }),
  buffers: [x],
  grid: perVec4(rows * width),
})

/** g = g f'(x). */
const unaryGradient = (kind: Activation, x: number, g: number, rows: number, width: number): NativeDispatch => ({
  kernel: 'model/unary_gradient',
  constants: kindOf(kind),
  parameters: packParameters('model/unary_gradient', { vec4s: Math.ceil((rows * width) / 4) }),
  buffers: [x, g],
  grid: perVec4(rows * width),
})

export const op: Op<Spec> = {
  reads: ({ x }) => [x],
  writes: ({ x }) => x,
  forward: (spec, { rows, activation, width }) => [unary(spec.kind, activation(spec.x), rows, width(spec.x))],
  keeps: ({ x }) => [x],
  backward: ({ kind, x }, { rows, activation, gradient, width }) => [
    unaryGradient(kind, activation(x), gradient(x), rows, width(x)),
  ],
}

export const kernels = { unary, unaryGradient }
