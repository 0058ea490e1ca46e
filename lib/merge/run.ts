/**
 * A merge's run: outputs come into being beside their final names, which they get when all of them are whole; whatever
 * ends the run early leaves nothing under a final name.
 */

import { join } from 'node:path'
import { type Checkpoint, describeInputs, inputsOf, isComputed, refuseChanged, Stage } from '../checkpoint/index.js'
import { digest, type Run } from '../checkpoint/resume/index.js'
import { countDifferent } from '../lora/index.js'
import type { NativeAddon, NativeDevice, NativeJournal, NativeProgress, NativeReport } from '../native/border.js'
import { untilDone } from '../native/job.js'
import { version } from '../native/version.js'
import { throwIfAborted, WeightsmithError } from '../util/errors.js'
import { plural } from '../util/plural.js'
import { byteProgress } from '../util/progress.js'
import { writeFiles } from './files.js'
import { checkOptions, type MergeOptions, type Settings } from './options.js'
import { isCounted, isDerived, type JointPlan, type MergePlan, type PlannedTensor, toNative } from './plan/index.js'
import { checkTargets, type PreparedMerge, type Target } from './prepare.js'
import { runPrepasses } from './prepasses.js'
import { type AdaptedTensor, type RunReport, type StagedOutput, typeName } from './report.js'

/** What a run works with. */
export interface RunHost {
  addon: Pick<NativeAddon, 'sha256File' | 'lockFile'>
  device: NativeDevice
}

/** Outputs up to, and without, their final names; inputs that several need are read once. */
export async function stageMerge(
  { addon, device }: RunHost,
  prepared: PreparedMerge,
  options: MergeOptions,
): Promise<{ outputs: StagedOutput[]; run: RunReport }> {
  const settings = checkOptions(options)
  const { checkpoints } = prepared
  const { outputs, joint } = await checkTargets(prepared, options)
  const stages: Stage[] = []
  try {
    const journal = await openStages(addon, outputs, checkpoints, options, stages)
    throwIfAborted(options.signal, 'The merge')
    const { result, counts } = await compute(device, joint, stages, journal, options)
    const inputs = await describeInputs(addon, checkpoints, settings.checksum === 'full')
    const staged: StagedOutput[] = []
    let first = 0
    for (const [i, output] of outputs.entries()) {
      const stage = stages[i]
      if (stage === undefined) continue
      const count = output.plan.layout.files.length
      const checksums = result.checksums.slice(first, first + count)
      first += count
      const files = await writeFiles(stage, output, { ...settings, device, checkpoints, inputs, checksums })
      const own = counts.filter(({ plan }) => plan === i)
      const nonFinite = own.flatMap(({ tensor, nonFinite: count }) =>
        count > 0 ? [{ tensor: tensor.name, count }] : [],
      )
      const adapted = await adaptedTensors(output.plan, own)
      staged.push({ ...output, files, nonFinite, ...(adapted.length > 0 ? { adapted } : {}), stage })
    }
    await refuseChanged(checkpoints.values())
    throwIfAborted(options.signal, 'The merge')
    const { time, bytesRead, tiles, resumed } = result
    const { total, ...busy } = time
    const run = { bytesRead, tiles, resumed, device: device.info.name, timings: { run: total, ...busy } }
    return { outputs: staged, run }
  } catch (error) {
    const opened = stages.map((stage) => ({ stage }))
    throw await fail(opened, error)
  }
}

/** Gives outputs their final names. The first one has the journal, without which the others cannot be continued. */
export async function publishAll(outputs: { stage: Stage }[]): Promise<void> {
  for (const { stage } of [...outputs].reverse()) await stage.publish()
  for (const { stage } of outputs) await stage.finish()
}

/** Keeps what can be continued or removes all; the error says what is kept. */
export async function fail(outputs: { stage: Stage }[], error: unknown): Promise<unknown> {
  // The first one has the journal, on which it depends whether the others are kept.
  for (const { stage } of [...outputs].reverse()) {
    const partial = await stage.fail(error)
    if (partial !== undefined && error instanceof WeightsmithError) error.partial = partial
  }
  return error
}

/** Takes the folders of all outputs, into `stages`; gives the journal of a run that is long enough for one. */
async function openStages(
  addon: RunHost['addon'],
  outputs: Target[],
  checkpoints: ReadonlyMap<string, Checkpoint>,
  options: MergeOptions,
  stages: Stage[],
): Promise<NativeJournal | undefined> {
  const settings = checkOptions(options)
  const { resume = false, overwrite = false } = options
  const { sync, journalEvery: every } = settings
  const bytes = outputs.reduce((sum, { plan }) => sum + plan.layout.bytes, 0)
  // What takes no longer than a note is rather begun again.
  const noted = bytes > every
  const describe = (output: Target) => describeRun(output, checkpoints, settings)
  const runs = noted ? outputs.map(describe) : undefined
  const journal = runs && { path: '', run: digest(runs), resume: false, every }
  for (const [i, output] of outputs.entries()) {
    const run = () => runs?.[i] ?? describe(output)
    stages.push(await Stage.create(addon, output.target, { sync, resume, overwrite, run, noted, journal }))
  }
  if (journal) journal.resume = stages.every(({ resumed }) => resumed)
  return journal
}

/** Everything that decides about the bytes of the weights. */
function describeRun(
  { recipe, plan }: Target,
  checkpoints: ReadonlyMap<string, Checkpoint>,
  { seed, shardSize }: Settings,
): Run {
  const rows = plan.tensors.map(({ name, dtype, shape, origins, program, coefficients }) => [
    [name, dtype, shape, program, coefficients, plan.layout.places.get(name)],
    origins.map(({ checkpoint, tensor }) =>
      isDerived(tensor)
        ? tensor.operands.map((operand) => [operand.key, operand.elements, operand.program, operand.coefficients])
        : [checkpoint.files[tensor.file]?.path, tensor.begin, tensor.dtype],
    ),
  ])
  return {
    verb: 'merge',
    facts: {
      'version of Weightsmith': version,
      ...{ recipe: recipe.input, seed, type: typeName(plan), 'shard size': shardSize },
    },
    inputs: inputsOf(checkpoints.values()),
    plan: digest(rows),
  }
}

/** What kernels counted in a tensor of one of the plans. */
interface Counted extends Pick<NativeReport['counts'][number], 'nonFinite' | 'changed' | 'swallowed'> {
  plan: number
  tensor: PlannedTensor
}

/** What became of the tensors that adapters change. */
async function adaptedTensors({ tensors, replaced = [] }: MergePlan, counted: Counted[]): Promise<AdaptedTensor[]> {
  const found = new Map(counted.map((count) => [count.tensor, count]))
  const before = new Map(replaced.map((one) => [one.tensor, one.before]))
  const adapted: AdaptedTensor[] = []
  for (const tensor of tensors) {
    const { name, elements, origins } = tensor
    const was = before.get(tensor)
    if (was !== undefined && origins[0] !== undefined) {
      // Nothing is rounded where bytes are copied.
      const changed = await countDifferent(origins[0], was)
      adapted.push({ tensor: name, elements, changed, swallowed: 0 })
    } else if (isCounted(tensor)) {
      const { changed = 0, swallowed = 0 } = found.get(tensor) ?? {}
      adapted.push({ tensor: name, elements, changed, swallowed })
    }
  }
  return adapted
}

/** Makes what is made before the merge, then the weights of all outputs. */
async function compute(
  device: NativeDevice,
  joint: JointPlan,
  stages: Stage[],
  journal: NativeJournal | undefined,
  options: MergeOptions,
): Promise<{ result: NativeReport; counts: Counted[] }> {
  const settings = checkOptions(options)
  const { signal, onProgress } = options
  const folders = stages.map(({ folder }) => folder)
  const { memory, places, discard } = await runPrepasses(joint, { ...settings, folder: folders[0] ?? '' }, (native) =>
    untilDone(
      device.run(native, (event) => onProgress?.({ ...event, ...byteProgress('prepare', event), phase: 'prepare' })),
      signal,
    ),
  )
  const checksum = settings.checksum !== 'none'
  const native = toNative(joint, join, { ...settings, memory, folders, prepasses: places, journal, checksum })
  let latest: NativeProgress | undefined
  const job = device.run(native.plan, (event) => {
    latest = event
    onProgress?.({ ...event, ...byteProgress('run', event), phase: 'run' })
  })
  const result = await untilDone(job, signal)
  await discard()
  const counts = result.counts.flatMap(({ job, variant, ...counted }): Counted[] => {
    const owner = native.owners[job]?.[variant]
    return owner === undefined ? [] : [{ ...counted, ...owner }]
  })
  if (options.checkFinite) refuseNotFinite(counts)
  if (latest) onProgress?.({ ...latest, ...byteProgress('finish', latest), phase: 'finish' })
  return { result, counts }
}

/** Throws ERR_WEIGHTSMITH_NON_FINITE where a weight is not finite; masks may be. */
function refuseNotFinite(counts: Counted[]): void {
  const tensors = counts.filter(({ nonFinite, tensor }) => nonFinite > 0 && !isComputed(tensor))
  const [first] = tensors
  if (first === undefined) return
  const total = tensors.reduce((sum, { nonFinite }) => sum + nonFinite, 0)
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_NON_FINITE',
    `The result holds ${total} NaN or infinite values in ${plural(tensors.length, 'tensor')}; the first is ${first.tensor.name} with ` +
      `${first.nonFinite} of them.`,
    { tensor: first.tensor.name },
  )
}
