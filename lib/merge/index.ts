/** Rooms of a merge: options, what is prepared, the run, the files beside the weights, the report. */

export { Models, type Reader } from './models.js'
export { type Checksum, checkOptions, type MergeOptions, type MergeProgress } from './options.js'
export { checkTargets, type PlannedOutput, type PreparedMerge, prepareMerge, type Target } from './prepare.js'
export {
  determinismOf,
  type MergeReport,
  type PlanRow,
  planRows,
  type RunReport,
  type SweepReport,
  summary,
  typeName,
} from './report.js'
export { fail, publishAll, type RunHost, stageMerge } from './run.js'
