/**
 * How far one checkpoint has moved from another, per tensor, layer and module. One reduce kernel reads both files once;
 * its partial sums are added in float64, so groups of tensors come from exact sums of tensors.
 */

import { type AdaptedOptions, openWithAdapters } from '../adapters/adapted_model.js'
import {
  type Checkpoint,
  type CheckpointTensor,
  isLoadable,
  layerOf,
  type Module,
  moduleOf,
  modules,
  refuseQuantised,
} from '../checkpoint/index.js'
import type { Engine } from '../engine/engine.js'
import type { NativePlan } from '../native/border.js'
import type { Host } from '../native/host.js'
import { untilDone } from '../native/job.js'
import type { DryRun } from '../util/dry_run.js'
import { throwIfAborted, WeightsmithError } from '../util/errors.js'
import { byteProgress, type ProgressEvent } from '../util/progress.js'

export interface DiffStats {
  tensors: number
  parameters: number
  /** Mean |Δ|, Δ = b - a. */
  meanAbs: number
  /** ‖Δ‖ / ‖a‖; null where a is all zeros and b is not. */
  relative: number | null
  /** Share of elements with |Δ| > 1e-5. */
  changed: number
  maxAbs: number
  /** Cosine of a and b; null where one of them is all zeros. */
  cosine: number | null
  /** Elements that are NaN or infinite in a or b; they are left out of the rest. */
  nonFinite: number
}

/** One layer's part of one module. */
export interface DiffCell extends DiffStats {
  layer: string
  module: Module
}

export interface DiffSkipped {
  tensor: string
  reason: string
}

export interface DiffReport {
  a: string
  b: string
  device: string
  total: DiffStats
  layers: ({ layer: string } & DiffStats)[]
  modules: ({ module: Module } & DiffStats)[]
  cells: DiffCell[]
  tensors: ({ name: string; layer: string; module: Module } & DiffStats)[]
  /** What could not be compared. */
  skipped: DiffSkipped[]
  bytesRead: number
  milliseconds: number
}

export interface DiffOptions {
  /** Check everything and estimate the cost, but compare nothing. */
  dryRun?: boolean | undefined
  signal?: AbortSignal | undefined
  onProgress?: ((event: ProgressEvent) => void) | undefined
}

export interface DiffForecast {
  a: string
  b: string
  /** Tensors that would be compared. */
  tensors: number
  bytesRead: number
  /** Bytes that the slots of the run would take. */
  deviceBytes: number
  device: string
  /** An estimate, from a part of the largest tensor. */
  milliseconds: number
}

/**
 * Compares two checkpoints: folders, .safetensors files, models of the local Hugging Face cache, each maybe with an
 * adapter behind it (`model+adapter`). Throws
 * ERR_WEIGHTSMITH_MISSING_TENSOR where they have no tensor in common.
 */
export function diff(
  engine: Engine,
  a: string,
  b: string,
  options: DiffOptions & { dryRun: true },
): Promise<DryRun<DiffForecast>>
export function diff(
  engine: Engine,
  a: string,
  b: string,
  options?: DiffOptions & { dryRun?: false | undefined },
): Promise<DiffReport>
export function diff(
  engine: Engine,
  a: string,
  b: string,
  options: DiffOptions,
): Promise<DiffReport | DryRun<DiffForecast>>
export async function diff(
  engine: Engine,
  a: string,
  b: string,
  options: DiffOptions = {},
): Promise<DiffReport | DryRun<DiffForecast>> {
  const { signal, onProgress } = options
  throwIfAborted(signal, what)
  return engine.use(async (host) => {
    const pair = await openPair(host, a, b, { signal, values: !options.dryRun })
    const { left, right, pairs, skipped } = pair
    throwIfAborted(signal, what)
    if (options.dryRun) return { forecast: { a, b, ...(await forecast(host, pair, signal)) } }
    const { device, memory } = host
    const job = device.run({ ...plan(left, right, pairs), memory }, (counts) =>
      onProgress?.(byteProgress('compare', counts)),
    )
    const { results, time, bytesRead } = await untilDone(job, signal)
    const rows = pairs.map(({ one }, i) => ({ name: one.name, sums: toSums(one, results[i] ?? new Float64Array(8)) }))
    return { a, b, device: device.info.name, ...report(rows), skipped, bytesRead, milliseconds: time.total }
  })
}

/** What the comparison would take. */
async function forecast(
  { addon, device, memory }: Host,
  { left, right, pairs }: Opened,
  signal: AbortSignal | undefined,
): Promise<Omit<DiffForecast, 'a' | 'b'>> {
  const { maxStorageBufferBindingSize: maxBinding = 2 ** 27 } = device.info.limits
  const all = addon.forecast({ ...plan(left, right, pairs), memory }, { maxBinding, slots: device.slots })
  const largest = pairs.reduce((most, pair) => (elementsOf(pair.one) > elementsOf(most.one) ? pair : most))
  const shape = [Math.min(elementsOf(largest.one), sampleElements)]
  const sample = { ...plan(left, right, [{ ...largest, one: { ...largest.one, shape } }]), memory }
  let pace = 0
  // The first run compiles the kernel.
  for (let run = 0; run < 2; run++) {
    throwIfAborted(signal, what)
    const { time, bytesRead } = await untilDone(device.run(sample), signal)
    pace = time.total / bytesRead
  }
  const { bytesRead } = all
  const milliseconds = pace * bytesRead
  return { tensors: pairs.length, bytesRead, deviceBytes: all.memory, device: device.info.name, milliseconds }
}

const what = 'The comparison'
/** Elements that an estimate is made of. */
const sampleElements = 2 ** 22

/** Two checkpoints, and the tensors that can be compared. */
async function openPair(host: Host, a: string, b: string, options: AdaptedOptions): Promise<Opened> {
  const [left, right] = [await openWithAdapters(host, a, options), await openWithAdapters(host, b, options)]
  for (const model of [left, right]) refuseQuantised(model, 'convert it to float16 or bfloat16 before it is compared')
  return { left, right, ...pair(left, right) }
}

interface Opened {
  left: Checkpoint
  right: Checkpoint
  pairs: Pair[]
  skipped: DiffSkipped[]
}

interface Pair {
  one: CheckpointTensor
  two: CheckpointTensor
}

function pair(a: Checkpoint, b: Checkpoint): { pairs: Pair[]; skipped: DiffSkipped[] } {
  const pairs: Pair[] = []
  const skipped: DiffSkipped[] = []
  for (const [name, one] of a.tensors) {
    const two = b.tensors.get(name)
    const reason =
      two === undefined
        ? `is not in ${b.name}`
        : String(one.shape) !== String(two.shape)
          ? `has the shape [${one.shape}] in ${a.name} and [${two.shape}] in ${b.name}`
          : !isLoadable(one.dtype) || !isLoadable(two.dtype)
            ? `is ${isLoadable(one.dtype) ? two.dtype : one.dtype}, which is not compared`
            : undefined
    if (two !== undefined && reason === undefined) pairs.push({ one, two })
    else skipped.push({ tensor: name, reason: reason ?? '' })
  }
  for (const name of b.tensors.keys()) {
    if (!a.tensors.has(name)) skipped.push({ tensor: name, reason: `is not in ${a.name}` })
  }
  if (pairs.length === 0) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_MISSING_TENSOR',
      `The checkpoints ${a.name} and ${b.name} have no tensor in common that can be compared.`,
    )
  }
  return { pairs: pairs.sort((x, y) => x.one.file - y.one.file || x.one.begin - y.one.begin), skipped }
}

function plan(a: Checkpoint, b: Checkpoint, pairs: Pair[]): Omit<NativePlan, 'memory'> {
  return {
    inputs: [...a.files, ...b.files].map(({ path, size, memory }) =>
      memory === undefined ? { path, size } : { memory },
    ),
    outputs: [],
    programs: [{ cpuStep: 'diff', kernels: [{ kernel: 'diff', writes: 8 }] }],
    jobs: pairs.map(({ one, two }) => ({
      name: one.name,
      program: 0,
      elements: elementsOf(one),
      inputs: [
        { place: one.file, offset: one.begin, dtype: one.dtype },
        { place: a.files.length + two.file, offset: two.begin, dtype: two.dtype },
      ],
      variants: [{ coefficients: [] }],
    })),
    seed: 0,
    checksum: false,
    sync: false,
  }
}

function elementsOf({ shape }: CheckpointTensor): number {
  return shape.reduce((a, b) => a * b, 1)
}

interface Sums {
  tensors: number
  elements: number
  abs: number
  squares: number
  aa: number
  bb: number
  ab: number
  changed: number
  max: number
  nonFinite: number
}

const none: Sums = {
  tensors: 0,
  elements: 0,
  abs: 0,
  squares: 0,
  aa: 0,
  bb: 0,
  ab: 0,
  changed: 0,
  max: 0,
  nonFinite: 0,
}

function toSums(tensor: CheckpointTensor, row: Float64Array): Sums {
  const [abs = 0, squares = 0, aa = 0, bb = 0, ab = 0, changed = 0, max = 0, nonFinite = 0] = row
  return { tensors: 1, elements: elementsOf(tensor), abs, squares, aa, bb, ab, changed, max, nonFinite }
}

function add(x: Sums, y: Sums): Sums {
  return {
    tensors: x.tensors + y.tensors,
    elements: x.elements + y.elements,
    abs: x.abs + y.abs,
    squares: x.squares + y.squares,
    aa: x.aa + y.aa,
    bb: x.bb + y.bb,
    ab: x.ab + y.ab,
    changed: x.changed + y.changed,
    max: Math.max(x.max, y.max),
    nonFinite: x.nonFinite + y.nonFinite,
  }
}

function toStats(sums: Sums): DiffStats {
  const counted = Math.max(1, sums.elements - sums.nonFinite)
  const norms = Math.sqrt(sums.aa) * Math.sqrt(sums.bb)
  return {
    tensors: sums.tensors,
    parameters: sums.elements,
    meanAbs: sums.abs / counted,
    relative: sums.squares === 0 ? 0 : sums.aa === 0 ? null : Math.sqrt(sums.squares / sums.aa),
    changed: sums.changed / counted,
    maxAbs: sums.max,
    cosine: norms === 0 ? null : Math.min(1, Math.max(-1, sums.ab / norms)),
    nonFinite: sums.nonFinite,
  }
}

function report(
  rows: { name: string; sums: Sums }[],
): Pick<DiffReport, 'total' | 'layers' | 'modules' | 'cells' | 'tensors'> {
  const placed = rows.map((row) => ({ ...row, layer: layerLabel(row.name), module: moduleOf(row.name) }))
  const order = (layer: string) => (layer === 'outside' ? Number.MAX_SAFE_INTEGER : Number(/\d+$/.exec(layer)?.[0]))
  const layers = [...new Set(placed.map(({ layer }) => layer))].sort(
    (x, y) => x.replace(/\d+$/, '').localeCompare(y.replace(/\d+$/, '')) || order(x) - order(y),
  )
  const sum = (keep: (row: (typeof placed)[number]) => boolean) => {
    const kept = placed.filter(keep)
    return kept.length === 0 ? undefined : toStats(kept.reduce((total, row) => add(total, row.sums), none))
  }
  const cells = layers.flatMap((layer) =>
    modules.flatMap((module) => {
      const stats = sum((row) => row.layer === layer && row.module === module)
      return stats ? [{ layer, module, ...stats }] : []
    }),
  )
  return {
    total: sum(() => true) ?? toStats(none),
    layers: layers.flatMap((layer) => {
      const stats = sum((row) => row.layer === layer)
      return stats ? [{ layer, ...stats }] : []
    }),
    modules: modules.flatMap((module) => {
      const stats = sum((row) => row.module === module)
      return stats ? [{ module, ...stats }] : []
    }),
    cells,
    tensors: placed.map(({ name, layer, module, sums }) => ({ name, layer, module, ...toStats(sums) })),
  }
}

/** `model.layers.3`, or `outside` for embeddings, final norm and head. */
function layerLabel(name: string): string {
  const layer = layerOf(name)
  return layer === undefined ? 'outside' : `${layer.stack}.${layer.index}`
}
