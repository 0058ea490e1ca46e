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
import { type AdaptedModel, type AdaptedModels, Models } from '../merge/index.js'
import { isDerived, joinPlans, type MergePlan, planMerge, toNative } from '../merge/plan/index.js'
import { runPrepasses } from '../merge/prepasses.js'
import { loadRecipe } from '../merge/recipe/index.js'
import type { Host } from '../native/host.js'
import { untilDone } from '../native/job.js'
import { WeightsmithError } from '../util/errors.js'

/** Bytes of a piece of memory. */
const pieceBytes = 2 ** 30

/**
 * The checkpoint of a folder or a name, or of `model+adapter`, whose adapted weights it holds in memory, in the type of
 * the model. Throws what `foldAdapters` throws of adapters.
 */
export async function openWithAdapters(
  host: Host,
  of: string | AdaptedModel,
  signal?: AbortSignal,
): Promise<Checkpoint> {
  const { checkpoint, plan } = await planFold(host, of)
  return plan === undefined ? checkpoint : held(host, checkpoint, plan, signal)
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
  const { checkpoint, plan } = await planFold(host, adapted)
  const made = new Map((plan === undefined ? [] : madeBy(plan)).map((tensor) => [tensor.name, tensor]))
  return {
    checkpoint,
    changed: new Set(made.keys()),
    async compute(name, signal) {
      const tensor = made.get(name)
      if (plan === undefined || tensor === undefined) {
        throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `No adapter changes ${name}.`)
      }
      const { layout, files } = await computed(host, checkpoint, plan, [tensor], signal)
      const { file = 0, offset = 0 } = layout.places.get(name) ?? {}
      return (files[file]?.memory ?? new Uint8Array()).subarray(offset, offset + tensor.bytes)
    },
  }
}

/** The plan of a fold; nothing where a name stands for a model without adapters. */
async function planFold(host: Host, of: string | AdaptedModel): Promise<{ checkpoint: Checkpoint; plan?: MergePlan }> {
  const named = typeof of !== 'string'
  const path = named ? [of.model, ...of.adapters.map(({ adapter }) => adapter)].join('+') : of
  const adapted: AdaptedModels = new Map(named ? [[path, of]] : [])
  const recipe = await loadRecipe({ merge_method: 'passthrough', models: [{ model: path }] })
  const checkpoints = await new Models(host.addon, adapted).open(recipe)
  const checkpoint = checkpoints.get(path)
  if (checkpoint === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `${path} has not been opened.`)
  if (![...checkpoint.tensors.values()].some(isDerived)) return { checkpoint }
  return { checkpoint, plan: planMerge(recipe, checkpoints, { shardSize: pieceBytes }) }
}

/** The tensors that adapters change. */
function madeBy(plan: MergePlan): MergePlan['tensors'] {
  return plan.tensors.filter(
    ({ program, origins }) => program !== undefined || origins.some(({ tensor }) => isDerived(tensor)),
  )
}

async function held(
  host: Host,
  checkpoint: Checkpoint,
  plan: MergePlan,
  signal: AbortSignal | undefined,
): Promise<Checkpoint> {
  const made = madeBy(plan)
  const { layout, files } = await computed(host, checkpoint, plan, made, signal)
  const tensors = new Map<string, CheckpointTensor>(checkpoint.tensors)
  for (const { name, dtype, shape, bytes } of made) {
    const { file = 0, offset = 0 } = layout.places.get(name) ?? {}
    tensors.set(name, {
      ...{ name, dtype, shape, begin: offset, end: offset + bytes },
      file: checkpoint.files.length + file,
    })
  }
  return { ...checkpoint, files: [...checkpoint.files, ...files], tensors }
}

/** Some tensors of a plan in memory, as files. */
async function computed(
  { device, memory }: Host,
  checkpoint: Checkpoint,
  plan: MergePlan,
  made: MergePlan['tensors'],
  signal: AbortSignal | undefined,
): Promise<{ layout: OutputLayout; files: CheckpointFile[] }> {
  const layout = layOut(made, pieceBytes)
  const joint = joinPlans([{ ...plan, tensors: made, layout }])
  const folder = join(tmpdir(), `weightsmith-${randomUUID()}`)
  const run = { memory, seed: 0, checksum: false, sync: false }
  const files = layout.files.map(({ name, size }): CheckpointFile => {
    const path = `${checkpoint.name}: ${name} in memory`
    return { path, name, size, modified: 0, identity: path, headerHash: '', memory: new Uint8Array(size) }
  })
  try {
    const prepasses = await runPrepasses(joint, { ...run, folder }, (native) => untilDone(device.run(native), signal))
    const native = toNative(joint, join, {
      ...run,
      memory: prepasses.memory,
      folders: [''],
      prepasses: prepasses.places,
    })
    const outputs = files.map((file) => ({ memory: file.memory ?? new Uint8Array() }))
    await untilDone(device.run({ ...native.plan, outputs }), signal)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
  return { layout, files }
}
