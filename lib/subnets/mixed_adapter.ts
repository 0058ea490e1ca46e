/**
 * A mixture of experts at the gates of one shape, as an adapter that can be folded: A = Σ gᵢ Aᵢ and B = Σ gᵢ Bᵢ, or,
 * where outputs are mixed, all A below one another and gᵢ Bᵢ beside one another. Gates are those without noise.
 */

import { weightedSum } from '../adapters/index.js'
import type { Checkpoint, CheckpointFile, CheckpointTensor } from '../checkpoint/index.js'
import type { Adapter, LowRank } from '../lora/index.js'
import type { Host } from '../native/host.js'
import { factorNames, type Gate, gatesOfRouter } from '../runtime/index.js'
import { throwIfAborted } from '../util/errors.js'
import type { MixtureFile } from './mixture_file.js'

type Values = Float32Array<ArrayBuffer>

/** `description`: of the subnet (see `Subnet`). */
export async function mixedAdapter(
  host: Host,
  mixture: MixtureFile,
  description: Values,
  signal?: AbortSignal,
): Promise<Adapter> {
  const gates = await gatesOfRouter(host.device, mixture, description)
  const { files } = mixture.checkpoint
  const held: CheckpointFile[] = []
  const hold = (name: string, values: Values, shape: number[]): CheckpointTensor => {
    const [path, memory] = [`the mixture's ${name}`, new Uint8Array(values.buffer)]
    const file = { path, name: path, size: memory.length, modified: 0, identity: path, headerHash: '', memory }
    held.push(file)
    return { name, file: files.length + held.length - 1, dtype: 'F32', shape, begin: 0, end: memory.length }
  }
  const matrices: LowRank[] = []
  for (const { weight, rank, scale } of mixture.specs) {
    throwIfAborted(signal, 'The mixture')
    const made = await mixed(host, mixture, { weight, rank, gates }, signal)
    matrices.push({
      ...{ target: weight, rank: made.rank, scale, turned: false, embedding: false },
      a: hold(`A of ${weight}`, made.a, [made.rank, made.a.length / made.rank]),
      b: hold(`B of ${weight}`, made.b, [made.b.length / made.rank, made.rank]),
    })
  }
  const checkpoint: Checkpoint = { ...mixture.checkpoint, files: [...files, ...held] }
  return {
    ...{ format: 'PEFT', checkpoint, matrices, turned: false, replaced: new Map(), biases: new Map() },
    ...{ tokens: new Map(), named: [], features: [], obstacles: [] },
  }
}

/** The factors of a matrix. */
async function mixed(
  host: Host,
  { values, mix }: MixtureFile,
  { weight, rank, gates }: { weight: string; rank: number; gates: readonly Gate[] },
  signal: AbortSignal | undefined,
): Promise<{ a: Values; b: Values; rank: number }> {
  const owners = gates.map(({ expert }) => factorNames(weight, expert))
  const read = (name: string) => Float32Array.from(values.get(name) ?? [])
  const [as, bs] = [owners.map(({ a }) => read(a)), owners.map(({ b }) => read(b))]
  const weights = gates.map(({ gate }) => gate)
  if (mix === 'factor') {
    return { a: await weightedSum(host, as, weights, signal), b: await weightedSum(host, bs, weights, signal), rank }
  }
  const all = rank * gates.length
  const a = Float32Array.from(as.flatMap((own) => [...own]))
  const rows = (bs[0]?.length ?? 0) / rank
  const scaled = await Promise.all(bs.map((own, i) => weightedSum(host, [own], [weights[i] ?? 0], signal)))
  const b = new Float32Array(rows * all)
  for (const [i, own] of scaled.entries()) {
    for (let row = 0; row < rows; row++) b.set(own.subarray(row * rank, (row + 1) * rank), row * all + i * rank)
  }
  return { a, b, rank: all }
}
