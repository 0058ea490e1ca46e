/**
 * What a merge would do and cost, from its plan and from what was measured before: effective parameters, passes, bytes,
 * memory, disk and time. No weight is read.
 */

import { access, statfs } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { layerOf } from '../checkpoint/index.js'
import { type DeviceSpeed, diskOf, type Measurements } from '../engine/bandwidth.js'
import type { NativeAddon } from '../native/border.js'
import { layout } from '../native/layouts.js'
import type { PlannedOutput, PreparedMerge, Target } from './index.js'
import { checkOptions, type MergeOptions, type MergePlanRow, type MergeReport, planRows, summary } from './index.js'
import type { TensorParameters } from './methods/index.js'
import { joinPlans, type PlannedTensor, prepassToNative, toNative } from './plan/index.js'

const mebi = 2 ** 20

/** Tensors that get the same treatment. */
export interface ForecastGroup {
  /** Numbers of the layers, such as `0-3, 8`; empty for tensors outside the layers. */
  layers: string
  /** Names within a layer, or whole names outside of them. */
  modules: string[]
  tensors: number
  dtype: string
  /** Kernels in order; empty for a copy of bytes. */
  kernels: string[]
  /** How often the inputs are read. */
  passes: number
  /** What the recipe comes to for these tensors; absent where the method has no say, as for integers. */
  parameters?: Pick<TensorParameters, 'global' | 'models'>
  /** Numbers that the program gets. */
  coefficients: number[]
  bytesRead: number
  bytesWritten: number
}

/** In a sweep the figures are of all outputs together. */
export interface MergeForecast
  extends Pick<MergeReport, 'out' | 'method' | 'determinism' | 'seed' | 'dtype' | 'tensors' | 'parameters' | 'files'> {
  /** Folders of the outputs of a sweep, within `out`. */
  sweep?: string[]
  groups: ForecastGroup[]
  /** What is done, tensor by tensor. */
  plan: MergePlanRow[]
  bytesRead: number
  /** Of weights, and of files that are there for the time of the merge. */
  bytesWritten: number
  /** Bytes that the buffers take, of `memory`, the budget. */
  deviceBytes: number
  memory: number
  /** Bytes that the output takes, and that its disk has free. */
  disk: { folder: string; needed: number; free: number }
  /**
   * An estimate, the longest of `timings`: stages overlap. At most it takes their sum. Absent where nothing was
   * measured.
   */
  milliseconds?: number
  timings?: { read: number; compute: number; write: number }
  /** Where the figures of the estimate come from. */
  sources: string[]
  notes: string[]
}

/** What the slots of a run depend on; the defaults are those of most devices. */
export interface DeviceLimits {
  /** Bytes that one binding may have. */
  maxBinding: number
  slots: 'mapped' | 'staging'
}

const usualLimits: DeviceLimits = { maxBinding: 128 * mebi, slots: 'staging' }

/** Names of the kernels that a merge runs. */
export function kernelsOf(outputs: readonly PlannedOutput[]): Set<string> {
  const tensors = outputs.flatMap(({ plan }) => plan.tensors)
  return new Set(tensors.flatMap(({ program }) => program?.kernels.map(({ kernel }) => kernel) ?? []))
}

/** `known`: what was measured; `limits`: of the device, if one is open. */
export async function forecastMerge(
  addon: Pick<NativeAddon, 'forecast'>,
  { checkpoints, outputs }: Pick<PreparedMerge, 'checkpoints'> & { outputs: Target[] },
  options: MergeOptions,
  { known, limits = known.device ?? usualLimits }: { known: Measurements; limits?: DeviceLimits | undefined },
): Promise<MergeForecast> {
  const settings = checkOptions(options)
  const joint = joinPlans(outputs.map(({ plan }) => plan))
  const tensors = joint.plans.flatMap((plan) => plan.tensors)
  const { maxBinding, slots } = limits
  const run = {
    ...settings,
    folders: outputs.map(({ target }) => target),
    checksum: settings.checksum !== 'none',
    prepasses: joint.prepasses.map(({ bytes }, i) => ({ path: `prepass-${i}`, size: bytes })),
  }
  const native = toNative(joint, join, run)
  const forecast = addon.forecast(native.plan, { maxBinding, slots })
  const before = joint.prepasses.map((_, i) => addon.forecast(prepassToNative(joint, i, run), { maxBinding, slots }))
  const passes = new Map(
    native.owners.flatMap((owners, job) => owners.map(({ tensor }) => [tensor, forecast.passes[job] ?? 1] as const)),
  )
  const disk = await existing(outputs[0]?.target ?? '.')
  const { bavail, bsize } = await statfs(disk)
  const copied = tensors.filter(({ program }) => program === undefined).length
  const weights = joint.plans.reduce((sum, { layout }) => sum + layout.bytes, 0)
  const moved = {
    read: [forecast, ...before].reduce((sum, { bytesRead }) => sum + bytesRead, 0),
    written: joint.prepasses.reduce((sum, { bytes }) => sum + bytes, weights),
  }
  const inputs = new Set([...checkpoints.values()].map(({ path }) => path))
  const { out, method, determinism, seed, dtype, files, sweep } = summary(outputs, options.out, settings.seed)
  return {
    ...{ out, method, determinism, seed, dtype, files },
    ...(sweep && { sweep: sweep.map(({ label }) => label) }),
    tensors: { total: tensors.length, computed: tensors.length - copied, copied },
    parameters: tensors.reduce((sum, { elements }) => sum + elements, 0),
    groups: groupTensors(tensors, passes),
    plan: outputs.flatMap(({ plan, label }) => planRows(plan, label)),
    bytesRead: moved.read,
    bytesWritten: moved.written,
    deviceBytes: Math.max(forecast.memory, ...before.map(({ memory }) => memory)),
    memory: settings.memory,
    disk: { folder: disk, needed: moved.written, free: bavail * bsize },
    ...(await estimate(known, tensors, { ...moved, out: disk, inputs })),
    notes: [...new Set(joint.plans.flatMap(({ notes }) => notes))],
  }
}

/** The folder itself, or the nearest one above it that is there. */
export async function existing(folder: string): Promise<string> {
  const there = await access(folder).then(
    () => true,
    () => false,
  )
  return there || dirname(folder) === folder ? folder : existing(dirname(folder))
}

/** One row for all tensors that are treated alike, whatever their number. */
function groupTensors(tensors: PlannedTensor[], passes: ReadonlyMap<PlannedTensor, number>): ForecastGroup[] {
  const groups = new Map<string, ForecastGroup & { numbers: Set<number>; names: Set<string> }>()
  // Many tensors share one object.
  const texts = new Map<object, string>()
  const textOf = (shared: object) => {
    const text = texts.get(shared) ?? JSON.stringify(shared)
    texts.set(shared, text)
    return text
  }
  for (const tensor of tensors) {
    const { name, dtype, program, parameters, coefficients, origins, bytes } = tensor
    const at = layerOf(name)
    const kernels = program?.kernels.map(({ kernel }) => kernel) ?? []
    const read = passes.get(tensor) ?? 1
    const key = [at !== undefined, dtype, kernels, read, coefficients, parameters && textOf(parameters)].join(' ')
    let group = groups.get(key)
    if (group === undefined) {
      const empty = { layers: '', modules: [], tensors: 0, bytesRead: 0, bytesWritten: 0 }
      const treatment = { dtype, kernels, passes: read, coefficients, ...(parameters && { parameters }) }
      group = { ...empty, ...treatment, numbers: new Set(), names: new Set() }
      groups.set(key, group)
    }
    group.tensors++
    group.bytesRead += read * origins.reduce((sum, { tensor }) => sum + tensor.end - tensor.begin, 0)
    group.bytesWritten += bytes
    if (at !== undefined) group.numbers.add(at.index)
    group.names.add(at?.rest ?? name)
  }
  return [...groups.values()].map(({ numbers, names, ...group }) => ({
    ...group,
    layers: ranges([...numbers].sort((a, b) => a - b)),
    modules: [...names],
  }))
}

/** `0-3, 8`. */
function ranges(numbers: number[]): string {
  const runs: [number, number][] = []
  for (const number of numbers) {
    const last = runs.at(-1)
    if (last !== undefined && number === last[1] + 1) last[1] = number
    else runs.push([number, number])
  }
  return runs.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(', ')
}

interface Moved {
  read: number
  written: number
  out: string
  inputs: Iterable<string>
}

async function estimate(
  known: Measurements,
  tensors: PlannedTensor[],
  { read: bytes, written, out, inputs }: Moved,
): Promise<Pick<MergeForecast, 'milliseconds' | 'timings' | 'sources'>> {
  const target = known.disks[await diskOf(out)]
  const { device } = known
  if (target === undefined || device === undefined) {
    const what = [...(target ? [] : [`the disk of ${out}`]), ...(device ? [] : ['the kernels'])].join(' and ')
    return {
      sources: [`No time is estimated: ${what} have not been measured; run doctor --folder ${out}, or ask to measure.`],
    }
  }
  const sources = [
    `Kernels: measured on ${device.name}.`,
    `Disk: measured in ${target.folder}; reading is from the page cache, a cold disk takes longer.`,
  ]
  // The slowest of the inputs' disks bounds the reads.
  let reading = target.read
  for (const path of inputs) {
    const speed = known.disks[await diskOf(path)]
    if (speed === undefined)
      sources.push(`The disk of ${path} has not been measured; it is taken to be as fast as that of ${out}.`)
    else reading = Math.min(reading, speed.read)
  }
  const { milliseconds: compute, unmeasured } = computeTime(tensors, device)
  if (unmeasured.size > 0) {
    sources.push(
      `Not measured, and taken to be as fast as linear: ${[...unmeasured].join(', ')}; ask to measure for better figures.`,
    )
  }
  const read = (bytes / reading) * 1e3
  const write = (written / target.write) * 1e3
  return { milliseconds: Math.max(read, compute, write), timings: { read, compute, write }, sources }
}

function computeTime(tensors: PlannedTensor[], { kernels }: DeviceSpeed) {
  const unmeasured = new Set<string>()
  let milliseconds = 0
  for (const { program, origins, bytes, elements } of tensors) {
    const read = origins.reduce((sum, { tensor }) => sum + tensor.end - tensor.begin, 0)
    for (const { kernel, writes } of program?.kernels ?? []) {
      const rate = kernels[kernel] ?? kernels.linear
      if (kernels[kernel] === undefined) unmeasured.add(kernel)
      const result = writes === 'output' ? bytes : 4 * writes * Math.ceil(elements / layout.block)
      if (rate !== undefined) milliseconds += ((read + result) / rate) * 1e3
    }
  }
  return { milliseconds, unmeasured }
}
