/** The cases of ops.cases.ts that mixtures of experts add: mixing, gates, and the gradients of both. */
import { layout } from '../lib/native/layouts.js'
import { modelKernels as kernels } from '../lib/runtime/index.js'
import { math } from './math.js'
import { entry, numbers, type OpCases, untouched } from './op-case.js'
import * as reference from './reference/gates.js'

const sizes = [4, 260, layout.block + 4, 3 * layout.block + 68]

/** Values between others that are to stay. */
const framed = (values: ArrayLike<number>, before: number, after: number) => {
  const all = new Float32Array(before + values.length + after).fill(untouched)
  all.set(Float32Array.from(values), before)
  return all
}

interface Gates {
  experts: number
  top: number
  equal?: true
}
const gates: Gates[] = [
  { experts: 1, top: 1 },
  { experts: 5, top: 2 },
  { experts: 7, top: 7 },
  { experts: 64, top: 3 },
  { experts: 4, top: 2, equal: true },
]
/** Logits, spreads and noise; `equal`: of equal logits the first count. */
const given = ({ experts, equal }: Gates) => ({
  logits: equal ? new Float32Array(experts) : numbers(experts, 61),
  spread: numbers(experts, 62).map((value) => 8 * value),
  noise: equal ? new Float32Array(experts) : numbers(experts, 63),
})

export const mixtureCases: readonly OpCases[] = [
  entry({
    says: 'scale_add writes a multiple, or adds it',
    shapes: sizes.flatMap((elements) => [true, false].map((add) => ({ elements, add }))),
    make: ({ elements, add }) => {
      const x = numbers(elements, 51)
      const before = numbers(elements, 52).map((value) => (add ? value : Number.NaN))
      return {
        buffers: [x, framed(before, 0, 8)],
        dispatches: () => [kernels.scaleAdd(0, 1, { elements, scale: -0.375, add })],
        read: 1,
        want: () =>
          framed(
            Float64Array.from(x, (value, i) => -0.375 * value + (add ? before[i]! : 0)),
            0,
            8,
          ),
        tolerance: 1e-6,
      }
    },
  }),
  entry({
    says: 'scale multiplies in place',
    shapes: sizes.map((elements) => ({ elements })),
    make: ({ elements }) => {
      const x = numbers(elements, 53)
      return {
        buffers: [framed(x, 0, 8)],
        dispatches: () => [kernels.scale(0, { elements, scale: 1.7 })],
        read: 0,
        want: () =>
          framed(
            Float64Array.from(x, (value) => 1.7 * value),
            0,
            8,
          ),
        tolerance: 1e-6,
      }
    },
  }),
  entry({
    says: 'dots sums products by blocks, and leaves what is before and behind',
    shapes: [1, 67, layout.block, 2 * layout.block + 1].map((elements) => ({ elements })),
    make: ({ elements }) => {
      const [x, z] = [numbers(elements, 54), numbers(elements, 55)]
      const count = math.ceil(elements / layout.block)
      return {
        buffers: [x, z, framed(new Float32Array(count), 3, 2)],
        dispatches: () => [kernels.dots({ x: 0, z: 1, y: 2 }, { elements, start: 3, scale: 0.5 })],
        read: 2,
        want: () => {
          const sums = new Float64Array(count)
          for (let i = 0; i < elements; i++) sums[math.floor(i / layout.block)]! += 0.5 * x[i]! * z[i]!
          return framed(sums, 3, 2)
        },
        tolerance: 2e-6,
        ofLargest: true,
      }
    },
  }),
  entry({
    says: 'total adds up a part of a list',
    shapes: [1, 63, 700].map((count) => ({ count })),
    make: ({ count }) => {
      const x = numbers(count + 9, 56)
      return {
        buffers: [x, framed([0], 2, 3)],
        dispatches: () => [kernels.total(0, 1, { first: 5, count, at: 2 })],
        read: 1,
        want: () => framed([x.subarray(5, 5 + count).reduce((a, b) => a + b, 0)], 2, 3),
        tolerance: 2e-6,
        ofLargest: true,
      }
    },
  }),
  entry({
    says: 'gates are a softmax of the largest logits after noise, and say which these are',
    shapes: gates,
    make: (shape) => {
      const { logits, spread, noise } = given(shape)
      return {
        buffers: [logits, spread, noise, 8 * shape.experts],
        dispatches: () => [kernels.gates({ logits: 0, spread: 1, noise: 2, y: 3 }, shape)],
        read: 3,
        want: () => {
          const { gates, counts } = reference.gates(logits, spread, noise, shape.top)
          return [...gates, ...counts.map(Number)]
        },
        tolerance: 2e-6,
      }
    },
  }),
  ...(['logits', 'spread'] as const).map((of) =>
    entry({
      says: `gates have a gradient of ${of === 'logits' ? 'their logits' : 'the spread of noise'}`,
      shapes: gates,
      make: (shape) => {
        const { logits, spread, noise } = given(shape)
        const found = reference.gates(logits, spread, noise, shape.top)
        const g = numbers(shape.experts, 64)
        const held = Float32Array.from([...found.gates, ...found.counts.map(Number)])
        const to = { gates: 0, spread: 1, noise: 2, g: 3, y: 4, z: 5 }
        return {
          buffers: [held, spread, noise, g, 4 * shape.experts, 4 * shape.experts],
          dispatches: () => [kernels.gatesGradient(to, shape)],
          read: of === 'logits' ? 4 : 5,
          want: () => reference.gatesGradient(logits, spread, noise, g, shape.top)[of],
          tolerance: 3e-6,
        }
      },
    }),
  ),
]
