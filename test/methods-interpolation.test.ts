import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, merge, type RecipeInput } from 'weightsmith'
import { bf16, f32, type Raw, readFolder, values, writeModel, writeSafetensors } from './checkpoint.js'
import { uniform } from './random.js'
import { spacing } from './reference/dtypes.js'
import type { Values } from './reference/merge.js'
import * as reference from './reference/span.js'
import { scratch } from './scratch.js'

type Parameters = NonNullable<RecipeInput['parameters']>

const { folder } = scratch('span')
let engine: Engine
beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

/** Numbers of one seed, over [-1, 1). */
function numbers(count: number, seed: number): Float64Array {
  const next = uniform(seed)
  return Float64Array.from({ length: count }, () => 2 * next() - 1)
}

const shapes: Record<string, number[]> = {
  one: [1],
  seven: [7],
  short: [2047],
  long: [2049],
  matrix: [5, 33],
  rows: [3, 2048],
  wide: [2, 4099],
  narrow: [1000, 3],
  deep: [6, 4, 5],
  tall: [300, 40],
  bands: [9, 2050],
}
const types = { F32: f32, BF16: bf16 }

/** A base of scale 1 and models near to it, all in one checkpoint a name; `far` is unrelated to the rest. */
const names = ['base', 'a', 'b', 'c', 'far', 'zero']
function tensorOf(name: string, key: string, type: keyof typeof types): Raw {
  const shape = shapes[key]!
  const size = shape.reduce((x, y) => x * y, 1)
  const base = numbers(size, 1 + key.length)
  if (name === 'base') return types[type](base, shape)
  if (name === 'zero') return types[type](new Float64Array(size), shape)
  const own = numbers(size, 100 + names.indexOf(name))
  return types[type](name === 'far' ? own : base.map((v, i) => v + own[i]! / 16), shape)
}
const paths: Record<string, string> = {}
const tensors: Record<string, Record<string, Raw>> = {}
beforeAll(() => {
  for (const name of names) {
    const all: Record<string, Raw> = {}
    for (const key of Object.keys(shapes)) {
      for (const type of ['F32', 'BF16'] as const) all[`${key}.${type}`] = tensorOf(name, key, type)
    }
    tensors[name] = all
    paths[name] = writeModel(join(folder, name), all)
  }
  tensors.twin = tensors.a!
  paths.twin = writeModel(join(folder, 'twin'), tensors.twin)
})

let runs = 0
async function run(
  method: string,
  models: (string | [string, Parameters])[],
  parameters: Parameters = {},
  base?: string,
): Promise<Map<string, Raw>> {
  const recipe: RecipeInput = {
    merge_method: method,
    ...(base === undefined ? {} : { base_model: paths[base]! }),
    models: models.map((entry) =>
      typeof entry === 'string' ? { model: paths[entry]! } : { model: paths[entry[0]]!, parameters: entry[1] },
    ),
    parameters,
  }
  const out = join(folder, `out-${++runs}`)
  await merge(engine, recipe, { out, sync: false, checksum: 'none' })
  return readFolder(out)
}

const shapeOf = (tensor: string) => shapes[tensor.split('.')[0]!]!
const load = (name: string, tensor: string) => values(tensors[name]![tensor]!)

/** Every element is within `bound` of the largest value of its tensor; bf16 has half a step of its own besides. */
function compare(result: Map<string, Raw>, want: (tensor: string) => Values, bound: number): void {
  for (const [tensor, raw] of result) {
    const expected = Float64Array.from(want(tensor))
    const got = values(raw)
    expect(got.length).toBe(expected.length)
    const type = raw.dtype as 'F32' | 'BF16'
    const largest = expected.reduce((most, v) => Math.max(most, Math.abs(v)), 0)
    let worst = 0
    for (let i = 0; i < got.length; i++) {
      const rounding = type === 'BF16' ? spacing('BF16', expected[i]!) / 2 : 0
      worst = Math.max(worst, Math.abs(got[i]! - expected[i]!) - rounding)
    }
    if (process.env.WEIGHTSMITH_TEST_ERRORS) console.log(tensor, worst / largest)
    if (!(worst <= bound * largest)) expect({ tensor, error: worst / largest }).toEqual({ tensor, error: bound })
  }
}

function sameBytes(result: Map<string, Raw>, name: string): void {
  for (const [tensor, raw] of result) {
    if (!raw.bytes.equals(tensors[name]![tensor]!.bytes)) expect(tensor).toBe(`the bytes of ${name}`)
  }
}

describe('nuslerp', () => {
  const weighted = (a: number, b: number): [string, Parameters][] => [
    ['a', { weight: a }],
    ['far', { weight: b }],
  ]
  test('interpolates two models at t = w2 / (w1 + w2)', async () => {
    const result = await run('nuslerp', weighted(0.5, 1.5))
    compare(result, (t) => reference.nuslerp([load('a', t), load('far', t)], 0.75), 2e-6)
  })

  test('interpolates the differences from a base', async () => {
    const models: [string, Parameters][] = [
      ['a', { weight: 2 }],
      ['b', { weight: 1 }],
    ]
    const result = await run('nuslerp', models, {}, 'base')
    const want = (t: string) =>
      reference.onDifferences(load('base', t), [load('a', t), load('b', t)], (d) => reference.nuslerp(d, 1 / 3))
    compare(result, want, 2e-6)
  })

  const two: [string, Parameters][] = [
    ['a', { weight: 2 }],
    ['b', { weight: 1 }],
  ]
  const ofLines = (along: 'rows' | 'columns') => (t: string) =>
    reference.byLine(shapeOf(t), along, [load('a', t), load('b', t)], (v) => reference.nuslerp(v, 1 / 3))

  test('without nuslerp_flatten interpolates every row apart', async () => {
    const result = await run('nuslerp', two, { nuslerp_flatten: false })
    compare(result, ofLines('rows'), 1e-6)
  })

  test('and with nuslerp_row_wise every column', async () => {
    const result = await run('nuslerp', two, { nuslerp_flatten: false, nuslerp_row_wise: true })
    compare(result, ofLines('columns'), 1e-6)
  })

  test('rows and columns of the differences from a base', async () => {
    for (const along of ['rows', 'columns'] as const) {
      const parameters = { nuslerp_flatten: false, nuslerp_row_wise: along === 'columns' }
      const result = await run('nuslerp', two, parameters, 'base')
      // Columns of two elements: among thousands some are opposite, where the formula has a pole.
      if (along === 'columns') for (const type of ['F32', 'BF16']) result.delete(`wide.${type}`)
      const want = (t: string) =>
        reference.onDifferences(load('base', t), [load('a', t), load('b', t)], (d) =>
          reference.byLine(shapeOf(t), along, d, (v) => reference.nuslerp(v, 1 / 3)),
        )
      compare(result, want, 1e-6)
    }
  })

  test('with weights that cancel takes the middle', async () => {
    const result = await run('nuslerp', weighted(1, -1))
    compare(result, (t) => reference.nuslerp([load('a', t), load('far', t)], 0.5), 2e-6)
  })

  test('of a model and itself is that model', async () => {
    const result = await run('nuslerp', [
      ['a', { weight: 0.25 }],
      ['twin', { weight: 0.75 }],
    ])
    sameBytes(result, 'a')
  })

  test('with a weight of 0 copies the other model', async () => {
    sameBytes(await run('nuslerp', weighted(1, 0)), 'a')
    sameBytes(await run('nuslerp', weighted(0, 3)), 'far')
    sameBytes(await run('nuslerp', weighted(0, 3), {}, 'base'), 'far')
  })

  test('takes exactly two models besides the base', async () => {
    await expect(run('nuslerp', ['a', 'b', 'c'], { weight: 1 })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_RECIPE',
      message: expect.stringContaining('exactly 2 models') as unknown,
    })
  })
})

describe('multislerp', () => {
  const models: [string, Parameters][] = [
    ['a', { weight: 1 }],
    ['far', { weight: 0.5 }],
    ['b', { weight: 2 }],
  ]
  const weights = [1, 0.5, 2]

  test('is the mean of the directions at the mean length', async () => {
    const shares = weights.map((w) => w / 3.5)
    const want = (t: string) =>
      reference.multislerp(
        models.map(([name]) => load(name, t)),
        shares,
        1e-8,
      )
    compare(await run('multislerp', models), want, 2e-6)
  })

  test('takes weights as they are without normalize_weights, and an eps', async () => {
    const want = (t: string) =>
      reference.multislerp(
        models.map(([name]) => load(name, t)),
        weights,
        1e-3,
      )
    // an eps that shows: it is added to the lengths, and to the step in the tangent space, where it stays invisible
    compare(await run('multislerp', models, { normalize_weights: false, eps: 1e-3 }), want, 2e-6)
  })

  test('works on the differences from a base', async () => {
    const shares = weights.map((w) => w / 3.5)
    const want = (t: string) =>
      reference.onDifferences(
        load('base', t),
        models.map(([name]) => load(name, t)),
        (d) => reference.multislerp(d, shares, 1e-8),
      )
    compare(await run('multislerp', models, {}, 'base'), want, 2e-6)
  })

  test('of models that equal the base is the base', async () => {
    tensors.other = tensors.base!
    tensors.third = tensors.base!
    for (const name of ['other', 'third']) paths[name] = writeModel(join(folder, name), tensors.base!)
    const result = await run('multislerp', ['other', 'third'], { weight: 1 }, 'base')
    sameBytes(result, 'base')
  })

  test('with one weight that counts copies that model', async () => {
    const one: [string, Parameters][] = models.map(([name]) => [name, { weight: name === 'far' ? 3 : 0 }])
    sameBytes(await run('multislerp', one), 'far')
    sameBytes(await run('multislerp', one, {}, 'base'), 'far')
    sameBytes(await run('multislerp', ['a'], { weight: 0.5 }), 'a')
  })

  test('refuses weights that add up to nothing', async () => {
    const zero: [string, Parameters][] = [
      ['a', { weight: 1 }],
      ['b', { weight: -1 }],
    ]
    await expect(run('multislerp', zero)).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_RECIPE',
      message: expect.stringContaining('normalize_weights') as unknown,
    })
  })
})

describe('karcher', () => {
  test('is the mean on the sphere, at the mean length', async () => {
    for (const models of [
      ['a', 'far'],
      ['a', 'far', 'b', 'c'],
    ]) {
      const result = await run('karcher', models, { max_iter: 100, tol: 1e-9 })
      result.delete('one.F32') // a single element knows two directions only
      result.delete('one.BF16')
      compare(result, (t) => reference.karcher(models.map((name) => load(name, t))), 2e-6)
    }
  })

  test('converges within its default of ten iterations for models of one family', async () => {
    const result = await run('karcher', ['a', 'b', 'c'])
    compare(result, (t) => reference.karcher(['a', 'b', 'c'].map((name) => load(name, t))), 2e-6)
  })

  test('of opposite directions takes the first', async () => {
    tensors.up = { x: f32([2, 0, 0]) }
    tensors.down = { x: f32([-4, 0, 0]) }
    for (const name of ['up', 'down']) paths[name] = writeModel(join(folder, name), tensors[name]!)
    expect([...values((await run('karcher', ['up', 'down'])).get('x')!)]).toEqual([3, 0, 0])
  })

  test('leaves tensors of zeros out of the directions, and is zero where all are', async () => {
    const result = await run('karcher', ['zero', 'a'], { max_iter: 50 })
    compare(result, (t) => load('a', t).map((v) => v / 2), 2e-6)
    tensors.nil = tensors.zero!
    paths.nil = writeModel(join(folder, 'nil'), tensors.nil)
    sameBytes(await run('karcher', ['zero', 'nil']), 'zero')
  })

  test('of one model is that model', async () => {
    sameBytes(await run('karcher', ['far']), 'far')
  })
})

describe('geometric_median', () => {
  test('has the least sum of distances to the models', async () => {
    const models = ['a', 'far', 'b', 'c']
    const result = await run('geometric_median', models)
    for (const tensor of ['one.F32', 'one.BF16', 'seven.F32', 'seven.BF16']) result.delete(tensor) // on a line any point between the two in the middle is a median
    compare(result, (t) => reference.geometricMedian(models.map((name) => load(name, t))), 2e-6)
  })

  test('no neighbour has a smaller one, even where the median is one of the models', async () => {
    const models = ['a', 'b', 'c', 'far', 'zero']
    const result = await run('geometric_median', models)
    for (const [tensor, raw] of result) {
      if (raw.dtype !== 'F32') continue
      const points = models.map((name) => load(name, tensor))
      const median = values(raw)
      const least = reference.sumOfDistances(median, points)
      for (const point of points) {
        for (const share of [1e-3, 0.1, 1]) {
          const moved = median.map((v, i) => v + share * (point[i]! - v))
          expect(reference.sumOfDistances(moved, points)).toBeGreaterThanOrEqual(least * (1 - 1e-6))
        }
      }
    }
  })

  test('of two equal models and an outlier is the two', async () => {
    const result = await run('geometric_median', ['a', 'far', 'twin'])
    compare(result, (t) => load('a', t), 1e-6)
  })

  test('of one model is that model, of equal models too', async () => {
    sameBytes(await run('geometric_median', ['far']), 'far')
    sameBytes(await run('geometric_median', ['a', 'twin']), 'a')
  })
})

describe('model_stock', () => {
  test('goes from the base towards the mean as far as the angle says', async () => {
    for (const models of [
      ['a', 'b'],
      ['a', 'b', 'far', 'c'],
    ]) {
      const want = (t: string) =>
        reference.modelStock(
          load('base', t),
          models.map((name) => load(name, t)),
        )
      compare(await run('model_stock', models, {}, 'base'), want, 5e-6)
    }
  })

  test('with filter_wise does so row by row', async () => {
    const models = ['a', 'b', 'far']
    const want = (t: string) =>
      reference.byLine(
        shapeOf(t),
        'rows',
        ['base', ...models].map((name) => load(name, t)),
        ([base = [], ...rows]) => reference.modelStock(base, rows),
      )
    compare(await run('model_stock', models, { filter_wise: true }, 'base'), want, 5e-6)
  })

  test('gives the golden value of the specification', async () => {
    tensors.o = { x: f32([0, 0, 0]) }
    tensors.p = { x: f32([1, 0, 1]) }
    tensors.q = { x: f32([0, 1, 1]) }
    for (const name of ['o', 'p', 'q']) paths[name] = writeModel(join(folder, name), tensors[name]!)
    const got = values((await run('model_stock', ['p', 'q'], {}, 'o')).get('x')!)
    expect([...got].map((v) => Math.abs(v * 3 - 1) < 1e-6 || Math.abs(v * 3 - 2) < 1e-6)).toEqual([true, true, true])
  })

  test('of equal models is that model, up to one rounding of the difference', async () => {
    const result = await run('model_stock', ['a', 'twin'], {}, 'base')
    compare(result, (t) => load('a', t), 1e-6)
  })

  test('needs two models besides the base', async () => {
    await expect(run('model_stock', ['a'], {}, 'base')).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_RECIPE' })
  })
})

test('as many models as cards of karcher and model_stock have, and more', async () => {
  const small: Record<string, number[]> = { flat: [2049], lines: [12, 40] }
  const made = (seed: number, scale: number) =>
    Object.fromEntries(
      Object.entries(small).map(([key, shape]) => {
        const size = shape.reduce((x, y) => x * y, 1)
        const own = numbers(size, seed)
        return [
          key,
          f32(
            numbers(size, key.length).map((v, e) => v + own[e]! * scale),
            shape,
          ),
        ]
      }),
    )
  const [start, ...many] = Array.from({ length: 33 }, (_, i) => {
    const own = made(1000 + i, i === 0 ? 0 : 1 / 16)
    return { model: writeModel(join(folder, `many-${i}`), own), tensors: own }
  })
  for (const count of [16, 32]) {
    const some = many.slice(0, count)
    const vectors = (key: string) => some.map(({ tensors }) => values(tensors[key]!))
    const merged = async (recipe: Omit<RecipeInput, 'models'>) => {
      const out = join(folder, `out-${++runs}`)
      const models = some.map(({ model }) => ({ model }))
      await merge(engine, { ...recipe, models }, { out, sync: false, checksum: 'none' })
      return readFolder(out)
    }
    const mean = await merged({ merge_method: 'karcher', parameters: { max_iter: 100, tol: 1e-9 } })
    compare(mean, (key) => reference.karcher(vectors(key)), 2e-6)
    const base = (key: string) => values(start!.tensors[key]!)
    const stock = { merge_method: 'model_stock', base_model: start!.model }
    compare(await merged(stock), (key) => reference.modelStock(base(key), vectors(key)), 2e-6)
    const rows = await merged({ ...stock, parameters: { filter_wise: true } })
    rows.delete('flat')
    const row = (x: Float64Array, r: number) => x.slice(40 * r, 40 * r + 40)
    compare(
      rows,
      (key) =>
        Float64Array.from(
          Array.from({ length: 12 }, (_, r) => [
            ...reference.modelStock(
              row(base(key), r),
              vectors(key).map((x) => row(x, r)),
            ),
          ]).flat(),
        ),
      2e-6,
    )
  }
})

describe('nearswap', () => {
  test('takes the model where it is within t of the base, else a step of t', async () => {
    const result = await run('nearswap', ['far'], { t: 0.25 }, 'base')
    compare(result, (t) => reference.nearswap(load('base', t), load('far', t), 0.25), 2e-7)
  })

  test('with a large t is the model, with t = 0 the base', async () => {
    sameBytes(await run('nearswap', ['far'], { t: 100 }, 'base'), 'far')
    sameBytes(await run('nearswap', ['far'], { t: 0 }, 'base'), 'base')
  })

  test('refuses a negative t', async () => {
    await expect(run('nearswap', ['far'], { t: -1 }, 'base')).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_RECIPE',
      message:
        'parameters.t of the recipe should be a number of at least 0, a gradient or a list of filters, but -1 was found.',
    })
  })
})

describe('task_arithmetic', () => {
  test('with a negative weight takes a task away', async () => {
    const result = await run('task_arithmetic', [['a', { weight: -1 }]], {}, 'base')
    compare(
      result,
      (t) => {
        const a = load('a', t)
        return load('base', t).map((v, i) => 2 * v - a[i]!)
      },
      2e-7,
    )
  })
})

describe('fisher', () => {
  const models = ['a', 'far', 'b']
  const weights = [1, 2, 0.5]
  const information: Record<string, Record<string, Raw>> = {}
  const files: Record<string, string> = {}
  const recipe = (statistics: Record<string, string>) =>
    models.map((name, i): [string, Parameters] => [name, { weight: weights[i]!, statistics: statistics[name]! }])

  beforeAll(() => {
    for (const [k, name] of models.entries()) {
      const all: Record<string, Raw> = {}
      for (const [tensor, { shape, dtype }] of Object.entries(tensors[name]!)) {
        const size = shape.reduce((x, y) => x * y, 1)
        // from 1e-12 to 1, and zero now and then
        const values = numbers(size, 500 + k).map((v, i) => (i % 7 === k ? 0 : 10 ** (6 * v - 6)))
        if (k === 1 || tensor !== 'seven.F32') all[tensor] = dtype === 'F32' ? f32(values, shape) : bf16(values, shape)
      }
      information[name] = all
      files[name] = join(folder, `fisher-${name}.safetensors`)
      writeSafetensors(files[name], all)
    }
  })

  test('averages every element by its Fisher information', async () => {
    for (const eps of [1e-6, 0]) {
      const result = await run('fisher', recipe(files), { eps })
      result.delete('seven.F32') // has statistics for one model only: see below
      const want = (t: string) =>
        reference.fisher(
          models.map((name) => load(name, t)),
          models.map((name) => values(information[name]![t]!)),
          weights,
          eps,
        )
      compare(result, want, 5e-7)
    }
  })

  test('averages tensors without statistics by the weights alone, and says so', async () => {
    const out = join(folder, 'fisher-notes')
    const report = await merge(
      engine,
      {
        merge_method: 'fisher',
        models: recipe(files).map(([name, parameters]) => ({ model: paths[name]!, parameters })),
      },
      { out, sync: false },
    )
    expect(report.notes.filter((note) => note.includes('statistics'))).toEqual([
      `seven.F32 has no statistics in ${files.a}: its models are averaged.`,
    ])
    const got = readFolder(out).get('seven.F32')!
    const want = (t: string) => {
      const [x, y, z] = models.map((name) => load(name, t))
      return x!.map((v, i) => (v + 2 * y![i]! + 0.5 * z![i]!) / 3.5)
    }
    compare(new Map([['seven.F32', got]]), want, 5e-7)
  })

  test('takes statistics of all zeros for no preference, and leaves equal models as they are', async () => {
    const zero = { a: paths.zero!, far: paths.zero!, b: paths.zero! }
    const result = await run('fisher', recipe(zero), { eps: 0 })
    const want = (t: string) => {
      const [x, y, z] = models.map((name) => load(name, t))
      return x!.map((v, i) => (v + 2 * y![i]! + 0.5 * z![i]!) / 3.5)
    }
    compare(result, want, 5e-7)
    const same = await run('fisher', [
      ['a', { statistics: files.a! }],
      ['twin', { statistics: files.far! }],
    ])
    sameBytes(same, 'a')
  })

  test('refuses statistics of another shape, and a recipe without them', async () => {
    const path = join(folder, 'fisher-bad.safetensors')
    writeSafetensors(path, { 'one.F32': f32([1, 2]) })
    await expect(run('fisher', recipe({ ...files, a: path }))).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_SHAPE_MISMATCH',
      tensor: 'one.F32',
    })
    await expect(run('fisher', ['a', 'b'])).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_RECIPE' })
    const gone = { ...files, a: join(folder, 'gone.safetensors') }
    await expect(run('fisher', recipe(gone))).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_NOT_FOUND' })
  })
})
