/** Forward passes: the kernels, and models whose weights stay on the device. */

export type { WaitingRows } from './activation_store.js'
export { apply } from './apply.js'
export type { Pass, Pixels, Token, Wanted } from './forward_pass.js'
export {
  columnWords,
  lossesOf,
  lossWords,
  modelKernels,
  noTarget,
  packSamplingParams,
  type SamplingParams,
  tokenWords,
} from './kernels.js'
export type { LayerwiseOptions, Observers, PassState } from './layerwise_pass.js'
export { Model, type ModelOptions, type Zeros } from './model.js'
export { type Block, type Forms, formsOf, matrixSide, packedBytes, plainForms } from './ops/index.js'
export { rowsOf, type Sequence } from './pack.js'
export { type Partition, tensorsOf } from './partition.js'
export { ColumnStatistics, chunks, type Groups, groupMean, type StatisticSpec, type Tap } from './statistics.js'
