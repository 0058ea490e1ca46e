/**
 * The strategy of AmoebaLLM's release (dp_selection_strategy.npy) as a strategy file. The release has it as a pickle of
 * a dict: `strategy` {blocks removed: mask}, `metric` {blocks removed: number}, `width_mask` {module: {ratio: rows that
 * stay}} and `bias` {module: {ratio: vector}}. It is read as data; nothing of it is executed.
 */

import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { basename, resolve } from 'node:path'
import { type ModelSpec, modelSpec, type Units } from '../../architectures/index.js'
import { type Checkpoint, openCheckpoint, resolveModel } from '../../checkpoint/index.js'
import { NumpyArray, type PickleValue, readNpy } from '../../checkpoint/pickle/index.js'
import { loadAddon } from '../../native/load.js'
import { version } from '../../native/version.js'
import { fingerprint } from '../../score/index.js'
import { misuse, WeightsmithError } from '../../util/errors.js'
import {
  type DepthMetric,
  type DepthStrategy,
  type Strategy,
  type StrategyUnits,
  type StrategyWidth,
  writeStrategy,
} from './strategy.js'

export interface AmoebaImportOptions {
  /** The strategy file to write; it replaces one that is there. */
  out: string
  /** What the file's numbers are, which it does not say. Defaults to `accuracy`, as in the commands of the release. */
  metric?: DepthMetric | undefined
}

export interface AmoebaImportReport {
  file: string
  model: string
  out: string
  /** Blocks of the model, and the fewest that the strategy leaves. */
  layers: number
  least: number
  /** What stays at every width, in all layers together. */
  widths: { ratio: number; groups: number; neurons: number }[]
  notes: string[]
  milliseconds: number
}

/**
 * Writes the strategy of the authors' file for the model that it was made for. Throws ERR_WEIGHTSMITH_FORMAT for a file
 * that is not such a strategy, or has anything that would have to be executed; ERR_WEIGHTSMITH_SHAPE_MISMATCH for one
 * of a model with other blocks, heads or neurons.
 */
export async function amoebaImport(
  file: string,
  model: string,
  { out, metric = 'accuracy' }: AmoebaImportOptions,
): Promise<AmoebaImportReport> {
  const begin = performance.now()
  if (/\.npy$/i.test(out)) throw misuse(`The strategy is written as safetensors; ${out} should not be named .npy.`)
  const checkpoint = await openCheckpoint(loadAddon(), await resolveModel(model, process.cwd()), model)
  const spec = modelSpec(checkpoint.config, checkpoint.tensors, checkpoint.name)
  const array = await readNpy(file)
  const [content] = array.shape.length === 0 && Array.isArray(array.values) ? array.values : []
  const { widths, notes } = widthsOf(content ?? null, spec, checkpoint, file)
  const strategy: Strategy = {
    model: { name: checkpoint.name, fingerprint: await fingerprint(checkpoint) },
    layers: spec.language.layers.length,
    depth: depthOf(content ?? null, spec.language.layers.length, metric, file),
    widths,
    origin: await originOf(file),
  }
  await writeStrategy(resolve(out), strategy, spec)
  const count = ({ units }: StrategyWidth, kind: Units['kind']) =>
    units.filter((own) => own.kind === kind).reduce((sum, { kept }) => sum + kept.filter((stays) => stays).length, 0)
  return {
    ...{ file, model, out: resolve(out), layers: strategy.layers },
    least: strategy.layers - strategy.depth.masks.length + 1,
    widths: widths.map((width) => ({
      ratio: width.ratio,
      groups: count(width, 'group'),
      neurons: count(width, 'neuron'),
    })),
    notes,
    milliseconds: performance.now() - begin,
  }
}

async function originOf(file: string): Promise<Strategy['origin']> {
  const sha256 = createHash('sha256')
    .update(await readFile(file))
    .digest('hex')
  const data = { file: basename(file), sha256, examples: 0, tokens: 0 }
  return { weightsmith: version, device: 'none', data, calibration: data, seed: 0 }
}

function depthOf(content: PickleValue, layers: number, metric: DepthMetric, file: string): DepthStrategy {
  const found = dictOf(dictOf(content, 'the file', file).get('strategy'), 'strategy', file)
  const numbers = dictOf(dictOf(content, 'the file', file).get('metric') ?? new Map(), 'metric', file)
  const most = found.size
  const all = Array.from({ length: layers }, () => true)
  const masks = [all]
  const values = [Number.NaN]
  for (let m = 1; m <= most; m++) {
    const mask = found.get(m)
    if (!(mask instanceof NumpyArray)) throw refused(file, `strategy has no mask for ${m} of ${most} removed blocks`)
    const stays = Array.from(mask.values as ArrayLike<unknown>, Number)
    if (mask.shape.length !== 1 || stays.length !== layers) {
      throw other(file, `its masks are of ${stays.length} blocks, and the model has ${layers}`)
    }
    const gone = stays.filter((value) => value === 0).length
    if (gone !== m || stays.some((value) => value !== 0 && value !== 1)) {
      throw refused(file, `its mask for ${m} removed blocks leaves out ${gone}`)
    }
    masks.push(stays.map((value) => value === 1))
    const value = numbers.get(m)
    values.push(typeof value === 'number' ? value : Number.NaN)
  }
  const keepLast = masks.every((mask) => mask[layers - 1] === true) ? 1 : 0
  // Of the table the file has the last row alone, which is what it chose.
  const rows = layers - keepLast
  const empty = Array.from({ length: most + 1 }, () => Number.NaN)
  const none = all.map(() => false)
  const part = <T>(n: number, row: T[]) => row.slice(0, n + 1)
  const table = {
    values: Array.from({ length: rows + 1 }, (_, n) => (n === rows ? [...values] : part(n, empty))),
    masks: Array.from({ length: rows + 1 }, (_, n) =>
      n === rows
        ? [...masks]
        : part(
            n,
            Array.from({ length: most + 1 }, () => none),
          ),
    ),
    tried: Array.from({ length: rows + 1 }, (_, n) => part(n, empty)),
  }
  return { order: 'deepest', metric, keepLast, masks, values, table }
}

type Dict = ReadonlyMap<unknown, PickleValue>

function widthsOf(
  content: PickleValue,
  spec: ModelSpec,
  checkpoint: Checkpoint,
  file: string,
): { widths: StrategyWidth[]; notes: string[] } {
  const dict = dictOf(content, 'the file', file)
  const masks = byModule(dictOf(dict.get('width_mask'), 'width_mask', file), checkpoint, file)
  const biases = byModule(dictOf(dict.get('bias'), 'bias', file), checkpoint, file)
  const ratios = ratiosOf(masks, file)
  const notes = [
    'The file does not say of which model it is; its blocks, heads and neurons are as many as those of this one.',
  ]
  const widths = ratios.map((ratio): StrategyWidth => {
    const own = new Map<string, Float32Array<ArrayBuffer>>()
    const units = spec.language.layers.flatMap(({ units }, layer) =>
      units.map((unit): StrategyUnits => {
        const kept = keptOf(unit, ratio, { masks, spec, file })
        if (ratio === 1) return { layer, kind: unit.kind, kept: kept.map(() => true) }
        if (!kept.includes(true)) {
          throw refused(file, `at the width ${ratio} it leaves no ${unit.kind} of layer ${layer}, and one has to stay`)
        }
        for (const { tensor } of kept.includes(false) ? unit.columns : []) {
          own.set(tensor, biasOf(tensor, ratio, { biases, spec, file }))
        }
        return { layer, kind: unit.kind, kept }
      }),
    )
    return { ratio, units, biases: own }
  })
  const whole = ratios.includes(1)
  const dropped =
    whole &&
    spec.language.layers.some(({ units }) =>
      units.some((unit) => keptOf(unit, 1, { masks, spec, file }).includes(false)),
    )
  if (dropped) notes.push('At the width 1 the file leaves out a unit, as the published code does; here all stay.')
  if (whole) return { widths, notes }
  const all = spec.language.layers.flatMap(({ units }, layer) =>
    units.map(({ kind, count }) => ({ layer, kind, kept: Array.from({ length: count }, () => true) })),
  )
  return { widths: [{ ratio: 1, units: all, biases: new Map() }, ...widths], notes }
}

/** Ratios descending; every module has to have the same. */
function ratiosOf(masks: ReadonlyMap<string, Dict>, file: string): number[] {
  const [first = [], ...others] = [...masks.values()].map((mask) => [...mask.keys()].map(Number).sort((a, b) => b - a))
  if (others.some((ratios) => ratios.join() !== first.join())) throw refused(file, 'modules have other widths')
  const wrong = first.find((ratio) => !(ratio > 0 && ratio <= 1))
  if (wrong !== undefined || first.length === 0) throw refused(file, `it has the width ${wrong}`)
  return first
}

/** Which units stay, by the rows that stay of all linears that make them. */
function keptOf(
  { rows, count, kind }: Units,
  ratio: number,
  { masks, spec, file }: { masks: ReadonlyMap<string, Dict>; spec: ModelSpec; file: string },
): boolean[] {
  let kept: boolean[] | undefined
  for (const { tensor, size } of rows) {
    if (spec.tensors.get(tensor)?.length !== 2) continue
    const mask = entry(masks.get(tensor), ratio)
    if (!(mask instanceof NumpyArray) || mask.dtype !== 'bool') {
      throw refused(file, `width_mask has no booleans for ${tensor} at the width ${ratio}`)
    }
    const stays = mask.values as Uint8Array
    if (stays.length !== count * size) {
      throw other(file, `its mask of ${tensor} has ${stays.length} rows, and the model has ${count * size}`)
    }
    const own = Array.from({ length: count }, (_, unit) => stays[unit * size] === 1)
    const split = stays.findIndex((value, row) => (value === 1) !== own[Math.floor(row / size)])
    if (split >= 0) throw other(file, `its mask of ${tensor} splits a ${kind} at row ${split}`)
    if (kept !== undefined && kept.join() !== own.join()) {
      throw refused(file, `at the width ${ratio} it leaves other ${kind}s of ${tensor} than of the linears beside it`)
    }
    kept = own
  }
  return kept ?? Array.from({ length: count }, () => true)
}

function biasOf(
  tensor: string,
  ratio: number,
  { biases, spec, file }: { biases: ReadonlyMap<string, Dict>; spec: ModelSpec; file: string },
): Float32Array<ArrayBuffer> {
  const vector = entry(biases.get(tensor), ratio)
  if (!(vector instanceof NumpyArray) || !vector.dtype.startsWith('float')) {
    throw refused(file, `bias has no numbers for ${tensor} at the width ${ratio}`)
  }
  const values = Float32Array.from(vector.values as ArrayLike<number>)
  const [outputs = 0] = spec.tensors.get(tensor) ?? []
  if (values.length !== outputs) {
    throw other(file, `its bias of ${tensor} has ${values.length} values, and the model has ${outputs} outputs`)
  }
  if (!values.every(Number.isFinite)) throw refused(file, `its bias of ${tensor} has values that are no numbers`)
  return values
}

/** The modules that have something, by the names of their weights in the model. */
function byModule(modules: Dict, checkpoint: Checkpoint, file: string): Map<string, Dict> {
  const found = new Map<string, Dict>()
  for (const [module, value] of modules) {
    if (value === null) continue
    const weight = `${String(module).replace(/^base_model\.model\./, '')}.weight`
    if (!checkpoint.tensors.has(weight)) throw other(file, `it names ${String(module)}, and the model has no ${weight}`)
    found.set(weight, dictOf(value, String(module), file))
  }
  return found
}

/** By a number; 1 and 1.0 are the same. */
function entry(dict: Dict | undefined, ratio: number): PickleValue | undefined {
  for (const [key, value] of dict ?? []) if (Number(key) === ratio) return value
  return undefined
}

function dictOf(value: PickleValue | undefined, what: string, file: string): Dict {
  if (value instanceof Map) return value
  throw refused(file, `${what} is no dict`)
}

function refused(file: string, why: string): WeightsmithError {
  return new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `${file} is no strategy of AmoebaLLM: ${why}.`, { file })
}

function other(file: string, why: string): WeightsmithError {
  return new WeightsmithError('ERR_WEIGHTSMITH_SHAPE_MISMATCH', `${file} is of another model: ${why}.`, { file })
}
