/**
 * What a recipe would do and cost, from headers alone: effective parameters, passes, bytes, memory, disk and time. No
 * weight is read and no device is opened, unless the caller asks for a measurement.
 */

import { access, statfs } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { layerOf } from '../checkpoint/index.js'
import {
  type DeviceSpeed,
  diskOf,
  keepMeasurements,
  type Measurements,
  measureDevice,
  measureDisk,
  readMeasurements,
} from '../engine/bandwidth.js'
import { Engine } from '../engine/engine.js'
import { layout } from '../native/layouts.js'
import { loadAddon } from '../native/load.js'
import { checkOptions, determinismOf, type MergeOptions, Models, prepareMerge, typeName } from './index.js'
import type { TensorParameters } from './methods/index.js'
import { joinPlans, type PlannedTensor, prepassToNative, toNative } from './plan/index.js'
import { loadRecipe, type RecipeInput } from './recipe/index.js'

const mebi = 2 ** 20

export interface ExplainOptions extends Pick<MergeOptions, 'dtype' | 'shardSize' | 'memory' | 'seed' | 'folder'> {
  /** Where the output is to be: its disk is the one that is looked at. Defaults to the current folder. */
  out?: string | undefined
  /** Open a device and measure the recipe's kernels and the disk now, instead of taking what `doctor` has kept. */
  measure?: boolean | undefined
  /** For `measure`: as for `Engine.open`. */
  device?: string | undefined
}

/** Tensors that get the same treatment. */
export interface ExplainGroup {
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

export interface ExplainReport {
  method: string
  determinism: 'exact' | 'tolerance'
  dtype: string
  /** How many checkpoints come out: 1, or as many as a sweep has points. The figures below are of all of them. */
  outputs: number
  tensors: { total: number; computed: number; copied: number }
  parameters: number
  groups: ExplainGroup[]
  bytes: { read: number; written: number }
  /** Bytes: the budget, and what the slots of the run take of it. */
  memory: { budget: number; slots: number }
  /** Bytes the output takes, and what its disk has free. */
  disk: { folder: string; needed: number; free: number }
  /** Milliseconds. Stages overlap: the whole takes from the longest of them to their sum. Absent: nothing is measured. */
  time?: { read: number; compute: number; write: number; atLeast: number; atMost: number }
  /** Where the figures of the estimate come from. */
  sources: string[]
  notes: string[]
}

/**
 * Plans a recipe and says what its merge would do and cost; nothing is written. Throws what planning a merge throws, such as
 * ERR_WEIGHTSMITH_RECIPE, _NOT_FOUND and _SHAPE_MISMATCH, and ERR_WEIGHTSMITH_OUT_OF_MEMORY where `memory` is too small.
 */
export async function explain(recipe: string | RecipeInput, options: ExplainOptions = {}): Promise<ExplainReport> {
  const { measure = false, out = '.', folder } = options
  const addon = loadAddon()
  const settings = checkOptions({ ...options, out })
  const checked = await loadRecipe(recipe, folder)
  const { outputs, checkpoints } = await prepareMerge(new Models(addon), checked, { ...options, out })
  const joint = joinPlans(outputs.map(({ plan }) => plan))
  const tensors = joint.plans.flatMap((plan) => plan.tensors)
  const used = new Set(tensors.flatMap(({ program }) => program?.kernels.map(({ kernel }) => kernel) ?? []))
  const disk = await existing(resolve(out))
  const known = measure ? await measureNow(disk, used, options) : await readMeasurements()
  const { device } = known
  const { maxBinding, slots } = device ?? { maxBinding: 128 * mebi, slots: 'staging' as const }
  const run = {
    ...settings,
    folders: outputs.map(({ label = '' }) => join(disk, label)),
    checksum: settings.checksum !== 'none',
    prepasses: joint.prepasses.map(({ bytes }, i) => ({ path: `prepass-${i}`, size: bytes })),
  }
  const native = toNative(joint, join, run)
  const forecast = addon.forecast(native.plan, { maxBinding, slots })
  const before = joint.prepasses.map((_, i) => addon.forecast(prepassToNative(joint, i, run), { maxBinding, slots }))
  const passes = new Map(
    native.owners.flatMap((owners, job) => owners.map(({ tensor }) => [tensor, forecast.passes[job] ?? 1] as const)),
  )
  const groups = groupTensors(tensors, passes)
  const { bavail, bsize } = await statfs(disk)
  const copied = tensors.filter(({ program }) => program === undefined).length
  const weights = joint.plans.reduce((sum, { layout }) => sum + layout.bytes, 0)
  const moved = {
    read: [forecast, ...before].reduce((sum, { bytesRead }) => sum + bytesRead, 0),
    written: joint.prepasses.reduce((sum, { bytes }) => sum + bytes, weights),
  }
  const inputs = new Set([...checkpoints.values()].map(({ path }) => path))
  const [first] = joint.plans
  return {
    method: checked.method.name,
    determinism: determinismOf(checked),
    dtype: first === undefined ? '' : typeName(first),
    outputs: outputs.length,
    tensors: { total: tensors.length, computed: tensors.length - copied, copied },
    parameters: tensors.reduce((sum, { elements }) => sum + elements, 0),
    groups,
    bytes: moved,
    memory: { budget: settings.memory, slots: Math.max(forecast.memory, ...before.map(({ memory }) => memory)) },
    disk: { folder: disk, needed: moved.written, free: bavail * bsize },
    ...(await estimate(known, tensors, { ...moved, out: disk, inputs })),
    notes: [...new Set(joint.plans.flatMap(({ notes }) => notes))],
  }
}

/** The folder itself, or the nearest one above it that is there. */
async function existing(folder: string): Promise<string> {
  const there = await access(folder).then(
    () => true,
    () => false,
  )
  return there || dirname(folder) === folder ? folder : existing(dirname(folder))
}

async function measureNow(folder: string, kernels: Set<string>, options: ExplainOptions): Promise<Measurements> {
  const disk = await measureDisk(folder, 256 * mebi)
  if ('write' in disk) await keepMeasurements({ disk })
  const engine = await Engine.open({ device: options.device, memory: options.memory })
  try {
    return await keepMeasurements({ device: await measureDevice(engine, new Set(['linear', ...kernels])) })
  } finally {
    await engine.close()
  }
}

/** One row for all tensors that are treated alike, whatever their number. */
function groupTensors(tensors: PlannedTensor[], passes: ReadonlyMap<PlannedTensor, number>): ExplainGroup[] {
  const groups = new Map<string, ExplainGroup & { numbers: Set<number>; names: Set<string> }>()
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
): Promise<Pick<ExplainReport, 'time' | 'sources'>> {
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
  const time = { read, compute, write, atLeast: Math.max(read, compute, write), atMost: read + compute + write }
  return { time, sources }
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
