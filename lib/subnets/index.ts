/** Subnets of models, as strategy files describe them: which blocks, heads and neurons stay at a depth and a width. */

export { mixedAdapter } from './mixed_adapter.js'
export { type MixtureFile, readMixture, readMixtureFor, readShapeAdapter } from './mixture_file.js'
export { openShaped, type ShapeChoice, type ShapedModel } from './shaped_model.js'
export { type ShapeSize, sizeOf } from './size.js'
export {
  type DepthMetric,
  type DepthOrder,
  type DepthStrategy,
  type DepthTable,
  depthMetrics,
  depthOrders,
  isStrategy,
  readStrategy,
  type Shape,
  type Strategy,
  type StrategyData,
  type StrategyUnits,
  type StrategyWidth,
  sameRatio,
  shapeOf,
  writeStrategy,
} from './strategy.js'
export { subnetOf } from './subnet.js'
