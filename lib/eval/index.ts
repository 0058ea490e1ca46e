/** Evaluation: data sets, and what a model makes of them. */

export { estimateOf } from './estimate.js'
export { type Measured, measure } from './measure.js'
export { type DataSet, type EvalMetric, evalMetrics, readSet } from './sets.js'
