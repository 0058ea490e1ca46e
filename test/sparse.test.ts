import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, type MergeOptions, merge, type RecipeInput } from 'weightsmith'
import { bf16, f32, type Raw, readFolder, values, writeModel } from './checkpoint.js'
import { uniform } from './random.js'
import { decode, encode, spacing } from './reference/dtypes.js'
import { difference, type Values } from './reference/merge.js'
import { randomWords } from './reference/philox.js'
import {
  band,
  type Combination,
  combine,
  fusion,
  keptByRank,
  majorityOf,
  ram,
  ramPlusFactors,
  sce,
  widest,
} from './reference/sparse.js'
import { scratch } from './scratch.js'

type DType = 'F32' | 'BF16'
const shapes = [[1], [7], [2047], [3, 683], [2049], [50, 43, 2], [10_001]]

let engine: Engine
const { folder } = scratch('sparse')
let count = 0
beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

/** Numbers of one seed, about normal around 0. */
function noise(elements: number, seed: number, scale: number): Float64Array {
  const next = uniform(seed * 2654435761)
  return Float64Array.from({ length: elements }, () => (next() + next() + next() - 1.5) * scale)
}

const pack = (dtype: DType, numbers: ArrayLike<number>, shape: number[]): Raw =>
  dtype === 'F32' ? f32(numbers, shape) : bf16(numbers, shape)

interface Family {
  paths: string[]
  /** Tensor name -> values of the base and the models, as stored. */
  tensors: Map<string, { shape: number[]; inputs: Float64Array[] }>
  dtype: DType
}

/** A base and models around it, one tensor a shape. In bf16 many differences have equal magnitudes, or are zero. */
function family(dtype: DType, models: number, list = shapes, size = 0.05): Family {
  const tensors: Family['tensors'] = new Map()
  const files = Array.from({ length: models + 1 }, () => ({}) as Record<string, Raw>)
  for (const [s, shape] of list.entries()) {
    const elements = shape.reduce((a, b) => a * b, 1)
    const base = noise(elements, s + 1, 0.5)
    const raws = files.map((_, i) => {
      const delta = noise(elements, 100 * i + s + 7, i === 0 ? 0 : size)
      return pack(
        dtype,
        base.map((v, e) => v + (delta[e] ?? 0)),
        shape,
      )
    })
    const name = `layer.${s}.weight`
    for (const [i, raw] of raws.entries()) files[i]![name] = raw
    tensors.set(name, { shape, inputs: raws.map(values) })
  }
  const paths = files.map((file, i) => writeModel(join(folder, `family-${count++}-${i}`), file))
  return { paths, tensors, dtype }
}

interface Parameters {
  global?: Record<string, number | boolean | string>
  models: Record<string, number>[]
}

function recipeOf(method: string, { paths: [base, ...models] }: Family, parameters: Parameters): RecipeInput {
  return {
    merge_method: method,
    base_model: base!,
    models: models.map((path, i) => ({ model: path, parameters: parameters.models[i]! })),
    parameters: parameters.global ?? {},
  }
}

async function merged(
  recipe: RecipeInput,
  options: Partial<MergeOptions> = {},
  on: Engine = engine,
): Promise<Map<string, Raw>> {
  const out = join(folder, `out-${count++}`)
  await merge(on, recipe, { out, sync: false, checksum: 'none', ...options })
  return readFolder(out)
}

/** Every tensor of the merge is the reference's, but for what f32 arithmetic and the one rounding leave. */
async function expectMerge(
  method: string,
  models: Family,
  parameters: Parameters,
  reference: (base: Values, models: Float64Array[], name: string, shape: number[]) => Float64Array,
  options: Partial<MergeOptions> = {},
): Promise<void> {
  const result = await merged(recipeOf(method, models, parameters), options)
  for (const [name, { shape, inputs }] of models.tensors) {
    const [base, ...others] = inputs
    const want = reference(base!, others, name, shape)
    const got = values(result.get(name)!)
    expect(got.length).toBe(want.length)
    const off: object[] = []
    for (let e = 0; e < want.length; e++) {
      // f32 arithmetic on numbers up to 1; half a step where the result was rounded to bf16
      const bound = 1e-6 + (models.dtype === 'BF16' ? spacing('BF16', want[e]!) / 2 : 0)
      if (!(Math.abs(got[e]! - want[e]!) <= bound)) off.push({ e, got: got[e], want: want[e], bound })
    }
    expect({ name, off: off.slice(0, 3), count: off.length }).toEqual({ name, off: [], count: 0 })
  }
}

const weights = [0.7, 0.4, -0.3]
const densities = [0.3, 0.55, 0.8]
const gammas = [0.01, 0.2, 0.4]
const perModel = (values: Record<string, number[]>) =>
  weights.map((_, i) => Object.fromEntries(Object.entries(values).map(([key, list]) => [key, list[i]!])))

describe.each(['F32', 'BF16'] as const)('of %s models', (dtype) => {
  let three: Family
  beforeAll(() => {
    three = family(dtype, 3)
  })

  describe.each(['breadcrumbs', 'breadcrumbs_ties'] as const)('%s', (method) => {
    const consensus = method === 'breadcrumbs' ? 'sum' : 'mergekit'
    for (const [normalize, rescale] of [
      [false, false],
      [true, true],
    ] as const) {
      test(`equals its reference with normalize and rescale ${normalize}`, async () => {
        await expectMerge(
          method,
          three,
          {
            global: { lambda: 0.9, normalize, rescale },
            models: perModel({ weight: weights, density: densities, gamma: gammas }),
          },
          (base, models) => {
            const kept = models.map((x, i) => band(difference(x, base), densities[i]!, gammas[i]!))
            return combine(base, models, kept, { weights, lambda: 0.9, normalize, rescale, consensus })
          },
        )
      })
    }
  })

  describe.each([
    ['mergekit', 'total', 'mergekit'],
    ['peft', 'total', 'peft'],
    ['peft', 'frequency', 'frequency'],
    ['reference', 'total', 'reference'],
  ] as const)('ties with consensus %s (%s)', (consensus, majority_sign_method, reading) => {
    for (const normalize of [true, false]) {
      test(`equals its reference with normalize ${normalize}`, async () => {
        await expectMerge(
          'ties',
          three,
          {
            global: { lambda: 1.1, normalize, consensus, majority_sign_method },
            models: perModel({ weight: weights, density: densities }),
          },
          (base, models) => {
            const kept = models.map((x, i) => band(difference(x, base), densities[i]!, 0))
            return combine(base, models, kept, { weights, lambda: 1.1, normalize, consensus: reading })
          },
        )
      })
    }
  })

  test('ties with rescale restores the L1 norm of each trimmed difference', async () => {
    const options: Combination = { weights, lambda: 1, normalize: true, rescale: true, consensus: 'mergekit' }
    await expectMerge(
      'ties',
      three,
      { global: { rescale: true }, models: perModel({ weight: weights, density: densities }) },
      (base, models) =>
        combine(
          base,
          models,
          models.map((x, i) => band(difference(x, base), densities[i]!, 0)),
          options,
        ),
    )
  })

  describe.each(['della', 'della_linear'] as const)('%s', (method) => {
    const epsilons = [0.1, 0.3, 0.15]
    for (const [normalize, rescale] of [
      [false, false],
      [true, true],
    ] as const) {
      test(`equals its reference with normalize and rescale ${normalize}`, async () => {
        await expectMerge(
          method,
          three,
          {
            global: { lambda: 0.9, normalize, rescale },
            models: perModel({ weight: weights, density: densities, epsilon: epsilons }),
          },
          (base, models, name, shape) => {
            const kept = models.map((x, i) => {
              const words = randomWords(7n, name, i + 1, base.length)
              const options = { density: densities[i]!, epsilon: epsilons[i]!, words }
              return keptByRank(difference(x, base), shape.at(-1)!, options)
            })
            const consensus = method === 'della' ? 'mergekit' : 'sum'
            return combine(base, models, kept, { weights, lambda: 0.9, normalize, rescale, consensus })
          },
          { seed: 7 },
        )
      })
    }
  })

  test('ram takes over what one model changed, and the mean of what several did', async () => {
    await expectMerge('ram', three, { global: { epsilon: 0.02 }, models: [{}, {}, {}] }, (base, models) =>
      ram(base, models, 0.02),
    )
  })

  test('ramplus_tl raises what a model changed alone by how much it shares with others', async () => {
    for (const options of [
      { epsilon: 0.02, r: 0.3, alpha: 0.9 },
      { epsilon: 0.045, r: 0.5, alpha: 0.4 },
    ]) {
      await expectMerge('ramplus_tl', three, { global: options, models: [{}, {}, {}] }, (base, models) =>
        ram(base, models, options.epsilon, ramPlusFactors(base, models, options)),
      )
    }
  })

  test.each([0.05, 40, 1e-9])(
    'arcee_fusion takes what matters most, of rows of any length, differences of %d',
    async (size) => {
      const rows = [[4, 1], [900, 2], [3, 31], [70, 33], [5, 1025], [2, 7001], [50, 43, 2], [2049], [1], [2, 1, 8]]
      const models = family(dtype, 1, rows, size)
      const result = await merged(recipeOf('arcee_fusion', models, { models: [{}] }), { memory: '1MiB' })
      for (const [name, { shape, inputs }] of models.tensors) {
        const { fused, open } = fusion(inputs[0]!, inputs[1]!, shape.at(-1)!)
        const got = values(result.get(name)!)
        const off = fused.filter((v, e) => v !== got[e]).length
        expect(open).toBeLessThan(5)
        expect({ name, shape, off: Math.max(0, off - open) }).toEqual({ name, shape, off: 0 })
      }
    },
  )

  test('sce selects by variance, weighs by mean squares and averages what agrees', async () => {
    for (const select_topk of [1, 0.35]) {
      for (const exact_weights of [false, true]) {
        const parameters = { global: { select_topk, exact_weights }, models: [{}, {}, {}] }
        await expectMerge('sce', three, parameters, (base, models) => sce(base, models, select_topk, exact_weights))
      }
    }
  })
})

// Up to 8 models the sets that can agree are looked up; the weights of more are added up and inverted.
describe.each([9, 16])('of %d models', (count) => {
  const shares = Array.from({ length: count }, (_, i) => (i === 3 ? -0.125 : 0.25 + 0.125 * (i % 5)))
  const kept = Array.from({ length: count }, (_, i) => 0.3 + 0.05 * (i % 7))
  const each = (parameters: Record<string, number[]>) =>
    shares.map((_, i) => Object.fromEntries(Object.entries(parameters).map(([key, list]) => [key, list[i]!])))
  let many: Family
  beforeAll(() => {
    many = family('F32', count, [[1], [2049], [7, 300]])
  })

  test.each([
    ['mergekit', 'total', 'mergekit', true],
    ['mergekit', 'total', 'mergekit', false],
    ['peft', 'total', 'peft', true],
    ['peft', 'frequency', 'frequency', true],
    ['reference', 'total', 'reference', true],
  ] as const)('ties with consensus %s (%s) equals its reference', async (consensus, method, reading, normalize) => {
    await expectMerge(
      'ties',
      many,
      {
        global: { lambda: 1.1, normalize, consensus, majority_sign_method: method },
        models: each({ weight: shares, density: kept }),
      },
      (base, models) => {
        const trimmed = models.map((x, i) => band(difference(x, base), kept[i]!, 0))
        return combine(base, models, trimmed, { weights: shares, lambda: 1.1, normalize, consensus: reading })
      },
    )
  })

  test.each(['breadcrumbs_ties', 'dare_ties', 'della'] as const)('%s equals its reference', async (method) => {
    const dense = method === 'breadcrumbs_ties' ? kept : shares.map(() => 1)
    const models = each({ weight: shares, density: dense })
    await expectMerge(method, many, { global: { normalize: true, rescale: true }, models }, (base, models) => {
      const trimmed = models.map((x, i) => band(difference(x, base), dense[i]!, dense[i] === 1 ? 0 : 0.01))
      return combine(base, models, trimmed, {
        weights: shares,
        lambda: 1,
        normalize: true,
        rescale: true,
        consensus: 'mergekit',
      })
    })
  })

  test('sce equals its reference', async () => {
    for (const [share, exact] of [
      [1, false],
      [0.35, true],
    ] as const) {
      const global = { select_topk: share, exact_weights: exact }
      await expectMerge('sce', many, { global, models: shares.map(() => ({})) }, (base, models) =>
        sce(base, models, share, exact),
      )
    }
  })
})

test('weights that add up to zero but for their rounding divide by one, of any number of models', async () => {
  const start = writeModel(join(folder, 'zero-base'), { w: f32([0, 0]) })
  const moved = writeModel(join(folder, 'zero-moved'), { w: f32([0.5, -0.5]) })
  const against = writeModel(join(folder, 'zero-against'), { w: f32([-1.25, 1.25]) })
  for (const [last, models] of [
    [-0.3, [0.1, 0.2]],
    [-0.9, Array.from({ length: 9 }, () => 0.1)],
  ] as const) {
    const copies = [...models.map((weight) => [moved, weight] as const), [against, last] as const].map(
      ([model, weight], i) => {
        const path = writeModel(join(folder, `zero-${models.length}-${i}`), Object.fromEntries(readFolder(model)))
        return { model: path, parameters: { weight } }
      },
    )
    const result = await merged({ merge_method: 'ties', base_model: start, models: copies })
    const sum = -last * 0.5 - last * 1.25
    for (const [i, value] of values(result.get('w')!).entries()) expect(value).toBeCloseTo(i === 0 ? sum : -sum, 5)
  }
})

test.each([
  ['ties', 17, 16],
  ['dare_ties', 17, 16],
  ['sce', 17, 16],
  ['model_stock', 33, 32],
  ['karcher', 33, 32],
])('%s of %d models is refused, and the sentence says how many it takes', async (method, given, most) => {
  const models = Array.from({ length: given }, (_, i) => ({ model: `m${i}` }))
  const base = method === 'karcher' ? {} : { base_model: 'base' }
  await expect(merged({ merge_method: method, ...base, models })).rejects.toMatchObject({
    code: 'ERR_WEIGHTSMITH_RECIPE',
    message: expect.stringMatching(new RegExp(`should be [12] to ${most} models.*, but "${given}" was found`)),
  })
})

describe.each(['mergekit', 'reference'] as const)('ties over the whole model with consensus %s', (consensus) => {
  /** One tensor of another type among those of the family, all in the order of the output file. */
  test.each([{}, { maxBufferBytes: 65_536 }])('trims what is smallest in it, with %j', async (options) => {
    const models = family('F32', 3, [[2049], [1], [40_000], [3, 683]])
    const other = family('BF16', 3, [[5000]])
    const [first] = other.tensors.values()
    for (const [i, path] of models.paths.entries()) {
      const tensors = Object.fromEntries(readFolder(path))
      writeModel(path, { ...tensors, 'layer.9.weight': bf16(first!.inputs[i]!.map((v) => 3 * v)) })
    }
    const stored = models.paths.map(readFolder)
    const names = [...models.tensors.keys(), 'layer.9.weight']
    const all = stored.map((tensors) => names.map((name) => values(tensors.get(name)!)))
    const deltas = all.slice(1).map((model) => model.flatMap((x, t) => [...difference(x, all[0]![t]!)]))
    const kept = deltas.map((d, i) => band(d, densities[i]!, 0))
    const majority = majorityOf(deltas.map((d, i) => d.map((v, e) => (kept[i]![e] ? v : 0))))
    const own = await Engine.open(options)
    const out = join(folder, `whole-${count++}`)
    try {
      await merge(
        own,
        recipeOf('ties', models, {
          global: { consensus, scope: 'model', lambda: 0.8 },
          models: perModel({ weight: weights, density: densities }),
        }),
        { out, sync: false, checksum: 'none', dtype: 'float32' },
      )
    } finally {
      await own.close()
    }
    const result = readFolder(out)
    let start = 0
    for (const [t, name] of names.entries()) {
      const [base, ...others] = all.map((model) => model[t]!)
      const end = start + base!.length
      const mine = kept.map((mask) => mask.slice(start, end))
      const want = combine(base!, others, mine, { weights, lambda: 0.8, normalize: true, consensus, majority })
      const got = values(result.get(name)!)
      const off = Array.from(got).findIndex((v, e) => Math.abs(v - want[e]!) > 1e-6)
      expect({ name, off }).toEqual({ name, off: -1 })
      start = end
    }
  })
})

// Of slots that a software driver maps the processor draws itself, where types and rows suit it; of others kernels do.
describe('della', () => {
  test.each([
    ['F32', 'auto'],
    ['F16', 'auto'],
    ['BF16', 'auto'],
    ['BF16', 'staging'],
    ['F8_E4M3', 'auto'],
  ] as const)('ranks whole rows of %s where tiles end inside them, with slots %s', async (dtype, slots) => {
    const shape = [40, 1501]
    const elements = shape[0]! * shape[1]!
    const [base, model] = [1, 2].map((seed) => encode(dtype, noise(elements, seed, 1)))
    const paths = [base!, model!].map((bytes, i) =>
      writeModel(join(folder, `rows-${count++}-${i}`), { w: { dtype, shape, bytes: Buffer.from(bytes) } }),
    )
    const recipe: RecipeInput = {
      merge_method: 'della_linear',
      base_model: paths[0]!,
      models: [{ model: paths[1]!, parameters: { weight: 1, density: 0.4, epsilon: 0.35 } }],
      parameters: { rescale: false },
    }
    const own = await Engine.open({ maxBufferBytes: 65_536, slots })
    const out = join(folder, `rows-${count++}`)
    try {
      const report = await merge(own, recipe, { out, sync: false, dtype: 'float32', seed: 3 })
      expect(report.tiles).toBeGreaterThan(3)
    } finally {
      await own.close()
    }
    const [x, y] = [base!, model!].map((bytes) => decode(dtype, bytes))
    const words = randomWords(3n, 'w', 1, elements)
    const kept = keptByRank(difference(y!, x!), shape[1]!, { density: 0.4, epsilon: 0.35, words })
    const got = values(readFolder(out).get('w')!)
    expect([...got].findIndex((v, e) => Math.abs(v - (kept[e] ? y![e]! : x![e]!)) > 1e-6)).toBe(-1)
  })

  describe.each(['auto', 'staging'] as const)('with slots %s', (slots) => {
    let own: Engine
    beforeAll(async () => {
      own = await Engine.open({ slots })
    })
    afterAll(() => own?.close())

    test.each([
      ['two magnitudes', (v: number) => (v > 0.3 ? 0.5 : -0.25)],
      ['zeros', (v: number) => (v > 0 ? v : 0)],
      ['magnitudes from 1e-30 to 1e30', (v: number) => Math.sign(v) * 10 ** (60 * Math.abs(v) - 30)],
      ['a few magnitudes far from the rest', (v: number) => (Math.abs(v) > 0.45 ? v * 1e20 : 1 + v * 1e-4)],
    ] as const)('ranks rows longer and shorter than a block with %s', async (_, change) => {
      const shapes = [
        [90, 33],
        [9, 600],
        [3, 2048],
        [2, 5003],
      ]
      const tensors = shapes.map((shape, i) => f32(noise(shape[0]! * shape[1]!, i, 0.5 / 0.75).map(change), shape))
      const zeros = shapes.map((shape) => f32(new Float64Array(shape[0]! * shape[1]!), shape))
      const paths = [zeros, tensors].map((list, i) =>
        writeModel(
          join(folder, `long-${count++}-${i}`),
          Object.fromEntries(list.map((raw, t) => [`layer.${t}.weight`, raw])),
        ),
      )
      const result = await merged(
        {
          merge_method: 'della_linear',
          base_model: paths[0]!,
          models: [{ model: paths[1]!, parameters: { weight: 1, density: 0.5, epsilon: 0.45 } }],
          parameters: { rescale: false },
        },
        { seed: 5 },
        own,
      )
      for (const [t, shape] of shapes.entries()) {
        const name = `layer.${t}.weight`
        const want = values(tensors[t]!)
        const words = randomWords(5n, name, 1, want.length)
        const kept = keptByRank(want, shape[1]!, { density: 0.5, epsilon: 0.45, words })
        const got = values(result.get(name)!)
        expect([...got].findIndex((v, e) => v !== (kept[e] ? want[e]! : 0))).toBe(-1)
      }
    })
  })

  test('keeps a share of density, less of small entries and more of large ones', async () => {
    const [rows, row, density, epsilon] = [2000, 51, 0.4, 0.3]
    // magnitudes fall along the row: the entry in column j has rank row - 1 - j
    const numbers = Float64Array.from({ length: rows * row }, (_, e) => (row - (e % row)) * (e % 2 === 0 ? 1 : -1))
    const paths = [numbers.map(() => 0), numbers].map((list, i) =>
      writeModel(join(folder, `share-${i}`), { w: f32(list, [rows, row]) }),
    )
    const result = await merged({
      merge_method: 'della_linear',
      base_model: paths[0]!,
      models: [{ model: paths[1]!, parameters: { weight: 1, density, epsilon } }],
      parameters: { rescale: false },
    })
    const got = values(result.get('w')!)
    const columns = new Array<number>(row).fill(0)
    for (const [e, v] of got.entries()) if (v !== 0) columns[e % row]!++
    const total = columns.reduce((a, b) => a + b, 0)
    // four and a half standard deviations
    const near = (kept: number, p: number, n: number) =>
      expect(Math.abs(kept - p * n)).toBeLessThan(4.5 * Math.sqrt(n * p * (1 - p)))
    near(total, density, rows * row)
    for (const [j, kept] of columns.entries()) {
      near(kept, density - epsilon + (2 * epsilon * (row - 1 - j)) / (row - 1), rows)
    }
  })

  test('with a density and epsilon that leave no probability is refused', async () => {
    const { paths } = family('F32', 1, [[4]])
    await expect(
      merged({
        merge_method: 'della',
        base_model: paths[0]!,
        models: [{ model: paths[1]!, parameters: { weight: 1, density: 0.9 } }],
      }),
    ).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_RECIPE' })
  })
})

describe('exactly', () => {
  /** One model over a base of zeros: what the merge keeps is what is not zero in it. */
  function alone(dtype: DType, elements: number, numbers: ArrayLike<number>) {
    const shape = [elements]
    const zeros = pack(dtype, new Float64Array(elements), shape)
    const raw = pack(dtype, numbers, shape)
    const paths = [{ w: zeros }, { w: raw }].map((file, i) => writeModel(join(folder, `alone-${count++}-${i}`), file))
    return { paths, stored: values(raw) }
  }

  const sizes = [1, 2, 99, 100, 101, 2047, 2048, 2049, 12_345]
  for (const dtype of ['F32', 'BF16'] as const) {
    test(`int(density n) of n ${dtype} entries stay, and int(gamma n) of the largest go`, async () => {
      for (const elements of sizes) {
        // never zero; in bf16 there are only some hundred magnitudes
        const { paths, stored } = alone(
          dtype,
          elements,
          noise(elements, elements, 1).map((v) => v + Math.sign(v) * 0.1),
        )
        for (const [density, gamma] of [
          [0.5, 0.01],
          [0.07, 0],
          [0.9, 0.3],
          [0.33, 0.67],
        ] as const) {
          const result = await merged({
            merge_method: 'breadcrumbs',
            base_model: paths[0]!,
            models: [{ model: paths[1]!, parameters: { weight: 1, density, gamma } }],
          })
          const got = values(result.get('w')!)
          const kept = band(stored, density, gamma)
          expect(got.filter((v) => v !== 0).length).toBe(Math.trunc(density * elements))
          expect(got).toEqual(stored.map((v, e) => (kept[e] ? v : 0)))
        }
      }
    })
  }

  test('equal magnitudes stay by lower index on both sides of the band', async () => {
    const { paths } = alone('F32', 3000, new Float64Array(3000).fill(-1.5))
    const result = await merged({
      merge_method: 'breadcrumbs',
      base_model: paths[0]!,
      models: [{ model: paths[1]!, parameters: { weight: 1, density: 0.25, gamma: 0.1 } }],
    })
    const got = [...values(result.get('w')!)]
    expect(got.findIndex((v) => v !== 0)).toBe(300)
    expect(got.findLastIndex((v) => v !== 0)).toBe(1049)
    expect(got.filter((v) => v === -1.5).length).toBe(750)
  })

  test.each(['F32', 'BF16'] as const)(
    'equal magnitudes stay by lower index over a whole model of %s',
    async (dtype) => {
      // nearly all are equal in the first run; in the second, a few hundred share the magnitude of the cut
      for (const other of [0.5, 2]) {
        const sizes = [3000, 5, 4096, 2049]
        const numbers = sizes.map((n, t) =>
          Float64Array.from({ length: n }, (_, e) => ((e * 7 + t) % 16 ? other : -1.5)),
        )
        const paths = [0, 1].map((scale) => {
          const tensors = numbers.map((list, t) => [
            `t${t}`,
            pack(
              dtype,
              list.map((v) => v * scale),
              [list.length],
            ),
          ])
          return writeModel(join(folder, `equal-${count++}`), Object.fromEntries(tensors) as Record<string, Raw>)
        })
        for (const density of [0.04, 0.3, 0.97]) {
          const result = await merged({
            merge_method: 'ties',
            base_model: paths[0]!,
            models: [{ model: paths[1]!, parameters: { weight: 1, density } }],
            parameters: { scope: 'model' },
          })
          const all = numbers.flatMap((list) => [...list])
          const kept = band(all, density, 0)
          const got = numbers.flatMap((_, t) => [...values(result.get(`t${t}`)!)])
          expect(got).toEqual(all.map((v, e) => (kept[e] ? v : 0)))
        }
      }
    },
  )

  test('a drawn election goes to + for mergekit and PEFT, and to the majority for the reference', async () => {
    const base = new Float64Array(5)
    const a = [1, -2, -3, 4, -1]
    const b = [-1, -2, -3, -4, -1]
    const paths = [base, a, b].map((numbers, i) =>
      writeModel(join(folder, `drawn-${count++}-${i}`), { w: f32(numbers) }),
    )
    const results = await Promise.all(
      ['mergekit', 'peft', 'reference'].map(async (consensus) => {
        const result = await merged({
          merge_method: 'ties',
          base_model: paths[0]!,
          models: paths.slice(1).map((path) => ({ model: path, parameters: { weight: 1, density: 1 } })),
          parameters: { consensus },
        })
        return [...values(result.get('w')!)]
      }),
    )
    expect(results).toEqual([
      [1, -2, -3, 4, -1],
      [1, -2, -3, 4, -1],
      [-1, -2, -3, -4, -1],
    ])
  })
})

test('sce keeps exactly int(select_topk k) of the k elements in which the models differ', async () => {
  const elements = 5001
  const numbers = noise(elements, 3, 1)
  // every third element is the same in all models, and different from the base
  const models = [1, 2, 3, 4, 5].map((m) => {
    const other = noise(elements, 10 + m, 1)
    return numbers.map((v, e) => (e % 3 === 0 ? v + 0.7 : v + other[e]! + 3))
  })
  const stored = [numbers, ...models].map((list) => f32(list))
  const paths = stored.map((w, i) => writeModel(join(folder, `sce-${i}`), { w }))
  const result = await merged({
    merge_method: 'sce',
    base_model: paths[0]!,
    models: paths.slice(1).map((path) => ({ model: path })),
    parameters: { select_topk: 0.3 },
  })
  const got = values(result.get('w')!)
  const kept = widest(stored.slice(1).map(values), 0.3)
  expect(kept.filter((yes) => yes).length).toBe(Math.trunc(0.3 * (elements - Math.ceil(elements / 3))))
  const base = values(stored[0]!)
  expect([...got].map((v, e) => v !== base[e])).toEqual(kept)
})

test('sce weighs models alike where their mean squares add up to less than 1e-6', async () => {
  for (const [scale, share] of [
    [1, (0.4 ** 3 + 0.1 ** 3) / (0.4 ** 2 + 0.1 ** 2)],
    [1e-3, 0.25],
  ] as const) {
    const paths = [0, 0.4, 0.1].map((v) => writeModel(join(folder, `alike-${count++}`), { w: f32([v * scale]) }))
    const result = await merged({
      merge_method: 'sce',
      base_model: paths[0]!,
      models: paths.slice(1).map((model) => ({ model })),
    })
    expect(values(result.get('w')!)[0]! / scale).toBeCloseTo(share, 6)
  }
})

test('sce weighs models by their mean squares with exact_weights, however small these are', async () => {
  const merge = async (...rows: number[][]) => {
    const [base = '', ...models] = rows.map((row) => writeModel(join(folder, `exact-${count++}`), { w: f32(row) }))
    const parameters = { exact_weights: true }
    const recipe = { merge_method: 'sce', base_model: base, models: models.map((model) => ({ model })), parameters }
    return [...values((await merged(recipe)).get('w')!)]
  }
  const share = (0.4 ** 3 + 0.1 ** 3) / (0.4 ** 2 + 0.1 ** 2)
  for (const scale of [1, 1e-3, 1e-12]) {
    const [got = 0] = await merge([0], [0.4 * scale], [0.1 * scale])
    expect(got / scale).toBeCloseTo(share, 6)
  }
  // the second model has a share of 1e-12 of the squares, and is all that agrees in its element
  const [first = 0, second = 0] = await merge([0, 0], [1, 0], [0, 1e-6])
  expect([first, second * 1e6].map((v) => Math.round(v * 1e6))).toEqual([1e6, 1e6])
  // nothing has moved; one model has moved by too little to have squares
  expect(await merge([3, 0], [3, 0], [3, 0])).toEqual([3, 0])
  expect(await merge([0, 0], [1, 0], [0, 1e-25])).toEqual([1, 0])
})

describe('the bytes of', () => {
  let two: Family
  const bytesOf = (tensors: Map<string, Raw>) => Object.fromEntries([...tensors].map(([k, v]) => [k, v.bytes]))
  beforeAll(() => {
    two = family('BF16', 2, [[2049], [3, 683]])
  })

  test.each([
    ['breadcrumbs', { weight: 1, density: 1, gamma: 0.2 }],
    ['della_linear', { weight: 1, density: 1 }],
  ] as const)('a model are what %s makes of it alone with nothing to drop', async (method, parameters) => {
    const alone = { ...two, paths: two.paths.slice(0, 2) }
    const result = await merged(recipeOf(method, alone, { models: [parameters] }))
    expect(bytesOf(result)).toEqual(bytesOf(readFolder(two.paths[1]!)))
  })

  test.each([
    ['breadcrumbs_ties', [{ weight: 0 }, { weight: 0 }], {}],
    ['ties', [{ weight: 0 }, { weight: 0 }], { scope: 'model' }],
    ['ties', [1, 1].map((weight) => ({ weight, density: 0 })), { scope: 'model', consensus: 'reference' }],
    ['della', [1, 1].map((weight) => ({ weight, density: 0 })), {}],
    ['sce', [{}, {}], { select_topk: 0 }],
    ['ram', [{}, {}], { epsilon: 10 }],
  ] as const)('the base are what %s makes of nothing: %j %j', async (method, models, global) => {
    const result = await merged(recipeOf(method, two, { models: [...models], global }))
    expect(bytesOf(result)).toEqual(bytesOf(readFolder(two.paths[0]!)))
  })
})

test.each(['ties', 'della', 'breadcrumbs_ties', 'sce'])('int8_mask is accepted by %s, and noted', async (method) => {
  const models = family('F32', 1, [[4]])
  const own: Record<string, number> = method === 'sce' ? {} : { weight: 1, density: 0.5 }
  const out = join(folder, `mask-${count++}`)
  const recipe = recipeOf(method, models, { models: [own], global: { int8_mask: true } })
  const { notes } = await merge(engine, recipe, { out, sync: false })
  expect(notes.join()).toMatch(/int8_mask/)
})

test('arcee_fusion takes nothing of a row that is not finite, but the numbers that are not', async () => {
  const rows = 40
  const base = noise(rows * 50, 1, 0.5)
  const model = base.map((v, e) => v + noise(rows * 50, 2, 0.05)[e]!)
  model[7] = Number.POSITIVE_INFINITY
  model[20] = Number.NaN
  const paths = [base, model].map((list, i) => writeModel(join(folder, `odd-${i}`), { w: f32(list, [rows, 50]) }))
  const result = await merged({ merge_method: 'arcee_fusion', base_model: paths[0]!, models: [{ model: paths[1]! }] })
  const got = values(result.get('w')!)
  const taken = Array.from(got, (v, e) => v !== Math.fround(base[e]!))
  expect(taken.flatMap((yes, e) => (yes && e < 50 ? [e] : []))).toEqual([7, 20])
  expect(taken.filter((yes) => yes).length).toBeGreaterThan(50)
})

test('ram reads a change of epsilon itself as none, and of the next number as one', async () => {
  const epsilon = Math.fround(1e-5)
  const paths = [
    [0, 0, 0, 1],
    [epsilon, 1.0000001e-5, -1.0000001e-5, 1],
    [epsilon, 2, 0, 1],
  ].map((numbers, i) => writeModel(join(folder, `ram-${i}`), { w: f32(numbers) }))
  const result = await merged({
    merge_method: 'ram',
    base_model: paths[0]!,
    models: paths.slice(1).map((path) => ({ model: path })),
  })
  const next = Math.fround(1.0000001e-5)
  expect(next).toBeGreaterThan(epsilon)
  expect([...values(result.get('w')!)]).toEqual([0, Math.fround((next + 2) / 2), -next, 1])
})

test('ties with a rescale that no reading publishes is refused', async () => {
  const { paths } = family('F32', 1, [[4]])
  await expect(
    merged({
      merge_method: 'ties',
      base_model: paths[0]!,
      models: [{ model: paths[1]!, parameters: { weight: 1 } }],
      parameters: { consensus: 'peft', rescale: true },
    }),
  ).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_RECIPE' })
})
