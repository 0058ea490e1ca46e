/** Planning: what is computed from which bytes, and where the results go. */

export { parseBytes } from './bytes.js'
export type { Origin } from './derived.js'
export { levelToNative, type MergePlan, type PlannedTensor, planMerge, toNative } from './plan.js'
