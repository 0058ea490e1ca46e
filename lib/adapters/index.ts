/** What is made of LoRA adapters. */

export { splitAdapters } from '../merge/index.js'
export { weightedSum } from './device.js'
export { type Factors, readFactors } from './factors.js'
export { checkFactors, type LinearFactors, type Linears, readLinearFactors } from './linear_factors.js'
export { type AdaptedModule, type NewAdapter, type SaveAdapterOptions, type SavedAdapter, saveAdapter } from './save.js'
