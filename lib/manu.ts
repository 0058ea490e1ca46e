/**
 * `manu`: modality-aware neuron unlearning (arXiv 2502.15910). Neurons of the MLPs that answer more strongly to what is to be
 * forgotten than to what is to be retained become zeros; nothing is trained.
 */

import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { type Checkpoint, type Content, type Cut, cutTensor } from './checkpoint/index.js'
import type { Adapter, Engine } from './engine.js'
import { WeightsmithError } from './errors.js'
import { withWidths } from './families/index.js'
import type { Measure, Model, Zeros } from './forward/index.js'
import { ColumnStatistics } from './forward/index.js'
import { checkpointOf, modelOf } from './forward.js'
import {
  codeScores,
  groupsOf,
  isChosen,
  type Layers,
  type Module,
  modulesOf,
  overBatches,
  overStream,
  type Part,
  paperScores,
  parts,
  type Scores,
  type Selection,
  type Statistics,
  select,
  type Tower,
  type Weights,
} from './manu/index.js'
import { rewrite } from './rewrite.js'
import { type Kind, lengthOf, passesOf, readStreams, type SetName, type Stream, type Streams } from './streams.js'

export { kinds, sets } from './streams.js'
export const manuModes = ['code', 'paper', 'coupled'] as const
export type ManuMode = (typeof manuModes)[number]
export const manuStatistics = ['stream', 'batch'] as const

export interface ManuOptions {
  /** .jsonl files; lines with an `image` are multimodal, the others text-only. */
  forget: readonly string[]
  retain: readonly string[]
  /** Only asked, before and after. */
  utility?: readonly string[] | undefined
  /** Where images are: a folder, or a safetensors file with the tensor `images`. Defaults to the folder of each file. */
  images?: string | undefined
  /** Folder of the result; with several alphas each gets a folder in it. Not needed with `dryRun`. */
  out?: string | undefined
  /**
   * `code`: as the published code scores rows of linears (the default); `paper`: as the paper does; `coupled`: the code's score
   * for what comes out between the matrices of an MLP, whose neurons go with their rows and columns.
   */
  mode?: ManuMode | undefined
  /** Per cent of the neurons of the layers, in each tower apart. Several: one output each, from one measurement. Defaults to 2. */
  alpha?: number | readonly number[] | undefined
  /** Layers of each tower. Defaults to `last3`, in paper mode to `all`. */
  layers?: Layers | undefined
  /** Of the four importances. Default in paper mode to 1 each, else to 2, and 0 for `freq`. */
  weights?: Partial<Weights> | undefined
  /** |z| above it counts for `freq`. Defaults to 0.1. */
  tau?: number | undefined
  /** Over all tokens of a stream at once (the default), or `batch`: at each position of each batch, then the mean. */
  statistics?: (typeof manuStatistics)[number] | undefined
  /** Lines of a batch. Defaults to 4. */
  batch?: number | undefined
  /**
   * `coupled` only: neurons of the language model are left out instead of zeros, layers may then differ in width. Those of a
   * tower stay as zeros. Defaults to false.
   */
  compact?: boolean | undefined
  /** Rounds, each of which measures again and takes alpha per cent more. Defaults to 1. */
  iterations?: number | undefined
  /** As in the published code, modules of a kind share the statistics of all layers. Defaults to false. */
  poolLayers?: boolean | undefined
  /** Ask forget, retain and utility before and after. Defaults to true. */
  ask?: boolean | undefined
  /** Lines of each set and kind that are asked, chosen by the seed. Defaults to all. */
  askLines?: number | undefined
  /** Ask after taking as many neurons at random, and those of the smallest weights, too. */
  compare?: boolean | undefined
  /** Of several alphas, write only the largest whose mean accuracy on retain falls by no more per cent than this. */
  maxRetainDrop?: number | undefined
  /** Of samples and random neurons. Defaults to 0. */
  seed?: number | undefined
  overwrite?: boolean | undefined
  /** Say what a run would measure, and what it takes. */
  dryRun?: boolean | undefined
  signal?: AbortSignal | undefined
  /** Lines that have been through the model, of all. */
  onProgress?: ((done: number, total: number) => void) | undefined
}

export interface ManuAnswers {
  set: SetName
  kind: Kind
  lines: number
  correct: number
  /** Share of the lines all of whose answer is the likeliest token at its place. */
  accuracy: number
  /** Mean over lines of the mean loss of the answer's tokens, in nats. */
  nll: number
}

export interface ManuNeuron {
  module: string
  neuron: number
  score: number
  parts: Readonly<Record<Part, number>>
}

export interface ManuChoice {
  alpha: number
  /** Absent where nothing was written. */
  out?: string
  towers: (Pick<Selection<unknown>, 'total' | 'wanted' | 'threshold' | 'next'> & { tower: Tower; selected: number })[]
  /** By falling score. */
  neurons: ManuNeuron[]
  answers?: ManuAnswers[]
  random?: ManuAnswers[]
  magnitude?: ManuAnswers[]
}

export interface ManuReport {
  model: string
  mode: ManuMode
  dryRun: boolean
  streams: { set: SetName; kind: Kind; lines: number; tokens: number }[]
  modules: { name: string; tower: Tower; layer: number; neurons: number; selected: number[]; limited: number }[]
  /** Neurons whose score eps decides, because they hardly answer to what is to be retained. */
  limited: number
  before?: ManuAnswers[]
  choices: ManuChoice[]
  /** With `maxRetainDrop`: the largest alpha within it, if there is one. */
  within?: number | null
  notes: string[]
  /** Parts in which the model goes through the device, and bytes of the largest. */
  parts: number
  memory: number
  adapter: Adapter['info']['device']
  milliseconds: { measure: number; ask: number; total: number }
}

/**
 * Throws ERR_WEIGHTSMITH_ARGUMENT for options, for lines that are both to be forgotten and retained, for a stream that is empty
 * while its other half is not, and for an alpha that leaves nothing of a module.
 */
export async function manu(engine: Engine, path: string, options: ManuOptions): Promise<ManuReport> {
  const run = await Run.open(engine, path, checked(options))
  if (options.dryRun) return run.plan()
  const before = await run.ask(none)
  const choices: Choice[] = []
  for (const alpha of run.alphas) {
    let chosen: Choice | undefined
    for (let round = 0; round < run.iterations; round++) {
      // Before anything is chosen, all alphas share one measurement.
      const streams = await run.measure(chosen)
      const scores = run.score(streams)
      chosen = run.choose(scores, alpha, chosen)
    }
    if (chosen !== undefined) choices.push({ ...chosen, ...(await run.compare(chosen)) })
  }
  const within = run.within(choices, before)
  await run.write(choices, within)
  return run.report(before, choices, within)
}

type Settings = ReturnType<typeof checked>

function checked(options: ManuOptions) {
  const { mode = 'code', iterations = 1, tau = 0.1, statistics = 'stream', batch = 4, seed = 0, ask = true } = options
  const alphas = [...new Set([options.alpha ?? 2].flat())].sort((a, b) => a - b)
  const layers = options.layers ?? (mode === 'paper' ? 'all' : 'last3')
  const weights: Weights = {
    ...(mode === 'paper' ? { abs: 1, freq: 1, var: 1, rms: 1 } : { abs: 2, freq: 0, var: 2, rms: 2 }),
    ...options.weights,
  }
  const whole = (value: number, least: number) => Number.isSafeInteger(value) && value >= least
  const wrong = [
    !manuModes.includes(mode) && `the mode should be ${manuModes.join(', ')}, not ${mode}`,
    !manuStatistics.includes(statistics) && `statistics should be ${manuStatistics.join(' or ')}, not ${statistics}`,
    alphas.some((alpha) => !(alpha >= 0 && alpha <= 100)) && `alpha should be 0 to 100 per cent, not ${alphas}`,
    alphas.length === 0 && 'no alpha is given',
    !whole(iterations, 1) && `iterations should be a whole number from 1, not ${iterations}`,
    iterations > 1 && alphas.length > 1 && 'a sweep over alpha has one iteration',
    options.compact === true && mode !== 'coupled' && `only coupled neurons can be left out, not those of mode ${mode}`,
    !whole(batch, 1) && `batch should be a whole number from 1, not ${batch}`,
    !(tau >= 0) && `tau should be a number from 0, not ${tau}`,
    !whole(seed, 0) && `seed should be a whole number from 0, not ${seed}`,
    parts.some((part) => !Number.isFinite(weights[part])) && 'weights should be numbers',
    options.maxRetainDrop !== undefined && !ask && 'maxRetainDrop needs the sets to be asked',
    options.out === undefined &&
      options.dryRun !== true &&
      options.ask === false &&
      'nothing would be asked or written',
  ].find((what) => what !== false)
  if (wrong !== undefined) throw argument(`An option cannot be used: ${wrong}.`)
  return { ...options, mode, alphas, layers, weights, iterations, tau, statistics, batch, seed, ask }
}

/** Neurons by module. */
type Neurons = ReadonlyMap<Module, readonly number[]>
const none: Neurons = new Map()

/** Statistics by stream, then by the modules that share them. */
type Measured = Record<'forget' | 'retain', Partial<Record<Kind, ReadonlyMap<string, Statistics>>>>

interface Choice extends Omit<ManuChoice, 'out'> {
  /** Of all rounds. */
  selected: Neurons
  out?: string
}

/** Tokens a pass, where lines are not longer. */
const usualTokens = 1024

class Run {
  private readonly milliseconds = { measure: 0, ask: 0 }
  private readonly began = performance.now()
  private readonly notes: string[] = []
  private forecast = { parts: 1, bytes: 0 }
  private measured: Measured | undefined
  private scores: ReadonlyMap<Module, Scores> = new Map()
  private done = 0

  private constructor(
    private readonly engine: Engine,
    private readonly path: string,
    private readonly checkpoint: Checkpoint,
    private readonly settings: Settings,
    private readonly streams: Streams,
    private readonly tokens: number,
    /** Of all layers; those that are chosen from come second. */
    private readonly modules: readonly Module[],
    private readonly candidates: readonly Module[],
  ) {}

  static async open(engine: Engine, path: string, settings: Settings): Promise<Run> {
    const checkpoint = await checkpointOf(engine, path)
    const model = modelOf(engine, checkpoint, { tokens: 1 })
    const streams = await readStreams(engine, { model, checkpoint }, settings, settings)
    const { spec } = model
    const kinds = new Set(streams.measured.map(({ kind }) => kind))
    const modules = modulesOf(spec, settings.mode === 'coupled').filter(({ tower }) =>
      kindsOf(tower, settings.mode).some((kind) => kinds.has(kind)),
    )
    const depth = { vision: spec.vision?.stack.layers.length ?? 0, language: spec.language.layers.length }
    const { layers } = settings
    const candidates = modules.filter(({ tower, layer }) => isChosen(layers, layer, depth[tower]))
    if (candidates.length === 0) {
      throw argument(`No neurons of ${path} can be chosen: it has no MLP in the layers ${layers} that the lines reach.`)
    }
    const widest = (rows: Stream['rows'], end: number[], batch: number) =>
      rows.reduce((most, row) => Math.max(most, lengthOf(model, row, end)), 0) * batch
    const longest = Math.max(
      ...streams.measured.map(({ rows }) => widest(rows, [], settings.statistics === 'batch' ? settings.batch : 1)),
      ...streams.asked.map(({ rows }) => widest(rows, streams.end, 1)),
    )
    const run = new Run(
      engine,
      path,
      checkpoint,
      settings,
      streams,
      Math.max(usualTokens, longest),
      modules,
      candidates,
    )
    const missing = (['multimodal', 'text'] as const).filter((kind) => !kinds.has(kind))
    if (spec.vision !== undefined && missing.length > 0) {
      run.notes.push(`There are no ${missing.join(' and no ')} lines, so what they would measure stays as it is.`)
    }
    return run
  }

  get alphas(): readonly number[] {
    return this.settings.alphas
  }

  get iterations(): number {
    return this.settings.iterations
  }

  /** The statistics of all streams, of the model without the neurons that are chosen already. */
  async measure(chosen: Choice | undefined): Promise<Measured> {
    if (chosen === undefined && this.measured !== undefined) return this.measured
    const begin = performance.now()
    const model = this.open(chosen?.selected ?? none)
    const result: Measured = { forget: {}, retain: {} }
    try {
      for (const { set, kind, rows } of this.streams.measured) {
        if (set !== 'utility') result[set][kind] = await this.measureStream(model, kind, rows)
      }
    } finally {
      await model.close()
    }
    if (chosen === undefined) this.measured = result
    this.milliseconds.measure += performance.now() - begin
    return result
  }

  private async measureStream(
    model: Model,
    kind: Kind,
    rows: Stream['rows'],
  ): Promise<ReadonlyMap<string, Statistics>> {
    const { statistics, batch, tau, mode, poolLayers } = this.settings
    const measured = (poolLayers ? this.modules : this.candidates).filter(({ tower }) =>
      kindsOf(tower, mode).includes(kind),
    )
    const collectors = new Map(
      measured.map((module) => [
        this.sharedBy(module),
        statistics === 'batch' ? overBatches(module.neurons) : overStream(new ColumnStatistics(module.neurons)),
      ]),
    )
    const towerOnly = measured.every(({ tower }) => tower === 'vision')
    const passes: { tokens: Parameters<Model['run']>[0]; measures: Measure[]; lines: number }[] = []
    const walk = async () => {
      const now = passes.splice(0)
      const watch = [{ measures: (number: number) => now[number]?.measures ?? [] }]
      this.forecast = await model.forecast({ watch })
      await model.walk(
        now.map(({ tokens }) => tokens),
        { watch, towerOnly, check: () => throwIfAborted(this.settings.signal) },
      )
      this.step(now.reduce((sum, { lines }) => sum + lines, 0))
    }
    const whole = statistics === 'batch' ? batch : 1
    for await (const { tokens, lines, images } of passesOf(model, rows, { end: [], batch: whole })) {
      const groups = { language: groupsOf(lines, statistics, batch), vision: groupsOf(images, statistics, batch) }
      const measures = measured.flatMap((module) => {
        const collector = collectors.get(this.sharedBy(module))
        return collector === undefined ? [] : [collector.measure(module.tap, groups[module.tower], tau)]
      })
      passes.push({ tokens, measures, lines: lines.length })
      // A model in parts is read once for all passes, whose images then wait in memory.
      if (this.forecast.parts === 1) await walk()
    }
    if (passes.length > 0) await walk()
    return new Map(
      [...collectors].flatMap(([name, collector]) => {
        const result = collector.result()
        return result === undefined ? [] : [[name, result] as const]
      }),
    )
  }

  /** The scores of every module that neurons are chosen from. */
  score({ forget, retain }: Measured): ReadonlyMap<Module, Scores> {
    const { mode, weights } = this.settings
    const scores = new Map<Module, Scores>()
    for (const module of this.candidates) {
      const of = (set: Measured['forget'], kind: Kind) => set[kind]?.get(this.sharedBy(module))
      const kinds = kindsOf(module.tower, mode).filter((kind) => of(forget, kind) && of(retain, kind))
      const streamsOf = (set: Measured['forget']) => Object.fromEntries(kinds.map((kind) => [kind, of(set, kind)]))
      const [kind] = kinds
      const [own, other] = kind === undefined ? [] : [of(forget, kind), of(retain, kind)]
      if (own === undefined || other === undefined) continue
      const result =
        mode === 'paper' ? paperScores(streamsOf(forget), streamsOf(retain), weights) : codeScores(own, other, weights)
      scores.set(module, result)
    }
    if (this.scores.size === 0) this.scores = scores
    return scores
  }

  /** The alpha per cent of the neurons of each tower that have the largest scores; `before` are chosen already. */
  choose(scores: ReadonlyMap<Module, Scores>, alpha: number, before: Choice | undefined): Choice {
    const selected = new Map<Module, readonly number[]>(before?.selected)
    const neurons: ManuNeuron[] = [...(before?.neurons ?? [])]
    const towers: ManuChoice['towers'] = []
    for (const tower of ['vision', 'language'] as const) {
      const own = [...scores].filter(([module]) => module.tower === tower)
      if (own.length === 0) continue
      const open = own.map(([module, { score }]): [Module, Float64Array] => {
        const taken = new Set(selected.get(module))
        // What is zero already is not chosen again.
        return [module, score.map((value, n) => (taken.has(n) ? Number.NaN : value))]
      })
      const { selected: found, ...facts } = select(new Map(open), alpha)
      let count = 0
      for (const [module, chosen] of found) {
        count += chosen.length
        selected.set(
          module,
          [...(selected.get(module) ?? []), ...chosen].sort((a, b) => a - b),
        )
        const of = scores.get(module)
        for (const neuron of chosen) {
          neurons.push({
            ...{ module: module.name, neuron, score: of?.score[neuron] ?? 0 },
            parts: valuesAt(of, neuron),
          })
        }
      }
      towers.push({ tower, ...facts, selected: count })
    }
    const emptied = [...selected].find(([module, chosen]) => chosen.length === module.neurons)
    if (emptied !== undefined) {
      throw argument(
        `An alpha of ${alpha} takes all ${emptied[0].neurons} neurons of ${emptied[0].name}; take less, or more layers.`,
      )
    }
    neurons.sort((a, b) => b.score - a.score)
    return { alpha, towers, neurons, selected }
  }

  /** Answers without the neurons that are chosen, and without as many others. */
  async compare({ selected }: Choice): Promise<Pick<ManuChoice, 'answers' | 'random' | 'magnitude'>> {
    const answers = await this.ask(selected)
    if (answers === undefined) return {}
    if (this.settings.compare !== true) return { answers }
    const random = await this.ask(this.others(selected, (module) => randomRanks(module, this.settings.seed)))
    const norms = await this.norms()
    const magnitude = await this.ask(this.others(selected, (module) => norms.get(module) ?? []))
    return { answers, ...(random && { random }), ...(magnitude && { magnitude }) }
  }

  /** As many neurons of each tower, those of the smallest ranks. */
  private others(selected: Neurons, rankOf: (module: Module) => ArrayLike<number>): Neurons {
    const result = new Map<Module, number[]>()
    for (const tower of ['vision', 'language'] as const) {
      const own = this.candidates.filter((module) => module.tower === tower)
      const count = own.reduce((sum, module) => sum + (selected.get(module)?.length ?? 0), 0)
      const ranked = own.flatMap((module) => Array.from(rankOf(module), (rank, neuron) => ({ module, neuron, rank })))
      for (const { module, neuron } of ranked.sort((a, b) => a.rank - b.rank).slice(0, count)) {
        result.set(module, [...(result.get(module) ?? []), neuron])
      }
    }
    return result
  }

  /** Squared norms of the weights of every neuron: of its row, or, coupled, of its column. */
  private async norms(): Promise<ReadonlyMap<Module, Float64Array>> {
    const model = this.open(none)
    const norms = new Map<Module, Float64Array>()
    try {
      for (const by of ['input', 'output'] as const) {
        const own = new Map(this.candidates.flatMap((m) => (m.tap.side === by ? [[m.tap.weight, m] as const] : [])))
        const add = (name: string, sums: Float32Array) => {
          const module = own.get(name)
          if (module)
            norms.set(
              module,
              Float64Array.from({ length: module.neurons }, (_, n) => sums[2 * n + 1] ?? 0),
            )
        }
        if (own.size > 0) await model.walk([], { watch: [{ weights: { names: new Set(own.keys()), by, add } }] })
      }
    } finally {
      await model.close()
    }
    return norms
  }

  /** What the model answers without some neurons. Nothing where the sets are not to be asked. */
  async ask(without: Neurons): Promise<ManuAnswers[] | undefined> {
    if (!this.settings.ask) return undefined
    const begin = performance.now()
    const { asked, end } = this.streams
    const model = this.open(without)
    const answers: ManuAnswers[] = []
    try {
      for (const { set, kind, rows } of asked) {
        let correct = 0
        let loss = 0
        for await (const { tokens, lines } of passesOf(model, rows, { end, batch: 1 })) {
          throwIfAborted(this.settings.signal)
          const { nll, best } = await model.run(tokens)
          for (const { first, length, prompt } of lines) {
            // Row t predicts token t + 1.
            const places = Array.from({ length: length - prompt }, (_, i) => first + prompt - 1 + i)
            if (places.every((t) => best[t] === tokens[t]?.target)) correct++
            loss += places.reduce((sum, t) => sum + (nll[t] ?? 0), 0) / places.length
          }
          this.step(lines.length)
        }
        const { length } = rows
        answers.push({ set, kind, lines: length, correct, accuracy: correct / length, nll: loss / length })
      }
    } finally {
      await model.close()
    }
    this.milliseconds.ask += performance.now() - begin
    return answers
  }

  /** The largest alpha within the limit; undefined where there is no limit, null where none is within it. */
  within(choices: readonly Choice[], before: ManuAnswers[] | undefined): number | null | undefined {
    const { maxRetainDrop } = this.settings
    if (maxRetainDrop === undefined || before === undefined) return undefined
    const fits = choices.filter(
      ({ answers }) => answers && 100 * (meanOf(before, 'retain') - meanOf(answers, 'retain')) <= maxRetainDrop + 1e-9,
    )
    return fits.at(-1)?.alpha ?? null
  }

  /** Writes the checkpoints, with the list of neurons beside the weights. */
  async write(choices: Choice[], within: number | null | undefined): Promise<void> {
    const { out, overwrite, signal, seed, mode, layers, weights, iterations, forget, retain, compact } = this.settings
    if (out === undefined) return
    const several = choices.length > 1 && within === undefined
    for (const choice of choices) {
      if (within !== undefined && choice.alpha !== within) continue
      const { alpha, neurons, selected } = choice
      const target = several ? join(out, `alpha=${alpha}`) : out
      const tensors = new Map<string, Content>()
      for (const [name, cut] of compact ? keptOf(selected) : cutsOf(selected)) {
        const tensor = this.checkpoint.tensors.get(name)
        if (tensor !== undefined) tensors.set(name, cutTensor(this.checkpoint, tensor, cut))
      }
      const config = compact ? this.narrowed(selected) : undefined
      const list = { mode, alpha, layers, weights, towers: choice.towers, neurons }
      const { out: written } = await this.engine.use((host) =>
        rewrite(host, this.checkpoint, {
          ...{ out: target, tensors, config, seed, overwrite, signal },
          recipe: { manu: { model: this.checkpoint.name, mode, alpha, layers, weights, iterations, forget, retain } },
          about: `${neurons.length} neurons of its MLPs were set to zero by modality-aware neuron unlearning (arXiv 2502.15910); neurons.json lists them with their scores.`,
          files: [{ name: 'neurons.json', data: `${JSON.stringify(list)}\n` }],
        }),
      )
      choice.out = written
    }
  }

  /** The config of a language model without some neurons. */
  private narrowed(selected: Neurons): Record<string, unknown> {
    const { language } = modelOf(this.engine, this.checkpoint, { tokens: 1 }).spec
    const { heads, groups, headSize } = language.attention
    const widths = language.layers.map(({ units }, layer) => {
      const count = (kind: string) => units.find((own) => own.kind === kind)?.count ?? 0
      const gone = [...selected].find(([module]) => module.tower === 'language' && module.layer === layer)?.[1] ?? []
      return {
        heads: (count('group') * heads) / groups,
        groups: count('group'),
        inner: count('neuron') - gone.length,
      }
    })
    const config = withWidths(this.checkpoint.config ?? {}, widths, headSize)
    if (config !== undefined) return config
    throw argument(
      `The config of ${this.path} has no keys for other widths; leave the neurons as zeros, without compact.`,
    )
  }

  /** What a run would do. */
  async plan(): Promise<ManuReport> {
    const { mode, ask } = this.settings
    const model = this.open(none)
    try {
      this.forecast = await model.forecast({ watch: [{ measures: () => [] }] })
      for (const { kind, rows } of this.streams.measured.filter(({ set }) => set === 'forget')) {
        const { value: pass } = await passesOf(model, rows, { end: [], batch: 1 }).next()
        if (pass === undefined) continue
        const own = (stream: Stream) => stream.kind === kind
        const { measured, asked, end } = this.streams
        const each = async (towerOnly: boolean) => {
          // The first pass compiles kernels.
          await model.walk([pass.tokens], { towerOnly })
          const begin = performance.now()
          await model.walk([pass.tokens], { towerOnly })
          return (performance.now() - begin) / pass.tokens.length
        }
        const towerOnly = kind === 'multimodal' && mode !== 'paper'
        this.milliseconds.measure += (await each(towerOnly)) * this.count(measured.filter(own), []) * this.iterations
        if (ask) this.milliseconds.ask += (await each(false)) * this.count(asked.filter(own), end) * this.asking()
      }
    } finally {
      await model.close()
    }
    return this.report(undefined, [], undefined)
  }

  report(before: ManuAnswers[] | undefined, choices: Choice[], within: number | null | undefined): ManuReport {
    const { measure, ask } = this.milliseconds
    const dryRun = this.settings.dryRun === true
    const modules = this.candidates.map((module) => ({
      ...{ name: module.name, tower: module.tower, layer: module.layer, neurons: module.neurons },
      selected: choices.map(({ selected }) => selected.get(module)?.length ?? 0),
      limited: this.scores.get(module)?.limited ?? 0,
    }))
    return {
      ...{ model: this.path, mode: this.settings.mode, dryRun },
      streams: this.streams.measured.map((stream) => ({
        ...{ set: stream.set, kind: stream.kind, lines: stream.rows.length },
        tokens: this.count([stream], []),
      })),
      modules,
      limited: modules.reduce((sum, { limited }) => sum + limited, 0),
      ...(before && { before }),
      choices: choices.map(({ selected: _, ...choice }) => choice),
      ...(within === undefined ? {} : { within }),
      notes: this.notes,
      parts: this.forecast.parts,
      memory: this.forecast.bytes,
      adapter: this.engine.adapter.info.device,
      milliseconds: { measure, ask, total: dryRun ? measure + ask : performance.now() - this.began },
    }
  }

  /** The model as it is without some neurons. */
  private open(without: Neurons): Model {
    const zeros = new Map<string, Zeros>()
    for (const [name, { zeroRows = [], zeroColumns = [] }] of cutsOf(without)) {
      zeros.set(name, { rows: zeroRows, columns: zeroColumns })
    }
    return modelOf(this.engine, this.checkpoint, { tokens: this.tokens, zeros })
  }

  /** What statistics are kept by: a module, or, pooled, the modules of its kind. */
  private sharedBy({ name, tower, kind }: Module): string {
    return this.settings.poolLayers ? `${tower} ${kind}` : name
  }

  private count(streams: readonly Stream[], end: number[]): number {
    const model = modelOf(this.engine, this.checkpoint, { tokens: 1 })
    return streams.flatMap(({ rows }) => rows).reduce((sum, row) => sum + lengthOf(model, row, end), 0)
  }

  /** Times that the sets are asked. */
  private asking(): number {
    return 1 + this.alphas.length * (this.settings.compare ? 3 : 1)
  }

  private step(lines: number): void {
    const { measured, asked } = this.streams
    const linesOf = (streams: readonly Stream[]) => streams.reduce((sum, { rows }) => sum + rows.length, 0)
    const total = linesOf(measured) * this.iterations + (this.settings.ask ? linesOf(asked) * this.asking() : 0)
    this.done += lines
    this.settings.onProgress?.(this.done, total)
  }
}

/** The kinds of lines that the neurons of a tower are measured on. */
function kindsOf(tower: Tower, mode: ManuMode): Kind[] {
  if (tower === 'vision') return ['multimodal']
  return mode === 'paper' ? ['multimodal', 'text'] : ['text']
}

function cutsOf(neurons: Neurons): ReadonlyMap<string, Cut> {
  const cuts = new Map<string, Cut>()
  for (const [{ rows, columns }, chosen] of neurons) {
    for (const name of rows) cuts.set(name, { ...cuts.get(name), zeroRows: chosen })
    for (const name of columns) cuts.set(name, { ...cuts.get(name), zeroColumns: chosen })
  }
  return cuts
}

/** What stays of tensors whose neurons are left out; those of towers become zeros. */
function keptOf(neurons: Neurons): ReadonlyMap<string, Cut> {
  const cuts = new Map(cutsOf(new Map([...neurons].filter(([{ tower }]) => tower === 'vision'))))
  for (const [module, chosen] of neurons) {
    if (module.tower === 'vision') continue
    const gone = new Set(chosen)
    const kept = Array.from({ length: module.neurons }, (_, n) => n).filter((n) => !gone.has(n))
    for (const name of module.rows) cuts.set(name, { rows: kept })
    for (const name of module.columns) cuts.set(name, { columns: kept })
  }
  return cuts
}

function valuesAt(scores: Scores | undefined, neuron: number): Record<Part, number> {
  const at = (part: Part) => scores?.parts[part][neuron] ?? 0
  return { abs: at('abs'), freq: at('freq'), var: at('var'), rms: at('rms') }
}

/** An order that depends on the seed and on names alone. */
function randomRanks({ name, neurons }: Module, seed: number): number[] {
  return Array.from({ length: neurons }, (_, neuron) =>
    createHash('sha256').update(`${seed} ${name} ${neuron}`).digest().readUInt32BE(0),
  )
}

/** Names and answers of every model that was asked: as it was, and without the chosen and other neurons. */
export function manuRows({ before, choices }: ManuReport): { name: string; answers: ManuAnswers[] }[] {
  return [
    ...(before ? [{ name: 'before', answers: before }] : []),
    ...choices.flatMap(({ alpha, answers, random, magnitude }) => [
      ...(answers ? [{ name: `chosen, ${alpha} %`, answers }] : []),
      ...(random ? [{ name: `random, ${alpha} %`, answers: random }] : []),
      ...(magnitude ? [{ name: `smallest, ${alpha} %`, answers: magnitude }] : []),
    ]),
  ]
}

/** Mean accuracy of the kinds of a set. */
export function meanOf(answers: readonly ManuAnswers[], set: SetName): number {
  const own = answers.filter((one) => one.set === set)
  return own.reduce((sum, { accuracy }) => sum + accuracy, 0) / Math.max(1, own.length)
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted !== true) return
  throw new WeightsmithError('ERR_WEIGHTSMITH_ABORTED', 'The unlearning was aborted.', { cause: signal.reason })
}

function argument(message: string): WeightsmithError {
  return new WeightsmithError('ERR_WEIGHTSMITH_ARGUMENT', message)
}
