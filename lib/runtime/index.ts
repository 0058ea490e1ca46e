/** Forward passes: the kernels, and models whose weights stay on the device. */

export { apply } from './apply.js'
export type { Pass, Pixels, Token, Wanted } from './forward_pass.js'
export {
  type Block,
  columnWords,
  type Draw,
  drawTable,
  type Forms,
  formsOf,
  forwardKernels,
  lossesOf,
  lossWords,
  matrixSide,
  noTarget,
  plainForms,
  tokenWords,
  turnedBytes,
} from './kernels.js'
export type { Standing, WalkOptions, Watch } from './layerwise_pass.js'
export { Model, type ModelOptions, type Zeros } from './model.js'
export { rowsOf, type Sequence } from './pack.js'
export { type Part, tensorsOf } from './partition.js'
export { ColumnStatistics, chunks, type Groups, groupMean, type Measure, type Tap } from './statistics.js'
