/**
 * DoRA (arXiv 2402.09353), part of `linear`: rows of an adapted matrix get lengths of their own. Norms of the rows of
 * W + scale B A are constants, as PEFT has it: no gradient goes through them.
 */

import type { NativeDispatch } from '../../native/border.js'
import { packParameters } from '../../native/parameters.js'
import { type Block, dtypeOf, perRow } from './dispatch.js'
import type { Adapter, BackwardContext, StackContext } from './op.js'

/**
 * y = the norms of rows of W + scale B A that a block of W and one of B share. A block of Aᵀ has some columns of W;
 * sums of squares are added to those of the blocks before it (`add`), and the `last` one takes the root.
 */
const doraNorms = (
  { weight, a, b }: Record<'weight' | 'a' | 'b', Block>,
  y: number,
  { scale, add = false, last = true }: { scale: number; add?: boolean; last?: boolean },
): NativeDispatch => {
  const first = Math.max(weight.first, b.first)
  const rows = Math.min(weight.first + weight.rows, b.first + b.rows) - first
  return {
    kernel: 'model/dora_norms',
    constants: dtypeOf(weight),
    parameters: packParameters('model/dora_norms', {
      rows,
      inner: weight.columns,
      rank: b.columns,
      skip: first - weight.first,
      other: first - b.first,
      first,
      begin: a.first,
      count: a.rows,
      add: add ? 1 : 0,
      last: last ? 1 : 0,
      scale,
    }),
    buffers: [weight.buffer, a.buffer, b.buffer, y],
    grid: perRow(Math.ceil(rows / 64)),
  }
}

/** x[rows, width] = x magnitude / norms, column by column. */
const doraScale = (
  { magnitude, norms, x }: Record<'magnitude' | 'norms' | 'x', number>,
  { rows, width }: { rows: number; width: number },
): NativeDispatch => ({
  kernel: 'model/dora_scale',
  parameters: packParameters('model/dora_scale', { rows, width }),
  buffers: [magnitude, norms, x],
  grid: perRow(rows),
})

/** y[rows, width] (+)= x (magnitude / norms - less), column by column. */
const doraAdd = (
  { magnitude, norms, x, y }: Record<'magnitude' | 'norms' | 'x' | 'y', number>,
  { rows, width, less, add }: { rows: number; width: number; less: 0 | 1; add: boolean },
): NativeDispatch => ({
  kernel: 'model/dora_add',
  parameters: packParameters('model/dora_add', { rows, width, less, add: add ? 1 : 0 }),
  buffers: [magnitude, norms, x, y],
  grid: perRow(rows),
})

/** The gradient y[width] (+)= of a magnitude, from that of what `doraScale` made of x, g. */
const doraMagnitudeGradient = (
  { norms, x, g, y }: Record<'norms' | 'x' | 'g' | 'y', number>,
  at: { rows: number; width: number; add: boolean },
): NativeDispatch => ({
  kernel: 'model/dora_magnitude_gradient',
  parameters: packParameters('model/dora_magnitude_gradient', {
    rows: at.rows,
    width: at.width,
    add: at.add ? 1 : 0,
  }),
  buffers: [norms, x, g, y],
  grid: [Math.ceil(at.width / 64), 1, 1],
})

/** The norms of the rows of an adapted matrix, to where its adapter has them. */
export function adaptedNorms(
  weight: string,
  { a, b, scale, magnitude }: Adapter,
  blocks: (tensor: string) => readonly Block[],
): NativeDispatch[] {
  if (magnitude === undefined) return []
  const columns = blocks(a)
  return blocks(weight).flatMap((rows) =>
    blocks(b)
      .filter(({ first, rows: count }) => first < rows.first + rows.rows && rows.first < first + count)
      .flatMap((ofB) =>
        columns.map((ofA, i) =>
          doraNorms({ weight: rows, a: ofA, b: ofB }, magnitude.norms, {
            scale,
            add: i > 0,
            last: i === columns.length - 1,
          }),
        ),
      ),
  )
}

/** x = x magnitude / norms, of an adapter that has a magnitude. */
export function scaledByMagnitude({ magnitude }: Adapter, x: number, { rows, blocks }: StackContext): NativeDispatch[] {
  const [block] = magnitude === undefined ? [] : blocks(magnitude.tensor)
  if (magnitude === undefined || block === undefined) return []
  return [doraScale({ magnitude: block.buffer, norms: magnitude.norms, x }, { rows, width: block.rows })]
}

/** y (+)= x (magnitude / norms - less), of an adapter that has a magnitude. */
export function addedByMagnitude(
  { magnitude }: Adapter,
  { x, y }: { x: number; y: number },
  { rows, blocks }: StackContext,
  { less, add }: { less: 0 | 1; add: boolean },
): NativeDispatch[] {
  const [block] = magnitude === undefined ? [] : blocks(magnitude.tensor)
  if (magnitude === undefined || block === undefined) return []
  const { norms } = magnitude
  return [doraAdd({ magnitude: block.buffer, norms, x, y }, { rows, width: block.rows, less, add })]
}

/** The gradient of a magnitude, from that of the scaled product and from the product x before. */
export function magnitudeGradient(
  { magnitude }: Adapter,
  { x, g }: { x: number; g: number },
  { rows, trained }: BackwardContext,
): NativeDispatch[] {
  const of = magnitude === undefined ? undefined : trained(magnitude.tensor)
  const [block] = of?.blocks ?? []
  if (magnitude === undefined || of === undefined || block === undefined) return []
  const { norms } = magnitude
  return [doraMagnitudeGradient({ norms, x, g, y: block.buffer }, { rows, width: block.rows, add: of.add })]
}

export const kernels = { doraNorms, doraScale, doraAdd, doraMagnitudeGradient }
