/** Training: what a model is trained on and when, apart from the computing itself. */

export {
  type BatchOptions,
  type BatchPlan,
  defaultTokens,
  planBatches,
  type TrainingExample,
  type TrainingSource,
  type TrainingStep,
} from './batches.js'
export {
  readTrainingData,
  type TrainingData,
  type TrainingDataOptions,
  type TrainingExamples,
  type TrainingFile,
  type TrainingFileReport,
  type TrainingSubject,
} from './examples.js'
export {
  openLog,
  readLog,
  type TrainingDetails,
  type TrainingHeldOutLine,
  type TrainingLog,
  type TrainingLogLine,
  type TrainingLogOptions,
  type TrainingStepLine,
} from './log.js'
export type { MicroBatchAt, Objective } from './objective.js'
export type { TrainOptions } from './options.js'
export { type OutputOptions, type Written, writeAdapter } from './output.js'
export { type RateOptions, type RateSchedule, rateSchedule, scheduleNames } from './schedule.js'
export { type AdapterStart, freshAdapter } from './start.js'
