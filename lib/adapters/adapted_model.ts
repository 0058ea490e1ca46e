/**
 * A model with adapters that is run without being folded to disk: the weights that adapters change are computed as
 * `lora fold` computes them, into memory, and all others are read where they lie.
 */

import { randomUUID } from 'node:crypto'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import {
  type Checkpoint,
  type CheckpointFile,
  type CheckpointTensor,
  layOut,
  type OutputLayout,
} from '../checkpoint/index.js'
import { type AdaptedModel, Models } from '../merge/index.js'
import { isDerived, joinPlans, type MergePlan, type PlannedTensor, planMerge, toNative } from '../merge/plan/index.js'
import { runPrepasses } from '../merge/prepasses.js'
import { loadRecipe } from '../merge/recipe/index.js'
import type { Host } from '../native/host.js'
import { untilDone } from '../native/job.js'
import { WeightsmithError } from '../util/errors.js'

/** Bytes of a piece of memory. */
const pieceBytes = 2 ** 30

export interface AdaptedOptions {
  signal?: AbortSignal | undefined
  /** Whether adapted weights are computed. Without, only headers are read, and they hold zeros. Defaults to true. */
  values?: boolean | undefined
  /** What the name stands for, where it is none of `model+adapter`. */
  adapted?: AdaptedModel | undefined
  /** Type of adapted weights, by its name in recipes. Defaults to that of the model. */
  dtype?: string | undefined
}

/**
 * The checkpoint of a folder or a name, or of `model+adapter`, whose adapted weights it holds in memory. Throws what
 * `foldAdapters` throws of adapters.
 */
export async function openWithAdapters(host: Host, path: string, options: AdaptedOptions = {}): Promise<Checkpoint> {
  const { signal, values = true, adapted, dtype } = options
  const { checkpoint, plan } = await planFold(host, path, { adapted, dtype })
  if (plan === undefined) return checkpoint
  // Tensors that the fold stores in another type are made too; where a type is given, only what is adapted has it.
  const isMade = ({ name, program }: PlannedTensor) => {
    const tensor = checkpoint.tensors.get(name)
    return (tensor !== undefined && isDerived(tensor)) || (dtype === undefined && program !== undefined)
  }
  const made = plan.tensors.filter(isMade)
  return values ? held(host, checkpoint, plan, made, signal) : unknown(checkpoint, made)
}

/** A model with adapters of which one tensor at a time is computed. */
export interface FoldedTensors {
  /** As it is with the adapters; what they change lies in no file. */
  checkpoint: Checkpoint
  /** Names of the tensors that they change. */
  changed: ReadonlySet<string>
  /** The bytes of such a tensor, as `lora fold` writes them. */
  compute(name: string, signal?: AbortSignal): Promise<Uint8Array>
}

/** The same of a model and its adapters, one tensor at a time. Throws what `foldAdapters` throws of adapters. */
export async function openFolded(host: Host, adapted: AdaptedModel): Promise<FoldedTensors> {
  const { checkpoint, plan } = await planFold(host, nameOf(adapted), { adapted })
  const isMade = ({ program, origins }: PlannedTensor) =>
    program !== undefined || origins.some(({ tensor }) => isDerived(tensor))
  const made = new Map((plan?.tensors ?? []).filter(isMade).map((tensor) => [tensor.name, tensor]))
  return {
    checkpoint,
    changed: new Set(made.keys()),
    async compute(name, signal) {
      const tensor = made.get(name)
      if (plan === undefined || tensor === undefined) {
        throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `No adapter changes ${name}.`)
      }
      const { layout, pieces } = await computed(host, plan, [tensor], signal)
      const { file = 0, offset = 0 } = layout.places.get(name) ?? {}
      return (pieces[file]?.memory ?? new Uint8Array()).subarray(offset, offset + tensor.bytes)
    },
  }
}

/** `model+adapter`, as names are written. */
export function nameOf({ model, adapters }: AdaptedModel): string {
  return [model, ...adapters.map(({ adapter }) => (typeof adapter === 'string' ? adapter : 'adapter'))].join('+')
}

/** The plan of a fold; nothing where a name stands for a model without adapters. */
async function planFold(
  host: Host,
  path: string,
  { adapted, dtype }: Pick<AdaptedOptions, 'adapted' | 'dtype'>,
): Promise<{ checkpoint: Checkpoint; plan?: MergePlan }> {
  const recipe = await loadRecipe({ merge_method: 'passthrough', models: [{ model: path }], ...(dtype && { dtype }) })
  const known = new Map(adapted === undefined ? [] : [[path, adapted]])
  const checkpoints = await new Models(host.addon, known).open(recipe)
  const checkpoint = checkpoints.get(path)
  if (checkpoint === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `${path} has not been opened.`)
  if (![...checkpoint.tensors.values()].some(isDerived)) return { checkpoint }
  return { checkpoint, plan: planMerge(recipe, checkpoints, { shardSize: pieceBytes }) }
}

/** Adapted weights without values: all in the same place. */
function unknown(checkpoint: Checkpoint, made: readonly PlannedTensor[]): Checkpoint {
  const size = Math.max(...made.map(({ bytes }) => bytes))
  return withTensors(checkpoint, [{ memory: new Uint8Array(size) }], made, () => ({ file: 0, offset: 0 }))
}

async function held(
  host: Host,
  checkpoint: Checkpoint,
  plan: MergePlan,
  made: PlannedTensor[],
  signal: AbortSignal | undefined,
): Promise<Checkpoint> {
  const { layout, pieces } = await computed(host, plan, made, signal)
  return withTensors(checkpoint, pieces, made, (name) => layout.places.get(name))
}

/** Some tensors of a plan, in memory. */
async function computed(
  { device, memory }: Host,
  plan: MergePlan,
  made: PlannedTensor[],
  signal: AbortSignal | undefined,
): Promise<{ layout: OutputLayout; pieces: { memory: Uint8Array }[] }> {
  const layout = layOut(made, pieceBytes)
  const joint = joinPlans([{ ...plan, tensors: made, layout }])
  const folder = join(tmpdir(), `weightsmith-${randomUUID()}`)
  const run = { memory, seed: 0, checksum: false, sync: false }
  const outputs = layout.files.map(({ size }) => ({ memory: new Uint8Array(size) }))
  try {
    const prepasses = await runPrepasses(joint, { ...run, folder }, (native) => untilDone(device.run(native), signal))
    const native = toNative(joint, join, {
      ...run,
      memory: prepasses.memory,
      folders: [''],
      prepasses: prepasses.places,
    })
    await untilDone(device.run({ ...native.plan, outputs }), signal)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
  return { layout, pieces: outputs }
}

/** The checkpoint with some of its tensors in memory. */
function withTensors(
  checkpoint: Checkpoint,
  pieces: readonly { memory: Uint8Array }[],
  made: readonly PlannedTensor[],
  placeOf: (name: string) => { file: number; offset: number } | undefined,
): Checkpoint {
  const files = pieces.map(({ memory }, i): CheckpointFile => {
    const path = `${checkpoint.name}: piece ${i + 1} in memory`
    return { path, name: path, size: memory.length, modified: 0, identity: path, headerHash: '', memory }
  })
  const tensors = new Map<string, CheckpointTensor>(checkpoint.tensors)
  for (const { name, dtype, shape, bytes } of made) {
    const { file = 0, offset = 0 } = placeOf(name) ?? {}
    tensors.set(name, {
      ...{ name, dtype, shape, begin: offset, end: offset + bytes },
      file: checkpoint.files.length + file,
    })
  }
  return { ...checkpoint, files: [...checkpoint.files, ...files], tensors }
}
