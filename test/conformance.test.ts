/** Every kernel that stores elements equals its float64 reference, for all types and sizes around the block edges. */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, kernels } from 'weightsmith'
import { math } from './math.js'
import { uniform } from './random.js'
import { bytesOf, decode, encode, type FloatDType, rounded, spacing } from './reference/dtypes.js'
import * as reference from './reference/merge.js'
import * as prune from './reference/prune.js'

const sizes = [1, 7, 8, 9, 2047, 2048, 2049, 70_001]
const loads: FloatDType[] = ['F32', 'F16', 'BF16', 'F64', 'F8_E4M3', 'F8_E5M2']
const stores = ['F32', 'F16', 'BF16'] as const

/** Numbers of one seed, over [-2, 2). */
function numbers(count: number, seed: number): Float64Array {
  const next = uniform(seed)
  return Float64Array.from({ length: count }, () => 4 * next() - 2)
}

function typed(dtype: (typeof stores)[number], bytes: ArrayBufferView): Float64Array {
  return decode(dtype, new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength))
}

describe.each(['auto', 'staging'] as const)('with %s slots', (slots) => {
  let engine: Engine
  beforeAll(async () => {
    engine = await Engine.open({ slots })
  })
  afterAll(() => engine?.close())

  for (const dtype of loads) {
    test(`linear loads ${dtype} and stores F32, F16 and BF16 with one rounding`, async () => {
      for (const size of sizes) {
        const inputs = [1, 2, 3].map((seed) => encode(dtype, numbers(size, seed)))
        const weights = [0.5, -1.25, 0.75]
        const want = reference.linear(
          inputs.map((bytes) => decode(dtype, bytes)),
          weights,
        )
        for (const outDtype of stores) {
          const output = await engine.kernel('linear').run({
            inputs: inputs.map((data) => ({ dtype: dtype as 'F32', data })),
            outDtype,
            coefficients: weights,
          })
          const got = typed(outDtype, output)
          expect(got.length).toBe(size)
          expect(bytesOf(outDtype) * size).toBe(output.byteLength)
          for (let i = 0; i < size; i++) {
            const bound = spacing(outDtype, want[i]!) * 0.5 + 4e-6
            if (!(math.abs(got[i]! - want[i]!) <= bound)) {
              expect({ size, outDtype, i, got: got[i], want: want[i] }).toBe('within half a step')
            }
          }
        }
      }
    })
  }

  test('a weight of one stores exactly what was loaded, rounded once', async () => {
    for (const dtype of loads) {
      const bytes = encode(dtype, numbers(4099, 9))
      const source = decode(dtype, bytes)
      for (const outDtype of stores) {
        const output = await engine.kernel('linear').run({
          inputs: [{ dtype: dtype as 'F32', data: bytes }],
          outDtype,
          coefficients: [1],
        })
        // F64 goes through f32, as documented: two roundings of the same direction, compared as such.
        const want = source.map((value) => rounded(outDtype, math.fround(value)))
        expect(typed(outDtype, output)).toEqual(want)
      }
    }
  })

  test('delta adds weighted differences to the base', async () => {
    for (const size of sizes) {
      const [base, a, b] = [4, 5, 6].map((seed) => Float32Array.from(numbers(size, seed)))
      const output = await engine.kernel('delta').run({ inputs: [base!, a!, b!], coefficients: [0.3, -0.7] })
      const want = reference.delta(base!, [a!, b!], [0.3, -0.7])
      const got = output as Float32Array
      expect(got.length).toBe(size)
      const off = got.findIndex((value, i) => !(math.abs(value - want[i]!) <= 2e-6))
      expect({ size, off, got: got[off], want: want[off] }).toEqual({ size, off: -1 })
    }
  })

  test('store_f32 gives every element to a CPU step, block by block, and load_f32 stores what one gives', async () => {
    for (const size of sizes) {
      const [a, b] = [1, 2].map((seed) => Float32Array.from(numbers(size, seed)))
      const words = (await engine.kernel('store_f32').run({ inputs: [a!, b!] })) as Uint32Array
      const got = new Float32Array(words.buffer, words.byteOffset, words.length)
      expect(got.length).toBe(4096 * math.ceil(size / 2048))
      for (let i = 0; i < 2048 * math.ceil(size / 2048); i++) {
        const at = 4096 * math.floor(i / 2048) + (i % 2048)
        if (got[at] !== (a![i] ?? 0) || got[at + 2048] !== (b![i] ?? 0)) expect({ size, i }).toBe('as it was')
      }
      const coefficients = Uint32Array.from([1, 0, 1, ...new Uint32Array(b!.buffer)])
      expect(await engine.kernel('load_f32').run({ inputs: [a!], coefficients })).toEqual(b)
    }
  })

  test('recast stores its first input with one rounding', async () => {
    const sources = [encode('F32', numbers(2049, 3)), encode('BF16', numbers(2049, 4))]
    const inputs = sources.map((data, i) => ({ dtype: (['F32', 'BF16'] as const)[i]! as 'F32', data }))
    for (const outDtype of stores) {
      const want = decode('F32', sources[0]!).map((value) => rounded(outDtype, value))
      expect(
        typed(outDtype, await engine.kernel('recast').run({ inputs, outDtype, constants: { GIVEN: 0, WEIGHT: 2 } })),
      ).toEqual(want)
    }
  })

  test('lora adds the scaled product of B and A, whole or turned, to matrices of any shape and type', async () => {
    const shapes = [
      [1, 1, 1],
      [7, 9, 3],
      [3, 8, 1],
      [256, 8, 5],
      [2049, 1, 2],
      [300, 234, 4],
      [129, 544, 16],
    ] as const
    // found in the call, and told
    const codes: Record<string, Record<string, number>> = {
      BF16F32: { WEIGHT: 2, FACTORS: 0 },
      F16BF16: { WEIGHT: 1, FACTORS: 2 },
    }
    for (const [rows, columns, rank] of shapes) {
      for (const transposed of [false, true]) {
        for (const [dtype, other, outDtype] of [
          ['F32', 'F32', 'F32'],
          ['BF16', 'F32', 'BF16'],
          ['F16', 'BF16', 'F32'],
        ] as const) {
          const inputs = [
            encode(dtype, numbers(rows * columns, 1)),
            encode(other, numbers((transposed ? columns : rows) * rank, 2)),
            encode(other, numbers((transposed ? rows : columns) * rank, 3)),
          ]
          const [weight, b, a] = [decode(dtype, inputs[0]!), decode(other, inputs[1]!), decode(other, inputs[2]!)]
          const want = reference.lora(weight, b, a, { columns, rank, scale: 0.375, transposed })
          const output = await engine.kernel('lora').run({
            inputs: inputs.map((data, i) => ({ dtype: (i === 0 ? dtype : other) as 'F32', data })),
            outDtype,
            coefficients: [columns, rows, rank, 0.375, 1, 0],
            constants: { TRANSPOSED: transposed ? 1 : 0, ...codes[dtype + other] },
          })
          const got = typed(outDtype, output)
          for (let i = 0; i < want.length; i++) {
            const bound = spacing(outDtype, want[i]!) * 0.5 + 2e-5
            if (!(math.abs(got[i]! - want[i]!) <= bound)) {
              expect({ rows, columns, rank, transposed, i, got: got[i], want: want[i] }).toBe('within half a step')
            }
          }
        }
      }
    }
  })

  test('sparse drops the least of every group, of equal ones the first, with norms of columns and without', async () => {
    const shapes = [
      { rows: 3, columns: 8, size: 4, goes: 2 },
      { rows: 5, columns: 21, size: 3, goes: 1 },
      { rows: 2, columns: 33, size: 33, goes: 32 },
      { rows: 7, columns: 333, size: 333, goes: 100 },
      { rows: 3, columns: 2500, size: 2500, goes: 1250 },
      { rows: 2, columns: 64, size: 64, goes: 0 },
    ]
    for (const { rows, columns, size, goes } of shapes) {
      for (const [dtype, step] of [
        ['F32', 0],
        ['BF16', 0],
        ['F16', 0.25],
      ] as const) {
        // Few different values: most are equal to others.
        const few = (x: number) => (step === 0 ? x : math.round(x / step) * step)
        const data = encode(dtype, numbers(rows * columns, 31).map(few))
        const x = decode(dtype, data)
        const norms = Float32Array.from(numbers(columns, 32), (value) => (step === 0 ? math.abs(value) : 2))
        for (const weighted of [dtype !== 'F32']) {
          const output = await engine.kernel('sparse').run({
            inputs: [{ dtype, data }, ...(weighted ? [norms] : [])],
            outDtype: dtype,
            coefficients: [size, goes, columns],
            constants: {
              LONG: size > 256 ? 1 : 0,
              ...(weighted ? { WEIGHTED: 1, WEIGHT: ['F32', 'F16', 'BF16'].indexOf(dtype) } : {}),
            },
          })
          const want = prune.sparse(x, { size, goes, columns, ...(weighted ? { norms } : {}) })
          const got = typed(dtype, output)
          const wrong = want.findIndex((value, i) => value !== got[i])
          if (wrong >= 0) expect({ columns, size, dtype, weighted, wrong }).toBe('equal')
        }
      }
    }
  })

  test('NaN and Inf are counted in what is stored, and only among true elements', async () => {
    const data = new Float32Array(2053).fill(1)
    data[3] = Number.NaN
    data[2052] = Number.POSITIVE_INFINITY
    const run = await engine.kernel('linear').measure({ inputs: [data], coefficients: [1] })
    expect(run.timings.compute).toBeGreaterThan(0)
    expect(run.milliseconds).toBeGreaterThanOrEqual(run.timings.compute)
    expect(run.nonFinite).toBe(2)
    const overflow = await engine.kernel('linear').measure({
      inputs: [Float32Array.of(65504, 65520, -65536)],
      outDtype: 'F16',
      coefficients: [1],
    })
    expect(overflow.nonFinite).toBe(2)
  })

  test('f32 subnormals become signed zero', async () => {
    const output = await engine.kernel('linear').run({ inputs: [Float32Array.of(1e-40, -1e-40, 1)], coefficients: [1] })
    expect([...(output as Float32Array)].map((value) => Object.is(value, -0))).toEqual([false, true, false])
    expect((output as Float32Array)[0]).toBe(0)
  })
})

describe('partial results', () => {
  let engine: Engine
  beforeAll(async () => {
    engine = await Engine.open()
  })
  afterAll(() => engine?.close())

  const summing = ['dots', 'gram', 'diff', 'dare_norms', 'ties_facts', 'sce_squares', 'ram_counts']
  test.each(summing)('of %s are the same bits whether 8 invocations make them or 64', async (kernel) => {
    const { inputs, writes, example } = kernels.get(kernel)!
    const count = math.max(inputs.min, math.min(inputs.max, 3))
    const elements = 5 * 2048 - 77
    const program = (LANES: number) => ({
      kernels: [{ kernel, writes: (writes as (inputs: number) => number)(count), constants: { LANES } }],
    })
    const coefficients = Array.from(example(count))
    const job = {
      name: 'x',
      elements,
      inputs: Array.from({ length: count }, (_, place) => ({ place, offset: 0, dtype: 'F32' })),
      variants: [{ coefficients }],
    }
    const { results } = await engine.use(
      ({ device, memory }) =>
        device.run({
          inputs: Array.from({ length: count }, (_, i) => ({
            memory: new Uint8Array(Float32Array.from(numbers(elements, i + 1)).buffer),
          })),
          outputs: [],
          programs: [program(8), program(64)],
          jobs: [0, 1].map((index) => ({ ...job, program: index })),
          memory,
          seed: 7,
          checksum: false,
          sync: false,
        }).done,
    )
    expect(results[0]!.some((word) => word !== 0)).toBe(true)
    expect(results[0]).toEqual(results[1])
  })
})
