/** What an adapter begins with: as PEFT makes one, so that it changes nothing yet; or what an earlier one has left. */

import { readFactors } from '../adapters/index.js'
import type { ModelSpec } from '../architectures/index.js'
import { type Checkpoint, resolveModel } from '../checkpoint/index.js'
import { openAdapter } from '../lora/index.js'
import type { Host } from '../native/host.js'
import type { AdapterSpec } from '../runtime/index.js'
import { misuse, WeightsmithError } from '../util/errors.js'
import { stream } from '../util/philox.js'

/**
 * An adapter of one matrix and its first factors, A [rank, inputs] and B [outputs, rank]. Lengths of rows of a DoRA are
 * those of the matrix where there are no others.
 */
export interface AdapterStart extends AdapterSpec {
  a: Float32Array
  b: Float32Array
  magnitude?: Float32Array
}

/** A is drawn evenly from ±1 / √inputs, by seed and name (PEFT's kaiming_uniform with a = √5), and B is 0. */
export function freshAdapter(spec: ModelSpec, adapter: AdapterSpec, seed: number): AdapterStart {
  const [outputs = 0, inputs = 0] = spec.tensors.get(adapter.weight) ?? []
  const word = stream(`${adapter.weight} A`, seed)
  const bound = 1 / Math.sqrt(inputs)
  const a = Float32Array.from({ length: adapter.rank * inputs }, (_, i) => bound * ((word(i) + 0.5) / 2 ** 31 - 1))
  return { ...adapter, a, b: new Float32Array(outputs * adapter.rank) }
}

/**
 * The matrices of an adapter that is there. Throws ERR_WEIGHTSMITH_ARGUMENT for one that is more than factors of linear
 * layers and lengths of their rows, _MISSING_TENSOR for layers that the model does not have, and _SHAPE_MISMATCH for
 * others than its own.
 */
export async function adapterToGoOnFrom(
  host: Host,
  spec: ModelSpec,
  path: string,
): Promise<{ starts: AdapterStart[]; checkpoint: Checkpoint }> {
  const folder = await resolveModel(path, process.cwd())
  const adapter = await openAdapter(host.addon, folder, path)
  const linears = new Set(
    spec.language.layers.flatMap(({ ops }) => ops.flatMap((op) => (op.op === 'linear' ? [op.weight] : []))),
  )
  const plain = adapter.matrices.every(
    ({ start, below, experts, embedding }) =>
      start === undefined && below === undefined && experts === undefined && !embedding,
  )
  if (!plain || adapter.replaced.size + adapter.biases.size + adapter.tokens.size > 0) {
    const what = adapter.features.join(', ')
    throw misuse(`The adapter ${path} cannot be gone on from: it is more than factors of linear layers (${what}).`)
  }
  const starts: AdapterStart[] = []
  for (const matrix of adapter.matrices) {
    const shape = spec.tensors.get(matrix.target)
    if (shape === undefined || !linears.has(matrix.target)) {
      const message = `The adapter ${path} changes ${matrix.target}, which is no linear layer of the model.`
      throw new WeightsmithError('ERR_WEIGHTSMITH_MISSING_TENSOR', message, { tensor: matrix.target })
    }
    const { a, b, magnitude } = await readFactors(host, adapter.checkpoint, matrix)
    const [outputs = 0, inputs = 0] = shape
    const sizes = [matrix.rank * inputs, outputs * matrix.rank, magnitude === undefined ? 0 : outputs]
    if ([a, b, magnitude ?? []].some(({ length }, i) => length !== sizes[i])) {
      throw new WeightsmithError(
        'ERR_WEIGHTSMITH_SHAPE_MISMATCH',
        `The adapter ${path} has other factors for ${matrix.target} than a matrix of ${outputs} x ${inputs} takes.`,
        { tensor: matrix.target },
      )
    }
    starts.push({
      weight: matrix.target,
      rank: matrix.rank,
      scale: matrix.scale,
      a: Float32Array.from(a),
      b: Float32Array.from(b),
      ...(magnitude && { dora: true, magnitude: Float32Array.from(magnitude) }),
    })
  }
  return { starts, checkpoint: adapter.checkpoint }
}
