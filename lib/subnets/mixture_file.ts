/** Adapters of a model that runs as its shapes: a mixture of LoRA experts with its router, or one plain adapter. */

import { checkFactors, readFactors, readLinearFactors } from '../adapters/index.js'
import type { ModelSpec } from '../architectures/index.js'
import { type Checkpoint, resolveModel } from '../checkpoint/index.js'
import { isMixture, openMixture, readValues } from '../lora/index.js'
import type { Host } from '../native/host.js'
import {
  type AdapterSpec,
  factorNames,
  linearsOf,
  type ModelAdapters,
  type RouterSpec,
  routerTensors,
} from '../runtime/index.js'
import { WeightsmithError } from '../util/errors.js'

/** A mixture as a model takes it. */
export interface MixtureFile extends ModelAdapters {
  router: RouterSpec
  mix: 'factor' | 'output'
  /** That its router knows, in order. */
  widths: number[]
  /** Its files. */
  checkpoint: Checkpoint
}

/**
 * Reads a mixture, in f32. Throws ERR_WEIGHTSMITH_FORMAT for a folder that holds none, or one that contradicts itself,
 * and ERR_WEIGHTSMITH_NON_FINITE for values that are no numbers.
 */
export async function readMixture(host: Host, path: string): Promise<MixtureFile> {
  const { checkpoint, modules, widths, mix, ...mixture } = await openMixture(
    host.addon,
    await resolveModel(path, process.cwd()),
    path,
  )
  const refuse = (what: string) =>
    new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `The mixture ${path} cannot be used: ${what}.`, { file: path })
  const values = new Map<string, Float32Array>()
  const put = (name: string, own: Float32Array) => {
    if (!own.every(Number.isFinite)) {
      const message = `The tensor ${name} of the mixture ${path} has values that are not finite.`
      throw new WeightsmithError('ERR_WEIGHTSMITH_NON_FINITE', message, { tensor: name })
    }
    values.set(name, own)
  }
  const [hidden = 0, inputs = 0] = mixture.router.get('router.topkroute_linear.0.weight')?.shape ?? []
  const router = { inputs, hidden, experts: mixture.experts, top: mixture.top }
  for (const [name, rows, columns] of routerTensors(router)) {
    const tensor = mixture.router.get(name)
    if (tensor === undefined) throw refuse(`its router has no ${name}`)
    const shape = name.endsWith('bias') ? [rows] : [rows, columns]
    if (tensor.shape.join() !== shape.join() || rows * columns === 0) {
      throw refuse(`${name} has the shape [${tensor.shape.join(', ')}], but should have [${shape.join(', ')}]`)
    }
    put(name, Float32Array.from(await readValues(checkpoint, tensor)))
  }
  const known = new Set(routerTensors(router).map(([name]) => name))
  for (const name of mixture.router.keys()) if (!known.has(name)) throw refuse(`its router has a ${name}`)
  const specs: AdapterSpec[] = []
  for (const { module, rank, scale, experts } of modules) {
    const weight = `${module}.weight`
    specs.push({ weight, rank, scale, experts: experts.length })
    for (const [expert, { a, b }] of experts.entries()) {
      const names = factorNames(weight, expert)
      const factors = await readFactors(host, checkpoint, {
        ...{ target: weight, a, b, rank, scale, turned: false, embedding: false },
      })
      put(names.a, factors.a)
      put(names.b, factors.b)
    }
  }
  return { specs, values, router, mix, widths, checkpoint }
}

/**
 * The adapter of a folder, for a model of this spec; `widths`: those that the router of a mixture knows. Throws, beside
 * what reading throws, ERR_WEIGHTSMITH_MISSING_TENSOR and _SHAPE_MISMATCH for an adapter of another model.
 */
export async function readShapeAdapter(
  host: Host,
  path: string,
  spec: ModelSpec,
): Promise<ModelAdapters & { widths?: number[] }> {
  if (await isMixture(await resolveModel(path, process.cwd()))) return readMixtureFor(host, path, spec)
  const { matrices } = await readLinearFactors(host, path, linearsOf(spec))
  const values = new Map(
    matrices.flatMap(({ weight, a, b }): [string, Float32Array][] => {
      const names = factorNames(weight)
      return [
        [names.a, a],
        [names.b, b],
      ]
    }),
  )
  return { specs: matrices.map(({ weight, rank, scale }) => ({ weight, rank, scale })), values }
}

/** A mixture of experts for a model of this spec. Throws as `readShapeAdapter` does. */
export async function readMixtureFor(host: Host, path: string, spec: ModelSpec): Promise<MixtureFile> {
  const linears = linearsOf(spec)
  const mixture = await readMixture(host, path)
  for (const { weight, rank, experts = 0 } of mixture.specs) {
    const sizeOf = (name: string) => (mixture.values.get(name)?.length ?? 0) / rank
    for (let expert = 0; expert < experts; expert++) {
      const { a, b } = factorNames(weight, expert)
      checkFactors(path, linears, weight, { a: sizeOf(a), b: sizeOf(b) })
    }
  }
  const inputs = spec.language.layers.length + mixture.widths.length
  if (mixture.router.inputs === inputs) return mixture
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_SHAPE_MISMATCH',
    `The router of ${path} takes ${mixture.router.inputs} numbers, but the blocks of the model and its widths are ${inputs}.`,
    { file: path },
  )
}
