/**
 * A model with a LoRA adapter, as a checkpoint that a recipe can name (`model+adapter`). Its adapted weights are derived
 * tensors: W + s (B A) is computed from the stored W, A and B by one kernel. Where the merge only moves or converts
 * such a weight, the kernel writes the output itself, rounding once; where a method combines it with others, it is made
 * first, in float32, because kernels of methods read stored elements (a method that took A and B as further inputs would
 * be a kernel for each method and number of adapters). The price is a file as large as the adapted weights in float32.
 */

import {
  type Adapter,
  type Checkpoint,
  type CheckpointTensor,
  kernelCode,
  type LowRank,
  outputConfig,
} from '../checkpoint/index.js'
import { WeightsmithError } from '../errors.js'
import { type DerivedTensor, Files, sameShape, storedType } from './derived.js'
import { isVocabulary } from './vocabulary.js'

export function withAdapter(name: string, base: Checkpoint, adapter: Adapter): Checkpoint {
  const files = new Files()
  const tensors = new Map<string, CheckpointTensor>()
  for (const [key, tensor] of base.tensors) tensors.set(key, files.take(tensor, base))
  let rows: number | undefined
  for (const [target, tensor] of adapter.replaced) {
    const { key, weight } = find(target, base, adapter)
    const sameRest = sameShape(tensor.shape.slice(1), weight.shape.slice(1))
    if (!sameShape(tensor.shape, weight.shape) && !(isVocabulary(key) && sameRest))
      throw misfit(key, weight, tensor, adapter)
    if (isVocabulary(key) && tensor.shape[0] !== weight.shape[0]) rows = tensor.shape[0]
    tensors.set(key, files.take(tensor, adapter.checkpoint))
  }
  for (const matrix of adapter.matrices) {
    const { key, weight } = find(matrix.target, base, adapter)
    tensors.set(key, adapted(key, base, weight, adapter, matrix))
  }
  const { config } = base
  return {
    ...base,
    name,
    files: files.list,
    tensors,
    ...(config !== undefined && rows !== undefined
      ? { config: outputConfig(config, { dtype: undefined, layers: [], vocabulary: rows }) }
      : {}),
  }
}

/** The weight in the base; vision models of older and newer transformers have other names. */
function find(target: string, base: Checkpoint, { checkpoint }: Adapter): { key: string; weight: CheckpointTensor } {
  const names = [
    target,
    target.replace(/^model\.language_model\./, 'language_model.model.'),
    target.replace(/^language_model\.model\./, 'model.language_model.'),
  ]
  for (const key of names) {
    const weight = base.tensors.get(key)
    if (weight !== undefined) return { key, weight }
  }
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_MISSING_TENSOR',
    `The adapter ${checkpoint.path} changes ${target}, but ${base.name} has no such tensor.`,
    { tensor: target, file: base.path },
  )
}

function adapted(
  key: string,
  base: Checkpoint,
  weight: CheckpointTensor,
  adapter: Adapter,
  matrix: LowRank,
): DerivedTensor {
  const { a, b, rank, scale, transposed } = matrix
  const [rows = 0, columns = 0] = weight.shape
  const product = transposed ? [a.shape[1], b.shape[0]] : [b.shape[0], a.shape[1]]
  if (weight.shape.length !== 2 || product[0] !== rows || product[1] !== columns) throw misfit(key, weight, b, adapter)
  const elements = rows * columns
  if (elements >= 2 ** 32) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_SHAPE_MISMATCH',
      `Tensor ${key} has ${elements} elements, and an adapter can change fewer than 4294967296.`,
      { tensor: key },
    )
  }
  const { checkpoint } = adapter
  const constants = {
    TRANSPOSED: transposed ? 1 : 0,
    WEIGHT: kernelCode(weight.dtype),
    FACTORS: a.dtype === b.dtype ? kernelCode(a.dtype) : kernelCode(undefined),
  }
  return {
    name: key,
    file: -1,
    dtype: 'F32',
    shape: weight.shape,
    begin: 0,
    end: 4 * elements,
    as: storedType(weight),
    parts: [
      {
        first: 0,
        elements,
        program: { kernels: [{ kernel: 'lora', writes: 'output', constants }] },
        coefficients: [columns, rank, scale, rows],
        origins: [
          { checkpoint: base, tensor: weight },
          { checkpoint, tensor: b, whole: b.shape.reduce((x, y) => x * y, 1) },
          { checkpoint, tensor: a, whole: a.shape.reduce((x, y) => x * y, 1) },
        ],
        key,
      },
    ],
  }
}

function misfit(
  key: string,
  weight: CheckpointTensor,
  found: CheckpointTensor,
  { checkpoint }: Adapter,
): WeightsmithError {
  return new WeightsmithError(
    'ERR_WEIGHTSMITH_SHAPE_MISMATCH',
    `Tensor ${key} has the shape [${weight.shape.join(', ')}], which ${found.name} [${found.shape.join(', ')}] of the ` +
      `adapter ${checkpoint.path} does not fit.`,
    { tensor: key, file: checkpoint.path },
  )
}
