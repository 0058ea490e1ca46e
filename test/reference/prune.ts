/** Pruning in float64, straight from the definitions. */

/** Zeros in place of the `goes` elements of least |x| * norm in each group, of equal ones the first. */
export function sparse(
  x: ArrayLike<number>,
  { size, goes, columns, norms }: { size: number; goes: number; columns: number; norms?: ArrayLike<number> },
): Float64Array {
  const result = Float64Array.from(x)
  const score = (i: number) => Math.abs(Math.fround(x[i]! * (norms === undefined ? 1 : norms[i % columns]!)))
  for (let begin = 0; begin < x.length; begin += size) {
    const order = Array.from({ length: size }, (_, i) => begin + i).sort((a, b) => score(a) - score(b) || a - b)
    for (const i of order.slice(0, goes)) result[i] = 0
  }
  return result
}
