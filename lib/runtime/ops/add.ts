/** A sum, in place: the way back into the residual stream. */

import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { perVec4 } from './dispatch.js'
import type { Op } from './op.js'

/** x += y. */
export interface Spec {
  op: 'add'
  x: string
  y: string
}

/** x += y. */
const sum = (x: number, y: number, rows: number, width: number): NativeDispatch => ({
  kernel: 'model/add',
  parameters: packParameters('model/add', { vec4s: Math.ceil((rows * width) / 4) }),
  buffers: [y, x],
  grid: perVec4(rows * width),
})

/** y = x. */
export const copy = (x: number, y: number, rows: number, width: number): NativeDispatch => ({
  kernel: 'model/copy',
  parameters: packParameters('model/copy', { vec4s: Math.ceil((rows * width) / 4) }),
  buffers: [x, y],
  grid: perVec4(rows * width),
})

export const op: Op<Spec> = {
  reads: ({ x, y }) => [x, y],
  writes: ({ x }) => x,
  forward: (spec, { rows, activation, width }) => [sum(activation(spec.x), activation(spec.y), rows, width(spec.x))],
  keeps: () => [],
  backward({ x, y }, { rows, gradient, into, width }) {
    const of = into(y)
    if (!of.wanted) return []
    const [from, elements] = [gradient(x), width(x)]
    return [of.add ? sum(of.buffer, from, rows, elements) : copy(from, of.buffer, rows, elements)]
  },
}

export const kernels = { add: sum, copy }
