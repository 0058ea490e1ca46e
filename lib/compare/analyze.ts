/**
 * Where self-improvement has changed a model, against where the model is important: the diagnosis of superficial
 * learning (arXiv 2503.02103). Weight change comes from `diff`, importance from `score`; what is done here is ranks and
 * shares.
 */

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { mainStack, stacksOf } from '../checkpoint/index.js'
import type { Engine } from '../engine/engine.js'
import type { Scores } from '../score/index.js'
import { openScores, score } from '../score/score.js'
import type { DryRun } from '../util/dry_run.js'
import { misuse, WeightsmithError } from '../util/errors.js'
import type { ProgressEvent } from '../util/progress.js'
import { type DiffReport, type DiffStats, diff } from './diff.js'

export interface AnalyzeOptions {
  /** A .jsonl file, one `{"prompt": ..., "answer": ...}` a line, on which the importance of layers is measured. */
  data?: string | undefined
  /** A score file of the base with the methods `ablation`, `bi` or both, instead of data. */
  scores?: string | undefined
  /** Check all, and say what it would take, but compare and measure nothing. */
  dryRun?: boolean | undefined
  signal?: AbortSignal | undefined
  /** `importance`: layers of the base; then `compare`: models. */
  onProgress?: ((event: ProgressEvent) => void) | undefined
}

/** One way to say how important the layers of the base are, a value a layer: the larger, the more. */
export interface AnalyzeImportance {
  /** `ablation`: loss of answers without the block, minus that with it; `ablation all`: of all tokens. */
  name: 'ablation' | 'ablation all' | 'block influence'
  values: number[]
}

export interface LayerChange extends DiffStats {
  layer: number
}

/** How a model's change lies against one importance. */
export interface AnalyzeConcentration {
  importance: AnalyzeImportance['name']
  /**
   * Spearman's ρ over layers with mean |Δ|, ‖Δ‖/‖A‖ and the share of changed weights; null where one side is constant.
   */
  spearman: { meanAbs: number | null; relative: number | null; changed: number | null }
  /** The k = ⌈L/4⌉ most important layers, most important first. */
  top: number[]
  /** Share of Σ|Δ| over layers that lies in them, and k/L. */
  mass: number
  uniform: number
}

export interface AnalyzedModel {
  model: string
  layers: LayerChange[]
  against: AnalyzeConcentration[]
  diff: DiffReport
}

export interface AnalyzeReport {
  base: string
  data?: string
  /** None where there are neither data nor scores. */
  importance: AnalyzeImportance[]
  models: AnalyzedModel[]
  device: string
  milliseconds: number
}

export interface AnalyzeForecast {
  base: string
  data?: string
  /** Tensors that would be compared, of all models. */
  tensors: number
  /** To compare them. */
  bytesRead: number
  /** Most bytes that are on the device at a time. */
  deviceBytes: number
  /** Parts in which the base goes through the device, where its importance would be measured. */
  partitions?: number
  /** Tokens of the data that it would be measured on. */
  tokens?: number
  device: string
  /** An estimate, from one layer and one tensor. */
  milliseconds: number
}

/**
 * Analyzes models that come from `base`. Without data and scores the weight change alone. Throws
 * ERR_WEIGHTSMITH_ARGUMENT where no model is given, and what `diff` and `score` throw.
 */
export function analyze(
  engine: Engine,
  base: string,
  improved: readonly string[],
  options: AnalyzeOptions & { dryRun: true },
): Promise<DryRun<AnalyzeForecast>>
export function analyze(
  engine: Engine,
  base: string,
  improved: readonly string[],
  options?: AnalyzeOptions & { dryRun?: false | undefined },
): Promise<AnalyzeReport>
export function analyze(
  engine: Engine,
  base: string,
  improved: readonly string[],
  options: AnalyzeOptions,
): Promise<AnalyzeReport | DryRun<AnalyzeForecast>>
export async function analyze(
  engine: Engine,
  base: string,
  improved: readonly string[],
  options: AnalyzeOptions = {},
): Promise<AnalyzeReport | DryRun<AnalyzeForecast>> {
  const { data, signal, onProgress } = options
  const begin = performance.now()
  if (improved.length === 0) {
    throw misuse('Pass at least one improved model.')
  }
  const common = { base, ...(data === undefined ? {} : { data }), device: engine.device.name }
  if (options.dryRun) return { forecast: { ...common, ...(await forecastOf(engine, base, improved, options)) } }
  const importance = await importanceOf(engine, base, options)
  const models: AnalyzedModel[] = []
  for (const [i, model] of improved.entries()) {
    onProgress?.({ phase: 'compare', done: i, total: improved.length, unit: 'models', item: model })
    const report = await diff(engine, base, model, { signal })
    const layers = layersOf(report, importance[0]?.values.length)
    models.push({ model, layers, against: importance.map((one) => concentration(one, layers)), diff: report })
  }
  return { ...common, importance, models, milliseconds: performance.now() - begin }
}

async function forecastOf(
  engine: Engine,
  base: string,
  improved: readonly string[],
  { data, scores, signal }: AnalyzeOptions,
): Promise<Omit<AnalyzeForecast, 'base' | 'data' | 'device'>> {
  if (scores !== undefined) await readImportance(await openScores(engine, scores, base))
  const measured =
    data === undefined || scores !== undefined
      ? undefined
      : (await score(engine, base, { methods: importanceMethods, data, dryRun: true, signal })).forecast
  const sum = {
    ...{ tensors: 0, bytesRead: 0, deviceBytes: measured?.deviceBytes ?? 0 },
    ...(measured && { partitions: measured.partitions, tokens: measured.tokens }),
    milliseconds: measured?.milliseconds ?? 0,
  }
  for (const model of improved) {
    const { forecast } = await diff(engine, base, model, { dryRun: true, signal })
    sum.tensors += forecast.tensors
    sum.bytesRead += forecast.bytesRead
    sum.deviceBytes = Math.max(sum.deviceBytes, forecast.deviceBytes)
    sum.milliseconds += forecast.milliseconds
  }
  return sum
}

/** Methods of `score` that say how important layers are. */
const importanceMethods = ['ablation', 'bi']

const tensors: readonly [AnalyzeImportance['name'], string][] = [
  ['ablation', 'importance/answer'],
  ['ablation all', 'importance/all'],
  ['block influence', 'block_influence'],
]

/** How important the layers of a model are: of a score file, or measured on data; nothing where neither is given. */
export async function importanceOf(
  engine: Engine,
  base: string,
  options: AnalyzeOptions,
): Promise<AnalyzeImportance[]> {
  const { data, scores, signal, onProgress } = options
  if (scores !== undefined) return readImportance(await openScores(engine, scores, base))
  if (data === undefined) return []
  const folder = await mkdtemp(join(tmpdir(), 'weightsmith-analyze-'))
  try {
    const out = join(folder, 'scores.safetensors')
    await score(engine, base, {
      methods: importanceMethods,
      data,
      out,
      signal,
      onProgress: (event) => onProgress?.({ ...event, phase: 'importance' }),
    })
    return await readImportance(await openScores(engine, out, base))
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

async function readImportance(scores: Scores): Promise<AnalyzeImportance[]> {
  const found: AnalyzeImportance[] = []
  for (const [name, tensor] of tensors) {
    if (scores.tensors.has(tensor)) found.push({ name, values: [...(await scores.read(tensor))] })
  }
  if (found.length > 0) return found
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_MISSING_TENSOR',
    `The scores in ${scores.path} have no importance of layers; make them with the methods ablation and bi.`,
    { file: scores.path },
  )
}

/** Change of the layers of the language model. */
function layersOf(report: DiffReport, depth: number | undefined): LayerChange[] {
  const stack = mainStack(stacksOf(report.tensors.map(({ name }) => name)), depth)
  return report.layers.flatMap(({ layer, ...stats }) => {
    const [, own, index] = /^(.*)\.(\d+)$/.exec(layer) ?? []
    return own === stack && index !== undefined ? [{ layer: Number(index), ...stats }] : []
  })
}

function concentration({ name, values }: AnalyzeImportance, layers: readonly LayerChange[]): AnalyzeConcentration {
  if (values.length !== layers.length) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_SHAPE_MISMATCH',
      `The importance has ${values.length} layers, but ${layers.length} layers can be compared.`,
    )
  }
  const mass = layers.map(({ meanAbs, parameters }) => meanAbs * parameters)
  const order = [...values.keys()].sort((a, b) => (values[b] ?? 0) - (values[a] ?? 0) || a - b)
  const top = order.slice(0, Math.ceil(values.length / 4))
  const against = (of: (layer: LayerChange) => number | null) =>
    spearman(
      values,
      layers.map((layer) => of(layer) ?? Infinity),
    )
  const sum = (shares: number[]) => shares.reduce((a, b) => a + b, 0)
  return {
    importance: name,
    spearman: {
      meanAbs: against(({ meanAbs }) => meanAbs),
      relative: against(({ relative }) => relative),
      changed: against(({ changed }) => changed),
    },
    top,
    mass: sum(top.map((layer) => mass[layer] ?? 0)) / (sum(mass) || 1),
    uniform: top.length / values.length,
  }
}

/** Spearman's rank correlation; values that are equal have the mean of their ranks. Null where one side is constant. */
export function spearman(a: readonly number[], b: readonly number[]): number | null {
  const centred = (values: readonly number[]) => {
    const mean = (values.length - 1) / 2
    return values.map((x) => {
      const below = values.filter((y) => y < x).length
      const equal = values.filter((y) => y === x).length
      return below + (equal - 1) / 2 - mean
    })
  }
  const [x, y] = [centred(a), centred(b)]
  const dot = (u: number[], v: number[]) => u.reduce((sum, value, i) => sum + value * (v[i] ?? 0), 0)
  const length = Math.sqrt(dot(x, x) * dot(y, y))
  return length === 0 ? null : dot(x, y) / length
}
