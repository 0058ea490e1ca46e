/** Pruning: what goes by its scores, and the tensors without it. */

export {
  argument,
  type Choice,
  type Decision,
  elementsOf,
  needScores,
  type PruneMethod,
  pruneMethods,
  type Subject,
} from './decision.js'
export { pruneWidths } from './narrow.js'
export { pruneBlocks } from './shallow.js'
export { pruneWeights } from './sparse.js'
export { type Products, productsOf, sparseGptTensor } from './sparsegpt.js'
