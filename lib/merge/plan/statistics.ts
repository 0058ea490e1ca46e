/** Tensors of statistics beside those of the models, and tensors that a step has made of them before it runs. */

import { type Checkpoint, type CheckpointTensor, kernelCode } from '../../checkpoint/index.js'
import { WeightsmithError } from '../../util/errors.js'
import type { MergeMethod, Step, TensorParameters } from '../methods/index.js'
import { type DerivedTensor, linear, type Operand, sameShape } from './derived.js'
import type { Origin } from './planned.js'
import type { OutputSource } from './tensors.js'

/** What has been made, by how. */
export type MadeTensors = Map<string, DerivedTensor>

/** Tensors of statistics, where the method takes some and every model has them. */
export function statisticsFor(
  method: MergeMethod,
  { models }: Pick<TensorParameters, 'models'>,
  { name, origins }: OutputSource,
  checkpointOf: (model: string) => Checkpoint,
  notes: string[],
): Origin[] {
  const spec = method.parameters.find(({ type, scope }) => type === 'model' && scope === 'model')
  if (spec === undefined) return []
  const inputs = method.statistics === 'inputs'
  const found: Origin[] = []
  for (const [i, model] of models.entries()) {
    const own = origins[origins.length - models.length + i]
    // Norms and the like have no inputs that there could be statistics of.
    if (own === undefined || (inputs && own.tensor.shape.length !== 2)) return []
    const checkpoint = checkpointOf(String(model[spec.name]))
    const tensor = inputs ? gramOf(own.tensor.name, checkpoint) : checkpoint.tensors.get(own.tensor.name)
    if (tensor === undefined) {
      notes.push(`${name} has no statistics in ${checkpoint.name}: its models are averaged.`)
      return []
    }
    const size = own.tensor.shape[1] ?? 0
    const wanted = inputs ? [size, size] : own.tensor.shape
    if (!sameShape(tensor.shape, wanted)) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_SHAPE_MISMATCH',
        `Tensor ${own.tensor.name} has shape [${own.tensor.shape.join(', ')}] in ${own.checkpoint.name}, but ` +
          `${inputs ? `${tensor.name} has ` : ''}[${tensor.shape.join(', ')}] in its statistics ${checkpoint.name}.`,
        { tensor: tensor.name, file: checkpoint.path },
      )
    }
    found.push({ checkpoint, tensor })
  }
  return found
}

/** The Gram matrix of a linear's input; where several read one input, the file may have that of the first. */
function gramOf(name: string, { tensors }: Checkpoint): CheckpointTensor | undefined {
  const first = name.replace(/\b[kv]_proj\b/, 'q_proj').replace(/\bup_proj\b/, 'gate_proj')
  return tensors.get(`gram/${name}`) ?? tensors.get(`gram/${first}`)
}

/** A step with what it reads: some of the tensors there are, and what is made of them. */
export function prepared(
  { inputs, made = [], program, coefficients }: Exclude<Step, { copy: number }>,
  origins: readonly Origin[],
  known: MadeTensors,
): Pick<Operand, 'program' | 'coefficients' | 'origins'> {
  const all = [...origins]
  for (const { inputs: from, elements, ...operand } of made) {
    const read = picked(origins, from)
    const [first] = read
    if (first === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', 'A tensor is made of nothing.')
    const key = JSON.stringify([operand, read.map(({ checkpoint, tensor }) => [checkpoint.path, tensor.name])])
    const { name } = first.tensor
    const tensor = known.get(key) ?? {
      name,
      file: -1,
      dtype: 'F32',
      shape: [elements],
      begin: 0,
      end: 4 * elements,
      as: 'F32',
      operands: [{ ...operand, first: 0, elements, origins: read, key: name }],
    }
    known.set(key, tensor)
    all.push({ checkpoint: first.checkpoint, tensor, whole: elements })
  }
  const read = inputs === undefined ? all : picked(all, inputs)
  if (made.length === 0) return { program, coefficients, origins: read }
  // What is made has a type of its own, so kernels are told the one type of the others: they are many times faster
  // then.
  const types = new Set(read.flatMap(({ whole, tensor }) => (whole === undefined ? [tensor.dtype] : [])))
  const [type = 'F32'] = types.size === 1 ? types : []
  const alike =
    types.size === 1 ? read : read.map((origin) => (origin.whole === undefined ? inFloat32(origin) : origin))
  const constants = { MODELS: kernelCode(type) }
  const kernels = program.kernels.map((step) => ({ ...step, constants: { ...step.constants, ...constants } }))
  return { program: { ...program, kernels }, coefficients, origins: alike }
}

function inFloat32(origin: Origin): Origin {
  const { name, dtype, shape } = origin.tensor
  if (dtype === 'F32') return origin
  const elements = shape.reduce((a, b) => a * b, 1)
  const operand = { first: 0, elements, program: linear, coefficients: [1], origins: [origin], key: name }
  const tensor: DerivedTensor = {
    name,
    file: -1,
    dtype: 'F32',
    shape,
    begin: 0,
    end: 4 * elements,
    as: 'F32',
    operands: [operand],
  }
  return { checkpoint: origin.checkpoint, tensor }
}

function picked(origins: readonly Origin[], inputs: readonly number[]): Origin[] {
  return inputs.flatMap((i) => origins[i] ?? [])
}
