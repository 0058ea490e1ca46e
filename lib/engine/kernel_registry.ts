/**
 * The registry of kernels that can be called on their own; tests, benches and documentation iterate it. A kernel is
 * native/kernels/merge/NAME.wgsl, whose head has the formula, plus one entry here.
 */

import { dtypeCodes } from '../native/dtypes.js'
import { layout } from '../native/layouts.js'

export interface KernelSpec {
  name: string
  about: string
  /** How many inputs it takes; where there is a base, it is the first. */
  inputs: { min: number; max: number }
  /** `output`: one element an element. Else: u32 words of partial result a block of 2,048 elements. */
  writes: 'output' | ((inputs: number) => number)
  /** What the coefficients mean, in order. */
  coefficients: string
  /** Coefficients for a bench or a smoke test. */
  example(inputs: number): number[] | Uint32Array
  /** Inputs of any size, which every block sees completely. */
  whole?: readonly number[]
  /** WGSL override constants that may be given. */
  constants?: Readonly<Record<string, string>>
}

/** What codes of types mean. */
const codes = Object.entries(dtypeCodes)
  .map(([dtype, code]) => `${code} ${dtype}`)
  .join(', ')

const models = (inputs: number) => Array.from({ length: inputs - 1 }, (_, i) => i)

/** Of kernels that count against what a weight was before. */
const counted = {
  GIVEN: `code of the type of the other inputs (${codes}); ${layout.dtypeMixed}: found in the call`,
  WEIGHT: 'code of the type of the last input, in the same way',
}

/** The bits of an f32, for coefficients that mix integers and floats. */
function bits(value: number): number {
  return new Uint32Array(Float32Array.of(value).buffer)[0] ?? 0
}

const election = `2^models reciprocals, one a subset that agrees; of more than ${layout.electionTable} models see include/consensus.wgsl`

/** A sign table for `n` models: scale over the sum of the agreeing weights, all of which are 1. */
function signTable(n: number): number[] {
  if (n > layout.electionTable) return [...Array.from({ length: n }, () => 1), 1, 0.5, 0]
  return Array.from({ length: 2 ** n }, (_, subset) => {
    const agreeing = subset.toString(2).replaceAll('0', '').length
    return agreeing === 0 ? 0 : 1 / agreeing
  })
}

const ranked = '1: thresholds by the rank of a magnitude in its row, which has to be whole (see include/drop.wgsl)'

const list: KernelSpec[] = [
  {
    name: 'linear',
    about: 'Weighted sum of the inputs',
    inputs: { min: 1, max: 16 },
    writes: 'output',
    coefficients: 'a factor an input',
    example: (inputs) => Array.from({ length: inputs }, (_, i) => (i === 0 ? 0.3 : 0.7 / (inputs - 1))),
  },
  {
    name: 'delta',
    about: 'Base plus weighted differences from it',
    inputs: { min: 2, max: 17 },
    writes: 'output',
    coefficients: 'a factor a model',
    example: (inputs) => models(inputs).map(() => 0.5),
  },
  {
    name: 'sparse',
    about: 'Zeros in place of the elements of least score in each group of a row',
    inputs: { min: 1, max: 2 },
    writes: 'output',
    coefficients: 'elements of a group, how many of them go, columns',
    example: () => [4, 2, 8],
    whole: [1],
    constants: {
      LONG: '1: groups have more than 256 elements, 0: not; 2: either',
      WEIGHTED: '1: scores are magnitudes times the norms of columns in input 1',
      WEIGHT: `code of the type of input 0 (${codes}); ${layout.dtypeMixed}: that of the inputs`,
    },
  },
  {
    name: 'lora',
    about: 'A matrix plus scale times the product of B and A, for every pair of them',
    inputs: { min: 3, max: 33 },
    whole: Array.from({ length: 32 }, (_, i) => i + 1),
    writes: 'output',
    coefficients:
      'columns and rows of the matrix; a pair: rank, scale, elements of B from one to the next, the first of them',
    example: (inputs) => [8, 625, ...Array.from({ length: (inputs - 1) >> 1 }, () => [4, 0.5, 1, 0]).flat()],
    constants: {
      TRANSPOSED: '1: the matrix is the transpose of B A',
      WEIGHT: `code of the type of the matrix (${codes}); ${layout.dtypeMixed}: found in the call`,
      FACTORS: `code of the type of B and A; ${layout.dtypeMixed}: found in the call`,
    },
  },
  {
    name: 'dots',
    about: 'Squared norms of two inputs and their inner product: a·a, b·b, a·b',
    inputs: { min: 2, max: 2 },
    writes: () => 3,
    coefficients: 'none',
    example: () => [],
  },
  {
    name: 'gram',
    about: 'Inner products of every two inputs: the lower triangle of the matrix, row by row',
    inputs: { min: 1, max: 33 },
    writes: (inputs) => (inputs * (inputs + 1)) / 2,
    coefficients: 'none',
    example: () => [],
  },
  {
    name: 'gram_lines',
    about: 'Inner products of every two inputs, apart for every 2,048 elements of a row',
    inputs: { min: 1, max: 33 },
    writes: (inputs) => inputs * (inputs + 1),
    coefficients: `1, offset of the first element in its row, ${layout.block} (u32 bits)`,
    example: () => Uint32Array.of(1, 0, layout.block),
  },
  {
    name: 'line_sum',
    about: 'Weighted sum of the inputs with weights of its own for every row or column',
    inputs: { min: 1, max: 33 },
    writes: 'output',
    coefficients:
      '1, offset of the first element in its row (or column), size of a row (number of columns) (u32 bits); a factor an input and line',
    example: (inputs) => Uint32Array.from([1, 0, layout.block, ...Array.from({ length: 4 * inputs }, () => bits(0.5))]),
    constants: {
      ACROSS: '0: rows; 1: columns',
      BASE: '1: input 0 is a base, and the differences from it are added to it',
      COUNTED: '1: the last input is no summand, but what elements are counted against',
      ...counted,
    },
  },
  {
    name: 'recast',
    about: 'The first input, rounded; elements are counted against the second',
    inputs: { min: 2, max: 2 },
    writes: 'output',
    coefficients: 'none',
    example: () => [],
    constants: counted,
  },
  {
    name: 'nearswap',
    about: 'The base, moved towards the model by at most t an element',
    inputs: { min: 2, max: 2 },
    writes: 'output',
    coefficients: 't',
    example: () => [0.1],
  },
  {
    name: 'divergence',
    about: 'What the softmaxes of each row are divided by, or how far that of the model lies from that of the base',
    inputs: { min: 2, max: 2 },
    writes: () => 10,
    coefficients: `1, offset of the first element in its row, ${layout.block} (u32 bits); with STAGE 1 two a row`,
    example: () => Uint32Array.of(1, 0, layout.block),
  },
  {
    name: 'arcee_fusion',
    about: 'The model where it differs by enough from the base, and the base elsewhere',
    inputs: { min: 2, max: 2 },
    writes: 'output',
    coefficients: 'the smallest magnitude key that is taken (u32 bits)',
    example: () => Uint32Array.of(bits(0.01)),
  },
  {
    name: 'fisher',
    about: 'Mean of the models in which every element counts by its Fisher information',
    inputs: { min: 2, max: 16 },
    writes: 'output',
    coefficients: 'eps; a factor a model',
    example: (inputs) => [1e-6, ...Array.from({ length: inputs >> 1 }, () => 0.5)],
  },
  {
    name: 'store_f32',
    about: 'The elements themselves, as f32',
    inputs: { min: 1, max: 8 },
    writes: (inputs) => layout.block * inputs,
    coefficients: 'none',
    example: () => [],
  },
  {
    name: 'load_f32',
    about: 'Elements that are given as coefficients',
    inputs: { min: 1, max: 8 },
    writes: 'output',
    coefficients: '1, 0, 1 (u32 bits); every element',
    example: () => Uint32Array.from([1, 0, 1, ...Array.from({ length: 5000 }, (_, i) => bits(i + 1))]),
  },
  {
    name: 'regmean',
    about: 'The first matrix plus the differences of the others from it, each times a square matrix of its own',
    inputs: { min: 3, max: 15 },
    whole: [2],
    writes: 'output',
    coefficients: 'columns of the matrix',
    example: () => [8],
    constants: { MODELS: 'code of the type of the matrices, as for lora' },
  },
  {
    name: 'diff',
    about: 'How two inputs differ: Σ|d|, Σd², a·a, b·b, a·b, changed, max |d|, not finite',
    inputs: { min: 2, max: 2 },
    writes: () => 8,
    coefficients: 'none',
    example: () => [],
  },
  {
    name: 'select_sample',
    about: 'A fixed sample of the magnitude keys of each difference',
    inputs: { min: 2, max: 17 },
    writes: (inputs) => layout.sampleWords * (inputs - 1),
    coefficients: 'none',
    example: () => [],
  },
  {
    name: 'select',
    about: 'Counts the magnitude keys above a bracket and lists those inside it',
    inputs: { min: 2, max: 17 },
    writes: (inputs) => layout.selectWords * (inputs - 1),
    coefficients: 'a bracket (u32 bits): lowest key, width, shift, 1 for a bracket of one key',
    example: (inputs) => Uint32Array.from(models(inputs).flatMap(() => [bits(0.0101), 2 ** 12, 0, 0])),
  },
  {
    name: 'ties',
    about: 'Trim by magnitude, elect a sign, average what agrees',
    inputs: { min: 2, max: 17 },
    writes: 'output',
    coefficients: `a model: threshold key, cut low, cut high (u32 bits), weight; then ${election}`,
    example: (inputs) =>
      Uint32Array.from([
        ...models(inputs).flatMap(() => [bits(0.01), 0, 0, bits(1)]),
        ...signTable(inputs - 1).map(bits),
      ]),
    constants: {
      OUTLIERS: '1: three more words a model, before its weight, trim the largest magnitudes',
      CONSENSUS: '0: add up, with one factor instead of the table; 1 to 4: elect a sign (see include/consensus.wgsl)',
    },
  },
  {
    name: 'ties_facts',
    about: 'L1 norms of each difference before and after the trim, and how many elections each sign wins',
    inputs: { min: 2, max: 17 },
    writes: (inputs) => 2 * inputs,
    coefficients: 'as for ties, up to the weights',
    example: (inputs) => Uint32Array.from(models(inputs).flatMap(() => [bits(0.01), 0, 0, 0])),
    constants: { OUTLIERS: '1: three more words a model, before its weight, trim the largest magnitudes' },
  },
  {
    name: 'ram',
    about: 'What one model changed by more than epsilon, or the mean of what several changed',
    inputs: { min: 2, max: 17 },
    writes: 'output',
    coefficients: 'epsilon; a factor a model for what it changed alone; 1 / k for k = 0 to the number of models',
    example: (inputs) => [
      1e-5,
      ...models(inputs).map(() => 1.1),
      ...Array.from({ length: inputs }, (_, k) => 1 / Math.max(1, k)),
    ],
  },
  {
    name: 'ram_counts',
    about: 'How many elements each model changed by more than epsilon, with others and alone',
    inputs: { min: 2, max: 17 },
    writes: (inputs) => 2 * (inputs - 1),
    coefficients: 'epsilon',
    example: () => [1e-5],
  },
  {
    name: 'sce',
    about: 'Average what agrees in sign, by weights of the models, where the spread of the models is large',
    inputs: { min: 2, max: 17 },
    writes: 'output',
    coefficients: `threshold key, cut low, cut high (u32 bits); a weight a model; ${election}`,
    example: (inputs) =>
      Uint32Array.from([0, 0, 0, ...models(inputs).map(() => bits(1)), ...signTable(inputs - 1).map(bits)]),
  },
  {
    name: 'sce_squares',
    about: 'Squared norm of each difference where the spread of the models is large',
    inputs: { min: 2, max: 17 },
    writes: (inputs) => inputs - 1,
    coefficients: 'threshold key, cut low, cut high (u32 bits)',
    example: () => Uint32Array.of(0, 0, 0),
  },
  {
    name: 'dare',
    about: 'Drop entries of each difference at random, rescale the rest and add them, or average them by sign',
    inputs: { min: 2, max: 17 },
    writes: 'output',
    coefficients: `a model: drop threshold (u32 bits), weight · rescale; then the scale, or with CONSENSUS 1 ${election}`,
    example: (inputs) => Uint32Array.from([...models(inputs).flatMap(() => [0x33333333, bits(1.25)]), bits(0.5)]),
    constants: { CONSENSUS: '0: add up; 1: elect a sign', RANKED: ranked },
  },
  {
    name: 'dare_norms',
    about: 'L1 norms of each difference before and after the random drop',
    inputs: { min: 2, max: 17 },
    writes: (inputs) => 2 * (inputs - 1),
    coefficients: 'a model: drop threshold (u32 bits), anything',
    example: (inputs) => Uint32Array.from(models(inputs).flatMap(() => [0x33333333, 0])),
    constants: { RANKED: ranked },
  },
]

/** By name. */
export const kernels: ReadonlyMap<string, KernelSpec> = new Map(list.map((kernel) => [kernel.name, kernel]))
