/** AmoebaLLM, a workflow: subnets of any depth and width from one model. */

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
  shapeOf,
  writeStrategy,
} from '../../subnets/index.js'
export {
  type AmoebaEvalForecast,
  type AmoebaEvalOptions,
  type AmoebaEvalReport,
  type AmoebaShape,
  type AmoebaShapeResult,
  amoebaEval,
  type ShapeMetric,
  type ShapeResult,
  shapeMetrics,
} from './evaluate.js'
export { amoebaStrategy } from './find_strategy.js'
export type { AmoebaStrategyForecast, AmoebaStrategyOptions, AmoebaStrategyReport } from './options.js'
export { inspectStrategy, openStrategy, type StrategyInspection, type StrategySummary } from './summary.js'
export { type AmoebaTrainOptions, amoebaTrain } from './train.js'
