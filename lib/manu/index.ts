/** Modality-aware neuron unlearning: neurons, their statistics, scores, and the choice among them. */

export { isChosen, type Layers, type Module, modulesOf, type Tower } from './neurons.js'
export { codeScores, type OfStreams, paperScores, type Scores, type Selection, select, type Weights } from './scores.js'
export {
  type Collector,
  groupsOf,
  overBatches,
  overStream,
  type Part,
  parts,
  type Rows,
  type Statistics,
} from './statistics.js'
