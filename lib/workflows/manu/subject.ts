/** What a run is about: the model, its neurons, and the lines it is measured on and evaluated. */

import type { Checkpoint, Cut } from '../../checkpoint/index.js'
import type { Engine } from '../../engine/engine.js'
import type { Model, Zeros } from '../../runtime/index.js'
import { checkpointOf, modelOf } from '../../runtime/open_model.js'
import { misuse, throwIfAborted } from '../../util/errors.js'
import { isChosen, type Module, modulesOf, type Tower } from './neurons.js'
import type { ManuMode, Settings } from './options.js'
import { type Kind, lengthOf, readStreams, type Stream, type Streams } from './streams.js'

/** Neurons by module. */
export type Neurons = ReadonlyMap<Module, readonly number[]>
export const none: Neurons = new Map()

/** Tokens a pass, where lines are not longer. */
const usualTokens = 1024

export class Subject {
  /** Spent on measuring and on evaluations. */
  readonly timings = { measure: 0, evaluate: 0 }
  readonly notes: string[] = []
  /** Parts in which the model goes through the device, and bytes of the largest. */
  forecast = { partitions: 1, bytes: 0 }
  private done = 0

  private constructor(
    readonly engine: Engine,
    readonly path: string,
    readonly checkpoint: Checkpoint,
    readonly settings: Settings,
    readonly streams: Streams,
    private readonly tokens: number,
    /** Of all layers. */
    readonly modules: readonly Module[],
    /** Those that neurons are chosen from. */
    readonly candidates: readonly Module[],
  ) {}

  static async open(engine: Engine, path: string, settings: Settings): Promise<Subject> {
    const checkpoint = await checkpointOf(engine, path)
    const model = modelOf(engine, checkpoint, { batchTokens: 1 })
    const { spec } = model
    const streams = await readStreams(engine, { model, checkpoint }, settings, settings)
    const kinds = new Set(streams.measured.map(({ kind }) => kind))
    const modules = modulesOf(spec, settings.mode === 'coupled').filter(({ tower }) =>
      kindsOf(tower, settings.mode).some((kind) => kinds.has(kind)),
    )
    const depth = { vision: spec.vision?.stack.layers.length ?? 0, language: spec.language.layers.length }
    const { layers } = settings
    const candidates = modules.filter(({ tower, layer }) => isChosen(layers, layer, depth[tower]))
    if (candidates.length === 0) {
      throw misuse(`No neurons of ${path} can be chosen: it has no MLP in the layers ${layers} that the lines reach.`)
    }
    const widest = ({ rows }: Stream, end: number[], batch: number) =>
      rows.reduce((most, row) => Math.max(most, lengthOf(model, row, end)), 0) * batch
    const tokens = Math.max(
      usualTokens,
      ...streams.measured.map((stream) => widest(stream, [], settings.statistics === 'batch' ? settings.batch : 1)),
      ...streams.evaluated.map((stream) => widest(stream, streams.end, 1)),
    )
    const subject = new Subject(engine, path, checkpoint, settings, streams, tokens, modules, candidates)
    const missing = (['multimodal', 'text'] as const).filter((kind) => !kinds.has(kind))
    if (spec.vision !== undefined && missing.length > 0) {
      subject.notes.push(`There are no ${missing.join(' and no ')} lines, so what they would measure stays as it is.`)
    }
    return subject
  }

  /** The model as it is without some neurons. */
  without(neurons: Neurons): Model {
    const zeros = new Map<string, Zeros>()
    for (const [name, { zeroRows = [], zeroColumns = [] }] of cutsOf(neurons)) {
      zeros.set(name, { rows: zeroRows, columns: zeroColumns })
    }
    return modelOf(this.engine, this.checkpoint, { batchTokens: this.tokens, zeros })
  }

  /** Tokens of streams. */
  count(streams: readonly Stream[], end: number[]): number {
    const model = modelOf(this.engine, this.checkpoint, { batchTokens: 1 })
    return streams.flatMap(({ rows }) => rows).reduce((sum, row) => sum + lengthOf(model, row, end), 0)
  }

  /** Times that the sets are evaluated. */
  get evaluations(): number {
    const { evaluate, alphas, compare } = this.settings
    return evaluate ? 1 + alphas.length * (compare ? 3 : 1) : 0
  }

  /** Lines have been through the model. */
  step(lines: number): void {
    const { measured, evaluated } = this.streams
    const linesOf = (streams: readonly Stream[]) => streams.reduce((sum, { rows }) => sum + rows.length, 0)
    const total = linesOf(measured) * this.settings.iterations + linesOf(evaluated) * this.evaluations
    this.done += lines
    this.settings.onProgress?.({ phase: 'run', done: this.done, total, unit: 'examples' })
  }

  check(): void {
    throwIfAborted(this.settings.signal, 'The unlearning')
  }
}

/** The kinds of lines that the neurons of a tower are measured on. */
export function kindsOf(tower: Tower, mode: ManuMode): Kind[] {
  if (tower === 'vision') return ['multimodal']
  return mode === 'paper' ? ['multimodal', 'text'] : ['text']
}

/** What becomes zero with neurons, by tensor. */
export function cutsOf(neurons: Neurons): ReadonlyMap<string, Cut> {
  const cuts = new Map<string, Cut>()
  for (const [{ rows, columns }, chosen] of neurons) {
    for (const name of rows) cuts.set(name, { ...cuts.get(name), zeroRows: chosen })
    for (const name of columns) cuts.set(name, { ...cuts.get(name), zeroColumns: chosen })
  }
  return cuts
}
