/** Pruning: what goes by its scores, and the tensors without it. */

export { biasOf, biasTensor, lostOnAverage } from './biases.js'
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
export { pruneWidths, scoreUnits } from './narrow.js'
export { contributorsOf, pruneBlocks } from './shallow.js'
export { pruneWeights } from './sparse.js'
export { type Products, productsOf, sparseGptTensor } from './sparsegpt.js'
export { type KeptUnits, keepUniform } from './widths.js'
