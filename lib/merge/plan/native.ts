/**
 * Plans as the engine takes them: files, programs, and jobs in the order of the output. Plans of a sweep become one:
 * tensors that differ in their coefficients alone are variants of one job, which reads its inputs once.
 */

import { bytesOf, type Checkpoint, type CheckpointTensor, isLoadable } from '../../checkpoint/index.js'
import type {
  NativeJournal,
  NativePlace,
  NativePlan,
  NativeProgram,
  NativeTensorJob,
  NativeVariant,
} from '../../native/border.js'
import { WeightsmithError } from '../../util/errors.js'
import { type DerivedTensor, isDerived, type Prepass } from './derived.js'
import type { JointPlan } from './joint.js'
import type { Origin, PlannedTensor } from './planned.js'

export interface RunOptions {
  /** Folder the output files are made in, one a plan. */
  folders: string[]
  memory: number
  seed: number
  checksum: boolean
  sync: boolean
  /** Where the tensors of each prepass lie. */
  prepasses: NativePlace[]
  /** Where finished jobs are noted, if they are. */
  journal?: NativeJournal | undefined
}

export interface NativeRun {
  plan: NativePlan
  /** Plan and tensor of each variant of each job. */
  owners: { plan: number; tensor: PlannedTensor }[][]
}

interface Owned {
  job: NativeTensorJob
  owners: NativeRun['owners'][number]
}

export function toNative(
  { plans, prepasses }: JointPlan,
  join: (folder: string, name: string) => string,
  run: RunOptions,
): NativeRun {
  const sources = new Sources(prepasses, run.prepasses)
  const outputs: NativePlan['outputs'] = []
  const jobs: Owned[] = []
  const known = new Map<string, Owned>()
  for (const [index, { tensors, layout }] of plans.entries()) {
    const before = outputs.length
    const folder = run.folders[index] ?? ''
    for (const { name, size, header } of layout.files) outputs.push({ path: join(folder, name), size, header })
    for (const tensor of tensors) {
      if (tensor.elements === 0) continue
      const place = layout.places.get(tensor.name)
      if (place === undefined) {
        throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `Tensor ${tensor.name} has no place in the output.`)
      }
      const output = { place: before + place.file, offset: place.offset, dtype: tensor.dtype }
      const variant: NativeVariant = { coefficients: tensor.coefficients, output }
      const owner = { plan: index, tensor }
      const job = jobOf(tensor, sources, index)
      const alone = plans.length === 1 || tensor.program?.shared === true
      const key = alone ? undefined : JSON.stringify([job, tensor.dtype])
      const same = key === undefined ? undefined : known.get(key)
      if (same === undefined) {
        const entry = { job: { ...job, variants: [variant] }, owners: [owner] }
        jobs.push(entry)
        if (key !== undefined) known.set(key, entry)
      } else {
        same.job.variants.push(variant)
        same.owners.push(owner)
      }
    }
  }
  const { inputs, programs } = sources
  const ordered = inOrder(jobs, programs)
  const { memory, seed, checksum, sync, journal } = run
  return {
    plan: {
      inputs,
      outputs,
      programs,
      jobs: ordered.map(({ job }) => job),
      memory,
      seed,
      checksum,
      sync,
      ...(journal && { journal }),
    },
    owners: ordered.map(({ owners }) => owners),
  }
}

/** Tensors of one plan that share their facts share them with no other plan. */
function jobOf(tensor: PlannedTensor, sources: Sources, plan: number): Omit<NativeTensorJob, 'variants'> {
  return {
    name: tensor.key ?? tensor.name,
    program: sources.programOf(tensor.program, plan),
    elements: tensor.elements,
    ...rowOf(tensor.program, tensor.shape),
    inputs: tensor.origins.map((origin) => sources.inputOf(origin)),
  }
}

/**
 * In the order of the output, but for tensors that share their facts: these keep the order of the network among
 * themselves, because equal magnitudes are told apart by it, and a result must not depend on its shards.
 */
function inOrder(jobs: Owned[], programs: NativeProgram[]): Owned[] {
  const joint = ({ job }: Owned) => programs[job.program]?.shared === true
  const network = jobs.filter(joint).values()
  const written = [...jobs].sort((a, b) => compareWrites(a.job, b.job))
  return written.map((entry) => (joint(entry) ? (network.next().value ?? entry) : entry))
}

function rowOf(program: NativeProgram | undefined, shape: number[]): { row?: number } {
  return program?.rows ? { row: shape.at(-1) ?? 1 } : {}
}

/** What makes the tensors of one prepass, at `run.prepasses[index]`. */
export function prepassToNative(
  { prepasses: all }: Pick<JointPlan, 'prepasses'>,
  index: number,
  run: Pick<RunOptions, 'prepasses' | 'memory' | 'seed'>,
): NativePlan {
  const { prepasses, memory, seed } = run
  const output = prepasses[index]
  const prepass = all[index]
  if (output === undefined || prepass === undefined) {
    throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `There is no prepass ${index} to make.`)
  }
  const sources = new Sources(all, prepasses)
  const jobs: NativeTensorJob[] = []
  for (const [tensor, place] of prepass.places) {
    const width = isLoadable(tensor.dtype) ? bytesOf(tensor.dtype) : 1
    for (const operand of tensor.operands) {
      if (operand.elements === 0) continue
      jobs.push({
        name: operand.key,
        program: sources.programOf(operand.program, tensor.together),
        elements: operand.elements,
        ...rowOf(operand.program, tensor.shape),
        inputs: operand.origins.map((origin) => sources.inputOf(origin)),
        variants: [
          {
            coefficients: operand.coefficients,
            output: { place: 0, offset: place + operand.first * width, dtype: tensor.dtype },
          },
        ],
      })
    }
  }
  jobs.sort(compareWrites)
  const { inputs, programs } = sources
  return { inputs, outputs: [output], programs, jobs, memory, seed, checksum: false, sync: false }
}

/** Files and programs of a native plan, each once. */
class Sources {
  readonly inputs: NativePlace[] = []
  readonly programs: NativeProgram[] = []
  private readonly places = new Map<string, number>()
  private readonly known = new Map<string, number>()
  private readonly shared = new Map<unknown, Map<string, number>>()

  constructor(
    private readonly prepasses: Prepass[],
    private readonly made: NativePlace[],
  ) {}

  /** A program that shares facts between its jobs is another one for each `owner` of such facts. */
  programOf(program: NativeProgram | undefined, owner: unknown): number {
    if (program === undefined) return -1
    const known = program.shared ? (this.shared.get(owner) ?? new Map<string, number>()) : this.known
    if (program.shared) this.shared.set(owner, known)
    const key = JSON.stringify(program)
    const index = known.get(key) ?? this.programs.push(program) - 1
    known.set(key, index)
    return index
  }

  inputOf({ checkpoint, tensor, skip = 0, whole }: Origin): NativeTensorJob['inputs'][number] {
    const { place, offset } = isDerived(tensor) ? this.madeAt(tensor) : this.storedAt(checkpoint, tensor)
    return { place, offset: offset + skip, dtype: tensor.dtype, ...(whole === undefined ? {} : { whole }) }
  }

  private storedAt(checkpoint: Checkpoint, tensor: CheckpointTensor): { place: number; offset: number } {
    const file = checkpoint.files[tensor.file]
    if (file === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `Tensor ${tensor.name} has no file.`)
    const { path, size, memory } = file
    return { place: this.placeOf(path, memory === undefined ? { path, size } : { memory }), offset: tensor.begin }
  }

  private madeAt(tensor: DerivedTensor): { place: number; offset: number } {
    const index = this.prepasses.findIndex(({ places }) => places.has(tensor))
    const made = this.made[index]
    if (made === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `Tensor ${tensor.name} is not made.`)
    return { place: this.placeOf(`prepass ${index}`, made), offset: this.prepasses[index]?.places.get(tensor) ?? 0 }
  }

  private placeOf(key: string, place: NativePlace): number {
    const index = this.places.get(key) ?? this.inputs.push(place) - 1
    this.places.set(key, index)
    return index
  }
}

function compareWrites(a: NativeTensorJob, b: NativeTensorJob): number {
  const x = a.variants[0]?.output
  const y = b.variants[0]?.output
  if (x === undefined || y === undefined) return 0
  return x.place - y.place || x.offset - y.offset
}
