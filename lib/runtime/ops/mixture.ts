/**
 * Mixtures of LoRA experts, part of `linear`: which experts count, and how much, is the same for all tokens of a pass.
 * As factors (AmoebaLLM's code): the adapter of a pass is A = Σ g_i A_i and B = Σ g_i B_i, which are made right before
 * they are needed. As outputs: what the adapters of experts add, g_i times each.
 */

import type { NativeDispatch } from '../../native/border.js'
import { layout } from '../../native/layouts.js'
import { packParameters } from '../../native/parameters.js'
import { type Block, packedBytes, perRow, perVec4 } from './dispatch.js'
import type { Adapter, BackwardContext, Mixture, StackContext } from './op.js'

/** y (+)= scale * x. */
const scaleAdd = (
  x: number,
  y: number,
  { elements, scale, add }: { elements: number; scale: number; add: boolean },
): NativeDispatch => ({
  kernel: 'model/scale_add',
  parameters: packParameters('model/scale_add', { vec4s: Math.ceil(elements / 4), scale, add: add ? 1 : 0 }),
  buffers: [x, y],
  grid: perVec4(elements),
})

/** y[start..] = scale * the sums of products of blocks of x and z. */
const dots = (
  { x, z, y }: Record<'x' | 'z' | 'y', number>,
  { elements, start, scale = 1 }: { elements: number; start: number; scale?: number },
): NativeDispatch => ({
  kernel: 'model/dots',
  parameters: packParameters('model/dots', { rows: dotsOf(elements), elements, start, scale }),
  buffers: [x, z, y],
  grid: perRow(dotsOf(elements)),
})

const dotsOf = (elements: number) => Math.ceil(elements / layout.block)

const elementsOf = (block: Block) => packedBytes({ ...block, dtype: 'F32' }) / 4

/** Sums that `gradientOfMixture` leaves of an expert of a matrix with these factors. */
export function dotsOfExpert(factors: readonly Block[]): number {
  return factors.reduce((sum, block) => sum + dotsOf(elementsOf(block)), 0)
}

/** The factors of a mixture, of those of the experts that count. */
export function mixedFactors(adapter: Adapter, { blocks }: StackContext): NativeDispatch[] {
  const { mixture } = adapter
  if (mixture === undefined || mixture.form === 'output') return []
  return (['a', 'b'] as const).flatMap((factor) =>
    mixture.experts.flatMap((expert, i) =>
      blocks(expert[factor]).map((block, at) =>
        scaleAdd(block.buffer, blocks(adapter[factor])[at]?.buffer ?? 0, {
          ...{ elements: elementsOf(block), scale: expert.gate, add: i > 0 },
        }),
      ),
    ),
  )
}

/** The adapters that a linear has in a pass: one, or one an expert that counts. */
export function adaptersOf(adapter: Adapter): readonly (Adapter & { expert?: Mixture['experts'][number] })[] {
  const { mixture, scale } = adapter
  if (mixture?.form !== 'output') return [adapter]
  return mixture.experts.map((expert) => ({ ...adapter, a: expert.a, b: expert.b, scale: scale * expert.gate, expert }))
}

/** Gradients of experts and of their gates, from those of the factors of the mixture. */
export function gradientOfMixture(adapter: Adapter, context: BackwardContext): NativeDispatch[] {
  const { mixture } = adapter
  if (mixture === undefined || mixture.form === 'output') return []
  return mixture.experts.flatMap((expert) => {
    let start = expert.dots
    return (['a', 'b'] as const).flatMap((factor) => {
      const from = context.trained(adapter[factor])?.blocks ?? []
      const added = spread(expert[factor], from, expert.gate, context)
      const products = context.blocks(expert[factor]).map((block, i) => {
        const elements = elementsOf(block)
        const at = start
        start += dotsOf(elements)
        return dots({ x: block.buffer, z: from[i]?.buffer ?? 0, y: mixture.sums }, { elements, start: at })
      })
      return [...added, ...products]
    })
  })
}

/**
 * The gradient of an expert's B and of its gate where its output is mixed, from what `productOuter` has left in the
 * place of the mixture's B: a gate is a factor of it.
 */
export function gradientOfOutput(
  { b, mixture }: Adapter,
  expert: Mixture['experts'][number],
  context: BackwardContext,
): NativeDispatch[] {
  const from = context.trained(b)?.blocks ?? []
  let start = expert.dots
  return [
    ...spread(expert.b, from, 1, context),
    ...context.blocks(expert.b).map((block, i) => {
      const elements = elementsOf(block)
      const at = start
      start += dotsOf(elements)
      return dots(
        { x: block.buffer, z: from[i]?.buffer ?? 0, y: mixture?.sums ?? 0 },
        { elements, start: at, scale: 1 / expert.gate },
      )
    }),
  ]
}

/** The gradient of a tensor (+)= scale * one of the same shape. */
function spread(tensor: string, from: readonly Block[], scale: number, { trained }: BackwardContext): NativeDispatch[] {
  const of = trained(tensor)
  return (of?.blocks ?? []).map((block, i) =>
    scaleAdd(from[i]?.buffer ?? 0, block.buffer, { elements: elementsOf(block), scale, add: of?.add === true }),
  )
}

export const kernels = { scaleAdd, dots }
