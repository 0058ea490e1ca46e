/**
 * What holds for every merge, whatever its numbers: examples are drawn at random (from a fixed seed), over the methods
 * of the registry and the options they declare, so that a new method is held to the same.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import {
  Engine,
  type MergeMethod,
  type MergeOptions,
  merge,
  methods,
  type ParameterSpec,
  type RecipeInput,
  WeightsmithError,
} from 'weightsmith'
import { type Raw, readFolder, writeSafetensors } from './checkpoint.js'
import { uniform } from './random.js'
import { decode, encode, spacing } from './reference/dtypes.js'

type DType = 'F32' | 'F16' | 'BF16'
type Tensors = Record<string, Raw>
type Parameters = NonNullable<RecipeInput['parameters']>

const seed = 20240607
/** Their result depends on the order of the models: the last one counts, or drops are drawn by ordinal. */
const ordered = new Set(['imm', 'dare_linear', 'dare_ties', 'della', 'della_linear'])
/** They compare with, or add, a number that does not grow with the weights. */
const absolute = new Set(['ram', 'ramplus_tl', 'nearswap', 'arcee_fusion', 'sce', 'model_stock', 'multislerp'])
/** They take differences from the first model, whichever that is. */
const fromFirst = new Set(['geometric_median', 'fisher'])
/** They keep int(density * n) entries of a difference. */
const sparse = ['ties', 'breadcrumbs', 'breadcrumbs_ties']

const root = mkdtempSync(join(tmpdir(), 'weightsmith-properties-'))
let engine: Engine
let count = 0

beforeAll(async () => {
  engine = await Engine.open({ memory: '4MiB' })
})
afterAll(async () => {
  await engine?.close()
  rmSync(root, { recursive: true, force: true })
})

/** Numbers of one seed in [-1, 1), with zeros and equal magnitudes among them. */
function numbers(length: number, seed: number): Float64Array {
  const next = uniform(Math.imul(seed, 2654435761) + 1)
  return Float64Array.from({ length }, () => {
    const state = next() * 2 ** 32
    const value = state / 2 ** 31 - 1
    return state % 23 === 0 ? 0 : state % 7 === 0 ? Math.round(value * 8) / 8 : value
  })
}

interface Model {
  seed: number
  /** Type of each tensor. */
  dtypes: DType[]
  /** Files it lies in. */
  shards: 1 | 2
}

interface Example {
  shapes: number[][]
  base: Model
  models: Model[]
}

const names = ['model.embed_tokens.weight', 'model.layers.0.a.weight', 'model.layers.1.a.weight', 'model.norm.weight']

/** The base's numbers plus, for other models, numbers of their own; all times `scale`. */
function tensorsOf({ shapes, base }: Example, model: Model, scale = 1): Tensors {
  const tensors: Tensors = {}
  for (const [i, shape] of shapes.entries()) {
    const length = shape.reduce((a, b) => a * b, 1)
    const dtype = model.dtypes[i]!
    const start = numbers(length, base.seed + i)
    const change = numbers(length, model.seed + 7 * i + 1)
    const sum = start.map((v, e) => scale * (model === base ? v : v + change[e]! / 4))
    tensors[names[i]!] = { dtype, shape, bytes: Buffer.from(encode(dtype, sum)) }
  }
  return tensors
}

/** Positive numbers of the shapes of a model, as a method may want of each. */
function statisticsOf(tensors: Tensors, seed: number): Tensors {
  const entries = Object.entries(tensors).map(([name, { shape }], i) => {
    const values = numbers(
      shape.reduce((a, b) => a * b, 1),
      seed + i,
    ).map((v) => v * v + 0.1)
    return [name, { dtype: 'F32', shape, bytes: Buffer.from(encode('F32', values)) }] as const
  })
  return Object.fromEntries(entries)
}

function write(folder: string, tensors: Tensors, shards = 1): string {
  mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'config.json'), '{"model_type":"llama"}')
  if (shards === 1) {
    writeSafetensors(join(folder, 'model.safetensors'), tensors)
    return folder
  }
  const weightMap: Record<string, string> = {}
  for (const shard of [1, 2]) {
    const part = Object.entries(tensors).filter((_, i) => i % 2 === shard - 1)
    const file = `model-0000${shard}-of-00002.safetensors`
    writeSafetensors(join(folder, file), Object.fromEntries(part))
    for (const [name] of part) weightMap[name] = file
  }
  writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify({ metadata: {}, weight_map: weightMap }))
  return folder
}

function writeExample(example: Example, scale = 1): string {
  const folder = join(root, `${count++}`)
  for (const [i, model] of [example.base, ...example.models].entries()) {
    const tensors = tensorsOf(example, model, scale)
    write(join(folder, `m${i}`), tensors, model.shards)
    write(join(folder, `s${i}`), statisticsOf(tensors, model.seed))
  }
  return folder
}

/** A recipe for the models m1, m2 … of a folder, and its base m0; `values` has the parameters of each. */
function recipe({ method, withBase }: Case, values: Parameters[], global: Parameters = {}): RecipeInput {
  return {
    merge_method: method.name,
    ...(withBase ? { base_model: 'm0' } : {}),
    models: values.map((parameters, i) => ({ model: `m${i + 1}`, parameters })),
    parameters: global,
  }
}

async function run(folder: string, what: RecipeInput, on = engine, options: Partial<MergeOptions> = {}) {
  const out = join(root, `${count++}`)
  try {
    await merge(on, what, { out, folder, seed: 5, checksum: 'none', sync: false, ...options })
  } catch (error) {
    // Some values do not go together: what a recipe is refused for is no example.
    fc.pre(!(error instanceof WeightsmithError && error.code === 'ERR_WEIGHTSMITH_RECIPE'))
    throw error
  }
  return readFolder(out)
}

function bytes(tensors: Map<string, Raw> | Tensors): Buffer {
  const entries = tensors instanceof Map ? [...tensors] : Object.entries(tensors)
  return Buffer.concat(entries.sort(([a], [b]) => (a < b ? -1 : 1)).map(([, { bytes }]) => bytes))
}

const doubles = ({ dtype, bytes }: Raw) => decode(dtype as DType, bytes)

/** Largest distance of two results, in steps of f32 at the size of the largest value that went into an element. */
function steps(a: Map<string, Raw>, b: Map<string, Raw> | Tensors, inputs: Tensors[]): number {
  let most = 0
  for (const [name, raw] of a) {
    const [x, y] = [doubles(raw), doubles((b instanceof Map ? b.get(name) : b[name])!)]
    const all = inputs.map((tensors) => doubles(tensors[name]!))
    for (let i = 0; i < x.length; i++) {
      const size = Math.max(...[...all, x, y].map((values) => Math.abs(values[i]!)))
      if (x[i] !== y[i]) most = Math.max(most, Math.abs(x[i]! - y[i]!) / spacing('F32', size))
    }
  }
  return most
}

const f32: DType[] = names.map(() => 'F32')
const length = fc.oneof(fc.constantFrom(1, 7, 2047, 2048, 2049), fc.integer({ min: 2, max: 9000 }))
const shape = fc.oneof(
  length.map((n) => [n]),
  fc.tuple(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 90 })).map(([rows, columns]) => [rows, columns]),
)
const shapes = fc.array(shape, { minLength: 1, maxLength: names.length })

/** A base and models of float32. */
function models(amount: number): fc.Arbitrary<Example> {
  const model = fc.record({ seed: fc.nat(1e6), dtypes: fc.constant(f32), shards: fc.constantFrom<1 | 2>(1, 2) })
  return fc.record({ shapes, base: model, models: fc.array(model, { minLength: amount, maxLength: amount }) })
}

/** A recipe for `amount` models with any values of the method's parameters. */
function options(which: Case, amount: number): fc.Arbitrary<RecipeInput> {
  const own = Array.from({ length: amount }, (_, i) => parameters(which.method, 'model', i))
  return fc
    .tuple(fc.tuple(...own), parameters(which.method, 'global'))
    .map(([own, global]) => recipe(which, own, global))
}

/** A value that the method takes, for every parameter it declares. */
function parameters(method: MergeMethod, scope: ParameterSpec['scope'], model = 0): fc.Arbitrary<Parameters> {
  const values = method.parameters
    .filter((spec) => spec.scope === scope && !spec.optional)
    .map((spec) => [spec.name, spec.type === 'model' ? fc.constant(`s${model + 1}`) : value(spec)] as const)
  return fc.record(Object.fromEntries(values))
}

function value(spec: ParameterSpec): fc.Arbitrary<number | boolean | string> {
  if (spec.values) return fc.constantFrom(...spec.values)
  if (spec.type === 'boolean') return fc.boolean()
  if (spec.name === 'weight') return fc.double({ min: 0.1, max: 1.5, noNaN: true })
  // Parameters that have a default are often bound to others (epsilon and gamma to the density).
  if (spec.name === 'density') return fc.double({ min: 0.3, max: 0.7, noNaN: true })
  if (typeof spec.default === 'number') return fc.constant(spec.default)
  return fc.double({ min: spec.min ?? 0.1, max: spec.max ?? 0.9, noNaN: true })
}

const check = <T>(arbitrary: fc.Arbitrary<T>, property: (example: T) => Promise<void>, numRuns: number) =>
  fc.assert(fc.asyncProperty(arbitrary, property), { seed, numRuns, endOnFailure: true })

/** A method, once with a base and once without one where either will do. */
interface Case {
  title: string
  method: MergeMethod
  withBase: boolean
}

const all = [...methods.values()].flatMap((method): Case[] =>
  method.needsBase === 'optional'
    ? [
        { title: method.name, method, withBase: false },
        { title: `${method.name} with a base`, method, withBase: true },
      ]
    : [{ title: method.name, method, withBase: method.needsBase === true }],
)
const several = all.filter(({ method }) => method.models.max > 1 && !ordered.has(method.name))
const caseOf = (name: string) => all.find(({ method }) => method.name === name)!
const least = (method: MergeMethod, wanted: number) => Math.min(Math.max(wanted, method.models.min), method.models.max)

describe('the same bytes', () => {
  function example(which: Case) {
    const amount = least(which.method, 2)
    return fc.record({
      example: models(amount),
      what: options(which, amount),
      memory: fc.integer({ min: 300_000, max: 2_000_000 }),
      shardSize: fc.integer({ min: 1000, max: 60_000 }),
    })
  }

  test.each(all)('$title: whatever the tiles, memory and files', async (which) => {
    const { determinism } = which.method
    await check(
      example(which),
      async ({ example, what, memory, shardSize }) => {
        const folder = writeExample(example)
        const plain = await run(folder, what)
        const other = await run(folder, what, engine, { memory, shardSize })
        if (determinism === 'exact') expect(bytes(other).equals(bytes(plain))).toBe(true)
        else expect(steps(plain, other, [])).toBeLessThanOrEqual(8)
      },
      2,
    )
  })

  // Of kernels that compile fast; determinism.test.ts runs every method on both drivers, on the same models.
  const quick = ['linear', 'slerp', 'task_arithmetic', 'dare_linear']
  test(`${quick.join(', ')}: whatever the device and its slots, for any mix of types`, async () => {
    await using other = await Engine.open({ device: 'swiftshader', maxBufferBytes: 65_536, slots: 'staging' })
    const types = fc.array(fc.constantFrom<DType>('F32', 'BF16', 'F16'), { minLength: 8, maxLength: 8 })
    for (const name of quick) {
      await check(
        fc.tuple(example(caseOf(name)), types),
        async ([{ example, what }, types]) => {
          for (const [i, model] of [example.base, ...example.models].entries()) model.dtypes = types.slice(i)
          const folder = writeExample(example)
          const mixed: RecipeInput = { ...what, dtype: 'bfloat16' }
          expect(bytes(await run(folder, mixed, other)).equals(bytes(await run(folder, mixed)))).toBe(true)
        },
        1,
      )
    }
  })
})

describe('the order of the models changes nothing', () => {
  test.each(several)('$title: the same bits for two models, and 2 steps at most for three', async (which) => {
    const { method } = which
    for (const amount of new Set([least(method, 2), least(method, 3)])) {
      await check(
        fc.record({ example: models(amount), what: options(which, amount) }),
        async ({ example, what }) => {
          const there = await run(writeExample(example), what)
          // The order of the recipe, not that of the names
          const back = await run(writeExample(example), { ...what, models: [...what.models!].reverse() })
          if (amount === 2 && !fromFirst.has(method.name)) expect(bytes(back).equals(bytes(there))).toBe(true)
          const inputs = [example.base, ...example.models].map((model) => tensorsOf(example, model))
          // A difference can be twice as large as the values it is taken of.
          expect(steps(there, back, inputs)).toBeLessThanOrEqual(fromFirst.has(method.name) ? 4 : 2)
        },
        2,
      )
    }
  })
})

describe('weights of 0 and 1', () => {
  const weighted = all.filter(({ method }) => method.parameters.some(({ name }) => name === 'weight'))
  const full = (method: MergeMethod, weight: number, model: number): Parameters => ({
    weight,
    ...(method.parameters.some(({ name }) => name === 'statistics') ? { statistics: `s${model + 1}` } : {}),
    ...(method.parameters.some(({ name }) => name === 'density') ? { density: 1 } : {}),
  })

  test.each(weighted)('$title: weight 1 for one model and 0 for the other give that model', async (which) => {
    const { method } = which
    const amount = least(method, 2)
    await check(
      models(amount),
      async (example) => {
        const own = example.models.map((_, i) => full(method, i === 0 ? 1 : 0, i))
        const result = await run(writeExample(example), recipe(which, own))
        const inputs = [example.base, ...example.models].map((model) => tensorsOf(example, model))
        expect(steps(result, inputs[1]!, inputs)).toBeLessThanOrEqual(2)
      },
      3,
    )
  })

  test.each(weighted.filter(({ method }) => method.needsBase === true))(
    '$title: weights of 0 give the base',
    async (which) => {
      const { method } = which
      await check(
        models(least(method, 2)),
        async (example) => {
          const own = example.models.map((_, i) => full(method, 0, i))
          const result = await run(writeExample(example), recipe(which, own))
          expect(bytes(result).equals(bytes(tensorsOf(example, example.base)))).toBe(true)
        },
        2,
      )
    },
  )

  test.each([
    ['slerp', 0, 0],
    ['slerp', 1, 1],
  ])('%s at t = %d is one of its two models, bit for bit', async (name, t, index) => {
    await check(
      models(1),
      async (example) => {
        const result = await run(writeExample(example), recipe(caseOf(name), [{}], { t }))
        const one = [example.base, ...example.models][index]!
        expect(bytes(result).equals(bytes(tensorsOf(example, one)))).toBe(true)
      },
      2,
    )
  })
})

describe('models multiplied by a power of two', () => {
  test.each(all.filter(({ method }) => !absolute.has(method.name)))(
    '$title: so is the result, bit for bit',
    async (which) => {
      const { method } = which
      const amount = least(method, 2)
      const example = fc.record({
        models: models(amount),
        global: parameters(method, 'global'),
        own: fc.array(parameters(method, 'model'), { minLength: amount, maxLength: amount }),
        exponent: fc.integer({ min: -12, max: 12 }),
      })
      await check(
        example,
        async ({ models, global, own, exponent }) => {
          const what = recipe(which, own, global)
          const plain = await run(writeExample(models), what)
          const scaled = await run(writeExample(models, 2 ** exponent), what)
          for (const [name, raw] of plain) {
            const [x, y] = [doubles(raw), doubles(scaled.get(name)!)]
            expect({ name, same: x.every((v, i) => v * 2 ** exponent === y[i]) }).toEqual({ name, same: true })
          }
        },
        2,
      )
    },
  )
})

describe('density', () => {
  test.each(sparse.filter((name) => methods.has(name)))('%s changes exactly int(density * n) entries', async (name) => {
    const example = fc.record({ models: models(1), density: fc.double({ min: 0.01, max: 0.95, noNaN: true }) })
    await check(
      example,
      async ({ models, density }) => {
        const which = caseOf(name)
        // Of the changes none is 0, so what is kept shows.
        const base = tensorsOf(models, models.base)
        const folder = join(root, `${count++}`)
        write(join(folder, 'm0'), base)
        const changed = Object.entries(base).map(([name, raw]) => {
          const change = doubles(raw).map((v, i) => v + (i % 3 === 0 ? 0.25 : 0.125 + (i % 1000) / 4096))
          return [name, { ...raw, bytes: Buffer.from(encode('F32', change)) }] as const
        })
        write(join(folder, 'm1'), Object.fromEntries(changed))
        const result = await run(folder, recipe(which, [{ weight: 1, density }]))
        for (const [tensor, raw] of result) {
          const [x, b] = [doubles(raw), doubles(base[tensor]!)]
          const kept = x.filter((v, i) => v !== b[i]).length
          expect({ tensor, kept }).toEqual({ tensor, kept: Math.trunc(density * x.length) })
        }
      },
      6,
    )
  })
})
