/**
 * Every kernel of models equals its float64 reference, for all weight types and for odd shapes: those of ops by the
 * table of ops.cases.ts, the others here.
 */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine } from 'weightsmith'
import type { NativeDispatch } from '../lib/native/border.js'
import { layout } from '../lib/native/layouts.js'
import {
  type Block,
  type Forms,
  formsOf,
  modelKernels as kernels,
  lossesOf,
  lossWords,
  matrixSide,
  packSamplingParams,
  plainForms,
  type SamplingParams,
} from '../lib/runtime/index.js'
import { opKernels } from '../lib/runtime/ops/index.js'
import { dtypes, numbers, tensor, tokenTable, untouched } from './op-case.js'
import { opCases } from './ops.cases.js'
import { decode, encode } from './reference/dtypes.js'
import * as reference from './reference/forward.js'
import { philox } from './reference/philox.js'
import { surgeon } from './reference/prune.js'

const bytesOf = ({ buffer, byteOffset, byteLength }: ArrayBufferView) => new Uint8Array(buffer, byteOffset, byteLength)

function close(got: ArrayLike<number>, want: ArrayLike<number>, tolerance: number): void {
  expect(got.length).toBe(want.length)
  for (let i = 0; i < want.length; i++) {
    if (!(Math.abs(got[i]! - want[i]!) <= tolerance * (1 + Math.abs(want[i]!)))) {
      expect({ i, got: got[i], want: want[i] }).toBe('within the tolerance')
    }
  }
}

/** As gradients are compared: by the largest of them, and what may not be written bit by bit. */
function closeToLargest(got: ArrayLike<number>, want: ArrayLike<number>, tolerance: number): void {
  expect(got.length).toBe(want.length)
  let largest = 0
  for (let i = 0; i < want.length; i++) if (want[i] !== untouched) largest = Math.max(largest, Math.abs(want[i]!))
  for (let i = 0; i < want.length; i++) {
    const most = want[i] === untouched ? 0 : tolerance * largest
    if (!(Math.abs(got[i]! - want[i]!) <= most)) {
      expect({ i, got: got[i], want: want[i], largest }).toBe('within the tolerance')
    }
  }
}

test('every kernel of an op has a case', () => {
  const dispatched = opCases.flatMap(({ dtypes, cases }) =>
    cases(dtypes[0]!).flatMap(({ dispatches }) => dispatches(plainForms)),
  )
  const names = Object.keys(opKernels).map((name) => `model/${name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`)}`)
  expect(dispatched.map(({ kernel }) => kernel)).toEqual(expect.arrayContaining(names))
})

describe.each(['auto', 'staging'] as const)('with %s buffers', (slots) => {
  let engine: Engine
  beforeAll(async () => {
    engine = await Engine.open({ slots })
  })
  afterAll(() => engine?.close())

  /** Runs dispatches on buffers that are given (a size in bytes, or content), and reads one of them as f32. */
  function run(
    buffers: (number | ArrayBufferView)[],
    dispatches: NativeDispatch[],
    read: number,
  ): Promise<Float32Array> {
    return engine.use(async ({ device }) => {
      const sizes = buffers.map((buffer) => (typeof buffer === 'number' ? buffer : buffer.byteLength))
      const resident = await device.allocate(sizes)
      const writes = buffers.flatMap((content, buffer) =>
        typeof content === 'number' ? [] : [{ buffer, offset: 0, memory: bytesOf(content) }],
      )
      const reads = [{ buffer: read, offset: 0, bytes: sizes[read]! }]
      // Both as suits the device and as suits another one.
      const constants: Record<string, number> = slots === 'auto' ? {} : { LANES: device.info.type === 'cpu' ? 64 : 8 }
      const suited = dispatches.map((one) => ({ ...one, constants: { ...constants, ...one.constants } }))
      const [bytes] = await device.dispatch(resident, { writes, dispatches: suited, reads })
      await device.release(resident)
      return new Float32Array(bytes!.buffer)
    })
  }

  /** Every form of the kernels that the device can run, those included that are not the fastest there. */
  const ways = () =>
    engine.use(async ({ device: { info: device } }): Promise<Forms[]> => {
      const best = formsOf(device)
      if (best.lanes === 0) return [plainForms]
      const shared = { ...plainForms, lanes: best.lanes }
      const matrix = matrixSide(device)
      return [
        plainForms,
        shared,
        ...(best.lanes >= 8 ? [{ ...shared, tall: 32 as const }] : []),
        ...(best.f16 ? [{ ...shared, f16: true, tall: best.tall }] : []),
        ...(matrix ? [{ ...shared, matrix }] : []),
      ]
    })

  for (const { says, dtypes, cases } of opCases) {
    test.each(dtypes)(`${says}, %s`, async (dtype) => {
      for (const { buffers, prepare = [], dispatches, forms, read, got, want, tolerance, ofLargest } of cases(dtype)) {
        const wanted = want()
        for (const form of forms ? await ways() : [plainForms]) {
          const words = await run(buffers, [...prepare, ...dispatches(form)], read)
          const compared = ofLargest ? closeToLargest : close
          compared(got?.(words) ?? words, wanted, tolerance)
        }
      }
    })
  }

  test('a row times a matrix has the same bits among any number of rows', async () => {
    const [most, columns, inner] = [49, 72, 68]
    const { block, buffers, pack } = tensor('BF16', columns, inner, 1)
    const x = numbers(most * inner, 2)
    const forms = await engine.use(async ({ device }) => formsOf(device.info))
    const product = (rows: number) =>
      run(
        [...buffers, x.subarray(0, rows * inner), 4 * rows * columns],
        [pack, kernels.gemm(block, 2, 3, { rows, stride: columns, forms })],
        3,
      )
    const all = await product(most)
    for (const rows of [1, 2, 9, 17, 32, 48]) expect(await product(rows)).toEqual(all.subarray(0, rows * columns))
  })

  for (const dtype of dtypes) {
    test(`zero_rows_columns puts zeros into rows and columns of a stored ${dtype} matrix`, async () => {
      const [rows, columns] = [5, 67]
      const stored = encode(dtype, numbers(rows * columns, 3))
      const bytes = Math.ceil(stored.byteLength / 4) * 4
      const matrix = new Uint8Array(bytes)
      matrix.set(bytesOf(stored))
      const clear = (by: 'row' | 'column', list: number, count: number) =>
        kernels.zeroRowsColumns({ matrix: 0, list }, { rows, columns, dtype }, { by, count })
      const buffers = [matrix, Uint32Array.of(4, 1), Uint32Array.of(66, 0, 7)]
      const got = await run(buffers, [clear('row', 1, 2), clear('column', 2, 3)], 0)
      const values = decode(dtype, new Uint8Array(got.buffer, 0, stored.byteLength))
      const zero = (i: number) => [1, 4].includes(Math.floor(i / columns)) || [0, 7, 66].includes(i % columns)
      expect([...values]).toEqual([...decode(dtype, stored)].map((value, i) => (zero(i) ? 0 : value)))
    })
  }

  test('scatter_image_features puts rows of features where ids are past the vocabulary', async () => {
    const [width, first] = [67, 10]
    const [features, x] = [numbers(4 * width, 1), numbers(5 * width, 2)]
    const ids = [9, 13, 10, 0, 12]
    const tokens = tokenTable(ids.map((id, row) => [id, 0, row]))
    const scatter = kernels.scatterImageFeatures({ tokens: 0, features: 1, y: 2 }, { rows: 5, width, first })
    const want = ids.flatMap((id, row) => {
      const [from, at] = id < first ? [x, row] : [features, id - first]
      return [...from.subarray(at * width, (at + 1) * width)]
    })
    expect([...(await run([tokens, features, x], [scatter], 2))]).toEqual(want)
  })

  test('attention reads a cache that later tokens are stored in', async () => {
    const [heads, numKvHeads, size] = [2, 1, 8]
    const [k, v] = [numbers(12 * size, 12), numbers(12 * size, 13)]
    // The last tokens of two sequences, at rows 4 and 9 of a cache of 12 rows, whose others are there already.
    const tokens = tokenTable([
      [0, 0, 4],
      [0, 6, 9],
    ])
    const rows = [4, 9]
    const cached = (values: Float32Array) =>
      values.map((value, i) => (rows.includes(Math.floor(i / size)) ? Number.NaN : value))
    const own = (values: Float32Array) =>
      Float32Array.from(rows.flatMap((row) => [...values.subarray(row * size, (row + 1) * size)]))
    const q = numbers(2 * heads * size, 14)
    const got = await run(
      [tokens, q, cached(k), cached(v), q.byteLength, own(k), own(v)],
      [
        kernels.kvStore(0, 5, 2, 2, size),
        kernels.kvStore(0, 6, 3, 2, size),
        kernels.attention(
          { tokens: 0, q: 1, keys: 2, values: 3, y: 4 },
          { rows: 2, heads, numKvHeads, size, scale: size ** -0.5, window: 0, sequenceLength: 0 },
        ),
      ],
      4,
    )
    const sees = [
      { first: 0, last: 4 },
      { first: 6, last: 9 },
    ]
    close(got, reference.attention({ q, k, v }, sees, { heads, numKvHeads, size }), 2e-5)
  })

  test('cross_entropy finds the first of the largest logits too', async () => {
    const [rows, width] = [5, 1003]
    const logits = numbers(rows * width, 17)
    const largest = (t: number) => [(t * 31 + 7) % width, (t * 17 + 3) % width]
    for (let t = 0; t < rows; t++) for (const i of largest(t)) logits[t * width + i] = 50
    const tokens = tokenTable(Array.from({ length: rows }, (_, t) => [0, 0, t]))
    const dispatch = kernels.crossEntropy({ tokens: 0, logits: 1, losses: 2, best: 3 }, { rows, width, from: 0 })
    const got = await run([tokens, logits, 4 * lossWords * rows, 4 * rows], [dispatch], 3)
    expect([...new Uint32Array(got.buffer)]).toEqual(Array.from({ length: rows }, (_, t) => Math.min(...largest(t))))
  })

  test('cross_entropy loses nothing of a large vocabulary, most of which is far below the likeliest', async () => {
    const [rows, width] = [12, 49152]
    const spread = numbers(rows * width, 18)
    const [some, more] = [numbers(rows * width, 19), numbers(rows * width, 20)]
    // Bell-shaped around -2, and a few that stand out by up to 20, as a trained model has them.
    const logits = spread.map((value, i) => (value + some[i]! + more[i]!) * (1 + (Math.floor(i / width) % 3)) - 2)
    for (let t = 0; t < rows; t++) {
      for (let k = 0; k < 9; k++)
        logits[t * width + ((t * 7919 + k * 4099) % width)] = 3 * (t % 6) + 3 - k / (1 + (t % 4))
    }
    const targets = Array.from({ length: rows }, (_, t) => (t % 3 === 0 ? t * 11 : (t * 7919 + (t % 9) * 4099) % width))
    const tokens = tokenTable(targets.map((id, t) => [0, 0, t, id]))
    const dispatch = kernels.crossEntropy({ tokens: 0, logits: 1, losses: 2, best: 3 }, { rows, width, from: 0 })
    const got = lossesOf(await run([tokens, logits, 4 * lossWords * rows, 4 * rows], [dispatch], 2))
    const want = reference.crossEntropy(logits, targets)
    const off = [...want].map((value, t) => got[t]! - value)
    expect(Math.max(...off.map(Math.abs))).toBeLessThan(1e-6)
    // What rounding leaves goes either way.
    expect(Math.abs(off.reduce((a, b) => a + b, 0)) / rows).toBeLessThan(3e-7)
  })

  test('column_stats leaves the statistics of groups of rows, in any order and number', async () => {
    for (const { width, groups, first, tau, limit } of [
      { width: 1, groups: [[0]], first: 0, tau: 0.1, limit: 1e3 },
      { width: 65, groups: [[4, 0, 2], [], [1, 3, 1]], first: 0, tau: 0.5, limit: 1.25 },
      { width: 131, groups: [[0], [4], [3, 2, 1]], first: 1, tau: 0, limit: 1e3 },
    ]) {
      // Far from zero: what is squared first would cancel.
      const x = numbers(5 * width, 20).map((value, i) => (i % width === 64 ? 1000 + value : value))
      const starts = groups.map((_, g) => groups.slice(0, g).flat().length)
      const list = Uint32Array.from([9, ...starts, groups.flat().length, ...groups.flat()])
      const asked = groups.slice(first)
      const at = { width, list: 1, first, count: asked.length, groups: groups.length, start: 3, tau, limit }
      const got = await run(
        [list, x, 4 * (3 + layout.columnWords * width * asked.length)],
        [kernels.columnStats({ groups: 0, x: 1, y: 2 }, at)],
        2,
      )
      close(got.subarray(3), reference.columnStats(x, asked, { width, tau, limit }), 2e-6)
    }
  })

  test('gram adds products of columns to what is there, in blocks of rows', async () => {
    for (const [width, first, rows] of [
      [1, 0, 1],
      [67, 0, 67],
      [131, 16, 9],
    ] as const) {
      const x = numbers(5 * width, 21)
      const picks = [3, 0, 4]
      const before = numbers(rows * width, 22)
      const dispatch = kernels.gram({ picks: 0, x: 1, y: 2 }, { width, first, rows, list: 1, picked: picks.length })
      const got = await run([Uint32Array.from([2, ...picks]), x, before], [dispatch], 2)
      const want = reference.gram(x, picks, width).subarray(first * width, (first + rows) * width)
      close(
        got,
        want.map((value, i) => value + before[i]!),
        2e-6,
      )
    }
  })

  test('residual_delta keeps the digits of a small step', async () => {
    for (const [rows, width] of [
      [1, 1],
      [3, 65],
      [2, 2049],
    ] as const) {
      const a = numbers(rows * width, 23)
      const b = a.map((value, i) => value + ((i % 7) - 3) * 2 ** -14)
      const got = await run([a, b, 12 * rows], [kernels.residualDelta({ a: 0, b: 1, y: 2 }, rows, width)], 2)
      const want = reference.residualDelta(a, b, width)
      for (const [i, value] of want.entries()) {
        const scale = i % 3 === 1 ? Math.sqrt(want[i - 1]! * want[i + 1]!) : value
        expect(Math.abs(got[i]! - value)).toBeLessThanOrEqual(2e-6 * scale)
      }
    }
  })

  test.each(dtypes)('weight_sums adds up |W| and W² of every input, or output, of a %s matrix', async (dtype) => {
    for (const [rows, columns] of [
      [1, 1],
      [131, 7],
      [64, 65],
    ] as const) {
      const { block, values, buffers, pack } = tensor(dtype, rows, columns, 24)
      const before = numbers(2 * columns, 25)
      const got = await run([...buffers, before], [pack, kernels.weightSums(block, 2)], 2)
      const want = reference.weightSums(values, columns).map((value, i) => value + before[i]!)
      close(got, want, 2e-6)
      const after: Block = { ...block, first: 3 }
      const sums = await run(
        [...buffers, new Float32Array(2 * (rows + 3))],
        [pack, kernels.weightSums(after, 2, 'output')],
        2,
      )
      const turned = Float64Array.from(values, (_, i) => values[(i % rows) * columns + Math.floor(i / rows)]!)
      close(sums.subarray(6), reference.weightSums(turned, rows), 2e-6)
    }
  })

  test('sample draws what its number falls on, of what top-k and top-p leave, whatever the batch', async () => {
    const width = 203
    const logits = numbers(width, 31).map((value) => 4 * value)
    logits[7] = logits[90]! // equals stay together
    const settings = [
      { temperature: 1, topK: 0, topP: 1 },
      { temperature: 0.5, topK: 5, topP: 1 },
      { temperature: 2, topK: 0, topP: 0.3 },
      { temperature: 1.5, topK: 40, topP: 0.7 },
      { temperature: 1, topK: 1, topP: 1 },
      { temperature: 1, topK: width, topP: 1e-6 },
    ]
    const draws = settings.flatMap((setting, sequence) =>
      Array.from({ length: 24 }, (_, step) => ({ ...setting, seed: 2 ** 40 + 5, sequence, sample: step % 3, step })),
    )
    const drawn = async (some: (SamplingParams | undefined)[]) => {
      const rows = some.length
      const many = Float32Array.from({ length: rows * width }, (_, i) => logits[i % width]!)
      const before = new Uint32Array(rows + 1).fill(199)
      // The first row is not among them.
      const table = packSamplingParams([undefined, ...some])
      const dispatch = kernels.sample({ sampling: 0, logits: 1, best: 2 }, { rows, width, from: 1 })
      return [...new Uint32Array((await run([table, many, before], [dispatch], 2)).buffer).subarray(1)]
    }
    const ids = await drawn(draws)
    let near = 0
    for (const [i, { seed, sequence, sample, step, ...setting }] of draws.entries()) {
      const words = philox([step, sample, sequence, 0], [seed % 2 ** 32, Math.floor(seed / 2 ** 32)])
      const number = (words[0] >>> 8) / 2 ** 24
      const probabilities = reference.kept(logits, setting)
      let reached = 0
      const id = probabilities.findIndex((probability) => {
        reached += probability
        return reached > number
      })
      expect(probabilities[ids[i]!]).toBeGreaterThan(0)
      // A number within rounding of the edge between two ids may fall on either.
      if (ids[i] !== id) near++
    }
    expect(near).toBeLessThan(2)
    expect(new Set(ids.slice(0, 24)).size).toBeGreaterThan(8)
    expect(await drawn([draws[30]!, undefined, draws[3]!])).toEqual([ids[30], 199, ids[3]])
  })

  test('sparsegpt_prune prunes a block of columns and sparsegpt_update makes up for it behind them, as in float64', async () => {
    for (const { rows, inputs, first, count, stay, of } of [
      { rows: 1, inputs: 1, first: 0, count: 1, stay: 0, of: 0 },
      { rows: 67, inputs: 29, first: 8, count: 12, stay: 2, of: 4 },
      { rows: 67, inputs: 29, first: 8, count: 13, stay: 0, of: 0 },
    ]) {
      const w = numbers(inputs * rows, 26)
      // Upper rows `first` on of a factor, with a diagonal around 2.
      const u = numbers(count * inputs, 27).map((x, i) =>
        i % inputs === first + Math.floor(i / inputs) ? 2 + x / 4 : x / 8,
      )
      const mask = Uint32Array.from({ length: count * rows }, (_, i) => Number(i % 3 > 0))
      const at = { rows, inputs, first, count, stay, of }
      const buffers = [u, mask, w, 4 * count * rows]
      const dispatches = [
        kernels.sparsegptPrune({ u: 0, mask: 1, w: 2, errors: 3 }, at),
        ...(first + count < inputs
          ? [kernels.sparsegptUpdate({ u: 0, errors: 3, w: 2 }, { ...at, first: first + count })]
          : []),
      ]
      close(await run(buffers, dispatches, 2), surgeon(w, u, mask, at), 5e-6)
    }
  })

  test('kv_copy copies rows of a cache to other rows of it', async () => {
    const width = 67
    const cache = numbers(5 * width, 32)
    const row = (i: number) => [...cache.subarray(i * width, (i + 1) * width)]
    const copies = Uint32Array.of(0, 3, 1, 4)
    const got = await run([copies, cache], [kernels.kvCopy(0, 1, 2, width)], 1)
    expect([...got]).toEqual([0, 1, 2, 0, 1].flatMap(row))
  })

  test('work that leaves its buffers is refused, and so are buffers that were released', async () => {
    await engine.use(async ({ device }) => {
      const resident = await device.allocate([4096])
      const nothing = { writes: [], dispatches: [], reads: [] }
      const refused = (work: object, code: string) =>
        expect(device.dispatch(resident, { ...nothing, ...work })).rejects.toHaveProperty('code', code)
      const argument = 'ERR_WEIGHTSMITH_ARGUMENT'
      await refused({ reads: [{ buffer: 0, offset: 4, bytes: 4096 }] }, argument)
      await refused({ reads: [{ buffer: 1, offset: 0, bytes: 4 }] }, argument)
      await refused({ writes: [{ buffer: 0, offset: 2, memory: new Uint8Array(4) }] }, argument)
      await refused({ writes: [{ buffer: 0, offset: 4096, memory: new Uint8Array(4) }] }, argument)
      await refused({ dispatches: [kernels.add(0, 1, 1, 1)] }, argument)
      // One buffer cannot be read and written at once; the device goes on working afterwards.
      await refused({ dispatches: [kernels.add(0, 0, 1, 1)] }, 'ERR_WEIGHTSMITH_KERNEL')
      expect(await device.dispatch(resident, nothing)).toEqual([])
      await device.release(resident)
      await refused({}, 'ERR_WEIGHTSMITH_DISPOSED')
    })
  })

  test('a token without target has no loss', async () => {
    const dispatch = kernels.crossEntropy({ tokens: 0, logits: 1, losses: 2, best: 3 }, { rows: 1, width: 4, from: 0 })
    const got = await run([tokenTable([[0, 0, 0]]), numbers(4, 18), Float32Array.of(9, 9, 9), 4], [dispatch], 2)
    expect([...lossesOf(got)]).toEqual([0])
  })
})
