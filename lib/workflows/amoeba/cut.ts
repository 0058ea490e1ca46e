/**
 * `amoeba cut`: shapes of a model as checkpoints of their own. The adapter of a shape is folded into its weights,
 * blocks are dropped and numbered anew, rows and columns of units left out, and biases added that make up for them; for
 * all shapes in one read of the model.
 */

import { stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import type { FoldedTensors } from '../../adapters/adapted_model.js'
import { type CutOutput, type CutsOptions, layOutCuts, type RowSource, writeCuts } from '../../checkpoint/cuts.js'
import type { Checkpoint, CheckpointTensor } from '../../checkpoint/index.js'
import { checkOutput, licenceFiles, licenceFront } from '../../checkpoint/index.js'
import type { InputFile } from '../../checkpoint/resume/index.js'
import type { Rewritten } from '../../checkpoint/rewrite.js'
import type { Engine } from '../../engine/engine.js'
import type { Host } from '../../native/host.js'
import { keepUniform, lostOnAverage, scoreUnits } from '../../prune/index.js'
import { checkpointOf, modelOf } from '../../runtime/open_model.js'
import { readScores } from '../../score/index.js'
import type { DryRun } from '../../util/dry_run.js'
import { misuse } from '../../util/errors.js'
import type { ProgressEvent } from '../../util/progress.js'
import { checkCut, checkTables, type ShapeCheck } from './cut_check.js'
import { ShapeAdapters, type ShapeName } from './shape_adapters.js'
import { type CutLayout, type CutSubject, cutsOf, type ShapeCuts, SharedCuts } from './shape_cuts.js'
import { readStrategy, type Shape, type Strategy, shapeOf } from './strategy.js'

export type { ShapeCheck } from './cut_check.js'
export type { ShapeName } from './shape_adapters.js'
export type { CutLayout } from './shape_cuts.js'

export interface AmoebaCutOptions {
  /** Folder of the result; of several shapes it has a folder each, `DEPTHxWIDTH`. */
  out: string
  /** A strategy file of the model. */
  strategy: string
  /** A LoRA that was trained on the model, which is folded into it. */
  adapter?: string | undefined
  /** Blocks that stay. Defaults to all. */
  depth?: number | undefined
  /** A width of the strategy. Defaults to 1. */
  width?: number | undefined
  /**
   * Cut every pair of depths and widths instead. Either defaults to all of the strategy; with `all` alone both do.
   */
  all?: boolean | undefined
  depths?: readonly number[] | undefined
  widths?: readonly number[] | undefined
  /** Smaller tensors (`compact`), or the same with zeros (`masked`). Defaults to `compact`. */
  layout?: CutLayout | undefined
  /** The same widths in all layers, chosen by `scores`, so that others load it. Defaults to false. */
  uniform?: boolean | undefined
  /** A score file of the model with the scores of flap; for `uniform`. */
  scores?: string | undefined
  /** Add what pruned inputs gave on average as a bias. Defaults to true. */
  bias?: boolean | undefined
  /** Lines to measure losses on: of what was written, and of the same masks without compensation. */
  data?: string | undefined
  /** Largest size of a file of weights, in bytes. Defaults to 5e9. */
  shardSize?: number | undefined
  overwrite?: boolean | undefined
  /** Go on with what an earlier run of the same options has left; where there is nothing, begin. */
  resume?: boolean | undefined
  /** Bytes written between two notes that `resume` goes on from; smaller outputs are begun again. Default: 256 MiB. */
  journalEvery?: number | string | undefined
  /** Check everything and say what would be written, but write nothing. */
  dryRun?: boolean | undefined
  signal?: AbortSignal | undefined
  onProgress?: ((event: ProgressEvent) => void) | undefined
}

export interface CutShapeForecast extends ShapeName {
  out: string
  /** Numbers that the blocks had in the model. */
  blocks: number[]
  /** Of every block that stays, in order: heads of keys and values, and neurons. */
  widths: { groups: number; neurons: number }[]
  parameters: number
  /** Of the files of weights. */
  bytesWritten: number
  notes: string[]
}

export interface CutShape extends CutShapeForecast, Rewritten, ShapeCheck {}

interface CutCommon {
  model: string
  strategy: string
  adapter?: string
  layout: CutLayout
  /** Of the model. */
  parameters: number
  bytesWritten: number
  device: string
}

export interface AmoebaCutForecast extends CutCommon {
  shapes: CutShapeForecast[]
}

export interface AmoebaCutReport extends CutCommon {
  shapes: CutShape[]
  /** Of the weights of the model; each is read once. */
  bytesRead: number
  milliseconds: number
  timings: { write: number; check: number }
}

/**
 * Writes shapes of a model. Throws ERR_WEIGHTSMITH_INPUT_CHANGED for a strategy or scores of another model,
 * ERR_WEIGHTSMITH_ARGUMENT for a depth or a width that the strategy does not have (with the nearest), and where the
 * model has no place for other widths or biases; ERR_WEIGHTSMITH_DISK_FULL where there is no room for all shapes;
 * ERR_WEIGHTSMITH_VERIFY where what was written is not what the strategy says.
 */
export function amoebaCut(
  engine: Engine,
  model: string,
  options: AmoebaCutOptions & { dryRun: true },
): Promise<DryRun<AmoebaCutForecast>>
export function amoebaCut(
  engine: Engine,
  model: string,
  options: AmoebaCutOptions & { dryRun?: false | undefined },
): Promise<AmoebaCutReport>
export function amoebaCut(
  engine: Engine,
  model: string,
  options: AmoebaCutOptions,
): Promise<AmoebaCutReport | DryRun<AmoebaCutForecast>>
export async function amoebaCut(
  engine: Engine,
  model: string,
  options: AmoebaCutOptions,
): Promise<AmoebaCutReport | DryRun<AmoebaCutForecast>> {
  const begin = performance.now()
  const { out, adapter, layout = 'compact', data, overwrite, resume = false, signal, onProgress } = options
  checkOptions(options)
  const checkpoint = await checkpointOf(engine, model)
  const { spec } = modelOf(engine, checkpoint, { batchTokens: 1 })
  const tables = data === undefined ? undefined : await checkTables(data, checkpoint, spec)
  return engine.use(async (host) => {
    const strategy = await readStrategy(host.addon, options.strategy, checkpoint)
    const names = namesOf(strategy, options)
    const grid = isGrid(options)
    const outs = names.map((name) => (grid ? join(out, folderOf(name)) : out))
    for (const target of outs) await checkOutput(target, [checkpoint], { overwrite, resume })
    const subject: CutSubject = { host, checkpoint, spec }
    const shapes = await shapesOf(subject, strategy, names, options)
    const shared = new SharedCuts()
    const cuts: ShapeCuts[] = []
    for (const [i, shape] of shapes.entries()) {
      cuts.push(await cutsOf(subject, shape, { layout, shared, key: String(names[i]?.width) }))
    }
    const outputs = await outputsOf(subject, { names, outs, shapes, cuts }, options)
    const laidOut = layOutCuts(checkpoint, outputs, options)
    const forecast = outputs.map((output, i): CutShapeForecast => {
      const [name, shape, own] = [names[i] as ShapeName, shapes[i] as Shape, cuts[i] as ShapeCuts]
      const bytesWritten = laidOut[i]?.layout.bytes ?? 0
      const { blocks, parameters, notes } = own
      return {
        ...name,
        out: resolve(output.out),
        blocks,
        widths: widthsOf(shape, blocks),
        parameters,
        bytesWritten,
        notes,
      }
    })
    const common: CutCommon = {
      ...{ model, strategy: options.strategy, ...(adapter !== undefined && { adapter }), layout },
      parameters: elements(checkpoint),
      bytesWritten: forecast.reduce((sum, { bytesWritten }) => sum + bytesWritten, 0),
      device: engine.device.name,
    }
    const adapted = adapter === undefined ? undefined : await ShapeAdapters.open(host, model, spec, adapter)
    const { inputs, sourceOf } = await adaptedSources(adapted, { shapes, cuts }, options)
    if (options.dryRun === true) return { forecast: { ...common, shapes: forecast } }
    let bytesRead = 0
    const written = await writeCuts(host, checkpoint, outputs, {
      ...{ overwrite, resume, signal, onProgress, shardSize: options.shardSize },
      journalEvery: options.journalEvery ?? 2 ** 28,
      ...{ reads: await readsOf(host, options), inputs, sourceOf },
      onRead: (bytes) => {
        bytesRead += bytes
      },
    })
    const wrote = performance.now()
    const checked: CutShape[] = []
    for (const [i, result] of written.entries()) {
      const [shape, own] = [shapes[i] as Shape, cuts[i] as ShapeCuts]
      const about = { engine, host, checkpoint, spec, model, shape, layout, blocks: own.blocks, tables, signal }
      const adapters = (await adapted?.of(shape, signal)) ?? []
      const check = await checkCut({ ...about, out: result.out, adapters })
      checked.push({ ...(forecast[i] as CutShapeForecast), ...result, ...check })
      if (tables) onProgress?.({ phase: 'check', done: i + 1, total: written.length, unit: 'models', item: result.out })
    }
    const end = performance.now()
    const timings = { write: wrote - begin, check: end - wrote }
    return { ...common, shapes: checked, bytesRead, milliseconds: end - begin, timings }
  })
}

/** Name of the folder of a shape among others. */
const folderOf = ({ depth, width }: ShapeName) => `${depth}x${Number(width.toFixed(4))}`

function checkOptions(options: AmoebaCutOptions) {
  const { depth, width, depths, widths, uniform, scores, layout = 'compact', bias } = options
  if (isGrid(options) && (depth ?? width) !== undefined) {
    throw misuse('Pass depth and width of one shape, or depths and widths of several, not both.')
  }
  if (depths?.length === 0 || widths?.length === 0) throw misuse('Pass at least one depth and one width.')
  if (!['compact', 'masked'].includes(layout)) throw misuse(`The layout is compact or masked, not "${layout}".`)
  if (uniform === true && scores === undefined) {
    throw misuse(
      'Equal widths (--uniform) are chosen by scores within each layer; pass --scores with a file of ' +
        'weightsmith score --methods flap.',
    )
  }
  if (uniform !== true && scores !== undefined) throw misuse('Scores are for equal widths; pass --uniform with them.')
  if (bias !== undefined && typeof bias !== 'boolean') throw misuse(`Expected bias to be true or false, not ${bias}.`)
}

const isGrid = ({ all = false, depths, widths }: AmoebaCutOptions) =>
  all || depths !== undefined || widths !== undefined

/** The shapes that are wanted, those of the strategy by its own numbers. */
function namesOf(strategy: Strategy, options: AmoebaCutOptions): ShapeName[] {
  const { layers } = strategy
  const { depth, width, depths, widths } = options
  const grid = isGrid(options)
  const deep = depths ?? (grid ? strategy.depth.masks.map((_, removed) => layers - removed) : [depth ?? layers])
  const wide = widths ?? (grid ? strategy.widths.map(({ ratio }) => ratio) : [width ?? 1])
  const names = deep.flatMap((depth) =>
    wide.map((width) => {
      // Refuses what the strategy does not have.
      const { units } = shapeOf(strategy, { depth, width })
      const ratio = strategy.widths.find((own) => own.units === units)?.ratio ?? width
      return { depth, width: ratio }
    }),
  )
  const folders = new Set(names.map(folderOf))
  if (folders.size < names.length) throw misuse('A shape is wanted twice; pass every depth and every width once.')
  return names
}

async function shapesOf(
  subject: CutSubject,
  strategy: Strategy,
  names: readonly ShapeName[],
  { uniform = false, scores, bias = true }: AmoebaCutOptions,
): Promise<Shape[]> {
  const equal = new Map<number, Pick<Shape, 'units' | 'biases'>>()
  if (uniform && scores !== undefined) {
    const found = await readScores(subject.host.addon, scores, subject.checkpoint)
    const scored = await scoreUnits(found, subject, 'wifv')
    for (const width of new Set(names.map((name) => name.width))) {
      const kept = keepUniform(scored, width, subject.spec, [])
      const units = kept.map(({ layer, units: { kind }, kept: stays }) => ({ layer, kind, kept: stays }))
      equal.set(width, { units, biases: bias ? await lostOnAverage(subject, found, kept) : new Map() })
    }
  }
  return names.map((name) => {
    const shape = { ...shapeOf(strategy, name), ...equal.get(name.width) }
    return bias ? shape : { ...shape, biases: new Map() }
  })
}

async function outputsOf(
  { checkpoint }: CutSubject,
  {
    names,
    outs,
    shapes,
    cuts,
  }: { names: readonly ShapeName[]; outs: readonly string[]; shapes: readonly Shape[]; cuts: readonly ShapeCuts[] },
  { strategy, adapter, layout = 'compact', uniform = false, bias = true }: AmoebaCutOptions,
): Promise<CutOutput[]> {
  const licence = await licenceFiles(checkpoint)
  const front = await licenceFront(checkpoint)
  return cuts.map(({ tensors, config, blocks, notes }, i) => {
    const [name, shape] = [names[i] as ShapeName, shapes[i] as Shape]
    const units = shape.units.filter(({ layer }) => blocks.includes(layer))
    const stays = (kept: readonly boolean[]) => kept.flatMap((stay, unit) => (stay ? [unit] : []))
    const shown = {
      ...{ ...name, layout, blocks },
      units: units.map(({ layer, kind, kept }) => ({ block: layer, kind, of: kept.length, kept: stays(kept) })),
    }
    return {
      ...{ out: outs[i] ?? '', tensors, config, front },
      recipe: { amoeba_cut: { model: checkpoint.name, strategy, adapter, ...name, layout, uniform, bias } },
      about: [
        `A subnet of ${name.depth} of ${shape.blocks.length} blocks and of the width ${name.width}, chosen as by AmoebaLLM ` +
          `(arXiv 2411.10606)${adapter === undefined ? '' : ', with its adapter folded in'}; amoeba.json lists what stays ` +
          'of the model.',
        ...notes,
      ].join(' '),
      files: [...licence, { name: 'amoeba.json', data: `${JSON.stringify(shown)}\n` }],
    }
  })
}

/** Tensors that adapters change, computed as they are needed; and what is read for them. */
async function adaptedSources(
  adapters: ShapeAdapters | undefined,
  { shapes, cuts }: { shapes: readonly Shape[]; cuts: readonly ShapeCuts[] },
  { adapter, signal }: AmoebaCutOptions,
): Promise<Pick<CutsOptions, 'inputs' | 'sourceOf'>> {
  if (adapters === undefined) return {}
  const folded: FoldedTensors[] = []
  for (const shape of shapes) folded.push(await adapters.foldedFor(shape, signal))
  for (const [i, { changed }] of folded.entries()) {
    for (const [name, tensor] of cuts[i]?.tensors ?? []) {
      if ('from' in tensor || !changed.has(name)) continue
      throw misuse(`The adapter ${adapter} changes ${name}, to which a compensation would be added; pass --no-bias.`)
    }
  }
  const known = new Map<string, RowSource>()
  const sourceOf = (tensor: CheckpointTensor, output: number): RowSource | undefined => {
    const model = folded[output]
    if (model === undefined || !model.changed.has(tensor.name)) return undefined
    const key = `${folded.indexOf(model)}/${tensor.name}`
    const rowBytes = (tensor.end - tensor.begin) / (tensor.shape[0] ?? 1)
    const source = known.get(key) ?? {
      ...{ dtype: tensor.dtype, shape: tensor.shape, rowBytes },
      async *chunks() {
        yield await model.compute(tensor.name, signal)
      },
    }
    known.set(key, source)
    return source
  }
  const inputs = [...new Set(folded)].map(({ checkpoint }) => {
    // What a mixture is at the gates of a shape lies in no file.
    return { ...checkpoint, files: checkpoint.files.filter(({ memory }) => memory === undefined) }
  })
  return { inputs, sourceOf }
}

/** Files that decide about the result beside the model. */
async function readsOf(host: Host, { strategy, scores }: AmoebaCutOptions): Promise<InputFile[]> {
  const files = [strategy, ...(scores === undefined ? [] : [scores])]
  const reads: InputFile[] = []
  for (const path of files) {
    const { size, mtimeMs } = await stat(path)
    reads.push({ path: resolve(path), size, mtimeMs, headerHash: (await host.addon.readHeader(path)).headerHash })
  }
  return reads
}

function widthsOf({ units }: Shape, blocks: readonly number[]): CutShapeForecast['widths'] {
  return blocks.map((block) => {
    const count = (kind: string) =>
      units.find((own) => own.layer === block && own.kind === kind)?.kept.filter((stays) => stays).length ?? 0
    return { groups: count('group'), neurons: count('neuron') }
  })
}

function elements({ tensors }: Checkpoint): number {
  return [...tensors.values()].reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0)
}
