/** Forward passes: the kernels, and models whose weights stay on the device. */

export { apply } from './apply.js'
export { type Continuation, type GenerateOptions, generate, type Place, type Sampling } from './generate.js'
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
export { Model, type ModelOptions, type Zeros } from './model.js'
export { rowsOf, type Sequence } from './pack.js'
export { type Part, tensorsOf } from './part.js'
export type { Pass, Pixels, Token, Wanted } from './pass.js'
export { ColumnStatistics, chunks, type Groups, groupMean, type Measure, type Tap } from './statistics.js'
export type { Standing, WalkOptions, Watch } from './walk.js'
