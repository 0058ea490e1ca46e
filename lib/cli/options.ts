/** Options that several verbs have, and readers of what is given to options. */

import { Option } from 'commander'
import { wrongOption } from '../util/errors.js'

export const json = () => new Option('--json', 'print one JSON document to stdout')

export const device = () =>
  new Option('--device <name>', "auto, discrete, integrated, cpu, or a part of the device's name").env(
    'WEIGHTSMITH_DEVICE',
  )

export const memory = () => new Option('--memory <size>', 'what the buffers of a run may take together').default('1GiB')

export const seed = (about = 'of the random numbers') => wholeNumber('--seed', about).default(0)

export const dtype = (before = 'the recipe') =>
  new Option('--dtype <type>', `float32, float16 or bfloat16; goes before ${before}`)

export const shardSize = () => new Option('--shard-size <size>', 'largest size of a file (default: 5GB)')

export const checksum = () =>
  new Option('--checksum <what>', 'SHA-256 of outputs, of inputs too, or of nothing')
    .choices(['full', 'outputs', 'none'])
    .default('outputs')

export const images = (otherwise = 'the folder of the data') =>
  new Option('--images <path>', `folder of the images, or a safetensors file with them (default: ${otherwise})`)

export const dryRun = (about = 'check everything and show what it would take, but do nothing') =>
  new Option('--dry-run', about)

export const overwrite = (about = 'replace the output if it is there') => new Option('--overwrite', about)

export const report = () => new Option('--report <file>', 'write a report with figures: one HTML file, without scripts')

/** A whole number from 0. */
export function wholeNumber(flag: string, about: string): Option {
  return new Option(`${flag} <number>`, about).argParser((text) => whole(flag.slice(2), text))
}

/** A number; `what` says of what kind in the help. */
export function realNumber(flag: string, about: string, what = 'number'): Option {
  return new Option(`${flag} <${what}>`, about).argParser((text) => real(flag.slice(2), text))
}

/** Such as `0-3,7`: whole numbers and ranges of them, with commas. */
export function wholeNumbers(option: string): (text: string) => number[] {
  return (text) =>
    words(text).flatMap((part) => {
      const [first = 0, last = first] = part.split('-').map(Number)
      if (!/^\d+(-\d+)?$/.test(part) || last < first || last >= 2 ** 20) {
        throw wrongOption(option, 'numbers such as 0-3,7', part)
      }
      return Array.from({ length: last - first + 1 }, (_, i) => first + i)
    })
}

/** What stands between commas. */
export function words(text: string): string[] {
  return text.split(',').filter((word) => word !== '')
}

export function real(option: string, text: string): number {
  const value = text.trim() === '' ? Number.NaN : Number(text)
  if (Number.isFinite(value)) return value
  throw wrongOption(option, 'a number', text)
}

function whole(option: string, text: string): number {
  const value = Number(text)
  if (/^\d+$/.test(text) && Number.isSafeInteger(value)) return value
  throw wrongOption(option, 'a whole number from 0 to 2^53 - 1', text)
}
