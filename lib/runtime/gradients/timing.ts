/**
 * How long training takes, before any weight is read: a micro-batch goes through one layer of the model and through
 * two, on buffers of the sizes that it will have. What a layer and what all else costs follows from the two; dispatches
 * and waits that small models spend most of their time with are in both.
 */

import { type ModelSpec, modelSpec } from '../../architectures/index.js'
import type { Checkpoint } from '../../checkpoint/index.js'
import type { Host } from '../../native/host.js'
import { tensorsOfOp } from '../ops/index.js'
import type { TrainingSequence } from './teaching.js'
import { TrainableModel, type TrainableOptions } from './trainable_model.js'

/** Milliseconds. */
interface PartTimes {
  /** Until all kernels are compiled. */
  compile: number
  /** A micro-batch from tokens to losses, and also back to all gradients. */
  forward: number
  both: number
  /** The norm of all gradients, and a step of the optimizer. */
  update: number
}

export interface TrainingTimes extends PartTimes {
  /** Bytes that the process holds more than before, without the buffers: compiled kernels, above all. */
  hostBytes: number
}

/** Milliseconds that repeated runs may take together. */
const patience = 300

/**
 * Times of a model on some sequences. `tapes`: layers whose values stay (see `TrainableModel.forecast`). Throws what
 * `TrainableModel.forecast` throws.
 */
export async function trainingTimes(
  use: <T>(work: (host: Host) => Promise<T>) => Promise<T>,
  checkpoint: Checkpoint,
  options: TrainableOptions,
  { sequences, tapes }: { sequences: readonly TrainingSequence[]; tapes: number },
): Promise<TrainingTimes> {
  const spec = modelSpec(checkpoint.config, checkpoint.tensors, checkpoint.name)
  const depth = spec.language.layers.length
  const trained = trainedLayers(spec, options)
  const lowest = trained[0] ?? depth
  // A layer that is trained, where there is one, and a neighbour.
  const first = Math.min(lowest, depth - 1)
  const before = process.memoryUsage.rss()
  const held = () => Math.max(0, process.memoryUsage.rss() - before)
  const one = await timesOf(use, checkpoint, options, { layers: [first], sequences })
  if (depth === 1) return { ...one, hostBytes: held() }
  const second = trained[1] ?? (first > 0 ? first - 1 : first + 1)
  const two = await timesOf(use, checkpoint, options, { layers: [first, second].toSorted((a, b) => a - b), sequences })
  const each = (of: (times: PartTimes) => number) => Math.max(0, of(two) - of(one))
  const [forward, both] = [each((times) => times.forward), each((times) => times.both)]
  const back = depth - Math.min(lowest, depth - 1)
  const again = Math.max(0, back - tapes)
  return {
    hostBytes: held(),
    compile: one.compile + two.compile,
    forward: one.forward + (depth - 1) * forward,
    // Layers below the first that is trained go forward alone, others forward again where their values did not stay.
    both: one.both + (back - 1) * both + (depth - back + again) * forward,
    update: one.update + Math.max(0, trained.length - 1) * each((times) => times.update),
  }
}

/** Layers that have something that is trained. */
function trainedLayers({ language }: ModelSpec, { tensors = [], adapters = [] }: TrainableOptions): number[] {
  const learns = new Set([...tensors, ...adapters.map(({ weight }) => weight)])
  return language.layers.flatMap(({ ops }, layer) =>
    ops.flatMap(tensorsOfOp).some((name) => learns.has(name)) ? [layer] : [],
  )
}

/** Times of a model that has some of the layers alone. */
async function timesOf(
  use: <T>(work: (host: Host) => Promise<T>) => Promise<T>,
  checkpoint: Checkpoint,
  { tensors = [], adapters = [], tokens, dropout }: TrainableOptions,
  { layers, sequences }: { layers: readonly number[]; sequences: readonly TrainingSequence[] },
): Promise<PartTimes> {
  const spec = modelSpec(checkpoint.config, checkpoint.tensors, checkpoint.name)
  const { language } = spec
  const part = { ...spec, language: { ...language, layers: language.layers.filter((_, i) => layers.includes(i)) } }
  const others = new Set(
    language.layers.flatMap(({ ops }, layer) => (layers.includes(layer) ? [] : ops.flatMap(tensorsOfOp))),
  )
  const some = {
    ...{ tokens, dropout, tensors: tensors.filter((name) => !others.has(name)) },
    adapters: adapters.filter(({ weight }) => !others.has(weight)),
  }
  const model = await TrainableModel.unloaded(use, checkpoint, part, some)
  const draw = { step: 1, microBatch: 0 }
  const count = sequences.reduce((sum, { targets }) => sum + Array.from(targets).filter(Boolean).length, 0)
  const optimizer = { rate: 0, beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: () => 0, clip: 1 }
  const works = {
    forward: () => model.run(sequences),
    both: () => model.run(sequences, 1 / Math.max(1, count), draw),
    update: async () => {
      await model.gradientNorm()
      await model.step(optimizer)
    },
  }
  try {
    const begin = performance.now()
    for (const work of Object.values(works)) await work()
    const compiled = performance.now()
    const times = { forward: [] as number[], both: [] as number[], update: [] as number[] }
    do {
      for (const key of ['forward', 'both', 'update'] as const) {
        const start = performance.now()
        await works[key]()
        times[key].push(performance.now() - start)
      }
    } while (performance.now() - compiled < patience)
    const [forward, both, update] = [median(times.forward), median(times.both), median(times.update)]
    return { compile: Math.max(0, compiled - begin - forward - both - update), forward, both, update }
  } finally {
    await model.close()
  }
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0
}
