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
  type DataFile,
  type DataFileReport,
  readTrainingData,
  type SomeExamples,
  type TrainingData,
  type TrainingDataOptions,
  type TrainingSubject,
} from './examples.js'
export {
  type HeldOutLine,
  type LogLine,
  type LogOptions,
  openLog,
  readLog,
  type StepLine,
  type TrainingLog,
} from './log.js'
export { rateSchedule, type ScheduleName, type ScheduleOptions, scheduleNames } from './schedule.js'
