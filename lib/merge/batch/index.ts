/** Rooms of a batch: its jobs, those that read together, what is done already, and commits. */

export { Commits } from './commits.js'
export { inGroups, type LoadedJob } from './groups.js'
export { type BatchJob, type NamedJob, readJobs } from './jobs.js'
export { isMerged } from './merged.js'
