/** Forward passes: the kernels, and models whose weights stay on the device. */

export { ActivationStore, type WaitingRows } from './activation_store.js'
export type { ModelAdapters } from './adapter_buffers.js'
export { type AdapterSpec, factorNames, type Gate, linearsOf } from './adapters.js'
export { apply } from './apply.js'
export type { ForwardOptions, ForwardOutput, PackedToken } from './forward_pass.js'
export {
  type KnownLogits,
  type KnownRows,
  lossRowsOf,
  type Taught,
  type TeacherMask,
  type Teaching,
  type TrainingSequence,
} from './gradients/teaching.js'
export { type TrainingTimes, trainingTimes } from './gradients/timing.js'
export { type AdamwStep, type SubnetPass, TrainableModel, type TrainableOptions } from './gradients/trainable_model.js'
export {
  lossesOf,
  lossWords,
  modelKernels,
  packSamplingParams,
  packTokens,
  type SamplingParams,
  taughtLossesOf,
  taughtLossWords,
} from './kernels.js'
export type { LayerwiseObservers, LayerwiseOptions, PassState } from './layerwise_pass.js'
export { Model, type ModelOptions, type Zeros } from './model.js'
export { type Block, type Forms, formsOf, matrixSide, packedBytes, plainForms } from './ops/index.js'
export { rowsOf, type TokenSequence } from './pack.js'
export { type Partition, tensorsOf } from './partition.js'
export type { ImagePixels } from './patches.js'
export { gatesOfRouter, type RouterSpec, routerTensors } from './router.js'
export {
  ColumnStatistics,
  type Groups,
  groupMean,
  type HookPoint,
  rowGroups,
  type StatisticSpec,
} from './statistics.js'
export { type Subnet, withSubnets } from './subnet.js'
