/**
 * Resume points: one way for every verb to go on after an interruption.
 *
 *     const point = await ResumePoint.open(path, run, { resume, overwrite })
 *     if (point.resumed) restore(point.done, await point.tensors(addon))
 *     while (...) await point.save({ step }, tensors)
 *     await point.remove()
 */

export { replaceFile } from './replace.js'
export { ResumePoint, resumeFiles } from './resume_point.js'
export { digest, type InputFile, isSameRun, type Run } from './run.js'
export type { SavedTensor, SavedTensors } from './tensors.js'
