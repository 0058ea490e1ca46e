/** Forward passes: the kernels, and models whose weights stay on the device. */

export { ActivationStore, type WaitingRows } from './activation_store.js'
export { apply } from './apply.js'
export type { ForwardOptions, ForwardOutput, PackedToken } from './forward_pass.js'
export { type AdapterSpec, factorNames } from './gradients/buffers.js'
export {
  type AdamwStep,
  TrainableModel,
  type TrainableOptions,
  type TrainingSequence,
} from './gradients/trainable_model.js'
export {
  lossesOf,
  lossWords,
  modelKernels,
  packSamplingParams,
  packTokens,
  type SamplingParams,
} from './kernels.js'
export type { LayerwiseObservers, LayerwiseOptions, PassState } from './layerwise_pass.js'
export { Model, type ModelOptions, type Zeros } from './model.js'
export { type Block, type Forms, formsOf, matrixSide, packedBytes, plainForms } from './ops/index.js'
export { rowsOf, type TokenSequence } from './pack.js'
export { type Partition, tensorsOf } from './partition.js'
export type { ImagePixels } from './patches.js'
export {
  ColumnStatistics,
  type Groups,
  groupMean,
  type HookPoint,
  rowGroups,
  type StatisticSpec,
} from './statistics.js'
