/** LoRA adapters: how they are stored, and what their factors mean. */

export type { Adapter, LowRank, Start, TokenRows } from './adapter.js'
export { isMixture, type Mixture, openMixture, routerPrefix } from './mixture.js'
export { openAdapter, readAdapter } from './open.js'
export { refuseStart } from './start.js'
export { countDifferent, readValues } from './values.js'
