/** Rooms of a merge: options, what is prepared, the run, the files beside the weights, the report. */

export { Models, type Reader } from './models.js'
export { checkOptions, type MergeChecksum, type MergeOptions, type MergeProgress } from './options.js'
export { checkTargets, type PlannedOutput, type PreparedMerge, prepareMerge } from './prepare.js'
export {
  determinismOf,
  type MergePlanRow,
  type MergeReport,
  planRows,
  type SweepReport,
  summary,
  typeName,
} from './report.js'
export { fail, publishAll, type RunHost, stageMerge } from './run.js'
