/** Planning: what is computed from which bytes, and where the results go. */

export { withAdapter } from './adapter.js'
export { parseBytes } from './bytes.js'
export type { Origin } from './derived.js'
export { levelToNative, type MergePlan, type PlannedTensor, planMerge, toNative } from './plan.js'
