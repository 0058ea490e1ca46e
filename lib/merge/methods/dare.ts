/**
 * DARE: drop entries of each difference at random and rescale what is left. "DARE" is not one algorithm: mergekit
 * rescales so that the L1 norm is kept (`l1`), the paper, MergeLM and PEFT divide by the kept share (`expectation`).
 */

import type { NativeKernelStep, NativeProgram } from '../../native/border.js'
import { layout } from '../../native/layouts.js'
import { normalized, weightedDeltas } from './combine.js'
import { density, lambda, type MergeMethod, mostVoters, normalize, num, type Step, weight } from './method.js'

/** Codes of the rescale modes in the coefficients of the `dare` kernel. */
const rescaleCodes = { none: 0, expectation: 1, l1: 2 } as const

export type Rescale = keyof typeof rescaleCodes

export interface Dare {
  shape: readonly number[]
  weights: number[]
  densities: number[]
  /** DELLA: how far the densities of a row's smallest and largest entries lie from the mean; absent: they are alike. */
  epsilons?: number[]
  lambda: number
  normalize: boolean
  consensus: 'linear' | 'ties'
  rescale: Rescale
}

/** Elements of a row of a block: what is kept of them is a word. */
const rowElements = 32

/** Up to 32 MiB of such words are kept of a tensor until it is stored; a larger one is drawn twice. */
const mostMasked = 2 ** 28

export function dareStep(dare: Dare): Step {
  const { weights, densities, epsilons = [] } = dare
  if (dare.lambda === 0 || weights.every((w, i) => w === 0 || densities[i] === 0)) return { copy: 0 }
  if (dare.consensus === 'linear' && densities.every((d) => d === 1)) {
    const shares = dare.normalize ? normalized(weights) : weights
    return weightedDeltas(shares.map((w) => dare.lambda * w))
  }
  const consensus = dare.consensus === 'ties' ? layout.consensusMergekit : layout.consensusSum
  const ranked = epsilons.length > 0
  const masked =
    dare.rescale === 'l1' && dare.shape.reduce((product, size) => product * size, weights.length) <= mostMasked
  const constants = { RANKED: ranked ? 1 : 0, MASKS: masked ? 1 : 0 }
  const apply: NativeKernelStep = {
    kernel: 'dare',
    writes: 'output',
    constants: { ...constants, CONSENSUS: consensus },
  }
  const program: NativeProgram =
    dare.rescale === 'l1'
      ? {
          cpuStep: 'dare_l1',
          ...(masked ? { lines: { size: rowElements, across: false } } : {}),
          kernels: [
            // L1 norms of a difference before and after the drop, two words a model; a word a row of what is kept
            {
              kernel: 'dare_norms',
              writes: (2 + (masked ? layout.block / rowElements : 0)) * weights.length,
              constants,
            },
            apply,
          ],
        }
      : { cpuStep: 'dare', kernels: [apply] }
  return {
    program: ranked ? { ...program, rows: true } : program,
    coefficients: [
      dare.lambda,
      dare.normalize ? 1 : 0,
      consensus,
      rescaleCodes[dare.rescale],
      ...weights,
      ...densities,
      ...epsilons,
    ],
  }
}

const drop =
  'tᵢ = rᵢ dᵢ for entries kept with probability density, else 0; rᵢ = ‖dᵢ‖₁ / ‖kept dᵢ‖₁ (l1), 1 / density ' +
  '(expectation) or 1 (none)'

function dareMethod(consensus: Dare['consensus'], most: number, about: string): MergeMethod {
  return {
    name: `dare_${consensus}`,
    about,
    formula:
      consensus === 'linear'
        ? `${drop}; B + λ Σ wᵢ tᵢ; with normalize the sum is divided by Σ wᵢ`
        : `${drop}; s = sign Σ wᵢ tᵢ (0 counts as +); B + λ Σ wᵢ tᵢ [sign wᵢ tᵢ = s]; with normalize divided by Σ wᵢ [sign wᵢ tᵢ = s]`,
    source: 'arXiv 2311.03099; rescale l1 as in mergekit, expectation as in the paper',
    differences:
      'Entries are drawn with a counter-based generator (Philox4x32-10) keyed by seed, tensor name, model and element, so ' +
      'a seed gives the same result on every device and in any order, but other entries than mergekit draws. rescale ' +
      'also accepts expectation, the division by density of the paper.',
    needsBase: true,
    models: { min: 1, max: most },
    parameters: [
      weight,
      density,
      lambda,
      normalize(false),
      {
        name: 'rescale',
        about:
          'l1: rescale to the L1 norm of the whole difference; expectation: divide by the density; none: do not rescale',
        type: 'choice',
        scope: 'global',
        default: 'l1',
        values: ['l1', 'expectation', 'none'],
        aliases: new Map<boolean | number, string>([
          [true, 'l1'],
          [1, 'l1'],
          [false, 'none'],
          [0, 'none'],
        ]),
      },
    ],
    determinism: 'exact',
    step: ({ global, models, shape }) =>
      dareStep({
        shape,
        weights: models.map((m) => num(m, 'weight')),
        densities: models.map((m) => num(m, 'density')),
        lambda: num(global, 'lambda'),
        normalize: global.normalize === true,
        consensus,
        rescale: global.rescale === 'expectation' || global.rescale === 'none' ? global.rescale : 'l1',
      }),
  }
}

export const dareLinear = dareMethod('linear', 16, 'Drops entries of the differences at random, rescales and adds them')
export const dareTies = dareMethod(
  'ties',
  mostVoters,
  'Drops entries of the differences at random, rescales, and averages by sign',
)
