/** Options that tell a shape of a model, or several, and their parsers. */

import { Option } from 'commander'
import { misuse, wrongOption } from '../util/errors.js'
import { wholeNumber } from './options.js'

export const strategy = () =>
  new Option('--strategy <file>', 'run the model as one of the shapes of this strategy, without cutting it')

export const depth = () => wholeNumber('--depth', 'number of blocks of the shape (default: all)')

export const width = () =>
  new Option(
    '--width <share>',
    'share of the parameters of heads and neurons of the shape, such as 7/8 (default: 1)',
  ).argParser(ratio)

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

/** `0.875` or `7/8`. */
export function ratio(text: string): number {
  const [, over = '', under = '1'] = /^(\d+(?:\.\d+)?)(?:\/(\d+))?$/.exec(text) ?? []
  const value = over === '' ? Number.NaN : Number(over) / Number(under)
  if (Number.isFinite(value)) return value
  throw wrongOption('--width', 'a ratio such as 0.875 or 7/8', text)
}

const words = (word: string) => word.split(',').filter((part) => part !== '')

/** Widths of shapes. */
export const widths = (word: string) => words(word).map(ratio)

/** Depths of shapes: numbers, and ranges from either end such as `8..5` or `5-8`. */
export function depths(word: string): number[] {
  return words(word).flatMap((part) => {
    const [, first = '', last = first] = /^(\d+)(?:(?:\.\.|-)(\d+))?$/.exec(part) ?? []
    const [from, to] = [Number(first), Number(last)]
    if (first === '' || Math.abs(from - to) > 1e4)
      throw wrongOption('--depths', 'numbers and ranges such as 8..5', word)
    return Array.from({ length: Math.abs(from - to) + 1 }, (_, i) => from + Math.sign(to - from) * i)
  })
}
