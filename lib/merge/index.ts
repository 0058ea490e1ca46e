/** Rooms of a merge: options, what is prepared, the run, the files beside the weights, the report. */

export { Models, type Reader } from './models.js'
export { type Checksum, checkOptions, type MergeOptions, type MergeProgress } from './options.js'
export { checkTargets, type PlannedOutput, type PreparedMerge, prepareMerge } from './prepare.js'
export {
  determinismOf,
  type MergeReport,
  type PlanRow,
  planRows,
  type SweepReport,
  summary,
  typeName,
} from './report.js'
export { fail, publishAll, type RunHost, stageMerge } from './run.js'
