/** Planning: what is computed from which bytes, and where the results go. */

export { counted, isCounted } from './counted.js'
export { isDerived } from './derived.js'
export { type JointPlan, joinPlans } from './joint.js'
export { findWeight, withAdapter } from './lora.js'
export { type NativeRun, prepassToNative, toNative } from './native.js'
export { type MergePlan, planMerge } from './plan.js'
export type { Origin, PlannedTensor } from './planned.js'
export { tieOf } from './tie.js'
export { isVocabulary } from './vocabulary.js'
