/** Which linears of a layer read the same activation, so that what is measured there is measured once. */

import { writtenBy } from '../runtime/ops/index.js'
import type { Layer } from './architecture.js'

/** Weights of the linears that share an input, in the order of the layer. */
export function inputsOf({ ops }: Layer): string[][] {
  const shared: string[][] = []
  const open = new Map<string, string[]>()
  for (const op of ops) {
    if (op.op === 'linear') {
      const known = open.get(op.x)
      if (known !== undefined) known.push(op.weight)
      else {
        const fresh = [op.weight]
        open.set(op.x, fresh)
        shared.push(fresh)
      }
    }
    // What is written is another input for those that follow.
    open.delete(writtenBy(op))
  }
  return shared
}
