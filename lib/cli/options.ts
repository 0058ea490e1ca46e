/** Options that several verbs share, and the parsers of their values. */

import { Option } from 'commander'
import { misuse, wrongOption } from '../util/errors.js'

export const json = () => new Option('--json', 'print one JSON document to stdout')

export const device = () =>
  new Option('--device <name>', "auto, discrete, integrated, cpu, or part of the device's name").env(
    'WEIGHTSMITH_DEVICE',
  )

export const memory = () => new Option('--memory <size>', 'memory budget for GPU buffers').default('1GiB')

export const seed = (about = 'random seed') => wholeNumber('--seed', about).default(0)

export const dtype = (before = 'the recipe') =>
  new Option('--dtype <type>', `output dtype: float32, float16 or bfloat16; overrides ${before}`)

export const shardSize = () => new Option('--shard-size <size>', 'maximum size of an output file (default: 5GB)')

export const checksum = () =>
  new Option('--checksum <what>', 'compute SHA-256 of outputs, of inputs and outputs (full), or of nothing')
    .choices(['full', 'outputs', 'none'])
    .default('outputs')

export const images = (otherwise = 'the folder of the data') =>
  new Option('--images <path>', `folder or safetensors file with the images (default: ${otherwise})`)

export const strategy = () =>
  new Option('--strategy <file>', 'run the model as one of the shapes of this strategy, without cutting it')

export const depth = () => wholeNumber('--depth', 'number of blocks of the shape (default: all)')

export const width = () =>
  new Option(
    '--width <share>',
    'share of the parameters of heads and neurons of the shape, such as 7/8 (default: 1)',
  ).argParser((text) => share('width')(text)[0])

export const noBias = () =>
  new Option('--no-bias', 'leave out the biases that stand for heads and neurons that are removed')

export interface ShapeFlags {
  strategy?: string
  depth?: number
  width?: number
  /** Commander's default of `--no-bias` is true. */
  bias?: boolean
}

/** The shape, where one is asked for, and the other options. */
export function shapeFrom<Flags extends ShapeFlags>({ strategy, depth, width, bias, ...flags }: Flags) {
  if (strategy !== undefined) return { ...flags, shape: { strategy, depth, width, bias } }
  if (depth === undefined && width === undefined && bias !== false) return flags
  throw misuse('A shape (--depth, --width, --no-bias) is one of a strategy: pass it with --strategy.')
}

export const dryRun = (about = 'check everything and estimate the cost, but write nothing') =>
  new Option('--dry-run', about)

export const overwrite = (about = 'replace an existing output') => new Option('--overwrite', about)

export const report = () => new Option('--report <file>', 'write a report with figures to this HTML file')

/** A whole number from 0. */
export function wholeNumber(flag: string, about: string): Option {
  return new Option(`${flag} <number>`, about).argParser((text) => whole(flag.slice(2), text))
}

/** A number; `what` is its placeholder in the help. */
export function realNumber(flag: string, about: string, what = 'number'): Option {
  return new Option(`${flag} <${what}>`, about).argParser((text) => real(flag.slice(2), text))
}

/**
 * A list, whose values are separated by spaces as those of all lists are: the one form that can hold every file name
 * and every text, and that a shell's patterns expand to.
 */
export function list<T>(flag: string, about: string, parse: (word: string) => readonly T[]): Option {
  return new Option(flag, about).argParser((word, before: readonly T[] | undefined) => [
    ...(before ?? []),
    ...parse(word),
  ])
}

/** A whole number, or a range such as `0-3`. */
export function wholeNumbers(option: string): (word: string) => number[] {
  return (word) => {
    const [first = 0, last = first] = word.split('-').map(Number)
    if (!/^\d+(-\d+)?$/.test(word) || last < first || last >= 2 ** 20) {
      throw wrongOption(option, 'numbers and ranges, separated by spaces, such as 0-3 7', word)
    }
    return Array.from({ length: last - first + 1 }, (_, i) => first + i)
  }
}

export function real(option: string, text: string): number {
  const value = text.trim() === '' ? Number.NaN : Number(text)
  if (Number.isFinite(value)) return value
  throw wrongOption(option, 'a number', text)
}

/** A share: a number, or a fraction such as `7/8`. */
export function share(option: string): (word: string) => number[] {
  return (word) => {
    const [, over, under = 1] = /^([\d.]+)(?:\/([\d.]+))?$/.exec(word) ?? []
    const value = Number(over) / Number(under)
    if (Number.isFinite(value)) return [value]
    throw wrongOption(option, 'numbers or fractions, separated by spaces, such as 1 7/8 0.75', word)
  }
}

function whole(option: string, text: string): number {
  const value = Number(text)
  if (/^\d+$/.test(text) && Number.isSafeInteger(value)) return value
  throw wrongOption(option, 'a whole number from 0 to 2^53 - 1', text)
}
