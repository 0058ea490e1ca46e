/** Pruning: what goes by its scores, and the tensors without it. */

export { checkCount, leastBlocks, leastRun } from './depth.js'
export { type Products, productsOf, sparseGptTensor } from './sparsegpt.js'
export { checkSparsity, parsePattern, type Sparsity, sparseTensor } from './weights.js'
export {
  columnScores,
  type KeptUnits,
  keepGlobal,
  keepLocal,
  nameOf,
  type ScoredUnits,
  type WidthMetric,
  widthMetrics,
} from './widths.js'
