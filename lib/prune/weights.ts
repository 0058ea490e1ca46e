/** Single weights that become zeros: the plans that compute a pruned tensor, one tensor at a time. */

import { type Checkpoint, type CheckpointTensor, type Content, isStorable, kernelCode } from '../checkpoint/index.js'
import type { NativeDevice, NativePlan, NativeProgram, StoreDType } from '../native/border.js'
import { layout } from '../native/layouts.js'
import { consensusCodes, trimCoefficients } from '../native/trim.js'
import { WeightsmithError } from '../util/errors.js'

export interface Sparsity {
  /** Share of the weights that go, of a tensor or of each of its rows. */
  share: number
  /** So many stay of each group of so many neighbours in a row, instead. */
  pattern?: { stay: number; of: number } | undefined
}

/** `2:4`. Throws ERR_WEIGHTSMITH_ARGUMENT for other texts. */
export function parsePattern(text: string): { stay: number; of: number } {
  const match = /^(\d+):(\d+)$/.exec(text)
  const [stay, of] = [Number(match?.[1]), Number(match?.[2])]
  if (match !== null && stay >= 1 && stay < of && of <= 32) return { stay, of }
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_ARGUMENT',
    `Expected an N:M pattern with N < M <= 32, such as 2:4, but received "${text}".`,
  )
}

/** Throws ERR_WEIGHTSMITH_ARGUMENT for shares that leave nothing, and patterns that rows are no multiple of. */
export function checkSparsity({ share, pattern }: Sparsity, tensor: CheckpointTensor): void {
  const [, columns = 0] = tensor.shape
  const refuse = (what: string) => {
    throw new WeightsmithError('ERR_WEIGHTSMITH_ARGUMENT', what, { tensor: tensor.name })
  }
  if (!isStorable(tensor.dtype)) {
    refuse(`The tensor ${tensor.name} is stored as ${tensor.dtype}; weights of F32, F16 and BF16 can be pruned.`)
  }
  if (pattern !== undefined) {
    if (columns % pattern.of === 0) return
    refuse(`The rows of ${tensor.name} have ${columns} weights, which are no multiple of ${pattern.of}.`)
  }
  if (!(share > 0 && share < 1))
    refuse(`A sparsity is between 0 and 1, which would empty ${tensor.name}, not ${share}.`)
  if (Math.floor(share * columns) < columns) return
  refuse(`A sparsity of ${share} would empty the rows of ${tensor.name}, which have ${columns} weights.`)
}

/** The tensor without its least weights: by magnitude, or with `norms` by magnitude times the norm of the input. */
export function sparseTensor(
  { device, memory }: { device: NativeDevice; memory: number },
  checkpoint: Checkpoint,
  tensor: CheckpointTensor,
  sparsity: Sparsity,
  norms?: Float32Array<ArrayBuffer>,
): Content {
  const size = tensor.end - tensor.begin
  return {
    dtype: tensor.dtype,
    shape: tensor.shape,
    size,
    async *bytes() {
      const result = new Uint8Array(size)
      await device.run({ ...plan(checkpoint, tensor, sparsity, norms, result), memory }).done
      yield result
    },
  }
}

/** The largest weights of a tensor, as they are. */
const trimOf = (share: number) =>
  trimCoefficients({
    lambda: 1,
    normalize: false,
    rescale: false,
    consensus: 'sum',
    weights: [1],
    densities: [1 - share],
  })

function plan(
  checkpoint: Checkpoint,
  { name, dtype, shape, begin, end, file }: CheckpointTensor,
  { share, pattern }: Sparsity,
  norms: Float32Array<ArrayBuffer> | undefined,
  memory: Uint8Array,
): Omit<NativePlan, 'memory'> {
  const [rows = 0, columns = 0] = shape
  const { path = '', size = 0 } = checkpoint.files[file] ?? {}
  const source = { place: 0, offset: begin, dtype }
  const output = { place: 0, offset: 0, dtype: dtype as StoreDType }
  const elements = rows * columns
  const common = { outputs: [{ memory }], seed: 0, checksum: false, sync: false }
  const weights = { path, size }
  if (pattern === undefined && norms === undefined) {
    // Over the whole tensor: the trim of TIES, with zeros for the base.
    const zeros = new Uint8Array(end - begin)
    return {
      ...common,
      inputs: [{ memory: zeros }, weights],
      programs: [trimProgram],
      jobs: [
        {
          name,
          program: 0,
          elements,
          inputs: [
            { place: 0, offset: 0, dtype },
            { ...source, place: 1 },
          ],
          variants: [{ coefficients: trimOf(share), output }],
        },
      ],
    }
  }
  const group = pattern?.of ?? columns
  const goes = pattern === undefined ? Math.floor(share * columns) : pattern.of - pattern.stay
  const constants = {
    LONG: group > 256 ? 1 : 0,
    ...(norms === undefined ? {} : { WEIGHTED: 1, WEIGHT: kernelCode(dtype) }),
  }
  return {
    ...common,
    inputs: [weights, ...(norms === undefined ? [] : [{ memory: new Uint8Array(norms.buffer) }])],
    programs: [{ rows: true, kernels: [{ kernel: 'sparse', writes: 'output', constants }] }],
    jobs: [
      {
        name,
        program: 0,
        elements,
        row: group,
        inputs: [source, ...(norms === undefined ? [] : [{ place: 1, offset: 0, dtype: 'F32', whole: columns }])],
        variants: [{ coefficients: [group, goes, columns], output }],
      },
    ],
  }
}

/** Keeps int(density * n) of the largest, of equal ones the first. */
const trimProgram: NativeProgram = {
  cpuStep: 'ties',
  kernels: [
    { kernel: 'select_sample', writes: layout.sampleWords },
    { kernel: 'select', writes: layout.selectWords, constants: { CUTS: 1 } },
    { kernel: 'ties', writes: 'output', constants: { OUTLIERS: 0, CONSENSUS: consensusCodes.sum } },
  ],
}
