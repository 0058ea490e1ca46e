/** What an adapter begins with: as PEFT makes one, so that it changes nothing yet; or what an earlier one has left. */

import { readLinearFactors } from '../adapters/index.js'
import type { ModelSpec } from '../architectures/index.js'
import type { Checkpoint } from '../checkpoint/index.js'
import type { Host } from '../native/host.js'
import { type AdapterSpec, linearsOf } from '../runtime/index.js'
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

/** A is drawn evenly from ±1 / √inputs, by seed, name and expert (PEFT's kaiming_uniform with a = √5), and B is 0. */
export function freshAdapter(spec: ModelSpec, adapter: AdapterSpec, seed: number, expert?: number): AdapterStart {
  const [outputs = 0, inputs = 0] = spec.tensors.get(adapter.weight) ?? []
  const word = stream(`${adapter.weight} A${expert === undefined ? '' : ` of expert ${expert}`}`, seed)
  const bound = 1 / Math.sqrt(inputs)
  const a = Float32Array.from({ length: adapter.rank * inputs }, (_, i) => bound * ((word(i) + 0.5) / 2 ** 31 - 1))
  return { ...adapter, a, b: new Float32Array(outputs * adapter.rank) }
}

/** The matrices of an adapter that is there, maybe with lengths of rows; throws what `readLinearFactors` throws. */
export async function adapterToGoOnFrom(
  host: Host,
  spec: ModelSpec,
  path: string,
): Promise<{ starts: AdapterStart[]; checkpoint: Checkpoint }> {
  const { matrices, checkpoint } = await readLinearFactors(host, path, linearsOf(spec), { magnitudes: true })
  return {
    starts: matrices.map(({ magnitude, ...own }) => ({ ...own, ...(magnitude && { dora: true, magnitude }) })),
    checkpoint,
  }
}
