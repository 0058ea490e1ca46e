/**
 * From a recipe and opened checkpoints to a plan: every tensor of the output with its program, coefficients and byte
 * ranges. The plan is plain data; it can be shown (`--dry-run`) or handed to the engine. Nothing is read or
 * written here.
 */

import {
  bytesOf,
  type Checkpoint,
  isFloat,
  isLoadable,
  isStorable,
  layOut,
  type OutputLayout,
  storedAs,
  textConfig,
} from '../checkpoint/index.js'
import { WeightsmithError } from '../errors.js'
import type { Method, ParameterSpec, Scalar, Step } from '../methods/index.js'
import type { NativeJournal, NativePlan, NativeProgram, NativeTensorJob, StoreDType } from '../native/border.js'
import { evaluate, type Parameters, type Recipe } from '../recipe/index.js'
import { isBuffer, type Origin, type OutputSource, planSlices, planTensors } from './tensors.js'

export interface PlannedTensor {
  name: string
  dtype: string
  shape: number[]
  elements: number
  bytes: number
  /** The tensors that are read, in the order the program takes them. */
  origins: Origin[]
  /** Absent: the bytes of the one origin are copied. */
  program?: NativeProgram
  coefficients: number[]
}

export interface MergePlan {
  /** In the order of the network. */
  tensors: PlannedTensor[]
  layout: OutputLayout
  /** Model whose config and processors the output gets. */
  donor: Checkpoint
  /** The type most of the output's weights are stored as. */
  dtype?: StoreDType
  /** Layers of the output, where slices change them. */
  layers?: { count: number; kinds?: unknown[] }
  notes: string[]
}

export interface PlanOptions {
  dtype?: StoreDType | undefined
  shardSize: number
}

export function planMerge(
  recipe: Recipe,
  checkpoints: ReadonlyMap<string, Checkpoint>,
  options: PlanOptions,
): MergePlan {
  const checkpointOf = (model: string) => {
    const checkpoint = checkpoints.get(model)
    if (checkpoint !== undefined) return checkpoint
    throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `The model ${model} has not been opened.`)
  }
  const notes = [...recipe.notes]
  const globals = topLevelScalars(recipe)
  const base = recipe.base === undefined ? undefined : checkpointOf(recipe.base)
  const pretrained = typeof globals.pretrained === 'string' ? checkpointOf(globals.pretrained) : undefined
  const slices = planSlices(recipe, { globals, checkpointOf, ...(base && { base }), ...(pretrained && { pretrained }) })
  const donor = base ?? slices[0]?.inputs[0]?.checkpoint
  if (donor === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', 'The recipe has no models.')
  const asked = options.dtype ?? recipe.dtype
  const tensors = planTensors(slices, donor, recipe.sliced, notes).map((source) => planTensor(recipe, source, asked))
  const layout = layOut(tensors, options.shardSize)
  const dtype = mainType(tensors)
  return {
    tensors,
    layout,
    donor,
    ...(dtype === undefined ? {} : { dtype }),
    ...(recipe.sliced ? { layers: layersOf(slices) } : {}),
    notes,
  }
}

/** Parameters that decide about the whole merge (which inputs, in which order). */
function topLevelScalars(recipe: Recipe): Record<string, Scalar | undefined> {
  const values = recipe.method.parameters.map((spec) => {
    const value = recipe.parameters[spec.name] ?? spec.default
    return [spec.name, Array.isArray(value) ? undefined : value]
  })
  return Object.fromEntries(values)
}

function planTensor(recipe: Recipe, source: OutputSource, asked: StoreDType | undefined): PlannedTensor {
  const { name, origins } = source
  const [first] = origins
  if (first === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `Tensor ${name} has no origin.`)
  const { shape } = first.tensor
  const elements = shape.reduce((a, b) => a * b, 1)
  const same = { name, shape, elements }
  if (!isFloat(first.tensor.dtype) || isBuffer(name)) return copyOf(same, first)
  const step = recipe.method.step(parametersOf(recipe.method, recipe.parameters, source))
  const sole = 'copy' in step ? origins[step.copy] : undefined
  // a copy keeps a type that cannot be written by a kernel, unless another one is asked for
  const kept = recipe.method.needsBase || origins.length > 1 ? storedAs(first.tensor.dtype) : first.tensor.dtype
  const dtype = asked ?? kept
  if (sole !== undefined && sole.tensor.dtype === dtype) return copyOf(same, sole)
  const computed = asked ?? storedAs(first.tensor.dtype)
  const { program, coefficients, inputs }: Exclude<Step, { copy: number }> =
    'copy' in step
      ? { program: { kernels: [{ kernel: 'linear', writes: 'output' }] }, coefficients: [1], inputs: [step.copy] }
      : step
  const read = inputs === undefined ? origins : inputs.flatMap((i) => origins[i] ?? [])
  for (const { tensor, checkpoint } of read) {
    if (!isLoadable(tensor.dtype)) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_DTYPE',
        `Tensor ${tensor.name} of ${checkpoint.name} has the type ${tensor.dtype}, which cannot be computed with ` +
          '(F32, F16, BF16, F64, F8_E4M3 and F8_E5M2 can).',
        { tensor: tensor.name, file: checkpoint.path },
      )
    }
  }
  return { ...same, dtype: computed, bytes: elements * bytesOf(computed), origins: read, program, coefficients }
}

function copyOf(same: Pick<PlannedTensor, 'name' | 'shape' | 'elements'>, origin: Origin): PlannedTensor {
  const { dtype, begin, end } = origin.tensor
  return { ...same, dtype, bytes: end - begin, origins: [origin], coefficients: [] }
}

/** Values for one tensor; what is nearer to the model goes first: its own, the slice's, the recipe's, the default. */
function parametersOf(method: Method, top: Parameters, { name, t, slice }: OutputSource) {
  const resolveValue = (spec: ParameterSpec, levels: Parameters[], path: string): Scalar | undefined => {
    for (const level of levels) {
      const value = level[spec.name]
      const found = value === undefined ? undefined : evaluate(value, name, t)
      if (found !== undefined) return found
    }
    if (spec.default !== undefined || spec.optional) return spec.default
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_RECIPE',
      `${path}.${spec.name} of the recipe should be a ${spec.type}, which method ${method.name} needs, but is missing ` +
        `for tensor ${name}.`,
      { tensor: name },
    )
  }
  const values = (scope: ParameterSpec['scope'], levels: Parameters[], path: string) =>
    Object.fromEntries(
      method.parameters
        .filter((spec) => spec.scope === scope)
        .map((spec) => [spec.name, resolveValue(spec, levels, path)]),
    )
  return {
    global: values('global', [slice.parameters, top], 'parameters'),
    models: slice.models.map(({ parameters, path }) =>
      values('model', [parameters, slice.parameters, top], `${path}.parameters`),
    ),
  }
}

function mainType(tensors: PlannedTensor[]): StoreDType | undefined {
  const bytes = new Map<StoreDType, number>()
  for (const tensor of tensors) {
    if (isStorable(tensor.dtype)) bytes.set(tensor.dtype, (bytes.get(tensor.dtype) ?? 0) + tensor.elements)
  }
  return [...bytes].sort((a, b) => b[1] - a[1])[0]?.[0]
}

function layersOf(slices: ReturnType<typeof planSlices>): { count: number; kinds?: unknown[] } {
  const count = slices.reduce((sum, slice) => sum + slice.count, 0)
  const kinds = slices.flatMap((slice) => {
    const [input] = slice.inputs
    const types = input?.checkpoint.config && textConfig(input.checkpoint.config).layer_types
    return Array.isArray(types) ? types.slice(input?.first, (input?.first ?? 0) + slice.count) : []
  })
  return kinds.length === count && count > 0 ? { count, kinds } : { count }
}

export interface RunOptions {
  /** Folder the output files are made in. */
  folder: string
  memory: number
  seed: number
  checksum: boolean
  sync: boolean
  journal: NativeJournal
}

/** The plan as the engine takes it: files, programs, and jobs in the order of the output. */
export function toNative(plan: MergePlan, join: (folder: string, name: string) => string, run: RunOptions): NativePlan {
  const inputs: { path: string; size: number }[] = []
  const places = new Map<string, number>()
  const placeOf = ({ checkpoint, tensor }: Origin) => {
    const file = checkpoint.files[tensor.file]
    if (file === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `Tensor ${tensor.name} has no file.`)
    const known = places.get(file.path)
    if (known !== undefined) return known
    places.set(file.path, inputs.length)
    return inputs.push({ path: file.path, size: file.size }) - 1
  }
  const programs: NativeProgram[] = []
  const known = new Map<string, number>()
  const programOf = (program: NativeProgram | undefined) => {
    if (program === undefined) return -1
    const key = JSON.stringify(program)
    const index = known.get(key) ?? programs.push(program) - 1
    known.set(key, index)
    return index
  }
  const jobs = plan.tensors
    .filter((tensor) => tensor.elements > 0)
    .map((tensor): NativeTensorJob => {
      const place = plan.layout.places.get(tensor.name)
      if (place === undefined) {
        throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `Tensor ${tensor.name} has no place in the output.`)
      }
      return {
        name: tensor.name,
        program: programOf(tensor.program),
        elements: tensor.elements,
        ...(tensor.program?.rows ? { row: tensor.shape.at(-1) ?? 1 } : {}),
        inputs: tensor.origins.map((o) => ({ place: placeOf(o), offset: o.tensor.begin, dtype: o.tensor.dtype })),
        variants: [
          {
            coefficients: tensor.coefficients,
            output: { place: place.file, offset: place.offset, dtype: tensor.dtype },
          },
        ],
      }
    })
  const ordered = inOrder(jobs, programs)
  const { memory, seed, checksum, sync, journal } = run
  const outputs = plan.layout.files.map(({ name, size, header }) => ({ path: join(run.folder, name), size, header }))
  return { inputs, outputs, programs, jobs: ordered, memory, seed, checksum, sync, journal }
}

/**
 * In the order of the output, but for tensors that share their facts: these keep the order of the network among
 * themselves, because equal magnitudes are told apart by it, and a result must not depend on its shards.
 */
function inOrder(jobs: NativeTensorJob[], programs: NativeProgram[]): NativeTensorJob[] {
  const joint = (job: NativeTensorJob) => programs[job.program]?.shared === true
  const network = jobs.filter(joint).values()
  return [...jobs].sort(compareWrites).map((job) => (joint(job) ? (network.next().value ?? job) : job))
}

function compareWrites(a: NativeTensorJob, b: NativeTensorJob): number {
  const x = a.variants[0]?.output
  const y = b.variants[0]?.output
  if (x === undefined || y === undefined) return 0
  return x.place - y.place || x.offset - y.offset
}
