/** AmoebaLLM, a workflow: subnets of any depth and width from one model. */

export { amoebaStrategy } from './find_strategy.js'
export type { AmoebaStrategyForecast, AmoebaStrategyOptions, AmoebaStrategyReport } from './options.js'
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
} from './strategy.js'
export { inspectStrategy, openStrategy, type StrategyInspection, type StrategySummary } from './summary.js'
