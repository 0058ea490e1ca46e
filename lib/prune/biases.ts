/**
 * Biases that make up for pruned inputs (FLAP), computed as the model computes: a linear applied to what was lost on
 * average.
 */

import { describe, withBiases } from '../architectures/index.js'
import { type Content, cutTensor, isStorable } from '../checkpoint/index.js'
import type { Host } from '../native/host.js'
import { apply } from '../runtime/index.js'
import type { Scores } from '../score/index.js'
import { argument, elementsOf, type Subject } from './decision.js'
import type { KeptUnits } from './widths.js'

/**
 * Biases that stand for what the pruned inputs gave on average; the config that has room for them, where it had none.
 */
export async function addBiases(
  { host, checkpoint, spec }: Subject,
  scores: Scores,
  kept: readonly KeptUnits[],
  tensors: Map<string, Content | null>,
  narrow: Record<string, unknown> | undefined,
): Promise<Record<string, unknown> | undefined> {
  const changed = kept.flatMap(({ units, kept: stays }) =>
    stays.includes(false) ? units.columns.map(({ tensor }) => ({ weight: tensor, bias: biasOf(tensor) })) : [],
  )
  if (changed.length === 0) return undefined
  const without = changed.find(({ bias }) => !checkpoint.tensors.has(bias))
  let config: Record<string, unknown> | undefined
  if (without !== undefined) {
    config = withBiases(narrow ?? checkpoint.config ?? {})
    if (config === undefined) {
      throw argument(
        `${checkpoint.name} is a ${spec.architecture}, which has no bias beside ${without.weight}; prune it without ` +
          'compensation (--no-bias).',
      )
    }
    // The switch gives all linears biases; those that compensate nothing are zeros.
    for (const [name, shape] of describe(config, checkpoint.tensors, checkpoint.name).tensors) {
      if (checkpoint.tensors.has(name)) continue
      const dtype = checkpoint.tensors.get(name.replace(/bias$/, 'weight'))?.dtype ?? 'F32'
      tensors.set(name, await biasTensor(host, dtype, new Float32Array(elementsOf(shape))))
    }
  }
  for (const [weight, sum] of await lostOnAverage({ host, checkpoint }, scores, kept)) {
    const [bias, tensor] = [biasOf(weight), checkpoint.tensors.get(weight)]
    if (tensor === undefined) continue
    const given = checkpoint.tensors.get(bias)
    tensors.set(bias, await biasTensor(host, tensor.dtype, sum, given && cutTensor(checkpoint, given)))
  }
  return config
}

export const biasOf = (weight: string) => weight.replace(/weight$/, 'bias')

/** What linears that lose inputs gave for these on average, f32 [out], by the names of their weights. */
export async function lostOnAverage(
  { host, checkpoint }: Pick<Subject, 'host' | 'checkpoint'>,
  scores: Scores,
  kept: readonly KeptUnits[],
): Promise<Map<string, Float32Array<ArrayBuffer>>> {
  const sums = new Map<string, Float32Array<ArrayBuffer>>()
  for (const { units, kept: stays } of kept) {
    for (const { tensor: weight, size } of stays.includes(false) ? units.columns : []) {
      const tensor = checkpoint.tensors.get(weight)
      if (tensor === undefined) continue
      if (!isStorable(tensor.dtype))
        throw argument(`The tensor ${weight} is stored as ${tensor.dtype}, and cannot be run.`)
      const lost = lostOf(await scores.read(`mean/${weight}`), stays, size)
      sums.set(weight, Float32Array.from(await apply(host.device, checkpoint, tensor, lost)))
    }
  }
  return sums
}

/** Means of the inputs that are pruned, and zeros; a unit is `size` inputs. */
export function lostOf(
  mean: Float32Array<ArrayBuffer>,
  stays: readonly boolean[],
  size: number,
): Float32Array<ArrayBuffer> {
  return mean.map((value, column) => (stays[Math.floor(column / size)] === true ? 0 : value))
}

/** Values as a tensor of a type, added to one that is there. */
export async function biasTensor(
  { device, memory }: Host,
  dtype: string,
  values: Float32Array,
  before?: Content,
): Promise<Content> {
  const size = values.length * (dtype === 'F32' ? 4 : 2)
  const result = new Uint8Array(size)
  const chunks: Uint8Array[] = []
  for await (const chunk of before?.bytes() ?? []) chunks.push(chunk)
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
  const inputs = [
    { memory: bytes, dtype: 'F32' },
    ...(before ? [{ memory: new Uint8Array(Buffer.concat(chunks)), dtype: before.dtype }] : []),
  ]
  const job = device.run({
    inputs: inputs.map(({ memory: own }) => ({ memory: own })),
    outputs: [{ memory: result }],
    programs: [{ kernels: [{ kernel: 'linear', writes: 'output' }] }],
    jobs: [
      {
        name: '',
        program: 0,
        elements: values.length,
        inputs: inputs.map((input, place) => ({ place, offset: 0, dtype: input.dtype })),
        variants: [{ coefficients: inputs.map(() => 1), output: { place: 0, offset: 0, dtype } }],
      },
    ],
    memory,
    seed: 0,
    checksum: false,
    sync: false,
  })
  await job.done
  return {
    dtype,
    shape: [values.length],
    size,
    async *bytes() {
      yield result
    },
  }
}
