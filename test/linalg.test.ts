/**
 * Factorisations of small matrices in float64 have the properties that define them, whatever the shape and the rank.
 */
import { describe, expect, test } from '@jest/globals'
import type { NativeSvd } from '../lib/native/border.js'
import { loadAddon } from '../lib/native/load.js'
import { uniform } from './random.js'

const { thinQr, smallSvd, orthonormal, thinProduct } = loadAddon()

interface Matrix {
  rows: number
  columns: number
  values: Float64Array
}

/** Normally distributed, nearly: sums of four uniform numbers. */
function noise(rows: number, columns: number, seed: number): Matrix {
  const next = uniform(seed)
  const values = Float64Array.from({ length: rows * columns }, () => next() + next() + next() + next() - 2)
  return { rows, columns, values }
}

const transposed = ({ rows, columns, values }: Matrix): Matrix => ({
  rows: columns,
  columns: rows,
  values: values.map((_, i) => values[(i % rows) * columns + Math.floor(i / rows)]!),
})

function product(a: Matrix, b: Matrix): Matrix {
  const values = new Float64Array(a.rows * b.columns)
  for (let i = 0; i < a.rows; i++) {
    for (let k = 0; k < a.columns; k++) {
      const x = a.values[i * a.columns + k]!
      for (let j = 0; j < b.columns; j++) values[i * b.columns + j]! += x * b.values[k * b.columns + j]!
    }
  }
  return { rows: a.rows, columns: b.columns, values }
}

const distance = (a: Matrix, b: Matrix) => Math.hypot(...a.values.map((value, i) => value - b.values[i]!))
const norm = (a: Matrix) => Math.hypot(...a.values)

function expectOrthonormal(q: Matrix): void {
  const gram = product(transposed(q), q)
  for (let i = 0; i < q.columns; i++) gram.values[i * (q.columns + 1)]! -= 1
  expect(Math.max(...gram.values.map(Math.abs))).toBeLessThan(1e-13)
}

function scaledColumns(u: Matrix, s: ArrayLike<number>): Matrix {
  return { ...u, values: u.values.map((value, i) => value * s[i % u.columns]!) }
}

/** A matrix of these singular values. */
async function planted(rows: number, columns: number, s: number[], seed: number): Promise<Matrix> {
  const left = await thinQr(noise(rows, s.length, seed).values, rows, s.length)
  const right = await thinQr(noise(columns, s.length, seed + 1).values, columns, s.length)
  return product(
    scaledColumns({ rows, columns: s.length, values: left.q }, s),
    transposed({ rows: columns, columns: s.length, values: right.q }),
  )
}

async function checkedSvd(a: Matrix): Promise<NativeSvd> {
  const svd = await smallSvd(a.values, a.rows, a.columns)
  const columns = Math.min(a.rows, a.columns)
  const u = { rows: a.rows, columns, values: svd.u }
  const v = { rows: a.columns, columns, values: svd.v }
  expectOrthonormal(u)
  expectOrthonormal(v)
  expect(distance(product(scaledColumns(u, svd.s), transposed(v)), a)).toBeLessThanOrEqual(1e-13 * norm(a))
  expect([...svd.s]).toEqual([...svd.s].sort((x, y) => y - x))
  expect(svd.s.at(-1)).toBeGreaterThanOrEqual(0)
  for (let j = 0; j < columns; j++) {
    const column = Array.from({ length: a.rows }, (_, i) => svd.u[i * columns + j]!)
    expect(Math.max(...column)).toBe(Math.max(...column.map(Math.abs)))
  }
  return svd
}

const sizes: [number, number][] = [
  [1, 1],
  [2, 1],
  [5, 5],
  [33, 32],
  [64, 1],
  [97, 31],
  [200, 65],
  [300, 256],
]

describe('a thin QR', () => {
  test.each(sizes)('of %i x %i is orthonormal times triangular', async (rows, columns) => {
    const a = noise(rows, columns, rows)
    const { q, r } = await thinQr(a.values, rows, columns)
    expectOrthonormal({ rows, columns, values: q })
    expect(
      distance(product({ rows, columns, values: q }, { rows: columns, columns, values: r }), a),
    ).toBeLessThanOrEqual(1e-13 * norm(a))
    for (let i = 0; i < columns; i++) {
      expect(r[i * columns + i]).toBeGreaterThanOrEqual(0)
      expect([...r.subarray(i * columns, i * columns + i)].every((value) => value === 0)).toBe(true)
    }
  })

  test('of float32 numbers is that of the same in float64', async () => {
    const values = Float32Array.from(noise(20, 7, 1).values)
    expect(await thinQr(values, 20, 7)).toEqual(await thinQr(Float64Array.from(values), 20, 7))
  })

  test.each([
    ['zeros', () => new Float64Array(60)],
    ['equal columns', () => Float64Array.from({ length: 60 }, (_, i) => Math.floor(i / 6) + 1)],
    ['a zero column', () => noise(10, 6, 3).values.map((value, i) => (i % 6 === 2 ? 0 : value))],
  ])('of %s has orthonormal columns all the same', async (_name, values) => {
    const a = { rows: 10, columns: 6, values: values() }
    const { q, r } = await thinQr(a.values, 10, 6)
    expectOrthonormal({ rows: 10, columns: 6, values: q })
    expect(
      distance(product({ rows: 10, columns: 6, values: q }, { rows: 6, columns: 6, values: r }), a),
    ).toBeLessThanOrEqual(1e-13 * norm(a))
  })
})

describe('a small SVD', () => {
  test.each([...sizes, ...sizes.map(([rows, columns]): [number, number] => [columns, rows])])(
    'of %i x %i gives the matrix back',
    async (rows, columns) => {
      await checkedSvd(noise(rows, columns, rows + 1))
    },
  )

  test('of a diagonal matrix is the sorted diagonal', async () => {
    const { u, s, v } = await checkedSvd({ rows: 3, columns: 3, values: Float64Array.of(2, 0, 0, 0, -5, 0, 0, 0, 3) })
    expect([...s]).toEqual([5, 3, 2])
    expect([...u].map((value) => value + 0)).toEqual([0, 0, 1, 1, 0, 0, 0, 1, 0])
    expect([...v].map((value) => value + 0)).toEqual([0, 0, 1, -1, 0, 0, 0, 1, 0])
  })

  test.each([
    ['falls slowly', Array.from({ length: 120 }, (_, j) => (j + 1) ** -0.25)],
    ['falls over 30 orders', Array.from({ length: 60 }, (_, j) => Math.exp(-j * 1.2))],
    ['has equal values', Array.from({ length: 50 }, (_, j) => (j < 20 ? 2 : 1))],
    ['is one value', [7]],
  ])('of a spectrum that %s has its singular values', async (_name, spectrum) => {
    const { s } = await checkedSvd(await planted(150, 130, spectrum, 5))
    for (const [j, value] of spectrum.entries())
      expect(Math.abs(s[j]! - value)).toBeLessThanOrEqual(1e-13 * spectrum[0]!)
    expect(Math.max(0, ...s.subarray(spectrum.length))).toBeLessThanOrEqual(1e-14 * spectrum[0]!)
  })

  test('of a matrix of rank 16 has zeros from the 17th value on, exactly', async () => {
    const { s } = await checkedSvd(product(noise(300, 16, 1), noise(16, 300, 2)))
    expect(s[15]).toBeGreaterThan(1)
    expect([...s.subarray(16)]).toEqual(new Array(284).fill(0))
  })

  test('of zeros has orthonormal vectors', async () => {
    expect([...(await checkedSvd({ rows: 4, columns: 9, values: new Float64Array(36) })).s]).toEqual([0, 0, 0, 0])
  })

  test.each([1e-320, 1e-200, 1e200])('of numbers near %d neither overflows nor vanishes', async (scale) => {
    const a = noise(20, 12, 4)
    const plain = await smallSvd(a.values, 20, 12)
    const { s } = await smallSvd(
      a.values.map((value) => value * scale),
      20,
      12,
    )
    for (const [j, value] of s.entries()) {
      // Numbers near 1e-320 are multiples of 5e-324.
      expect(Math.abs(value - plain.s[j]! * scale)).toBeLessThanOrEqual(1e-13 * plain.s[0]! * scale + 1e-322)
    }
  })

  test('gives the same bytes again', async () => {
    const { values } = noise(300, 260, 9)
    expect(await smallSvd(values, 300, 260)).toEqual(await smallSvd(values, 300, 260))
  })
})

describe('orthonormal', () => {
  /** Columns of singular values that fall by `step` from one to the next. */
  const falling = (rows: number, columns: number, step: number): Matrix =>
    scaledColumns(
      noise(rows, columns, 3),
      Array.from({ length: columns }, (_, k) => step ** k),
    )

  test.each([
    ['at random', noise(300, 32, 1)],
    ['of one row more than columns', noise(6, 5, 2)],
    ['one', noise(7, 1, 2)],
    ['that fall to a billionth', falling(200, 10, 0.1)],
    ['too small for squares', { ...noise(9, 4, 4), values: noise(9, 4, 4).values.map((x) => x * 1e-30) }],
    [
      'that depend on each other',
      { rows: 40, columns: 3, values: noise(40, 1, 5).values.reduce(tripled, new Float64Array(120)) },
    ],
    ['of zeros', { rows: 8, columns: 3, values: new Float64Array(24) }],
  ] as [string, Matrix][])('makes a basis of columns %s', async (_, a) => {
    const { rows, columns } = a
    const given = Float32Array.from(a.values)
    const q = { rows, columns, values: Float64Array.from(await orthonormal(given, rows, columns)) }
    const gram = product(transposed(q), q)
    for (let i = 0; i < columns; i++) gram.values[i * (columns + 1)]! -= 1
    expect(Math.max(...gram.values.map(Math.abs))).toBeLessThan(1e-6)
    const rest = { ...a, values: Float64Array.from(given) }
    expect(distance(product(q, product(transposed(q), rest)), rest)).toBeLessThanOrEqual(1e-6 * norm(rest))
    expect(await orthonormal(given, rows, columns)).toEqual(await orthonormal(given, rows, columns))
  })

  function tripled(all: Float64Array, value: number, i: number): Float64Array {
    all.set([value, 2 * value, -value], 3 * i)
    return all
  }

  test('refuses what is not finite, and a wide matrix', async () => {
    const code = 'ERR_WEIGHTSMITH_ARGUMENT'
    await expect(orthonormal(Float32Array.of(1, Number.NaN), 2, 1)).rejects.toMatchObject({ code })
    await expect(orthonormal(new Float32Array(6), 2, 3)).rejects.toMatchObject({ code })
  })
})

test('thinProduct is the product of matrices of any shape, rounded', async () => {
  for (const [rows, inner, columns] of [
    [1, 1, 1],
    [17, 5, 129],
    [300, 160, 130],
  ] as const) {
    const a = noise(rows, inner, 6)
    const [given, b] = [Float32Array.from(a.values), noise(inner, columns, 7)]
    const want = product({ ...a, values: Float64Array.from(given) }, b)
    const got = await thinProduct(given, b.values, rows, inner, columns)
    expect(got).toEqual(Float32Array.from(want.values))
  }
  const message = 'Matrices of 6 and 6 numbers are not 2 x 2 and 2 x 3.'
  await expect(thinProduct(new Float32Array(6), new Float64Array(6), 2, 2, 3)).rejects.toMatchObject({ message })
})

describe.each([
  ['thinQr', thinQr],
  ['smallSvd', smallSvd],
])('%s refuses', (_name, factorise) => {
  test.each([
    [5, 2, 'A matrix of 5 rows and 2 columns cannot have 6 numbers.'],
    [0, 6, 'A matrix of 0 rows and 6 columns cannot have 6 numbers.'],
    [6, 0, 'A matrix of 6 rows and 0 columns cannot have 6 numbers.'],
    [2 ** 33, 2 ** 31, /cannot have 6 numbers/],
    [-1, -6, /cannot have 6 numbers/],
  ])('sizes of %d x %d for 6 numbers', async (rows, columns, message) => {
    await expect(factorise(new Float64Array(6), rows, columns)).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_ARGUMENT',
      message: expect.stringMatching(message),
    })
  })

  test.each([Number.NaN, Infinity, -Infinity])('%d', async (value) => {
    await expect(factorise(Float64Array.of(1, 2, 3, 4, 5, value), 3, 2)).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_ARGUMENT',
      message: 'A matrix to be factorised has a value that is NaN or infinite in row 2, column 1.',
    })
  })
})

test('thinQr refuses a wide matrix', async () => {
  await expect(thinQr(new Float64Array(6), 2, 3)).rejects.toMatchObject({
    code: 'ERR_WEIGHTSMITH_ARGUMENT',
    message: 'A QR factorisation needs at least as many rows as columns, but the matrix has 2 rows and 3 columns.',
  })
})
