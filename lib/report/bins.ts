/** Counts behind figures of many values. */

export interface Bins {
  /** One more than there are bins. */
  edges: number[]
  /** A row a series: the share of its values in each bin. */
  shares: number[][]
  /** Values of each series that have no place: not finite, or not positive on a scale of ratios. */
  left: number[]
}

/** Equal bins (of ratios, with `log`) over the range of all series. */
export function binned(series: readonly ArrayLike<number>[], count: number, log = false): Bins {
  const fits = (value: number) => Number.isFinite(value) && (!log || value > 0)
  const at = (value: number) => (log ? Math.log(value) : value)
  let [low, high] = [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]
  for (const values of series) {
    for (let i = 0; i < values.length; i++) {
      const value = values[i] ?? Number.NaN
      if (!fits(value)) continue
      low = Math.min(low, at(value))
      high = Math.max(high, at(value))
    }
  }
  if (low > high) [low, high] = [0, 1]
  if (low === high) [low, high] = [low - 0.5, high + 0.5]
  const width = (high - low) / count
  const edges = Array.from({ length: count + 1 }, (_, i) => (log ? Math.exp(low + i * width) : low + i * width))
  const left: number[] = []
  const shares = series.map((values) => {
    const counts = new Array<number>(count).fill(0)
    let without = 0
    for (let i = 0; i < values.length; i++) {
      const value = values[i] ?? Number.NaN
      if (!fits(value)) {
        without++
        continue
      }
      const bin = Math.min(count - 1, Math.floor((at(value) - low) / width))
      counts[bin] = (counts[bin] ?? 0) + 1
    }
    left.push(without)
    return counts.map((n) => n / Math.max(1, values.length))
  })
  return { edges, shares, left }
}

/** The least value, the bounds of `count` runs of as many values each in order of size, and the largest one. */
export function quantiles(values: readonly number[], count: number): number[] {
  const sorted = [...values].sort((a, b) => a - b)
  const last = Math.max(0, sorted.length - 1)
  return Array.from({ length: count + 1 }, (_, i) => sorted[Math.floor((i * last) / count)] ?? 0)
}

/** The share kept of each of `count` groups of neighbours, or of every unit where there are no more than that. */
export function keptShares(kept: ArrayLike<number | boolean>, count: number): number[] {
  const groups = Math.min(count, kept.length)
  return Array.from({ length: groups }, (_, g) => {
    const from = Math.floor((g * kept.length) / groups)
    const to = Math.floor(((g + 1) * kept.length) / groups)
    let sum = 0
    for (let i = from; i < to; i++) sum += Number(kept[i])
    return sum / (to - from)
  })
}
