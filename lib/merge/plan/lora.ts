/**
 * A model with a LoRA adapter, as a checkpoint that a recipe can name (`model+adapter`). Its adapted weights are
 * derived tensors: W + s (B A) is computed from the stored W, A and B by one kernel. Where the merge only moves or
 * converts such a weight, the kernel writes the output itself, rounding once; where a method combines it with others,
 * it is made first, in float32, because kernels of methods read stored elements (a method that took A and B as further
 * inputs would be a kernel for each method and number of adapters). The price is a file as large as the adapted weights
 * in float32.
 */

import {
  type Checkpoint,
  type CheckpointTensor,
  kernelCode,
  layerOf,
  outputConfig,
  refuseQuantised,
} from '../../checkpoint/index.js'
import type { Adapter, LowRank } from '../../lora/index.js'
import { WeightsmithError } from '../../util/errors.js'
import { type DerivedTensor, Files, sameShape, storedType } from './derived.js'
import { type Tie, tieOf, untied, weightOf } from './tie.js'
import { isVocabulary } from './vocabulary.js'

export function withAdapter(name: string, base: Checkpoint, adapter: Adapter): Checkpoint {
  const files = new Files()
  const tensors = new Map<string, CheckpointTensor>()
  for (const [key, tensor] of base.tensors) tensors.set(key, files.take(tensor, base))
  // Inputs are told by the files of checkpoints: what the manifest lists, and no output may replace.
  for (const file of adapter.checkpoint.files) files.add(file)
  refuseQuantised(base, 'convert it to float16 or bfloat16 before an adapter is added to it')
  const tie = tieOf(base)
  refuseAbsent(base, adapter, tie)
  const changed = new Set<string>()
  const put = (key: string, tensor: CheckpointTensor) => {
    if (changed.has(key)) throw refused(base, adapter, `two of its tensors change ${key}`, key)
    changed.add(key)
    tensors.set(key, tensor)
  }
  for (const [target, tensor] of adapter.replaced) {
    const { key, weight } = find(target, base, adapter, tie)
    refuseMisfit(key, weight, tensor, adapter)
    put(key, files.take(tensor, adapter.checkpoint))
  }
  for (const matrix of adapter.matrices) {
    const { key, weight } = find(matrix.target, base, adapter, tie)
    if (key === tie?.table || key === tie?.head) {
      throw refused(
        base,
        adapter,
        `it was trained with ${tie.table} and the head apart, but ${base.name} has one table for both; store the head ` +
          'there as a tensor of its own (tie_word_embeddings: false) first',
        key,
      )
    }
    put(key, adapted(key, base, weight, adapter, matrix))
  }
  let { config } = base
  if (tie !== undefined && (changed.has(tie.table) || changed.has(tie.head))) {
    // A module that PEFT trains whole is a copy, so the other of the two keeps what the base has.
    const table = weightOf(tie.head, base, tie)
    if (table !== undefined && !changed.has(tie.head)) tensors.set(tie.head, files.take(table, base))
    if (config === undefined) {
      throw refused(base, adapter, `it takes ${tie.table} and the head apart, and there is no config.json to say so`)
    }
    config = untied(config)
  }
  const rows = newRows(tensors, base, adapter, tie)
  return {
    ...base,
    name,
    files: files.list,
    tensors,
    ...(config === undefined
      ? {}
      : {
          config:
            rows === undefined ? config : outputConfig(config, { dtype: undefined, layers: [], vocabulary: rows }),
        }),
  }
}

/** Rows of the tables of tokens, where the adapter changes them; all tables have to have as many. */
function newRows(
  tensors: ReadonlyMap<string, CheckpointTensor>,
  base: Checkpoint,
  adapter: Adapter,
  tie: Tie | undefined,
): number | undefined {
  const tables = [...tensors].filter(([key]) => isVocabulary(key))
  const rowsOf = ([, { shape }]: [string, CheckpointTensor]) => shape[0] ?? 0
  const grown = tables.find((table) => rowsOf(table) !== weightOf(table[0], base, tie)?.shape[0])
  const other = grown && tables.find((table) => rowsOf(table) !== rowsOf(grown))
  if (grown !== undefined && other !== undefined) {
    const [[one], [two]] = [grown, other]
    throw refused(
      base,
      adapter,
      `it gives ${one} ${rowsOf(grown)} rows, but ${two} has ${rowsOf(other)}; no file says what the head is to make of the other tokens, so give ` +
        'the base as many rows, or save both tables with the adapter (modules_to_save)',
      two,
    )
  }
  return grown && rowsOf(grown)
}

/** Refuses an adapter that lacks modules which its config names: what was trained is lost. */
function refuseAbsent(base: Checkpoint, adapter: Adapter, tie: Tie | undefined): void {
  const modules = (names: Iterable<string>) => [...names].map((key) => key.replace(/\.[^.]+$/, ''))
  // experts are one parameter in newer transformers, which the name of a linear does not reach
  const linears = [...base.tensors.keys()].filter((key) => !key.includes('.experts.'))
  const there = modules([...linears, ...(tie === undefined ? [] : [tie.head])])
  const held = modules([...adapter.replaced.keys(), ...adapter.matrices.map(({ target }) => target)])
  const ends = (module: string, name: string) => module === name || module.endsWith(`.${name}`)
  for (const name of adapter.named) {
    if (there.some((module) => ends(module, name)) && !held.some((module) => ends(module, name))) {
      throw refused(base, adapter, `its config names ${name}, but it has no tensor of it`)
    }
  }
}

/** The weight in the base; vision models of older and newer transformers have other names. */
function find(
  target: string,
  base: Checkpoint,
  { checkpoint }: Adapter,
  tie: Tie | undefined,
): { key: string; weight: CheckpointTensor } {
  const names = [
    target,
    target.replace(/^model\.language_model\./, 'language_model.model.'),
    target.replace(/^language_model\.model\./, 'model.language_model.'),
  ]
  for (const key of names) {
    const weight = weightOf(key, base, tie)
    if (weight !== undefined) return { key, weight }
  }
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_MISSING_TENSOR',
    `The adapter ${checkpoint.path} changes ${target}, but ${base.name} has no such tensor; put it on the model that it was ` +
      `trained for${target.endsWith('.bias') ? ', whose linears have biases' : ''}.`,
    { tensor: target, file: base.path },
  )
}

/** Types of models whose layers store linears as [in, out] (Conv1D of transformers). */
const conv1d: ReadonlySet<unknown> = new Set(['gpt2', 'openai-gpt', 'imagegpt', 'decision_transformer'])

/** Whether a weight is stored as [in, out], so that the transpose of B A is added. */
function isTurned(key: string, base: Checkpoint, adapter: Adapter): boolean {
  if (layerOf(key) === undefined) return false
  const type = base.config?.model_type
  if (adapter.turned && typeof type === 'string' && !conv1d.has(type)) {
    throw refused(base, adapter, `it sets fan_in_fan_out, but models of type ${type} store linears as [out, in]`, key)
  }
  return adapter.turned || conv1d.has(type)
}

function adapted(
  key: string,
  base: Checkpoint,
  weight: CheckpointTensor,
  adapter: Adapter,
  matrix: LowRank,
): DerivedTensor {
  const { a, b, rank, scale, embedding, below } = matrix
  const transposed = embedding || isTurned(key, base, adapter)
  if (below !== undefined) refuseMisfit(key, weight, below, adapter)
  const start = below ?? weight
  const [rows = 0, columns = 0] = start.shape
  const product = transposed ? [a.shape[1], b.shape[0]] : [b.shape[0], a.shape[1]]
  if (start.shape.length !== 2 || product[0] !== rows || product[1] !== columns) throw misfit(key, start, b, adapter)
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
    WEIGHT: kernelCode(start.dtype),
    FACTORS: a.dtype === b.dtype ? kernelCode(a.dtype) : kernelCode(undefined),
  }
  return {
    name: key,
    file: -1,
    dtype: 'F32',
    shape: start.shape,
    begin: 0,
    end: 4 * elements,
    as: storedType(weight),
    operands: [
      {
        first: 0,
        elements,
        program: { kernels: [{ kernel: 'lora', writes: 'output', constants }] },
        coefficients: [columns, rank, scale, rows],
        origins: [
          { checkpoint: below === undefined ? base : checkpoint, tensor: start },
          { checkpoint, tensor: b, whole: b.shape.reduce((x, y) => x * y, 1) },
          { checkpoint, tensor: a, whole: a.shape.reduce((x, y) => x * y, 1) },
        ],
        key,
      },
    ],
  }
}

/** Tables of tokens may have another number of rows. */
function refuseMisfit(key: string, weight: CheckpointTensor, found: CheckpointTensor, adapter: Adapter): void {
  const sameRest = isVocabulary(key) && sameShape(found.shape.slice(1), weight.shape.slice(1))
  if (!sameShape(found.shape, weight.shape) && !sameRest) throw misfit(key, weight, found, adapter)
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

function refused(base: Checkpoint, { checkpoint }: Adapter, what: string, tensor?: string): WeightsmithError {
  return new WeightsmithError(
    'ERR_WEIGHTSMITH_FORMAT',
    `The adapter ${checkpoint.path} cannot be merged into ${base.name}: ${what}.`,
    { file: checkpoint.path, tensor },
  )
}
