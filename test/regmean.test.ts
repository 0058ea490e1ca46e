/** RegMean against float64, from Gram matrices that are made here and from those that `score` writes. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, merge, score } from 'weightsmith'
import { bf16, f32, type Raw, readFolder, readSafetensors, values, writeModel, writeSafetensors } from './checkpoint.js'
import { uniform } from './random.js'
import { spacing } from './reference/dtypes.js'
import { regmean } from './reference/regmean.js'
import { scratch } from './scratch.js'

const { folder } = scratch('regmean')
const p = 'model.layers.0.self_attn.'
/** Odd and even widths; q and k read one input. The last is cut into several tiles in little memory. */
const shapes: Record<string, [out: number, n: number]> = {
  [`${p}q_proj.weight`]: [5, 7],
  [`${p}k_proj.weight`]: [3, 7],
  [`${p}o_proj.weight`]: [9, 16],
  'model.layers.0.mlp.down_proj.weight': [700, 72],
}
const shared = `${p}k_proj.weight`
const names = ['a', 'b', 'c']
const paths: Record<string, string> = {}
const statistics: Record<string, string> = {}
const models: Record<string, Record<string, Raw>> = {}
const grams: Record<string, Record<string, Raw>> = {}

function numbers(count: number, seed: number): Float64Array {
  const next = uniform(Math.imul(seed, 2654435761))
  return Float64Array.from({ length: count }, () => 2 * next() - 1)
}

/** XᵀX of so many rows. Input 1 is dead, and the last depends on its neighbour nearly. */
function gram(n: number, rows: number, seed: number): Raw {
  const x = numbers(rows * n, seed)
  for (let t = 0; t < rows; t++) {
    x[t * n + 1] = 0
    x[t * n + n - 1] = x[t * n + n - 2]! + x[t * n + n - 1]! / 8
  }
  const sums = Float64Array.from({ length: n * n }, (_, at) => {
    let sum = 0
    for (let t = 0; t < rows; t++) sum += x[t * n + Math.floor(at / n)]! * x[t * n + (at % n)]!
    return sum
  })
  return f32(sums, [n, n])
}

let engine: Engine
beforeAll(async () => {
  engine = await Engine.open({ memory: '1MiB' })
  for (const [k, name] of names.entries()) {
    const type = name === 'b' ? f32 : bf16
    models[name] = { 'model.norm.weight': bf16(numbers(16, k), [16]), 'lm_head.weight': bf16(numbers(32, k), [2, 16]) }
    grams[name] = {}
    for (const [i, [tensor, [out, n]]] of Object.entries(shapes).entries()) {
      const base = numbers(out * n, 50 + i)
      const own = numbers(out * n, 100 + 10 * k + i)
      models[name][tensor] = type(
        base.map((v, e) => v + own[e]! / 4),
        [out, n],
      )
      if (tensor !== shared) grams[name][`gram/${tensor}`] = gram(n, 4 * n, 7 * k + i)
    }
    paths[name] = writeModel(join(folder, name), models[name])
    statistics[name] = join(folder, `${name}.safetensors`)
    writeSafetensors(statistics[name], grams[name])
  }
})
afterAll(() => engine?.close())

let runs = 0
async function run(
  entries: { model: string; statistics?: string; weight?: number }[],
  parameters: Record<string, number> = {},
  using = engine,
) {
  const out = join(folder, `out-${runs++}`)
  const recipe = {
    merge_method: 'regmean',
    models: entries.map(({ model, ...own }) => ({ model, parameters: own })),
    parameters,
    dtype: 'float32',
  }
  const report = await merge(using, recipe, { out, sync: false })
  return { report, tensors: readFolder(out), bytes: readFileSync(join(out, 'model.safetensors')) }
}
const given = (weights: number[]) =>
  weights.map((weight, i) => ({ model: paths[names[i]!]!, statistics: statistics[names[i]!]!, weight }))

function near(got: ArrayLike<number>, want: ArrayLike<number>, bound: number): void {
  expect(got.length).toBe(want.length)
  for (let i = 0; i < want.length; i++) {
    if (!(Math.abs(got[i]! - want[i]!) <= bound + spacing('F32', want[i]!))) {
      expect({ i, got: got[i], want: want[i] }).toBe(`within ${bound}`)
    }
  }
}

/** What comes of a tensor; the dead input has a mean. */
function wanted(tensor: string, weights: number[], ratio: number): Float64Array {
  const [, n] = shapes[tensor]!
  const used = names.slice(0, weights.length)
  const of = tensor === shared ? `${p}q_proj.weight` : tensor
  const matrices = used.map((name) => values(models[name]![tensor]!))
  const alive = used.map((name) => {
    const sums = values(grams[name]![`gram/${of}`]!)
    sums[n + 1] = 1
    return sums
  })
  return regmean(matrices, alive, { weights, ratio, n })
}

describe('regmean', () => {
  for (const [weights, ratio] of [
    [[1, 1], 0.9],
    [[1, 1], 1],
    [[2, 0.5, 1], 0.9],
    [[1, 3, 2], 0],
  ] as const) {
    test(`of weights ${weights.join(', ')} and off-diagonals times ${ratio} is the float64 solution`, async () => {
      const { report, tensors } = await run(given([...weights]), { reduce_non_diagonal_ratio: ratio })
      for (const tensor of Object.keys(shapes)) {
        near(values(tensors.get(tensor)!), wanted(tensor, [...weights], ratio), 5e-6)
      }
      const total = weights.reduce<number>((a, b) => a + b, 0)
      for (const tensor of ['model.norm.weight', 'lm_head.weight']) {
        const mean = values(models.a![tensor]!).map((_, i) =>
          weights.reduce<number>((sum, w, k) => sum + (w / total) * values(models[names[k]!]![tensor]!)[i]!, 0),
        )
        near(values(tensors.get(tensor)!), mean, 1e-6)
      }
      expect(report.notes.filter((note) => note.includes('statistics'))).toEqual([
        `lm_head.weight has no statistics in ${statistics.a}: its models are averaged.`,
      ])
    })
  }

  test('shares large Gram matrices among threads', async () => {
    const [tensor, n, out] = ['model.layers.0.mlp.down_proj.weight', 300, 4]
    const u = numbers(n, 1)
    const v = numbers(n, 2)
    const element = (i: number, j: number) => u[i]! * u[j]! + v[i]! * v[j]! + (i === j ? 1 : 0)
    // The second has three times the statistics of the first, so that it counts three times as much.
    const weights = [200, 201].map((seed) => Float32Array.from(numbers(out * n, seed)))
    const entries = weights.map((matrix, k) => {
      const own = { model: join(folder, `large-${k}`), statistics: join(folder, `large-${k}.safetensors`) }
      const sums = Float64Array.from({ length: n * n }, (_, at) => (1 + 2 * k) * element(Math.floor(at / n), at % n))
      writeModel(own.model, { [tensor]: f32(matrix, [out, n]) })
      writeSafetensors(own.statistics, { [`gram/${tensor}`]: f32(sums, [n, n]) })
      return own
    })
    const roomy = await Engine.open({ memory: '256MiB' })
    try {
      const { tensors } = await run(entries, {}, roomy)
      const want = Float64Array.from(weights[0]!, (value, i) => 0.25 * value + 0.75 * weights[1]![i]!)
      near(values(tensors.get(tensor)!), want, 1e-5)
    } finally {
      await roomy.close()
    }
  })

  test('has the same bytes in one tile as in many', async () => {
    const roomy = await Engine.open({ memory: '256MiB' })
    try {
      const small = await run(given([1, 2, 1]))
      const large = await run(given([1, 2, 1]), {}, roomy)
      expect(small.bytes.equals(large.bytes)).toBe(true)
    } finally {
      await roomy.close()
    }
  })

  test('leaves what is equal in all models as it is, and a model that counts alone', async () => {
    const twin = writeModel(join(folder, 'twin'), models.a!)
    const twice = [
      { model: paths.a!, statistics: statistics.a! },
      { model: twin, statistics: statistics.b! },
    ]
    const alone = given([0, 1])
    for (const [entries, name] of [
      [twice, 'a'],
      [alone, 'b'],
    ] as const) {
      const { tensors } = await run(entries)
      for (const tensor of Object.keys(shapes)) {
        expect([...values(tensors.get(tensor)!)]).toEqual([...values(models[name]![tensor]!)])
      }
    }
  })

  test('refuses statistics that decide nothing, of another shape, or none at all', async () => {
    const [few, wide] = ['few', 'wide'].map((name) => join(folder, `${name}.safetensors`)) as [string, string]
    const all = Object.keys(grams.a!)
    const rest = Object.fromEntries(all.map((name) => [name, grams.a![name]!]))
    const o = `gram/${p}o_proj.weight`
    // Fewer rows than inputs, twice the same.
    writeSafetensors(few, { ...rest, [o]: gram(16, 4, 3) })
    const entries = ['a', 'b'].map((name) => ({ model: paths[name]!, statistics: few }))
    await expect(run(entries, { reduce_non_diagonal_ratio: 1 })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_ARGUMENT',
      message: expect.stringContaining('16 inputs') as unknown,
    })
    await run(entries) // a ratio below 1 makes them decide
    writeSafetensors(wide, { ...rest, [o]: gram(15, 60, 3) })
    await expect(
      run([
        { model: paths.a!, statistics: wide },
        { model: paths.b!, statistics: statistics.b! },
      ]),
    ).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_SHAPE_MISMATCH', tensor: o })
    await expect(run([{ model: paths.a! }, { model: paths.b! }])).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_RECIPE',
    })
  })

  test('takes the files that score writes, and gives what they ask for', async () => {
    const checkpoints = ['base', 'improved-3'].map((name) => join(process.cwd(), 'demo/models', name))
    const data = 'test/goldens/tasks/calibration.jsonl'
    const roomy = await Engine.open()
    try {
      const files: string[] = []
      for (const [i, model] of checkpoints.entries()) {
        const out = join(folder, `score-${i}.safetensors`)
        await score(roomy, model, { methods: ['gram'], data, out, limit: 6 })
        files.push(out)
      }
      const { tensors, report } = await run(
        checkpoints.map((model, i) => ({ model, statistics: files[i]! })),
        {},
        roomy,
      )
      expect(report.notes.filter((note) => note.includes('statistics'))).toHaveLength(2) // embeddings and head
      for (const [tensor, gramName] of [
        ['model.layers.1.self_attn.v_proj.weight', 'model.layers.1.self_attn.q_proj.weight'],
        ['model.layers.6.mlp.down_proj.weight', 'model.layers.6.mlp.down_proj.weight'],
      ] as const) {
        const stored = checkpoints.map((model) => readFolder(model).get(tensor)!)
        const sums = files.map((file) => values(readSafetensors(file).get(`gram/${gramName}`)!))
        const n = stored[0]!.shape[1]!
        const want = regmean(stored.map(values), sums, { weights: [1, 1], ratio: 0.9, n })
        near(values(tensors.get(tensor)!), want, 2e-5)
      }
    } finally {
      await roomy.close()
    }
  })
})
