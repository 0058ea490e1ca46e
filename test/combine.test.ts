/**
 * Adapters that are made of adapters: what PEFT's add_weighted_adapter gives, where it combines updates; the exact sum
 * and the best ranks where it does not; and what cannot be combined.
 */
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import {
  type AdapterReport,
  type CombineMethod,
  type CombineOptions,
  combineAdapters,
  Engine,
  foldAdapters,
  mixAdapters,
  resizeAdapter,
  verify,
  type WeightedAdapter,
} from 'weightsmith'
import { bf16, f32, type Raw, readFolder, readSafetensors, values, writeSafetensors } from './checkpoint.js'
import { cli } from './child.js'
import { golden } from './goldens.js'
import { scratch } from './scratch.js'

interface Case {
  adapters: string[]
  weights: number[]
  combination_type: string
  density?: number
  majority_sign_method?: 'total' | 'frequency'
  svd_clamp?: number
  peft_rank: number
  mask_shapes?: [number, number][]
  modules: Record<string, { sum: number; l2: number; ramp: number; scaling: number; distance_from_exact_sum: number }>
}

const folder = 'lora/combine'
const cases = JSON.parse(readFileSync(golden(`${folder}/combine.json`), 'utf8')) as Record<string, Case>
const goldens = readSafetensors(golden(`${folder}/combine.safetensors`))
const masks = readSafetensors(golden(`${folder}/masks.safetensors`))
const fixture = (name: string) => golden(`${folder}/${name}`)

let engine: Engine
const { fresh } = scratch('combine')
beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

const combine = async (
  adapters: (string | WeightedAdapter)[],
  options: Partial<Omit<CombineOptions, 'dryRun'>> = {},
) => {
  const out = options.out ?? fresh('out')
  const report = await combineAdapters(engine, adapters, { sync: false, ...options, out })
  return { out, report, ...read(out) }
}

const failure = (work: Promise<unknown>) =>
  work.then(
    () => 'no error',
    (error: Error & { code?: string }) => `${error.code}: ${error.message}`,
  )

interface Update {
  rows: number
  columns: number
  values: Float64Array
}

/** An adapter as it is on disk: its updates in the shapes of their weights, in float64, by the rules of PEFT. */
function read(path: string) {
  const config = JSON.parse(readFileSync(join(path, 'adapter_config.json'), 'utf8'))
  const tensors = readSafetensors(join(path, 'adapter_model.safetensors'))
  const updates = new Map<string, Update>()
  for (const [key, rawA] of tensors) {
    const [, module = '', embedding] = /^base_model\.model\.(.+)\.lora_(embedding_)?A(?:\.weight)?$/.exec(key) ?? []
    if (module === '') continue
    const rawB = tensors.get(key.replace(/A(\.weight)?$/, 'B$1'))!
    const [rank = 0, inputs = 0] = rawA.shape
    const outputs = rawB.shape[0]!
    expect(config.target_modules.some((name: string) => module === name || module.endsWith(`.${name}`))).toBe(true)
    const r = config.rank_pattern?.[module] ?? config.r
    expect(r).toBe(rank)
    const alpha = config.alpha_pattern?.[module] ?? config.lora_alpha
    const scale = alpha / (config.use_rslora ? Math.sqrt(r) : r)
    const product = multiply(values(rawB), values(rawA), outputs, rank, inputs, scale)
    updates.set(
      module,
      embedding === undefined
        ? { rows: outputs, columns: inputs, values: product }
        : { rows: inputs, columns: outputs, values: transpose(product, outputs, inputs) },
    )
  }
  return { config, tensors, updates }
}

function multiply(b: Float64Array, a: Float64Array, rows: number, rank: number, columns: number, scale = 1) {
  const result = new Float64Array(rows * columns)
  for (let i = 0; i < rows; i++) {
    for (let k = 0; k < rank; k++) {
      const factor = scale * b[i * rank + k]!
      for (let j = 0; j < columns; j++) result[i * columns + j]! += factor * a[k * columns + j]!
    }
  }
  return result
}

function transpose(matrix: Float64Array, rows: number, columns: number) {
  return Float64Array.from(matrix, (_, i) => matrix[(i % rows) * columns + Math.floor(i / rows)]!)
}

const norm = (x: Float64Array) => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0))
const distance = (x: Float64Array, y: Float64Array) => norm(x.map((value, i) => value - y[i]!))

/** The figures of combine.json. */
function figures(update: Float64Array, scale: number) {
  let [sum, ramp] = [0, 0]
  for (const [i, value] of update.entries()) {
    sum += scale * value
    ramp += (scale * value * ((i % 997) - 498)) / 498
  }
  return { sum, l2: scale * norm(update), ramp }
}

/** Σ w s B A in float64, of adapters on disk. */
function exactSum(adapters: (string | WeightedAdapter)[]): Map<string, Float64Array> {
  const sums = new Map<string, Float64Array>()
  for (const entry of adapters) {
    const { adapter, weight = 1 } = typeof entry === 'string' ? { adapter: entry } : entry
    for (const [module, { values: update }] of read(adapter).updates) {
      const before = sums.get(module) ?? new Float64Array(update.length)
      sums.set(
        module,
        before.map((value, i) => value + weight * update[i]!),
      )
    }
  }
  return sums
}

/** Adapters with the factors of each side masked and divided by the density, as DARE left them in the golden. */
function dropped(name: string, { adapters, modules, density = 1, mask_shapes: shapes = [] }: Case): string[] {
  const svd = name.includes('_svd')
  const read = adapters.map((adapter) => readSafetensors(join(fixture(adapter), 'adapter_model.safetensors')))
  const configs = adapters.map((adapter) =>
    JSON.parse(readFileSync(join(fixture(adapter), 'adapter_config.json'), 'utf8')),
  )
  const made: Record<string, Raw>[] = adapters.map(() => ({}))
  let at = 0
  const masked = (matrix: Float64Array) => {
    const { bytes } = masks.get(`${name}/${at}`)!
    const [rows, columns] = shapes[at++]!
    expect(matrix.length).toBe(rows * columns)
    const kept = matrix.map((value, i) => ((bytes[i >> 3]! >> (7 - (i & 7))) & 1 ? value / density : 0))
    return f32(kept.map(Math.fround), [rows, columns])
  }
  for (const module of Object.keys(modules)) {
    const key = `base_model.model.${module}.lora_`
    if (svd) {
      for (const [i, tensors] of read.entries()) {
        const [a, b] = [tensors.get(`${key}A.weight`)!, tensors.get(`${key}B.weight`)!]
        const [rank = 0, inputs = 0] = a.shape
        const rows = b.shape[0]!
        const scale = configs[i].lora_alpha / configs[i].r
        // the whole update as A, below an identity
        made[i]![`${key}A.weight`] = masked(multiply(values(b), values(a), rows, rank, inputs, scale))
        const identity = Array.from({ length: rows * rows }, (_, j) => (j % (rows + 1) === 0 ? 1 : 0))
        made[i]![`${key}B.weight`] = f32(identity, [rows, rows])
      }
    } else {
      for (const side of ['A', 'B']) {
        for (const [i, tensors] of read.entries()) {
          made[i]![`${key}${side}.weight`] = masked(values(tensors.get(`${key}${side}.weight`)!))
        }
      }
    }
  }
  return made.map((tensors, i) => {
    const path = fresh('dropped')
    const ranks = svd
      ? { rank_pattern: ranksOf(tensors), alpha_pattern: ranksOf(tensors) }
      : { r: configs[i].r, lora_alpha: configs[i].lora_alpha }
    writeAdapter(path, { ...configs[i], ...ranks }, tensors)
    return path
  })
}

function ranksOf(tensors: Record<string, Raw>) {
  const sides = Object.entries(tensors).filter(([name]) => name.endsWith('lora_A.weight'))
  return Object.fromEntries(sides.map(([name, { shape }]) => [name.slice('base_model.model.'.length, -14), shape[0]]))
}

function writeAdapter(path: string, config: object, tensors: Record<string, Raw>): string {
  mkdirSync(path, { recursive: true })
  writeFileSync(join(path, 'adapter_config.json'), JSON.stringify({ peft_type: 'LORA', ...config }))
  writeSafetensors(join(path, 'adapter_model.safetensors'), tensors)
  return path
}

describe("PEFT's combinations", () => {
  test.each(Object.keys(cases).filter((name) => cases[name]!.svd_clamp === undefined))('are met: %s', async (name) => {
    const one = cases[name]!
    const { combination_type: type, weights, peft_rank: rank, density, majority_sign_method: majority } = one
    const svd = type.endsWith('svd')
    const dare = type.startsWith('dare')
    const paths = dare ? dropped(name, one) : one.adapters.map(fixture)
    const adapters = paths.map((adapter, i) => ({ adapter, weight: weights[i]! }))
    const plain = type === 'svd' ? 'linear' : type.replace(/_svd$/, '')
    const method = (dare ? { dare_linear: 'linear', dare_ties: 'ties' }[plain] : plain) as CombineMethod
    const elementwise = method !== 'linear' && method !== 'cat'
    const { updates, config, report } = await combine(adapters, {
      method,
      ...(elementwise ? { density: dare ? 1 : density! } : {}),
      ...(majority === undefined ? {} : { majority }),
      ...(svd ? { rank } : method === 'cat' ? {} : { peftCompat: true }),
    })
    expect(config).toMatchObject({ use_rslora: false, r: config.lora_alpha })
    expect([...updates.keys()].sort()).toEqual(Object.keys(one.modules).sort())
    for (const [module, want] of Object.entries(one.modules)) {
      const { values: update } = updates.get(module)!
      const got = figures(update, want.scaling)
      // PEFT's decomposition is in f32: up to 1e-6 an element, which do not all have one sign
      const bound = svd ? 1e-6 * Math.sqrt(update.length) : 3e-6 * Math.max(1, want.l2)
      for (const key of ['sum', 'l2', 'ramp'] as const) {
        if (!(Math.abs(got[key] - want[key]) <= bound))
          expect({ module, [key]: got[key] }).toEqual({ module, [key]: want[key] })
      }
      const delta = goldens.get(`${name}/${module}/delta`)
      if (delta === undefined) continue
      const off = values(delta).map((value, i) => Math.abs(value - want.scaling * update[i]!))
      expect(off.reduce((a, b) => Math.max(a, b), 0)).toBeLessThanOrEqual(svd ? 1e-5 : 1e-6 * Math.max(1, want.scaling))
      if (type === 'svd' && paths.length > 1 && want.scaling === 1) {
        const { residual = 0, norm: all = 0 } = report.modules.find((row) => row.module === module)!
        expect(residual * all).toBeCloseTo(want.distance_from_exact_sum, 5)
      }
    }
  })
})

const tensorsOf = (path: string) => readSafetensors(join(path, 'adapter_model.safetensors'))
const [a, b, c, d] = ['a', 'b', 'c', 'd'].map((name) => ({ adapter: fixture(name) })) as [
  WeightedAdapter,
  WeightedAdapter,
  WeightedAdapter,
  WeightedAdapter,
]

function close(got: Map<string, Update>, want: Map<string, Float64Array>, bound = 2e-6): void {
  expect([...got.keys()].sort()).toEqual([...want.keys()].sort())
  for (const [module, update] of want) {
    const off = distance(got.get(module)!.values, update)
    if (!(off <= bound * norm(update))) expect({ module, off }).toBe(`within ${bound * norm(update)}`)
  }
}

describe('one adapter with the weight 1', () => {
  test.each(['a', 'b', 'c', 'd', 'e'])('is itself, exactly: %s', async (name) => {
    const before = read(fixture(name))
    const { updates, tensors, report } = await combine([{ adapter: fixture(name) }])
    close(updates, exactSum([fixture(name)]), 0)
    for (const [key, raw] of before.tensors) {
      if (!key.includes('lora_B') && !key.includes('embedding_B')) continue
      expect(tensors.get(key)!.bytes.equals(raw.bytes)).toBe(true)
    }
    expect(report.residual).toBe(0)
  })

  test.each(['linear', 'ties', 'dare_linear', 'dare_ties', 'magnitude_prune'] as const)(
    'is itself but for rounding by %s',
    async (method) => {
      const density = method === 'linear' ? {} : { density: 1 }
      const { updates, report } = await combine([c], { method, ...density })
      close(updates, exactSum([c]))
      expect(report.residual).toBeLessThan(1e-6)
    },
  )
})

describe('a sum of updates', () => {
  const adapters = [
    { ...a, weight: 0.7 },
    { ...c, weight: -0.4 },
    { ...d, weight: 1.5 },
  ]

  test('is exact by cat, and modules get the ranks they need', async () => {
    const { out, updates, config, report } = await combine(adapters)
    close(updates, exactSum(adapters), 1e-7)
    expect(config.r).toBe(15)
    expect(new Set(Object.values(config.rank_pattern))).toEqual(new Set([7, 8]))
    expect(config.rank_pattern).toEqual(config.alpha_pattern)
    expect(config.target_modules).toEqual([...updates.keys()].sort())
    expect(config.base_model_name_or_path).toBe('reasoner/base')
    expect(report.adapters).toEqual(adapters)
    expect((await verify(out)).tensors).toBe(2 * updates.size)
  })

  test('leaves out what has the weight 0', async () => {
    const { updates, config } = await combine([a, { ...c, weight: 0 }])
    close(updates, exactSum([a]), 1e-7)
    expect(config.r).toBe(4)
    expect(await failure(combine([{ ...a, weight: 0 }]))).toMatch(/_ARGUMENT: .*no factors/)
  })

  test('of a lower rank is the nearest one, and says how near', async () => {
    const full = exactSum(adapters)
    const { updates, report } = await combine(adapters, { method: 'linear', rank: 5 })
    let [lost, all] = [0, 0]
    for (const { module, rank, norm: length = 0, residual = 0 } of report.modules) {
      const { rows, columns, values: update } = updates.get(module)!
      const exact = full.get(module)!
      expect(rank).toBe(5)
      expect(length).toBeCloseTo(norm(exact), 5)
      expect(residual).toBeCloseTo(distance(update, exact) / norm(exact), 5)
      // nothing of what is lost lies in the directions that are kept
      const rest = exact.map((value, i) => value - update[i]!)
      const across = multiply(rest, transpose(update, rows, columns), rows, columns, rows)
      const along = multiply(transpose(rest, rows, columns), update, columns, rows, columns)
      expect(norm(across)).toBeLessThan(1e-5)
      expect(norm(along)).toBeLessThan(1e-5)
      lost += distance(update, exact) ** 2
      all += norm(exact) ** 2
    }
    expect(report.residual).toBeCloseTo(Math.sqrt(lost / all), 5)
  })

  test('is stored in the type that is asked for', async () => {
    const { tensors, updates } = await combine([a, b], { dtype: 'bfloat16' })
    const { tensors: full } = await combine([a, b])
    for (const [key, { shape, ...raw }] of tensors) {
      expect(raw.dtype).toBe('BF16')
      expect(raw.bytes.equals(bf16(values(full.get(key)!), shape).bytes)).toBe(true)
    }
    expect(updates.size).toBe(6)
    expect(await failure(combine([a], { dtype: 'int8' }))).toMatch(/_ARGUMENT: Expected dtype to be/)
  })
})

describe('a resized adapter', () => {
  const sum = (report: AdapterReport) => report.modules.map(({ rank }) => rank)

  test('keeps as few ranks as its energy or tolerance needs', async () => {
    const resize = async (options: object) => {
      const out = fresh('out')
      const report = await resizeAdapter(engine, c.adapter, { out, sync: false, ...options })
      return { report, updates: read(out).updates }
    }
    const exact = exactSum([c])
    for (const options of [{ energy: 0.8 }, { tolerance: Math.sqrt(0.2) }]) {
      const { report, updates } = await resize(options)
      for (const { module, rank } of report.modules) {
        const lost = (update: Float64Array) => distance(update, exact.get(module)!) ** 2 / norm(exact.get(module)!) ** 2
        expect(lost(updates.get(module)!.values)).toBeLessThanOrEqual(0.2 + 1e-6)
        expect(rank).toBeLessThan(7)
        const fewer = await resize({ rank: rank - 1 })
        expect(lost(fewer.updates.get(module)!.values)).toBeGreaterThan(0.2)
      }
    }
    expect(sum((await resize({ energy: 0.8, rank: 2 })).report)).toEqual(new Array(6).fill(2))
    expect(sum((await resize({ rank: 99 })).report)).toEqual(new Array(6).fill(7))
    close((await resize({ energy: 1 })).updates, exact)
    close((await resize({ tolerance: 0 })).updates, exact)
  })

  test('needs to be told how', async () => {
    const refused = (options: object) => failure(resizeAdapter(engine, a.adapter, { out: fresh('out'), ...options }))
    expect(await refused({})).toMatch(/_ARGUMENT: Give the rank/)
    expect(await refused({ rank: 1.5 })).toMatch(/_ARGUMENT: The rank is 1\.5/)
    expect(await refused({ energy: 0 })).toMatch(/_ARGUMENT: The energy is 0/)
    expect(await refused({ tolerance: 1 })).toMatch(/_ARGUMENT: The tolerance is 1/)
    expect(await refused({ energy: 0.5, tolerance: 0.5 })).toMatch(/_ARGUMENT: Both energy and tolerance/)
  })
})

describe('a mixture', () => {
  const gates = [0.7, 0.3]
  const mix = async (options: object = {}, adapters = [a.adapter, d.adapter]) => {
    const out = fresh('out')
    const report = await mixAdapters(engine, adapters, { out, gates, sync: false, ...options })
    return { report, ...read(out) }
  }

  test('of outputs is the sum that the gates weight', async () => {
    const { updates, config, report } = await mix({ mix: 'output' })
    close(
      updates,
      exactSum([
        { ...a, weight: 0.7 },
        { ...d, weight: 0.3 },
      ]),
      1e-7,
    )
    expect(config.r).toBe(8)
    expect(report.notes).toEqual([])
  })

  test('of factors has every B times every A, by the product of their gates', async () => {
    const { updates, config } = await mix()
    expect(config.r).toBe(4)
    const sides = [a, d].map(({ adapter }) => tensorsOf(adapter))
    const want = new Map<string, Float64Array>()
    for (const [module, { values: update }] of updates) {
      const sum = new Float64Array(update.length)
      const key = `base_model.model.${module}.lora_`
      for (const [i, bs] of sides.entries()) {
        for (const [j, as] of sides.entries()) {
          const [rawB, rawA] = [bs.get(`${key}B.weight`)!, as.get(`${key}A.weight`)!]
          // both have the scale 2
          const scale = 2 * gates[i]! * gates[j]!
          const product = multiply(values(rawB), values(rawA), rawB.shape[0]!, 4, rawA.shape[1]!, scale)
          for (const [at, value] of product.entries()) sum[at]! += value
        }
      }
      want.set(module, sum)
    }
    close(updates, want, 1e-6)
  })

  test('leaves out experts whose gate is 0, and notes gates that are no router\u2019s', async () => {
    const { updates, report } = await mix({ gates: [0, 0.5], mix: 'output' })
    close(updates, exactSum([{ ...d, weight: 0.5 }]), 1e-7)
    expect(report.notes).toEqual(['The gates add up to 0.5; those of a router add up to 1.'])
  })

  test('is refused where it cannot be told', async () => {
    expect(await failure(mix({ gates: [1] }))).toMatch(/_ARGUMENT: There are 2 adapters, but 1 gate\./)
    expect(await failure(mix({ gates: [1, -1] }))).toMatch(/_ARGUMENT: A gate is -1/)
    expect(await failure(mix({ mix: 'sum' }))).toMatch(/_ARGUMENT: There is no mixture "sum"/)
    expect(await failure(mix({}, [a.adapter, b.adapter]))).toMatch(/_ARGUMENT: The adapters have the scales 2 and 0\.5/)
    expect(await failure(mix({}, [a.adapter, c.adapter]))).toMatch(/_ARGUMENT: The adapters have the (scales|ranks)/)
  })
})

describe('DARE', () => {
  const dare = (options: object = {}, adapters = [a]) =>
    combine(adapters, { method: 'dare_linear', density: 0.5, peftCompat: true, ...options })

  test('drops elements at random, of each adapter others, and divides the rest by the density', async () => {
    const { tensors } = await dare()
    let [kept, all] = [0, 0]
    for (const [key, raw] of tensorsOf(a.adapter)) {
      const before = values(raw)
      for (const [i, value] of values(tensors.get(key)!).entries()) {
        all++
        if (value === 0) continue
        kept++
        // the root of the scale, 2, over the density
        expect(value).toBeCloseTo((before[i]! * Math.SQRT2) / 0.5, 5)
      }
    }
    expect(Math.abs(kept / all - 0.5)).toBeLessThan(0.02)
    const difference = await dare({ peftCompat: false, rank: 64 }, [a, { ...a, weight: -1 }])
    for (const { values: update } of difference.updates.values()) expect(norm(update)).toBeGreaterThan(0.5)
  })

  test('is decided by the seed', async () => {
    const bytes = async (seed: number) =>
      readFileSync(join((await dare({ seed, peftCompat: false, rank: 4 }, [a, b])).out, 'adapter_model.safetensors'))
    expect((await bytes(1)).equals(await bytes(1))).toBe(true)
    expect((await bytes(1)).equals(await bytes(2))).toBe(false)
  })
})

describe('tensors that an adapter has as a whole', () => {
  const head = (seed: number) =>
    bf16(
      Array.from({ length: 64 * 128 }, (_, i) => Math.sin(i * seed)),
      [64, 128],
    )
  const withHead = (name: string, raw: Raw, key = 'lm_head.weight') => {
    const path = fresh(name)
    cpSync(fixture(name), path, { recursive: true })
    writeSafetensors(join(path, 'adapter_model.safetensors'), {
      ...Object.fromEntries(tensorsOf(path)),
      [`base_model.model.${key}`]: raw,
    })
    return path
  }

  test('are copied where the weights add up to the tensor itself', async () => {
    const [one, two] = [withHead('a', head(3)), withHead('b', head(3))]
    const both = [
      { adapter: one, weight: 0.6 },
      { adapter: two, weight: 0.4 },
    ]
    for (const adapters of [both, [{ adapter: one }, { ...b, weight: 0.3 }]]) {
      const { tensors, config, report } = await combine(adapters)
      const copy = tensors.get('base_model.model.lm_head.weight')!
      expect(copy.dtype).toBe('BF16')
      expect(copy.bytes.equals(head(3).bytes)).toBe(true)
      expect(config.modules_to_save).toEqual(['lm_head'])
      expect(report.whole).toEqual(['lm_head.weight'])
    }
  })

  test('are refused where they cannot be weighted', async () => {
    const [one, two] = [withHead('a', head(3)), withHead('b', head(4))]
    expect(await failure(combine([{ adapter: one, weight: 0.5 }, b]))).toMatch(/_FORMAT: .*lm_head.weight as a whole/)
    const both = [
      { adapter: one, weight: 0.5 },
      { adapter: two, weight: 0.5 },
    ]
    expect(await failure(combine(both))).toMatch(/_FORMAT: The adapters differ in lm_head.weight/)
    const bias = withHead('a', bf16(new Array(128).fill(1), [128]), 'model.layers.0.self_attn.q_proj.bias')
    expect(await failure(combine([{ adapter: bias }]))).toMatch(/_FORMAT: .*also replaces .*q_proj.bias/)
  })
})

test('a combination folds into a model as its adapters do', async () => {
  const adapters = [
    { ...a, weight: 0.7 },
    { ...d, weight: -0.4 },
  ]
  const model = golden('reasoner/base')
  const fold = async (of: (string | WeightedAdapter)[]) => {
    const out = fresh('folded')
    await foldAdapters(engine, model, { out, adapters: of, dtype: 'float32', sync: false })
    return readFolder(out)
  }
  const [together, apart] = [await fold([(await combine(adapters)).out]), await fold(adapters)]
  for (const [name, raw] of apart) {
    const [want, got] = [values(raw), values(together.get(name)!)]
    expect(distance(got, want)).toBeLessThanOrEqual(1e-6 * norm(want))
  }
})

test('an adapter of mlx-lm counts like one of PEFT', async () => {
  const path = fresh('mlx')
  mkdirSync(path)
  const parameters = { rank: 4, scale: 2 }
  const config = { fine_tune_type: 'lora', num_layers: 8, lora_parameters: parameters, model: 'some/model' }
  writeFileSync(join(path, 'adapter_config.json'), JSON.stringify(config))
  const turned = [...tensorsOf(a.adapter)].map(([key, raw]) => {
    const [height = 0, width = 0] = raw.shape
    const name = key
      .replace('base_model.model.', '')
      .replace(/lora_([AB])\.weight$/, (_, side) => `lora_${side.toLowerCase()}`)
    return [name, f32(transpose(values(raw), height, width), [width, height])] as const
  })
  writeSafetensors(join(path, 'adapters.safetensors'), Object.fromEntries(turned))
  const { updates, config: written } = await combine([{ adapter: path }])
  close(updates, exactSum([a]), 0)
  expect(written.base_model_name_or_path).toBe('some/model')
  const { updates: both, report } = await combine([{ ...c, weight: 0.5 }, path], { method: 'linear', rank: 11 })
  close(both, exactSum([{ ...c, weight: 0.5 }, a]))
  expect(report.notes.join()).toMatch(/was trained on reasoner\/base, and .* on some\/model/)
})

test.each(['embedding', 'modules-to-save', 'rslora', 'patterns', 'all-linear', 'f16', 'target-parameters'])(
  'what PEFT saves with an adapter stays with it: %s',
  async (name) => {
    const path = golden(`lora/adapters/${name}`)
    const before = readSafetensors(join(path, 'adapter_model.safetensors'))
    const { tensors, report } = await combine([path], { method: 'linear' })
    expect([...tensors.keys()].sort()).toEqual([...before.keys()].sort())
    for (const [key, raw] of before) {
      if (key.includes('lora_')) continue
      expect(tensors.get(key)!.bytes.equals(raw.bytes)).toBe(true)
    }
    expect(report.residual).toBeLessThan(1e-6)
  },
)

describe('what cannot be combined', () => {
  test.each([
    ['dora', 'scales .* \\(DoRA\\)'],
    ['pissa', 'was begun from a part of'],
    ['olora', 'was begun from a part of'],
    ['lora-bias', 'adds to .* \\(lora_bias\\)'],
    ['bias-lora-only', 'also replaces .*bias'],
    ['trainable-tokens', 'replaces rows of'],
  ])('is %s', async (name, why) => {
    const adapter = golden(`lora/adapters/${name}`)
    expect(await failure(combine([adapter]))).toMatch(new RegExp(`^ERR_WEIGHTSMITH_FORMAT: .*${why}`))
    expect(await failure(resizeAdapter(engine, adapter, { out: fresh('out'), rank: 2 }))).toMatch(/_FORMAT/)
  })

  test('is refused by name', async () => {
    const changed = (config: object) => {
      const path = fresh('changed')
      const before = JSON.parse(readFileSync(join(a.adapter, 'adapter_config.json'), 'utf8'))
      return { adapter: writeAdapter(path, { ...before, ...config }, Object.fromEntries(tensorsOf(a.adapter))) }
    }
    const factors = 'base_model.model.model.layers.0.mlp.experts.lora_'
    const experts = writeAdapter(
      fresh('experts'),
      { r: 2, lora_alpha: 2, target_modules: [], target_parameters: ['mlp.experts.gate_up_proj'] },
      {
        [`${factors}A.weight`]: f32(new Array(40).fill(1), [4, 10]),
        [`${factors}B.weight`]: f32(new Array(48).fill(1), [12, 4]),
      },
    )
    expect(await failure(combine([experts]))).toMatch(/_FORMAT: .*gate_up_proj, a parameter of experts/)
    expect(await failure(combine([a, changed({ fan_in_fan_out: true })]))).toMatch(/_ARGUMENT: .*fan_in_fan_out/)
    const [key] = [...tensorsOf(a.adapter).keys()].filter((name) => name.endsWith('lora_B.weight'))
    const smaller = fresh('smaller')
    const tensors = Object.fromEntries(tensorsOf(a.adapter))
    tensors[key!] = f32(new Array(40).fill(1), [10, 4])
    writeAdapter(smaller, { r: 4, lora_alpha: 8, target_modules: ['q_proj', 'v_proj'] }, tensors)
    expect(await failure(combine([a, { adapter: smaller }]))).toMatch(/_SHAPE_MISMATCH: .*\[10, 128\]/)
    expect(await failure(combine([a, c], { method: 'linear', peftCompat: true }))).toMatch(/_ARGUMENT: .*ranks 4 and 7/)
    expect(await failure(combine([]))).toMatch(/_ARGUMENT: Expected adapters to be a list/)
    expect(await failure(combine([{ ...a, weight: Number.NaN }]))).toMatch(/_ARGUMENT: Expected weight to be a number/)
    expect(await failure(combine([{ adapter: fresh('none') }]))).toMatch(/_NOT_FOUND/)
  })

  test('are options that do not fit', async () => {
    const refused = (options: object) => failure(combine([a, b], options as CombineOptions))
    expect(await refused({ method: 'svd' })).toMatch(/_ARGUMENT: There is no method "svd"/)
    expect(await refused({ rank: 4 })).toMatch(/_ARGUMENT: The method cat keeps all ranks/)
    expect(await refused({ method: 'linear', rank: 4, peftCompat: true })).toMatch(/_ARGUMENT: .*leave out rank/)
    expect(await refused({ method: 'ties' })).toMatch(/_ARGUMENT: The method ties needs a density/)
    expect(await refused({ method: 'linear', density: 0.5 })).toMatch(/_ARGUMENT: The method linear takes no density/)
    expect(await refused({ method: 'ties', density: 0 })).toMatch(/_ARGUMENT: The density is 0/)
    expect(await refused({ method: 'linear', majority: 'total' })).toMatch(/_ARGUMENT: .*takes no majority/)
  })

  test('leaves nothing behind, and neither does a dry run', async () => {
    const out = fresh('out')
    const stop = new AbortController()
    const aborted = combine([a, b], { out, method: 'linear', signal: stop.signal, onProgress: () => stop.abort() })
    expect(await failure(aborted)).toMatch(/_ABORTED/)
    const { forecast } = await combineAdapters(engine, [a, c], { out, dryRun: true })
    for (const path of [out, `${out}.partial`]) expect(existsSync(path)).toBe(false)
    const { report } = await combine([a, c], { out })
    expect(forecast).toMatchObject({ out, method: 'cat', modules: 9, rank: 11, bytesWritten: report.bytesWritten })
    expect(forecast.bytesRead).toBe(report.bytesRead)
    expect(await failure(combine([a], { out }))).toMatch(/_OUTPUT_EXISTS/)
    await combine([a], { out, overwrite: true })
    expect(await failure(combine([{ adapter: out }], { out, overwrite: true }))).toMatch(/_OUTPUT_INSIDE_INPUT/)
  })
})

test('the same bytes come out on the bundled driver', async () => {
  const bundled = await Engine.open({ device: 'swiftshader' })
  try {
    const runs: ((on: Engine, out: string) => Promise<unknown>)[] = [
      (on, out) => combineAdapters(on, [{ ...a, weight: 0.7 }, c], { out, sync: false }),
      (on, out) => combineAdapters(on, [{ ...a, weight: 0.7 }, c], { out, method: 'linear', rank: 5, sync: false }),
      (on, out) => combineAdapters(on, [a, b], { out, method: 'ties', density: 0.4, sync: false }),
      (on, out) => combineAdapters(on, [a, b], { out, method: 'dare_ties', density: 0.4, sync: false }),
      (on, out) => mixAdapters(on, [a.adapter, d.adapter], { out, gates: [0.7, 0.3], sync: false }),
    ]
    for (const run of runs) {
      const [own, other] = [fresh('out'), fresh('out')]
      await run(engine, own)
      await run(bundled, other)
      const bytes = (out: string) => readFileSync(join(out, 'adapter_model.safetensors'))
      expect(bytes(own).equals(bytes(other))).toBe(true)
    }
  } finally {
    await bundled.close()
  }
})

describe('the command line', () => {
  test('combines, resizes and mixes', async () => {
    const both = fresh('out')
    const made = await cli('lora', 'combine', both, '--adapter', `${a.adapter}=0.7`, `${c.adapter}=-0.5`, '--json')
    expect(made.stderr).toBe('')
    expect(JSON.parse(made.stdout)).toMatchObject({
      out: both,
      method: 'cat',
      adapters: [{ weight: 0.7 }, { weight: -0.5 }],
    })
    close(
      read(both).updates,
      exactSum([
        { ...a, weight: 0.7 },
        { ...c, weight: -0.5 },
      ]),
      1e-7,
    )
    const small = fresh('out')
    const resized = await cli('lora', 'resize', both, small, '--rank', '3')
    expect(resized.stdout).toMatch(/9 modules of rank 3, .*\n.*The ranks lose \d+(\.\d+)? % of the norm/s)
    const mixed = fresh('out')
    const ended = await cli(
      'lora',
      'mix',
      mixed,
      '--adapter',
      a.adapter,
      d.adapter,
      '--gates',
      '0.7',
      '0.3',
      '--dry-run',
    )
    expect(ended.stdout).toMatch(/Would make .* of 2 adapters by mix \(factor\): 6 modules of rank 4 at most/)
    expect(existsSync(mixed)).toBe(false)
    const wrong = await cli('lora', 'combine', fresh('out'), '--adapter', a.adapter, '--rank', '2', '--json')
    expect(wrong.code).toBe(2)
    expect(wrong.stderr + wrong.stdout).toMatch(/cat keeps all ranks/)
  })
})

describe('an update that is too large to be decomposed as a whole', () => {
  const [rows, columns, rank] = [600, 520, 6]
  /** Six directions, each half as strong as the one before. */
  const large = () => {
    const wave = (length: number, seed: number) => Array.from({ length }, (_, i) => Math.sin(i * i * seed + seed))
    const halves = wave(rank * columns, 0.37).map((x, i) => x * 0.5 ** Math.floor(i / columns))
    const path = writeAdapter(
      fresh('large'),
      { r: rank, lora_alpha: rank, target_modules: ['q_proj'] },
      {
        'base_model.model.q_proj.lora_A.weight': f32(halves.map(Math.fround), [rank, columns]),
        'base_model.model.q_proj.lora_B.weight': f32(wave(rows * rank, 0.73).map(Math.fround), [rows, rank]),
      },
    )
    return { adapter: path }
  }

  test('is found all the same, as near as the best', async () => {
    const adapter = large()
    const exact = exactSum([adapter])
    const whole = { method: 'ties', density: 1 } as const
    close((await combine([adapter], whole)).updates, exact)
    for (const target of [{ rank: 3 }, { energy: 0.9 }, { tolerance: 0.1 }]) {
      const [{ report, updates }, best] = [
        await combine([adapter], { ...whole, ...target }),
        await combine([adapter], { method: 'linear', ...target }),
      ]
      const [found, other] = [report.modules[0]!, best.report.modules[0]!]
      expect(found.rank).toBe(other.rank)
      expect(found.rank).toBeLessThan(rank)
      expect(found.residual).toBeCloseTo(other.residual!, 6)
      expect(found.norm).toBeCloseTo(other.norm!, 2)
      const update = exact.get('q_proj')!
      expect(distance(updates.get('q_proj')!.values, update) / norm(update)).toBeCloseTo(found.residual!, 5)
    }
  })

  test('has as many ranks as its energy needs, also where that takes the whole matrix', async () => {
    const adapter = large()
    const pruned = { method: 'magnitude_prune', density: 0.2 } as const
    const [few, many] = [
      await combine([adapter], { ...pruned, energy: 0.5 }),
      await combine([adapter], { ...pruned, energy: 0.995 }),
    ]
    expect(few.report.modules[0]!.rank).toBeLessThanOrEqual(128)
    expect(few.report.modules[0]!.residual).toBeLessThanOrEqual(Math.sqrt(0.5))
    expect(many.report.modules[0]!.rank).toBeGreaterThan(128)
    expect(many.report.modules[0]!.residual).toBeLessThanOrEqual(Math.sqrt(0.005) + 1e-6)
  })
})
