/**
 * Weightsmith: merge, compare and check checkpoints of language models.
 *
 * @example
 * await using engine = await Engine.open({ memory: '1GiB' })
 * const report = await merge(engine, 'recipe.yml', { out: 'merged' })
 */

import type { Engine } from './engine.js'
import type { MergeOptions, MergeReport } from './merge/index.js'
import { merge as mergeWith } from './merge.js'
import { LongHeaders, mergeInThread, shortHeaders } from './merge_thread.js'
import type { RecipeInput } from './recipe/index.js'
import { version } from './version.js'

export type { BatchJob } from './batch/index.js'
export { type BatchOptions, type BatchReport, type BatchResult, batch } from './batch.js'
export type { Message, Prompt } from './data/index.js'
export {
  type DiffCell,
  type DiffForecast,
  type DiffOptions,
  type DiffReport,
  type DiffSkipped,
  type DiffStats,
  diff,
  forecastDiff,
} from './diff.js'
export { type DoctorOptions, type DoctorReport, doctor } from './doctor.js'
export { type Adapter, Engine, type EngineOptions } from './engine.js'
export { type ErrorCode, type ErrorDetails, type ErrorGuide, errorCodes, errors, WeightsmithError } from './errors.js'
export { type EvalOptions, type EvalReport, evaluate, evaluateAll, type Metric, metrics } from './eval.js'
export { type ExplainGroup, type ExplainOptions, type ExplainReport, explain } from './explain.js'
export type {
  Measure,
  Model,
  ModelOptions,
  Pass,
  Pixels,
  Sequence,
  Tap,
  Token,
  WalkOptions,
  Wanted,
  Watch,
} from './forward/index.js'
export {
  ColumnStatistics,
  type Continuation,
  chunks,
  type GenerateOptions,
  generate,
  type Place,
  type Sampling,
} from './forward/index.js'
export { forward, openModel } from './forward.js'
export { type Generated, type GenerateReport, type GenerateTextOptions, generateText } from './generate.js'
export {
  type Analysis,
  type AnalysisForecast,
  type AnalyzedModel,
  type AnalyzeOptions,
  analyze,
  type Concentration,
  type Importance,
} from './imm/analyze.js'
export type { Collapse } from './imm/collapse.js'
export type { Check, Command, ImmConfig, Said } from './imm/config.js'
export { type ImmOptions, type ImmProgress, type ImmReport, imm, type RoundReport } from './imm/loop.js'
export type { Accuracy, Evaluation, Kept } from './imm/steps.js'
export { type InspectReport, inspect } from './inspect.js'
export type { Kernel, KernelCall, KernelInput, KernelOutput, KernelRun } from './kernel.js'
export { type KernelSpec, kernels } from './kernels.js'
export {
  type ManuAnswers,
  type ManuChoice,
  type ManuMode,
  type ManuNeuron,
  type ManuOptions,
  type ManuReport,
  manu,
  manuModes,
  manuRows,
} from './manu/index.js'
export type { Checksum, MergeOptions, MergeProgress, MergeReport, PlanRow, SweepReport } from './merge/index.js'
export { type Method, methods, type ParameterSpec, type Scalar, type TensorParameters } from './methods/index.js'
export type { LoadDType, NativeProgress as Progress, StoreDType } from './native/border.js'
export { type PruneMethod, type PruneOptions, type PruneReport, prune, pruneMethods } from './prune.js'
export {
  type FilteredValue,
  type JsonSchema,
  type ParameterValue,
  type RecipeInput,
  recipeSchema,
} from './recipe/index.js'
export {
  analysisPage,
  type Curves,
  changeMap,
  diffPage,
  type Figure,
  type HeatMap,
  type Histogram,
  immPage,
  type KeptMap,
  manuPage,
  type Page,
  prunePage,
  renderPage,
  type Section,
  scorePage,
  type Table,
  writePage,
} from './report/index.js'
export { type ScoreInfo, type ScoreMethod, type Scores, scoreMethods } from './score/index.js'
export { openScores, type ScoreOptions, type ScoreReport, score } from './score.js'
export { type VerifyOptions, type VerifyReport, verify } from './verify.js'
export { version }

/**
 * Merges checkpoints by a recipe: an object, or the path of a YAML file with mergekit's keys. The result has its final name when
 * all of it is on disk. Errors after which the same call can go on with `resume` have `partial`, the folder of what is finished.
 */
export function merge(engine: Engine, recipe: string | RecipeInput, options: MergeOptions): Promise<MergeReport> {
  return engine.use(async ({ addon, device, memory }) => {
    const settings = { memory, ...options }
    try {
      return await mergeWith({ addon: shortHeaders(addon), device }, recipe, settings)
    } catch (error) {
      if (error instanceof LongHeaders) return mergeInThread(device, recipe, settings)
      throw error
    }
  })
}
