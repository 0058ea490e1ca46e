/** Adapters of linear layers alone, whose factors run beside a model or are trained on. */

import { type Checkpoint, resolveModel } from '../checkpoint/index.js'
import { openAdapter } from '../lora/index.js'
import type { Host } from '../native/host.js'
import { misuse, WeightsmithError } from '../util/errors.js'
import { readFactors } from './factors.js'

/** [outputs, inputs] of the linear layers of a model, by the name of the weight. */
export type Linears = ReadonlyMap<string, readonly number[]>

/** The factors of one weight, A [rank, inputs] and B [outputs, rank]. */
export interface LinearFactors {
  weight: string
  rank: number
  /** What B A is multiplied by. */
  scale: number
  a: Float32Array
  b: Float32Array
  /** Lengths of the rows of the adapted matrix, of a DoRA. */
  magnitude?: Float32Array
}

/**
 * The matrices of an adapter. Throws ERR_WEIGHTSMITH_ARGUMENT for one that is more than factors of linear layers
 * (with `magnitudes`, and lengths of their rows),
 * _MISSING_TENSOR for layers that the model does not have, and _SHAPE_MISMATCH for others than its own.
 */
export async function readLinearFactors(
  host: Host,
  path: string,
  linears: Linears,
  { magnitudes = false }: { magnitudes?: boolean } = {},
): Promise<{ matrices: LinearFactors[]; checkpoint: Checkpoint }> {
  const folder = await resolveModel(path, process.cwd())
  const adapter = await openAdapter(host.addon, folder, path)
  const plain = adapter.matrices.every(
    ({ magnitude, start, below, experts, embedding }) =>
      (magnitudes || magnitude === undefined) &&
      [start, below, experts].every((part) => part === undefined) &&
      !embedding,
  )
  if (!plain || adapter.replaced.size + adapter.biases.size + adapter.tokens.size > 0) {
    const what = adapter.features.join(', ')
    throw misuse(`The adapter ${path} has to be folded first: it is more than factors of linear layers (${what}).`)
  }
  const matrices: LinearFactors[] = []
  for (const matrix of adapter.matrices) {
    const { target: weight, rank, scale } = matrix
    const { a, b, magnitude } = await readFactors(host, adapter.checkpoint, matrix)
    checkFactors(path, linears, weight, { a: a.length / rank, b: b.length / rank })
    if (magnitude !== undefined) checkFactors(path, linears, weight, { a: a.length / rank, b: magnitude.length })
    matrices.push({
      ...{ weight, rank, scale, a: Float32Array.from(a), b: Float32Array.from(b) },
      ...(magnitude && { magnitude: Float32Array.from(magnitude) }),
    })
  }
  return { matrices, checkpoint: adapter.checkpoint }
}

/** Throws where a model has no such linear layer, or one of other sizes than the columns of A and the rows of B. */
export function checkFactors(path: string, linears: Linears, weight: string, { a, b }: { a: number; b: number }): void {
  const shape = linears.get(weight)
  if (shape === undefined) {
    const message = `The adapter ${path} changes ${weight}, which is no linear layer of the model.`
    throw new WeightsmithError('ERR_WEIGHTSMITH_MISSING_TENSOR', message, { tensor: weight })
  }
  const [outputs = 0, inputs = 0] = shape
  if (a === inputs && b === outputs) return
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_SHAPE_MISMATCH',
    `The adapter ${path} has other factors for ${weight} than a matrix of ${outputs} x ${inputs} takes.`,
    { tensor: weight },
  )
}
