/**
 * A table with its rows in another order. One whose rows already are in order is read where it lies; any other one is
 * put together first (see derived.ts) from runs of consecutive rows, and a vocabulary that shares no order with the
 * output's costs a job a row.
 */

import { bytesOf, isLoadable, isStorable } from '../../checkpoint/index.js'
import { WeightsmithError } from '../../util/errors.js'
import { type DerivedTensor, isDerived, linear, type Operand, storedType } from './derived.js'
import type { Origin } from './planned.js'

/** A tensor of the output whose rows are tokens, as far as this file needs to know it. */
export interface Table {
  name: string
  origins: Origin[]
}

/** Where a row comes from: one row, the mean of several, or zeros. */
export type Row = { origin: number; row: number }[]

/** The table of origin `index` with its rows as `wanted`; rows of no token get the mean of the others. */
export function arrange({ name, origins }: Table, index: number, wanted: (Row | undefined)[], rows: number): Origin {
  const own = origins[index]
  if (own === undefined)
    throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `Tensor ${name} has no origin ${index}.`)
  const columns = own.tensor.shape.slice(1).reduce((a, b) => a * b, 1)
  const runs = runsOf(wanted)
  const tokens = wanted.filter((row) => row !== undefined).length
  const [first] = runs
  const inPlace =
    tokens === wanted.length &&
    runs.length === 1 &&
    first?.row.length === 1 &&
    first.row[0]?.origin === index &&
    first.row[0].row === 0
  const shaped = (count: number) => [count, ...own.tensor.shape.slice(1)]
  const cut = (count: number): Origin =>
    count === own.tensor.shape[0]
      ? own
      : {
          ...own,
          tensor: {
            ...own.tensor,
            shape: shaped(count),
            end: own.tensor.begin + count * columns * widthOf(own.tensor.dtype),
          },
        }
  if (inPlace && rows === wanted.length && (!isDerived(own.tensor) || rows === own.tensor.shape[0])) return cut(rows)

  const read = [...new Set(runs.flatMap(({ row }) => row.map(({ origin }) => origin)))].flatMap((i) => origins[i] ?? [])
  const types = new Set(read.map(({ tensor }) => tensor.dtype))
  const [only = own.tensor.dtype] = types
  const complete = tokens === rows
  const computed = types.size > 1 || !complete || runs.some(({ row }) => row.length > 1)
  const dtype = types.size <= 1 && (isStorable(only) || !computed) ? only : 'F32'
  const derived = (label: string, count: number, operands: Operand[]): DerivedTensor => ({
    name: label,
    file: -1,
    dtype,
    shape: shaped(count),
    begin: 0,
    end: count * columns * widthOf(dtype),
    as: storedType(own.tensor),
    operands,
  })
  const operands = runs.flatMap(({ id, count, row }): Operand[] => {
    if (row.length === 0) return []
    const sources = row.flatMap(({ origin, row: start }): Origin[] => {
      const from = origins[origin]
      return from === undefined
        ? []
        : [{ ...from, skip: (from.skip ?? 0) + start * columns * widthOf(from.tensor.dtype) }]
    })
    const copy = sources.length === 1 && sources[0]?.tensor.dtype === dtype
    return [
      {
        first: id * columns,
        elements: count * columns,
        ...(copy ? {} : { program: linear }),
        coefficients: copy ? [] : sources.map(() => 1 / sources.length),
        origins: sources,
        key: name,
      },
    ]
  })
  if (complete) {
    return { checkpoint: own.checkpoint, tensor: derived(name, rows, operands) }
  }
  const table: Origin = inPlace ? own : { checkpoint: own.checkpoint, tensor: derived(name, wanted.length, operands) }
  const mean = meanRow(table, wanted.length, columns, tokens)
  const gaps = Array.from({ length: rows }, (_, id) => id).filter((id) => wanted[id] === undefined)
  const filled = gaps.map((id): Operand => {
    const copy = dtype === 'F32'
    return {
      first: id * columns,
      elements: columns,
      ...(copy ? {} : { program: linear }),
      coefficients: copy ? [] : [1],
      origins: [mean],
      key: name,
    }
  })
  return { checkpoint: own.checkpoint, tensor: derived(name, rows, [...operands, ...filled]) }
}

const wide = 16

/**
 * Mean of the rows of a table in float32: sums of 16 slices of rows at a time, until one row is left. Rows of no token
 * are zero and do not count.
 */
function meanRow(table: Origin, rows: number, columns: number, tokens: number): Origin {
  let from = table
  for (let left = rows; ; ) {
    const next = Math.ceil(left / wide)
    const last = next === 1
    const width = widthOf(from.tensor.dtype)
    const slice = (start: number): Origin => ({ ...from, skip: (from.skip ?? 0) + start * columns * width })
    // rows [0, cut) have one slice more than those behind
    const slices = Math.ceil(left / next)
    const cut = left - (slices - 1) * next
    const operand = (first: number, end: number, count: number): Operand[] =>
      end <= first || count === 0
        ? []
        : [
            {
              first: first * columns,
              elements: (end - first) * columns,
              program: linear,
              coefficients: Array.from({ length: count }, () => (last ? 1 / Math.max(tokens, 1) : 1)),
              origins: Array.from({ length: count }, (_, i) => slice(first + i * next)),
              key: from.tensor.name,
            },
          ]
    const tensor: DerivedTensor = {
      name: from.tensor.name,
      file: -1,
      dtype: 'F32',
      shape: [next, columns],
      begin: 0,
      end: 4 * next * columns,
      as: 'F32',
      operands: [...operand(0, cut, slices), ...operand(cut, next, slices - 1)],
    }
    from = { checkpoint: table.checkpoint, tensor }
    if (last) return from
    left = next
  }
}

/** Rows that follow one another in the output and in everything they come from. */
function runsOf(wanted: (Row | undefined)[]): { id: number; count: number; row: Row }[] {
  const runs: { id: number; count: number; row: Row }[] = []
  for (const [id, row] of wanted.entries()) {
    const run = runs.at(-1)
    if (row === undefined) continue
    const follows =
      run !== undefined &&
      run.id + run.count === id &&
      run.row.length === row.length &&
      run.row.every((from, i) => from.origin === row[i]?.origin && from.row + run.count === row[i]?.row)
    if (follows) run.count++
    else runs.push({ id, count: 1, row })
  }
  return runs
}

function widthOf(dtype: string): number {
  if (isLoadable(dtype)) return bytesOf(dtype)
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_DTYPE',
    `A table of tokens has the type ${dtype}, whose rows cannot be matched by token.`,
  )
}
