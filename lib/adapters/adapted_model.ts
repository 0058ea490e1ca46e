/**
 * A model with adapters that is run without being folded to disk: the weights that adapters change are computed as
 * `lora fold` computes them, into memory, and all others are read where they lie.
 */

import { randomUUID } from 'node:crypto'
import { rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Checkpoint, type CheckpointFile, type CheckpointTensor, layOut } from '../checkpoint/index.js'
import { Models } from '../merge/index.js'
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
export async function openWithAdapters(host: Host, path: string, signal?: AbortSignal): Promise<Checkpoint> {
  const recipe = await loadRecipe({ merge_method: 'passthrough', models: [{ model: path }] })
  const checkpoints = await new Models(host.addon).open(recipe)
  const checkpoint = checkpoints.get(path)
  if (checkpoint === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `${path} has not been opened.`)
  if (![...checkpoint.tensors.values()].some(isDerived)) return checkpoint
  return held(host, checkpoint, planMerge(recipe, checkpoints, { shardSize: pieceBytes }), signal)
}

async function held(
  { device, memory }: Host,
  checkpoint: Checkpoint,
  plan: MergePlan,
  signal: AbortSignal | undefined,
): Promise<Checkpoint> {
  const made = plan.tensors.filter(
    ({ program, origins }) => program !== undefined || origins.some(({ tensor }) => isDerived(tensor)),
  )
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
