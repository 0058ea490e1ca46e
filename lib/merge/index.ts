/** Rooms of a merge: options, what is prepared, the run, the files beside the weights, the report. */

export { type AdaptedModel, type AdaptedModels, Models, type Reader, splitAdapters } from './models.js'
export { checkOptions, type MergeChecksum, type MergeOptions, type MergeProgress } from './options.js'
export { checkTargets, type PlannedOutput, type PreparedMerge, prepareMerge, type Target } from './prepare.js'
export {
  type AdaptedTensor,
  determinismOf,
  type MergePlanRow,
  type MergeReport,
  planRows,
  type RunReport,
  type SweepReport,
  summary,
  typeName,
} from './report.js'
export { fail, publishAll, type RunHost, stageMerge } from './run.js'
