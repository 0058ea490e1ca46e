/** Modality-aware neuron unlearning, a workflow made of passes, scores and a checkpoint that is written anew. */

export { manu } from './manu.js'
export type { Layers, Module, Tower } from './neurons.js'
export { type ManuMode, type ManuOptions, manuModes, manuStatistics } from './options.js'
export {
  type ManuAnswers,
  type ManuChoice,
  type ManuForecast,
  type ManuNeuron,
  type ManuReport,
  manuRows,
  meanOf,
} from './report.js'
export { type Part, parts } from './statistics.js'
export { kinds, sets } from './streams.js'
