/** Adapters extracted from two checkpoints: as close as the rank allows, and what PEFT and our own fold read back. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import {
  Engine,
  type ExtractOptions,
  type ExtractReport,
  extractAdapter,
  foldAdapters,
  merge,
  verify,
} from 'weightsmith'
import type { Device } from '../lib/adapters/device.js'
import { signs } from '../lib/adapters/sketch.js'
import { Difference } from '../lib/adapters/thin_products.js'
import { openCheckpoint } from '../lib/checkpoint/index.js'
import type { Host } from '../lib/native/host.js'
import { loadAddon } from '../lib/native/load.js'
import { f32, type Raw, readFolder, readSafetensors, values, writeModel } from './checkpoint.js'
import { cli } from './child.js'
import { golden } from './goldens.js'
import { uniform } from './random.js'
import { decode, encode } from './reference/dtypes.js'
import { randomWords } from './reference/philox.js'
import { scratch } from './scratch.js'

const { fresh } = scratch('extract')
const { thinQr } = loadAddon()

let engine: Engine
beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

function noise(length: number, seed: number): Float64Array {
  const next = uniform(seed)
  return Float64Array.from({ length }, () => next() + next() + next() + next() - 2)
}

/** [rows, columns] of these singular values. */
async function planted(rows: number, columns: number, s: number[], seed: number): Promise<Float64Array> {
  const { q: left } = await thinQr(noise(rows * s.length, seed), rows, s.length)
  const { q: right } = await thinQr(noise(columns * s.length, seed + 1), columns, s.length)
  const result = new Float64Array(rows * columns)
  for (let i = 0; i < rows; i++) {
    for (const [k, value] of s.entries()) {
      const x = left[i * s.length + k]! * value
      for (let j = 0; j < columns; j++) result[i * columns + j]! += x * right[j * s.length + k]!
    }
  }
  return result
}

const extract = (base: string, tuned: string, options: Partial<ExtractOptions> = {}) =>
  extractAdapter(engine, base, tuned, { out: fresh('adapter'), sync: false, ...options, dryRun: false })

const up = 'model.layers.0.mlp.up_proj'

/** A model of one linear, and what it becomes by adding a difference. */
function pairOf(difference: ArrayLike<number>, shape: [number, number]): [string, string] {
  const write = (data: ArrayLike<number>) => writeModel(fresh('model'), { [`${up}.weight`]: f32(data, shape) })
  return [write(new Float32Array(difference.length)), write(difference)]
}

const tensorsOf = (out: string) => readSafetensors(join(out, 'adapter_model.safetensors'))
const configOf = (out: string) => JSON.parse(readFileSync(join(out, 'adapter_config.json'), 'utf8'))

/** B A of a module as the file has it, in float64. */
function productOf(out: string, module: string): Float64Array {
  const tensors = tensorsOf(out)
  const [a, b] = ['lora_A', 'lora_B'].map((side) => tensors.get(`base_model.model.${module}.${side}.weight`)!)
  const [rank = 0, inputs = 0] = a!.shape
  const [outputs = 0] = b!.shape
  const [x, y] = [values(a!), values(b!)]
  const product = new Float64Array(outputs * inputs)
  for (let i = 0; i < outputs; i++) {
    for (let k = 0; k < rank; k++) {
      for (let j = 0; j < inputs; j++) product[i * inputs + j]! += y[i * rank + k]! * x[k * inputs + j]!
    }
  }
  return product
}

const distance = (x: ArrayLike<number>, y: ArrayLike<number>) => {
  let squares = 0
  for (let i = 0; i < x.length; i++) squares += (x[i]! - y[i]!) ** 2
  return Math.sqrt(squares)
}

/** The device, as one that has no subgroups. */
function withoutSubgroups({ device, memory }: Host): Device {
  const { info } = device
  const features = info.features.filter((feature) => feature !== 'subgroups')
  return {
    memory,
    device: {
      ...{ run: (plan) => device.run(plan), close: () => device.close(), forceLoss: () => device.forceLoss() },
      info: { ...info, features },
      allocate: (sizes) => device.allocate(sizes),
      dispatch: (resident, work) => device.dispatch(resident, work),
      release: (resident) => device.release(resident),
    } as Device['device'],
  }
}

describe('kernels of thin products', () => {
  describe.each([
    ['F32', 'BF16'],
    ['F16', 'F16'],
    ['BF16', 'F64'],
    ['F8_E4M3', 'F32'],
  ] as const)('of %s minus %s', (one, two) => {
    test.each([
      [1, 1, 4],
      [3, 65, 8],
      [129, 7, 12],
      [130, 200, 20],
    ])('equal float64 for %i x %i and a width of %i', async (rows, columns, width) => {
      const stored = [one, two].map((dtype, i) => [dtype, encode(dtype, noise(rows * columns, 3 + i))] as const)
      const folders = stored.map(([dtype, bytes]) => {
        const data = {
          dtype,
          shape: [rows, columns],
          bytes: Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength),
        }
        // What stands before and behind must not be read: 2 bytes, so that rows start anywhere.
        const guard: Raw = { dtype: 'BF16', shape: [1], bytes: Buffer.from([0xc0, 0x7f]) }
        return writeModel(fresh('model'), { a: guard, w: data, z: guard })
      })
      await engine.use(async (host) => {
        const sides = await Promise.all(
          folders.map(async (folder) => {
            const checkpoint = await openCheckpoint(host.addon, folder)
            return { checkpoint, tensor: checkpoint.tensors.get('w')! }
          }),
        )
        const difference = new Difference(host, sides[1]!, sides[0]!)
        const d = await difference.whole()
        const [base, tuned] = stored.map(([dtype, bytes]) => decode(dtype, bytes).map(Math.fround))
        expect([...d]).toEqual(Array.from(base!, (value, i) => Math.fround(tuned![i]! - value)))
        const [x, y] = [noise(columns * width, 5), noise(rows * width, 6)].map((data) => Float32Array.from(data))
        const product = new Float64Array(rows * width)
        const transposed = new Float64Array(columns * width)
        let squares = 0
        let rest = 0
        for (let i = 0; i < rows; i++) {
          for (let j = 0; j < columns; j++) {
            const value = d[i * columns + j]!
            squares += value ** 2
            let low = 0
            for (let c = 0; c < width; c++) {
              product[i * width + c]! += value * x![j * width + c]!
              transposed[j * width + c]! += value * y![i * width + c]!
              // A [width, columns] from the same numbers
              low += y![i * width + c]! * x![c * columns + j]!
            }
            rest += (value - low) ** 2
          }
        }
        const close = (got: ArrayLike<number>, want: ArrayLike<number>) => {
          expect(got.length).toBe(want.length)
          expect(distance(got, want)).toBeLessThanOrEqual(1e-6 * distance(want, new Float64Array(want.length)))
        }
        const check = async (difference: Difference) => {
          const results = {
            product: await difference.times(x!, width),
            transposed: await difference.transposedTimes(y!, width),
            norm: await difference.norm(),
            rest: await difference.residual(x!, y!),
          }
          await difference.release()
          close(results.product, product)
          close(results.transposed, transposed)
          close([results.norm], [Math.sqrt(squares)])
          close([results.rest], [Math.sqrt(rest)])
          return results
        }
        const once = await check(difference)
        // Where the memory does not hold D, tiles of 64 rows are read for each product: every sum is the same.
        expect(await check(new Difference({ ...host, memory: 1 }, sides[1]!, sides[0]!))).toEqual(once)
        await check(new Difference(withoutSubgroups(host), sides[1]!, sides[0]!))
      })
    })
  })

  test('the signs are the bits of the generator of merges', () => {
    const words = randomWords(2n ** 40n + 7n, 'x.weight', 0, 12)
    const got = signs(13, 28, 'x.weight', 2 ** 40 + 7)
    expect([...got]).toEqual(Array.from({ length: 13 * 28 }, (_, i) => ((words[i >> 5]! >>> (i & 31)) & 1 ? 1 : -1)))
  })
})

describe('the residual', () => {
  const n = 400
  test.each([
    ['j^-0.25', (j: number) => j ** -0.25],
    ['j^-0.5', (j: number) => j ** -0.5],
    ['1 / j', (j: number) => 1 / j],
    ['exp(-j / 20)', (j: number) => Math.exp(-j / 20)],
    ['16 values and 2 % of noise', (j: number) => (j <= 16 ? 1 : 0.02 * Math.sqrt(16 / (n - 16)))],
  ])('of a spectrum %s is within 1 %% of the best', async (_name, of) => {
    const spectrum = Array.from({ length: n }, (_, j) => of(j + 1))
    const difference = await planted(n, n, spectrum, 11)
    const report = await extract(...pairOf(difference, [n, n]), { rank: 16 })
    const [module] = report.modules
    const best = Math.hypot(...spectrum.slice(16))
    expect(module!.whole).toBe(false)
    expect(module!.residual).toBeLessThanOrEqual(1.01 * best)
    expect(module!.residual).toBeGreaterThanOrEqual((1 - 1e-5) * best)
    expect(distance(productOf(report.out, up), difference) / module!.residual).toBeCloseTo(1, 5)
  })

  test.each([
    [400, 300],
    [300, 400],
    [260, 1000],
  ])('of a difference of rank 16, %i x %i, is nothing', async (rows, columns) => {
    const spectrum = Array.from({ length: 16 }, (_, j) => 3 - j / 8)
    const report = await extract(...pairOf(await planted(rows, columns, spectrum, 3), [rows, columns]), { rank: 16 })
    const [module] = report.modules
    expect(module!.residual).toBeLessThanOrEqual(1e-5 * module!.norm)
    for (const [j, value] of spectrum.entries()) expect(module!.spectrum[j]! / value).toBeCloseTo(1, 5)
  })

  test.each(['float16', 'bfloat16'])('is that of factors as they are stored in %s', async (dtype) => {
    const difference = await planted(40, 30, [3, 2, 1], 4)
    const { modules, out } = await extract(...pairOf(difference, [40, 30]), { rank: 3, dtype })
    const stored = dtype === 'float16' ? 'F16' : 'BF16'
    expect([...tensorsOf(out).values()].map((raw) => raw.dtype)).toEqual([stored, stored])
    expect(modules[0]!.residual).toBeGreaterThan(1e-4)
    if (stored === 'BF16') expect(distance(productOf(out, up), difference) / modules[0]!.residual).toBeCloseTo(1, 4)
  })

  interface Golden {
    delta: { l2: number }
    residual: Record<string, number>
    energy_rank: Record<string, number>
    energy_margin: Record<string, number>
  }
  const file = JSON.parse(readFileSync(golden('lora/extract/extract.json'), 'utf8')) as Record<
    string,
    { modules: Record<string, Golden> }
  >
  for (const [pair, { modules }] of Object.entries(file)) {
    const [base, tuned] = pair.split('..').map((name) => golden(`reasoner/${name}`)) as [string, string]
    const of = (module: string) => modules[`${module}.weight`]!

    test.each([4, 8, 16, 32])(`of ${pair} is within 1 %% of the best of rank %i`, async (rank) => {
      const report = await extract(base, tuned, { rank })
      expect(report.modules.length).toBe(56)
      for (const { module, norm, residual } of report.modules) {
        expect(Math.abs(norm - of(module).delta.l2)).toBeLessThanOrEqual(1e-5 * norm)
        const best = of(module).residual[rank]!
        expect([module, residual]).toEqual([module, expect.any(Number)])
        expect(residual / best).toBeLessThanOrEqual(1.01)
        expect(residual / best).toBeGreaterThanOrEqual(1 - 1e-5)
      }
    })

    test.each([0.9, 0.99])(`of ${pair} has the rank of an energy of %d`, async (energy) => {
      for (const { module, rank, energy: kept } of (await extract(base, tuned, { energy })).modules) {
        if (of(module).energy_margin[energy]! < 1e-6) continue
        expect([module, rank]).toEqual([module, of(module).energy_rank[energy]])
        expect(kept).toBeGreaterThanOrEqual(energy - 1e-6)
      }
    })
  }
})

describe('an adapter of full rank', () => {
  test('folds into the bytes of the tuned model, all but one in a thousand', async () => {
    const [base, tuned] = ['base', 'improved-3'].map((name) => golden(`reasoner/${name}`)) as [string, string]
    const { out: adapter } = await extract(base, tuned, { rank: 128 })
    const out = fresh('folded')
    await merge(
      engine,
      { merge_method: 'passthrough', models: [{ model: `${base}+${adapter}` }], dtype: 'bfloat16' },
      { out, sync: false },
    )
    const [got, want] = [readFolder(out), readFolder(tuned)]
    expect([...got.keys()].sort()).toEqual([...want.keys()].sort())
    let elements = 0
    let others = 0
    for (const [name, raw] of want) {
      const bytes = got.get(name)!.bytes
      for (let i = 0; i < raw.bytes.length; i += 2) {
        elements++
        if (bytes.readUInt16LE(i) !== raw.bytes.readUInt16LE(i)) others++
      }
    }
    expect(others).toBeLessThanOrEqual(1e-3 * elements)
  })

  test.each(['F16', 'F32'] as const)('folds into the tuned model in %s', async (dtype) => {
    const [rows, columns] = [96, 72]
    const weight = noise(rows * columns, 5).map((value) => 0.02 * value)
    const change = noise(rows * columns, 6).map((value, i) => weight[i]! + 0.002 * value)
    const write = (data: Float64Array) => {
      const bytes = encode(dtype, data)
      const raw = {
        dtype,
        shape: [rows, columns],
        bytes: Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength),
      }
      return writeModel(fresh('model'), { [`${up}.weight`]: raw }, { model_type: 'llama', num_hidden_layers: 1 })
    }
    const [base, tuned] = [write(weight), write(change)]
    const { out: adapter } = await extract(base, tuned, { rank: columns })
    const out = fresh('folded')
    await foldAdapters(engine, base, { adapters: [adapter], out, sync: false })
    const [got, want] = [out, tuned].map((folder) => decode(dtype, readFolder(folder).get(`${up}.weight`)!.bytes))
    if (dtype === 'F16') {
      const others = got!.filter((value, i) => value !== want![i]).length
      expect(others).toBeLessThanOrEqual(1e-3 * want!.length)
      return
    }
    for (let row = 0; row < rows; row++) {
      const [x, y] = [got!, want!].map((all) => all.subarray(row * columns, (row + 1) * columns))
      expect(distance(x!, y!)).toBeLessThanOrEqual(1e-6 * distance(y!, new Float64Array(columns)))
    }
  })
})

/** A model of some layers, a table and norms; `change` names tensors that become others. */
function small(change: Record<string, Raw | undefined> = {}, config: object = {}, biases = true): string {
  const wave = (length: number, seed: number) => Float32Array.from({ length }, (_, i) => Math.sin(i * seed + seed))
  const tensors: Record<string, Raw | undefined> = {
    'model.embed_tokens.weight': f32(wave(60, 3), [10, 6]),
    'model.norm.weight': f32(wave(6, 5), [6]),
    'lm_head.weight': f32(wave(60, 7), [10, 6]),
  }
  for (const i of [0, 1]) {
    tensors[`model.layers.${i}.mlp.up_proj.weight`] = f32(wave(48, 11 + i), [8, 6])
    tensors[`model.layers.${i}.mlp.down_proj.weight`] = f32(wave(48, 13 + i), [6, 8])
    if (biases) tensors[`model.layers.${i}.mlp.down_proj.bias`] = f32(wave(6, 17 + i), [6])
    tensors[`model.layers.${i}.input_layernorm.weight`] = f32(wave(6, 19 + i), [6])
  }
  const kept = Object.entries({ ...tensors, ...change }).filter(
    (entry): entry is [string, Raw] => entry[1] !== undefined,
  )
  return writeModel(fresh('model'), Object.fromEntries(kept), config)
}

const matrix = (rows: number, columns: number, seed: number) => f32(noise(rows * columns, seed), [rows, columns])

describe('the folder', () => {
  const tuned = (more: Record<string, Raw | undefined> = {}) =>
    small({
      [`${up}.weight`]: matrix(8, 6, 1),
      'model.layers.1.mlp.down_proj.weight': matrix(6, 8, 2),
      'model.layers.1.input_layernorm.weight': f32(noise(6, 3), [6]),
      ...more,
    })

  test('has factors of what has changed, norms as they are, and leaves the rest out', async () => {
    const report = await extract(small(), tuned(), { rank: 2 })
    const { out, modules, saved, unchanged } = report
    expect(modules.map(({ module, rank }) => [module, rank])).toEqual([
      [up, 2],
      ['model.layers.1.mlp.down_proj', 2],
    ])
    expect(saved).toEqual([{ module: 'model.layers.1.input_layernorm', reason: 'weight has changed' }])
    expect(unchanged).toContain('model.layers.0.mlp.down_proj.weight')
    expect(unchanged.length).toBe(11 - 3)
    const config = configOf(out)
    expect(config).toMatchObject({
      target_modules: [up, 'model.layers.1.mlp.down_proj'],
      modules_to_save: ['model.layers.1.input_layernorm'],
      r: 2,
      lora_alpha: 2,
      use_rslora: false,
    })
    const names = [up, 'model.layers.1.mlp.down_proj'].flatMap((module) =>
      ['A', 'B'].map((side) => `base_model.model.${module}.lora_${side}.weight`),
    )
    const norm = 'base_model.model.model.layers.1.input_layernorm.weight'
    expect([...tensorsOf(out).keys()].sort()).toEqual([...names, norm].sort())
    expect([...values(tensorsOf(out).get(norm)!)]).toEqual([...Float32Array.from(noise(6, 3))])
    await verify(out)
  })

  test('has a linear whole where its bias has changed', async () => {
    const bias = 'model.layers.1.mlp.down_proj.bias'
    const { saved, modules } = await extract(small(), tuned({ [bias]: f32(noise(6, 9), [6]) }), { rank: 2 })
    expect(modules.map(({ module }) => module)).toEqual([up])
    expect(saved).toContainEqual({
      module: 'model.layers.1.mlp.down_proj',
      reason: 'bias has changed, so its weight is not made of factors',
    })
  })

  test('has a table that has grown', async () => {
    const table = matrix(12, 6, 8)
    const { saved, out } = await extract(small(), tuned({ 'model.embed_tokens.weight': table }), { rank: 2 })
    expect(saved[0]).toEqual({ module: 'model.embed_tokens', reason: 'has 12 rows in place of 10' })
    const stored = tensorsOf(out).get('base_model.model.model.embed_tokens.weight')!
    expect(stored.shape).toEqual([12, 6])
    expect(stored.bytes.equals(table.bytes)).toBe(true)
  })

  test('has the head of a tied table too', async () => {
    const table = matrix(10, 6, 8)
    const tied = (change: Record<string, Raw | undefined>) =>
      small({ 'lm_head.weight': undefined, ...change }, { tie_word_embeddings: true })
    const changed = { 'model.embed_tokens.weight': table, [`${up}.weight`]: matrix(8, 6, 1) }
    const { saved, out } = await extract(tied({}), tied(changed), { rank: 2 })
    expect(saved.map(({ module }) => module)).toEqual(['model.embed_tokens', 'lm_head'])
    for (const name of ['model.embed_tokens', 'lm_head']) {
      expect(tensorsOf(out).get(`base_model.model.${name}.weight`)!.bytes.equals(table.bytes)).toBe(true)
    }
  })

  test('is the same, byte for byte, when it is made again', async () => {
    const pair = pairOf(await planted(300, 200, [5, 4, 3, 2, 1], 7), [300, 200])
    const files = []
    for (let i = 0; i < 2; i++) {
      const { out } = await extract(...pair, { rank: 4 })
      files.push(readFileSync(join(out, 'adapter_model.safetensors')))
    }
    expect(files[0]!.equals(files[1]!)).toBe(true)
  })
})

describe('ranks', () => {
  const spectrum = [10, 5, 2, 1, 0.5, 0.1]
  const all = Math.hypot(...spectrum)
  const rankFor = async (options: Partial<ExtractOptions>): Promise<[number, ExtractReport]> => {
    const report = await extract(...pairOf(await planted(200, 180, spectrum, 5), [200, 180]), options)
    return [report.modules[0]!.rank, report]
  }

  test('follow from the energy to keep', async () => {
    const of = (k: number) => Math.hypot(...spectrum.slice(0, k)) ** 2 / all ** 2
    expect((await rankFor({ energy: of(3) - 1e-4 }))[0]).toBe(3)
    expect((await rankFor({ energy: of(3) + 1e-4 }))[0]).toBe(4)
    expect((await rankFor({ energy: of(3) + 1e-4, rank: 2 }))[0]).toBe(2)
  })

  test('follow from the residual to leave', async () => {
    const of = (k: number) => Math.hypot(...spectrum.slice(k)) / all
    expect((await rankFor({ tolerance: of(2) * 1.01 }))[0]).toBe(2)
    expect((await rankFor({ tolerance: of(2) * 0.99 }))[0]).toBe(3)
  })

  test('grow until the energy is reached, however slowly a spectrum falls', async () => {
    const slow = Array.from({ length: 180 }, () => 1)
    const { modules } = await extract(...pairOf(await planted(300, 180, slow, 5), [300, 180]), { energy: 0.5 })
    expect(modules[0]!.rank).toBe(90)
  })

  test('share a budget by what each value keeps for its cost', async () => {
    const shape: [number, number] = [40, 30]
    const down = 'model.layers.0.mlp.down_proj'
    const write = async (zero: boolean) =>
      writeModel(fresh('model'), {
        [`${up}.weight`]: f32(await planted(...shape, zero ? [0] : [4, 3, 0.5], 3), shape),
        [`${down}.weight`]: f32(await planted(...shape, zero ? [0] : [2, 1, 0.1], 8), shape),
      })
    const [base, tuned] = [await write(true), await write(false)]
    const ranks = async (budget: number) => {
      const { modules, dropped, parameters } = await extract(base, tuned, { budget })
      expect(parameters).toBeLessThanOrEqual(budget)
      return [modules.map(({ module, rank }) => [module, rank]), dropped]
    }
    expect(await ranks(3 * 70)).toEqual([
      [
        [up, 2],
        [down, 1],
      ],
      [],
    ])
    expect(await ranks(4 * 70 + 69)).toEqual([
      [
        [up, 2],
        [down, 2],
      ],
      [],
    ])
    expect(await ranks(70)).toEqual([[[up, 1]], [down]])
  })

  test.each([
    [{ tolerance: 0.1, energy: 0.9 }, 'Ranks follow from energy or tolerance; give one of them.'],
    [{ rank: 0 }, 'Expected rank to be a whole number from 1, but received "0".'],
    [{ energy: 0 }, 'Expected energy to be above 0 and at most 1, but received "0".'],
    [{ tolerance: 1 }, 'Expected tolerance to be from 0 and below 1, but received "1".'],
    [{ dtype: 'int8' }, 'Expected dtype to be float32, float16 or bfloat16, but received "int8".'],
  ])('of %j are refused', async (options, message) => {
    await expect(extract('a', 'b', options)).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_ARGUMENT', message })
  })
})

describe('what is refused', () => {
  const refused = async (base: string, tuned: string, code: string, message: RegExp, options = {}) => {
    const out = fresh('adapter')
    await expect(extract(base, tuned, { out, ...options })).rejects.toMatchObject({
      code: `ERR_WEIGHTSMITH_${code}`,
      message: expect.stringMatching(message),
    })
    expect(existsSync(out)).toBe(false)
    expect(existsSync(`${out}.partial`)).toBe(false)
  }

  test('models that are the same', () => refused(small(), small(), 'ARGUMENT', /is the same as .*nothing to extract/))

  test('a tensor that one of them has alone', async () => {
    const other = small({ 'model.layers.1.mlp.up_proj.weight': undefined })
    await refused(small(), other, 'MISSING_TENSOR', /up_proj\.weight of .* is not in /)
    await refused(other, small(), 'MISSING_TENSOR', /up_proj\.weight of .* is not in /)
  })

  test('another shape', () =>
    refused(small(), small({ [`${up}.weight`]: matrix(9, 6, 1) }), 'SHAPE_MISMATCH', /\[8,6\] in .* \[9,6\] in /))

  test('values that are not finite', () => {
    const data = noise(48, 1)
    data[20] = Number.NaN
    return refused(
      small(),
      small({ [`${up}.weight`]: f32(data, [8, 6]) }),
      'NON_FINITE',
      /up_proj.* has 1 values that are NaN/,
    )
  })

  test('weights that are no floating-point numbers', () => {
    const ints = { [`${up}.weight`]: { dtype: 'I32', shape: [8, 6], bytes: Buffer.alloc(192) } }
    return refused(small(ints), small(ints), 'DTYPE', /up_proj.* is stored as I32/)
  })

  test('a folder that is there', async () => {
    const [base, tuned] = [small(), small({ [`${up}.weight`]: matrix(8, 6, 1) })]
    const { out } = await extract(base, tuned)
    await expect(extract(base, tuned, { out })).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_OUTPUT_EXISTS' })
    await extract(base, tuned, { out, overwrite: true })
    await expect(extract(base, tuned, { out: tuned, overwrite: true })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_OUTPUT_INSIDE_INPUT',
    })
  })

  test('to go on after an abort', async () => {
    const controller = new AbortController()
    const onProgress = () => controller.abort()
    const tuned = small({ [`${up}.weight`]: matrix(8, 6, 1) })
    await refused(small(), tuned, 'ABORTED', /was aborted/, { signal: controller.signal, onProgress })
  })
})

test('a dry run counts what there is, and writes nothing', async () => {
  const [base, tuned] = [small(), small({ [`${up}.weight`]: matrix(8, 6, 1) })]
  const out = fresh('adapter')
  const { forecast } = await extractAdapter(engine, base, tuned, { out, dryRun: true })
  expect(forecast).toMatchObject({ base, tuned, linears: 4, others: 7 })
  expect(forecast.bytesRead).toBe(2 * 4 * (4 * 48 + 60 + 60 + 6 + 4 * 6))
  expect(existsSync(out)).toBe(false)
})

test('models that differ in no linear give no adapter', async () => {
  const tuned = small({ 'model.embed_tokens.weight': matrix(10, 6, 2) })
  await expect(extract(small(), tuned)).rejects.toMatchObject({
    code: 'ERR_WEIGHTSMITH_ARGUMENT',
    message: 'The adapter would have no factors, and PEFT loads none without.',
  })
})

test('the command line extracts, forecasts and explains itself', async () => {
  const [base, tuned, out] = [small(), small({ [`${up}.weight`]: matrix(8, 6, 1) }), fresh('adapter')]
  const forecast = await cli('lora', 'extract', base, tuned, out, '--tolerance', '0.5', '--dry-run', '--json')
  expect(JSON.parse(forecast.stdout)).toMatchObject({ forecast: { base, tuned, linears: 4 } })
  const done = await cli('lora', 'extract', base, tuned, out, '--rank', '6', '--dtype', 'bfloat16')
  expect(done).toMatchObject({ code: 0, stdout: expect.stringMatching(/1 module as factors of 84 parameters/) })
  expect(configOf(out)).toMatchObject({ r: 6, target_modules: [up] })
  const again = await cli('lora', 'extract', base, tuned, out, '--json')
  expect(again.code).toBe(1)
  expect(JSON.parse(again.stdout)).toMatchObject({ error: { code: 'ERR_WEIGHTSMITH_OUTPUT_EXISTS' } })
  expect((await cli('lora', 'extract', '--help')).stdout).toMatch(/Example:\n {2}weightsmith lora extract/)
})
