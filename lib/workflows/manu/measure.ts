/** The statistics of all neurons on the four streams, in one pass over each; they can be kept in a score file. */

import { createHash } from 'node:crypto'
import { stat } from 'node:fs/promises'
import { version } from '../../native/version.js'
import { ColumnStatistics, type Model, type PackedToken, type StatisticSpec } from '../../runtime/index.js'
import { fingerprint, readScores, ScoreWriter } from '../../score/index.js'
import { WeightsmithError } from '../../util/errors.js'
import type { Module } from './neurons.js'
import { groupsOf, overBatches, overStream, parts, type Statistics } from './statistics.js'
import { type Kind, manuBatches, type Stream } from './streams.js'
import { kindsOf, type Neurons, none, type Subject } from './subject.js'

/** By stream, then by the modules that share them. */
export type Measured = Record<'forget' | 'retain', Partial<Record<Kind, ReadonlyMap<string, Statistics>>>>

/** What statistics are kept by: a module, or, pooled, the modules of its kind. */
export function sharedBy({ settings }: Subject, { name, tower, kind }: Module): string {
  return settings.poolLayers ? `${tower} ${kind}` : name
}

/** Measures the model without neurons that are chosen already. */
export async function measure(subject: Subject, chosen: Neurons): Promise<Measured> {
  const begin = performance.now()
  // A score file is of the model as it is.
  const file = chosen === none ? subject.settings.cache : undefined
  const known = file !== undefined && (await stat(file).catch(() => undefined)) ? await read(subject, file) : undefined
  const result = known ?? (await measureStreams(subject, chosen))
  if (known !== undefined) subject.step(subject.streams.measured.reduce((sum, { rows }) => sum + rows.length, 0))
  if (file !== undefined && known === undefined) await write(subject, file, result)
  subject.timings.measure += performance.now() - begin
  return result
}

async function measureStreams(subject: Subject, chosen: Neurons): Promise<Measured> {
  const model = subject.without(chosen)
  const result: Measured = { forget: {}, retain: {} }
  try {
    for (const { set, kind, rows } of subject.streams.measured) {
      if (set !== 'utility') result[set][kind] = await measureStream(subject, model, kind, rows)
    }
  } finally {
    await model.close()
  }
  return result
}

/** The modules that lines of a kind measure. */
export function modulesOn(subject: Subject, kind: Kind): readonly Module[] {
  const { poolLayers, mode } = subject.settings
  return (poolLayers ? subject.modules : subject.candidates).filter(({ tower }) => kindsOf(tower, mode).includes(kind))
}

/** Layers of the language model that lines have to go through for modules to be measured. */
export function depthOf(modules: readonly Module[]): number {
  return modules.reduce((most, { tower, layer }) => (tower === 'language' ? Math.max(most, layer + 1) : most), 0)
}

async function measureStream(
  subject: Subject,
  model: Model,
  kind: Kind,
  rows: Stream['rows'],
): Promise<ReadonlyMap<string, Statistics>> {
  const { statistics, batch, tau } = subject.settings
  const modules = modulesOn(subject, kind)
  const collectors = new Map(
    modules.map((module) => [
      sharedBy(subject, module),
      statistics === 'batch' ? overBatches(module.neurons) : overStream(new ColumnStatistics(module.neurons)),
    ]),
  )
  const depth = depthOf(modules)
  const passes: { tokens: PackedToken[]; measures: StatisticSpec[]; lines: number }[] = []
  const walk = async () => {
    const now = passes.splice(0)
    const observers = [{ statistics: (number: number) => now[number]?.measures ?? [] }]
    subject.forecast = await model.forecast({ mode: 'layerwise', observers })
    const batches = now.map(({ tokens }) => tokens)
    await model.layerwisePass(batches, { observers, depth, check: () => subject.check() })
    subject.step(now.reduce((sum, { lines }) => sum + lines, 0))
  }
  const together = statistics === 'batch' ? batch : 1
  for await (const { tokens, lines, images } of manuBatches(model, rows, { end: [], batch: together })) {
    const groups = { language: groupsOf(lines, statistics, batch), vision: groupsOf(images, statistics, batch) }
    const measures = modules.flatMap((module) => {
      const collector = collectors.get(sharedBy(subject, module))
      return collector === undefined ? [] : [collector.measure(module.hook, groups[module.tower], tau)]
    })
    passes.push({ tokens, measures, lines: lines.length })
    // A model in partitions is read once for all passes, whose images then wait in memory.
    if (subject.forecast.partitions === 1) await walk()
  }
  if (passes.length > 0) await walk()
  return new Map(
    [...collectors].flatMap(([name, collector]) => {
      const result = collector.result()
      return result === undefined ? [] : [[name, result] as const]
    }),
  )
}

/** What decides about the statistics beside the model. */
function methodOf({ settings, streams, candidates }: Subject): string {
  const { mode, statistics, batch, tau, poolLayers } = settings
  const lines = streams.measured.map(({ set, kind, rows }) => [
    [set, kind],
    rows.map(({ prompt, answer, image }) => [prompt, answer, image]),
  ])
  const unit = [mode === 'coupled', mode === 'paper', statistics, batch, tau, poolLayers === true]
  const facts = JSON.stringify([unit, candidates.map(({ name }) => name), lines])
  return `manu ${createHash('sha256').update(facts).digest('hex')}`
}

const nameOf = (set: string, kind: string, name: string, part: string) => `${set}/${kind}/${name}/${part}`

async function write(subject: Subject, file: string, measured: Measured): Promise<void> {
  const { checkpoint, settings, engine } = subject
  const tensors = Object.entries(measured).flatMap(([set, kinds]) =>
    Object.entries(kinds).flatMap(([kind, of]) =>
      [...of].flatMap(([name, statistics]) =>
        parts.map((part) => ({ name: nameOf(set, kind, name, part), values: statistics[part] })),
      ),
    ),
  )
  const info = {
    format: 1 as const,
    weightsmith: version,
    methods: [methodOf(subject)],
    model: { name: checkpoint.name, fingerprint: await fingerprint(checkpoint) },
    parameters: { layers: [], tau: settings.tau, seed: settings.seed },
    device: engine.device.name,
  }
  const shapes = tensors.map(({ name, values }) => ({ name, shape: [values.length] }))
  const writer = await ScoreWriter.open(file, info, shapes)
  try {
    for (const { name, values } of tensors) await writer.write(name, values)
    await writer.finish()
  } catch (error) {
    await writer.discard()
    throw error
  }
}

async function read(subject: Subject, file: string): Promise<Measured> {
  const { engine, checkpoint } = subject
  const scores = await engine.use(({ addon }) => readScores(addon, file, checkpoint))
  if (scores.info.methods[0] !== methodOf(subject)) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_INPUT_CHANGED',
      `The statistics in ${file} are of other lines, layers or options than those of this run; name another file.`,
      { file },
    )
  }
  const result: Measured = { forget: {}, retain: {} }
  for (const { set, kind } of subject.streams.measured) {
    if (set === 'utility') continue
    const of = new Map<string, Statistics>()
    for (const module of modulesOn(subject, kind)) {
      const name = sharedBy(subject, module)
      const part = async (one: (typeof parts)[number]) =>
        Float64Array.from(await scores.read(nameOf(set, kind, name, one)))
      of.set(name, { abs: await part('abs'), freq: await part('freq'), var: await part('var'), rms: await part('rms') })
    }
    result[set][kind] = of
  }
  return result
}
