/**
 * Resizing as Pillow does it (libImaging/Resample.c), because that is what models were trained with: a filter stretched
 * by the scale where an image shrinks, weights in fixed point, first rows, then columns, each rounded to bytes.
 */

/** Bytes in rows of pixels. */
export interface Raw {
  data: Uint8Array
  width: number
  height: number
  channels: number
}

interface Filter {
  support: number
  at: (x: number) => number
}

const sinc = (x: number) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x))

/** By Pillow's numbers, which configs have as `resample`. */
const filters: Readonly<Record<number, Filter>> = {
  1: { support: 3, at: (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0) },
  2: { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
  3: { support: 2, at: (x) => cubic(Math.abs(x)) },
}

export const isFilter = (number: number): boolean => Object.hasOwn(filters, number)

/** The cubic with a slope of -1/2. */
function cubic(x: number): number {
  const a = -0.5
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a
  return 0
}

/** Weights are multiples of 2 to the minus this. */
const bits = 22

/** Which elements of a line make an element of the result, from `first` on, and their weights. */
function weightsOf(from: number, to: number, { support, at }: Filter): { first: number; weights: number[] }[] {
  const scale = from / to
  const stretch = Math.max(1, scale)
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale
    const first = Math.max(0, Math.trunc(center - support * stretch + 0.5))
    const end = Math.min(from, Math.trunc(center + support * stretch + 0.5))
    const plain = Array.from({ length: end - first }, (_, j) => at((j + first - center + 0.5) / stretch))
    const sum = plain.reduce((total, weight) => total + weight, 0)
    return { first, weights: plain.map((weight) => roundAway((weight / sum) * 2 ** bits)) }
  })
}

const roundAway = (value: number) => Math.trunc(value + Math.sign(value) * 0.5)

/** Resizes lines of `length` elements that lie `step` apart; `place` gives where line i starts. */
function resizeLines(
  source: Uint8Array,
  target: Uint8Array,
  lines: number,
  weights: { first: number; weights: number[] }[],
  at: { from: (line: number) => number; to: (line: number) => number; step: number },
): void {
  for (let line = 0; line < lines; line++) {
    const [from, to] = [at.from(line), at.to(line)]
    for (const [i, { first, weights: factors }] of weights.entries()) {
      let sum = 2 ** (bits - 1)
      for (const [j, factor] of factors.entries()) sum += (source[from + (first + j) * at.step] ?? 0) * factor
      target[to + i * at.step] = Math.min(255, Math.max(0, Math.floor(sum / 2 ** bits)))
    }
  }
}

/** `filter`: Pillow's number. */
export function resize(image: Raw, width: number, height: number, filter: number): Raw {
  const found = filters[filter]
  if (found === undefined) throw new RangeError(`There is no filter ${filter}.`)
  const { channels } = image
  let { data } = image
  if (width !== image.width) {
    const wide = new Uint8Array(image.height * width * channels)
    resizeLines(data, wide, image.height * channels, weightsOf(image.width, width, found), {
      from: (line) => Math.floor(line / channels) * image.width * channels + (line % channels),
      to: (line) => Math.floor(line / channels) * width * channels + (line % channels),
      step: channels,
    })
    data = wide
  }
  if (height !== image.height) {
    const high = new Uint8Array(height * width * channels)
    resizeLines(data, high, width * channels, weightsOf(image.height, height, found), {
      from: (line) => line,
      to: (line) => line,
      step: width * channels,
    })
    data = high
  }
  return { data, width, height, channels }
}
