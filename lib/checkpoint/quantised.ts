/**
 * Checkpoints whose weights are stored in few bits, with what turns them back beside them: scales, zeros, codebooks.
 * Such numbers mean nothing alone, so nothing may be computed from them. They are known by their tensors, since a
 * config may say so of weights that are not quantised (any more), and a checkpoint may come without a config.
 */

import { WeightsmithError } from '../util/errors.js'
import { plural } from '../util/plural.js'

export interface Quantisation {
  /** As config.json calls it (`gptq`), else what the tensors look like. */
  method: string
  /** Names of the tensors with packed numbers. */
  tensors: string[]
}

interface Stored {
  name: string
  dtype: string
}
type Tensors = ReadonlyMap<string, Stored>
type Config = Readonly<Record<string, unknown>>

/**
 * What stands for a weight as it is, and integers that index or mask. All else has too few bits to be a weight alone.
 */
const plain: ReadonlySet<string> = new Set(['F64', 'F32', 'F16', 'BF16', 'C64', 'I64', 'U64', 'BOOL'])

/** What turns packed numbers back into weights, by the last part of its name. */
const turnsBack = /scale|absmax|quant_map|codebook|^scb$/i

/** Methods by what is typical of their tensors, where no config names them. */
const signs: readonly (readonly [RegExp, string])[] = [
  [/\.(absmax|quant_map|SCB)$|\.quant_state\./, 'bitsandbytes'],
  [/\.(qweight|qzeros)$/, 'GPTQ or AWQ'],
  [/\.weight_packed$/, 'compressed-tensors'],
  [/_blocks$/, 'MXFP4'],
  [/\.W_q$/, 'HQQ'],
]

/** How a checkpoint is quantised; undefined where its weights are plain numbers. */
export function quantisationOf(tensors: Tensors, config: Config | undefined): Quantisation | undefined {
  const narrow = [...tensors.values()].filter(({ dtype }) => !plain.has(dtype))
  if (narrow.length === 0) return undefined
  const named = config && quantisationNamed(config)
  const scales = new Map<string, Stored[]>()
  for (const tensor of tensors.values()) {
    const [parent, last] = split(tensor.name)
    if (turnsBack.test(last)) scales.set(parent, [...(scales.get(parent) ?? []), tensor])
  }
  // A scale stands beside its weight (`x.weight_scale`) or below it (`x.weight.absmax`). A norm in F8 may have one too.
  const besideScales = ({ name, dtype }: Stored) =>
    [split(name)[0], name].some((parent) =>
      scales.get(parent)?.some((scale) => scale.name !== name && !(isF8(dtype) && scale.dtype === dtype)),
    )
  const packed = named === undefined ? narrow.filter(besideScales) : narrow
  const [first] = packed
  if (first === undefined) return undefined
  const sign = signs.find(([pattern]) => [...tensors.keys()].some((name) => pattern.test(name)))?.[1]
  const kind = isF8(first.dtype) ? 'FP8' : first.dtype
  return { method: named ?? sign ?? `${kind} with scales`, tensors: packed.map(({ name }) => name).sort() }
}

/** The method that a config names, of the whole model or of a part of it; its weights may be plain all the same. */
export function quantisationNamed(config: Config): string | undefined {
  for (const key of ['quantization_config', 'compression_config', 'quantization']) {
    const found = config[key]
    if (!isObject(found) || Object.keys(found).length === 0) continue
    const { quant_method: method, load_in_4bit: four, load_in_8bit: eight } = found
    return typeof method === 'string' ? method : four === true || eight === true ? 'bitsandbytes' : key
  }
  for (const part of Object.values(config)) {
    const inner = isObject(part) ? quantisationNamed(part) : undefined
    if (inner !== undefined) return inner
  }
  return undefined
}

/** Throws ERR_WEIGHTSMITH_DTYPE for a quantised checkpoint; `can` goes on after it says what it is. */
export function refuseQuantised(
  { name, path, quantisation }: { name: string; path: string; quantisation?: Quantisation },
  can: string,
): void {
  if (quantisation === undefined) return
  const { method, tensors } = quantisation
  const more = tensors.length > 2 ? ` and ${plural(tensors.length - 2, 'more tensor')}` : ''
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_DTYPE',
    `${name} is quantised (${method}): ${tensors.slice(0, 2).join(', ')}${more} ${tensors.length > 1 ? 'hold' : 'holds'} packed numbers, ` +
      `which are no weights without their scales; ${can}.`,
    { tensor: tensors[0], file: path },
  )
}

function isF8(dtype: string): boolean {
  return dtype.startsWith('F8')
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function split(name: string): [parent: string, last: string] {
  const dot = name.lastIndexOf('.')
  return [name.slice(0, Math.max(dot, 0)), name.slice(dot + 1)]
}
