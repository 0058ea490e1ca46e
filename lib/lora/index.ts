/** LoRA adapters: how they are stored, and what their factors mean. */

export { type Adapter, type LowRank, openAdapter } from './peft.js'
