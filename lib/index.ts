/**
 * Weightsmith: merge, run, train, evaluate, score, prune and verify language-model checkpoints.
 *
 * @example
 * await using engine = await Engine.open({ memory: '1GiB' })
 * const report = await merge(engine, 'recipe.yml', { out: 'merged' })
 */

export {
  type AdapterForecast,
  type AdapterModuleReport,
  type AdapterReport,
  type CombineMethod,
  type CombineOptions,
  combineAdapters,
  combineMethods,
} from './adapters/combine.js'
export {
  type ExtractedModule,
  type ExtractForecast,
  type ExtractOptions,
  type ExtractReport,
  extractAdapter,
} from './adapters/extract.js'
export {
  type FoldedElements,
  type FoldForecast,
  type FoldOptions,
  type FoldReport,
  foldAdapters,
  type WeightedAdapter,
} from './adapters/fold.js'
export {
  type AdapterInspection,
  type AdapterModule,
  type InspectAdapterOptions,
  inspectAdapter,
} from './adapters/inspect.js'
export { type FoldMixtureOptions, foldMixture, type MixOptions, mixAdapters } from './adapters/mix.js'
export { type ResizeOptions, resizeAdapter } from './adapters/resize.js'
export { type InspectReport, inspect } from './checkpoint/inspect.js'
export { type VerifyOptions, type VerifyReport, verify } from './checkpoint/verify.js'
export {
  type AnalyzeConcentration,
  type AnalyzedModel,
  type AnalyzeForecast,
  type AnalyzeImportance,
  type AnalyzeOptions,
  type AnalyzeReport,
  analyze,
} from './compare/analyze.js'
export {
  type DiffCell,
  type DiffForecast,
  type DiffOptions,
  type DiffReport,
  type DiffSkipped,
  type DiffStats,
  diff,
} from './compare/diff.js'
export type { ChatMessage, Prompt } from './data/index.js'
export { type DoctorOptions, type DoctorReport, doctor } from './doctor/doctor.js'
export { type BenchOptions, type BenchReport, bench } from './engine/bench.js'
export { type DeviceInfo, Engine, type EngineOptions } from './engine/engine.js'
export type { Kernel, KernelCall, KernelInput, KernelOutput, KernelRun } from './engine/kernel.js'
export { type KernelSpec, kernels } from './engine/kernel_registry.js'
export { type CheckFoldOptions, checkFold, type FoldCheck } from './eval/check_fold.js'
export {
  type EvalForecast,
  type EvalMetric,
  type EvalOptions,
  type EvalReport,
  type EvalSetForecast,
  type EvalSetReport,
  evalMetrics,
  evaluate,
} from './eval/evaluate.js'
export {
  type GeneratedText,
  type GenerateForecast,
  type GenerateOptions,
  type GenerateProgress,
  type GenerateReport,
  generate,
} from './generation/generate.js'
export {
  type Continuation,
  type GenerateIdsOptions,
  generateIds,
  type SampleIndex,
  type SamplingOptions,
} from './generation/generate_ids.js'
export {
  type BatchForecast,
  type BatchOptions,
  type BatchPlan,
  type BatchReport,
  type BatchResult,
  batch,
} from './merge/batch/batch.js'
export type { BatchJob } from './merge/batch/index.js'
export { type ExplainOptions, explain } from './merge/explain.js'
export type { ForecastGroup, MergeForecast } from './merge/forecast.js'
export type {
  AdaptedTensor,
  MergeChecksum,
  MergeOptions,
  MergePlanRow,
  MergeProgress,
  MergeReport,
  SweepReport,
} from './merge/index.js'
export { merge } from './merge/merge.js'
export {
  type MergeMethod,
  methods,
  type ParameterScalar,
  type ParameterSpec,
  type TensorParameters,
} from './merge/methods/index.js'
export {
  type FilteredValue,
  type JsonSchema,
  type ParameterValue,
  type RecipeInput,
  recipeSchema,
} from './merge/recipe/index.js'
export type { LoadDType, StoreDType } from './native/border.js'
export { version } from './native/version.js'
export {
  type PruneForecast,
  type PruneMethod,
  type PruneOptions,
  type PruneReport,
  prune,
  pruneMethods,
} from './prune/prune.js'
export {
  analysisPage,
  changeMap,
  diffPage,
  evalPage,
  immPage,
  manuPage,
  type Page,
  type PageCurves,
  type PageFigure,
  type PageHeatMap,
  type PageHistogram,
  type PageKeptMap,
  type PageSection,
  type PageTable,
  prunePage,
  renderPage,
  scorePage,
  shapesPage,
  strategyPage,
  type TrainPageInput,
  trainPage,
  writePage,
} from './report/index.js'
export type {
  ForwardOptions,
  ForwardOutput,
  HookPoint,
  ImagePixels,
  LayerwiseObservers,
  LayerwiseOptions,
  Model,
  ModelAdapters,
  ModelOptions,
  PackedToken,
  RouterSpec,
  StatisticSpec,
  Subnet,
  TokenSequence,
} from './runtime/index.js'
export { ColumnStatistics, rowGroups } from './runtime/index.js'
export type { ModelFit } from './runtime/memory_fit.js'
export { openModel } from './runtime/open_model.js'
export { type ScoreInfo, type ScoreMethod, type Scores, scoreMethods } from './score/index.js'
export { openScores, type ScoreForecast, type ScoreOptions, type ScoreReport, score } from './score/score.js'
export type { ShapeChoice, ShapeSize } from './subnets/index.js'
export type { RateSchedule, TrainingFile, TrainingFileReport, TrainingLogLine } from './training/index.js'
export type { TrainOptions } from './training/options.js'
export { type TeachForecast, type TeachOptions, type TeachReport, teach } from './training/teach.js'
export { type TrainForecast, type TrainHeldOut, type TrainReport, train } from './training/train.js'
export type { DryRun } from './util/dry_run.js'
export {
  type ErrorCode,
  type ErrorDetails,
  type ErrorGuide,
  errorCodes,
  errors,
  WeightsmithError,
} from './util/errors.js'
export type { ProgressEvent } from './util/progress.js'
export {
  type AmoebaCutForecast,
  type AmoebaCutOptions,
  type AmoebaCutReport,
  amoebaCut,
  type CutLayout,
  type CutShape,
  type CutShapeForecast,
  type ShapeCheck,
  type ShapeName,
} from './workflows/amoeba/cut.js'
export { type AmoebaImportOptions, type AmoebaImportReport, amoebaImport } from './workflows/amoeba/import.js'
export {
  type AmoebaEvalForecast,
  type AmoebaEvalOptions,
  type AmoebaEvalReport,
  type AmoebaShape,
  type AmoebaShapeResult,
  type AmoebaStrategyForecast,
  type AmoebaStrategyOptions,
  type AmoebaStrategyReport,
  type AmoebaTrainOptions,
  amoebaEval,
  amoebaStrategy,
  amoebaTrain,
  type DepthMetric,
  type DepthOrder,
  type DepthStrategy,
  type DepthTable,
  depthMetrics,
  depthOrders,
  inspectStrategy,
  openStrategy,
  type Shape,
  type ShapeMetric,
  type ShapeResult,
  type Strategy,
  type StrategyData,
  type StrategyInspection,
  type StrategySummary,
  type StrategyUnits,
  type StrategyWidth,
  shapeMetrics,
  shapeOf,
} from './workflows/amoeba/index.js'
export type { ImmCollapse } from './workflows/imm/collapse.js'
export type { Completion, ImmAnswerCheck, ImmCommand, ImmConfig } from './workflows/imm/config.js'
export {
  type ImmForecast,
  type ImmOptions,
  type ImmProgress,
  type ImmReport,
  type ImmRoundReport,
  imm,
} from './workflows/imm/loop.js'
export type { ImmAccuracy, ImmEvaluation, ImmFilteredSamples } from './workflows/imm/steps.js'
export {
  type ManuAnswers,
  type ManuChoice,
  type ManuForecast,
  type ManuMode,
  type ManuNeuron,
  type ManuOptions,
  type ManuReport,
  manu,
  manuModes,
  manuRows,
} from './workflows/manu/index.js'
