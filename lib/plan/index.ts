/** Planning: what is computed from which bytes, and where the results go. */

export { withAdapter } from './adapter.js'
export { parseBytes } from './bytes.js'
export { isDerived, type Origin } from './derived.js'
export { type JointPlan, joinPlans } from './joint.js'
export { layerLists } from './layers.js'
export { levelToNative, type NativeRun, toNative } from './native.js'
export { type MergePlan, type PlannedTensor, planMerge } from './plan.js'
export { isVocabulary } from './vocabulary.js'
