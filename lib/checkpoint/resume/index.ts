/** Resume points: one way for every verb to go on after an interruption. */

export { ResumePoint, resumeFiles } from './resume_point.js'
export { digest, type InputFile, isSameRun, type Run } from './run.js'
export type { SavedTensor, SavedTensors } from './tensors.js'
