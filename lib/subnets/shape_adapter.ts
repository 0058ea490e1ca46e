/** The adapter that a mixture of experts is for one shape of a model, in memory, as one that is folded. */

import { weightedSum } from '../adapters/index.js'
import type { ModelSpec } from '../architectures/index.js'
import { type Checkpoint, type CheckpointFile, type CheckpointTensor, resolveModel } from '../checkpoint/index.js'
import { type Adapter, isMixture, type LowRank, openAdapter } from '../lora/index.js'
import type { Host } from '../native/host.js'
import { factorNames, type Gate, gatesOf, routerGates } from '../runtime/index.js'
import { type MixtureFile, readShapeAdapter } from './mixture_file.js'
import type { Shape } from './strategy.js'
import { subnetOf } from './subnet.js'

/**
 * What is folded into the weights of a model for one of its shapes: of a mixture, its experts with the gates of the
 * shape; any other adapter as it is. The matrices of a mixture lie in memory. Throws what `readShapeAdapter` and
 * `openAdapter` throw, and ERR_WEIGHTSMITH_ARGUMENT for a width that the router does not know.
 */
export async function adapterOfShape(
  host: Host,
  path: string,
  spec: ModelSpec,
  shape: Shape,
  signal?: AbortSignal,
): Promise<Adapter> {
  const folder = await resolveModel(path, process.cwd())
  if (!(await isMixture(folder))) return openAdapter(host.addon, folder, path)
  const mixture = (await readShapeAdapter(host, path, spec)) as MixtureFile
  const { description = new Float32Array() } = subnetOf(spec, shape, true, mixture.widths)
  const [gates = new Float32Array()] = await routerGates(host, mixture.router, mixture.values, [description])
  const files: CheckpointFile[] = []
  const hold = (name: string, values: Float32Array<ArrayBuffer>, dimensions: number[]): CheckpointTensor => {
    const memory = new Uint8Array(values.buffer)
    const file = `${path}: ${name}`
    files.push({ path: file, name, size: memory.length, modified: 0, identity: file, headerHash: '', memory })
    return { name, file: files.length - 1, dtype: 'F32', shape: dimensions, begin: 0, end: memory.length }
  }
  const matrices: LowRank[] = []
  for (const { weight, scale } of mixture.specs) {
    const { rank, a, b } = await mixed(host, mixture, weight, gatesOf(gates), signal)
    matrices.push({
      target: weight,
      a: hold(`A of ${weight}`, a, [rank, a.length / rank]),
      b: hold(`B of ${weight}`, b, [b.length / rank, rank]),
      ...{ rank, scale, turned: false, embedding: false },
    })
  }
  const checkpoint: Checkpoint = { name: path, path: folder, folder, files, tensors: new Map(), stacks: new Map() }
  return {
    ...{ format: 'PEFT', checkpoint, matrices, turned: false, replaced: new Map(), biases: new Map() },
    ...{ tokens: new Map(), named: [], features: [], obstacles: [] },
  }
}

/** The factors of one weight. Outputs are mixed by ranks that stand one behind the other, with the gates in B. */
async function mixed(
  host: Host,
  { specs, values, mix }: MixtureFile,
  weight: string,
  gates: readonly Gate[],
  signal: AbortSignal | undefined,
): Promise<{ rank: number; a: Float32Array<ArrayBuffer>; b: Float32Array<ArrayBuffer> }> {
  const rank = specs.find((spec) => spec.weight === weight)?.rank ?? 1
  const factors = gates.map(({ expert }) => {
    const { a, b } = factorNames(weight, expert)
    const of = (name: string) => Float32Array.from(values.get(name) ?? [])
    return { a: of(a), b: of(b) }
  })
  const coefficients = gates.map(({ gate }) => gate)
  if (mix === 'factor') {
    const sum = (side: 'a' | 'b') =>
      weightedSum(
        host,
        factors.map((own) => own[side]),
        coefficients,
        signal,
      )
    return { rank, a: await sum('a'), b: await sum('b') }
  }
  const all = rank * gates.length
  const [first] = factors
  const [a, b] = [
    new Float32Array(gates.length * (first?.a.length ?? 0)),
    new Float32Array((first?.b.length ?? 0) * gates.length),
  ]
  for (const [i, own] of factors.entries()) {
    a.set(own.a, i * own.a.length)
    const scaled = await weightedSum(host, [own.b], [coefficients[i] ?? 0], signal)
    for (let row = 0; row * rank < scaled.length; row++) {
      b.set(scaled.subarray(row * rank, (row + 1) * rank), row * all + i * rank)
    }
  }
  return { rank: all, a, b }
}
