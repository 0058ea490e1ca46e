/** How long a model takes for a data set. */

import type { Model } from '../runtime/index.js'
import { estimateGeneration } from '../runtime/memory_fit.js'
import type { DataSet } from './sets.js'

/** Milliseconds, from one layer. */
export async function estimateOf(
  model: Model,
  set: DataSet,
  { bytesReadPerPass, together }: { bytesReadPerPass: number; together: number },
): Promise<number> {
  if (set.kind === 'matches') {
    const promptTokens = set.total - set.most * set.examples
    return estimateGeneration(model, {
      sequences: set.examples,
      promptTokens,
      maxTokens: set.most,
      together,
      bytesReadPerPass,
    })
  }
  const tokens = Math.min(model.batchTokens, set.total)
  const { run, load } = await model.paceOf(Array.from({ length: tokens }, (_, row) => ({ id: 0, start: row, row })))
  return (run * model.spec.language.layers.length * set.total) / tokens + load * bytesReadPerPass
}
