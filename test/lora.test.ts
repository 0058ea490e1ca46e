/** The verbs of LoRA that read adapters: fold and inspect, with adapters of every kind that can be folded. */
import { copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import {
  diff,
  Engine,
  evaluate,
  type FoldOptions,
  foldAdapters,
  generate,
  inspectAdapter,
  merge,
  openScores,
  score,
} from 'weightsmith'
import { bf16, f32, type Raw, readFolder, readSafetensors, values, writeModel, writeSafetensors } from './checkpoint.js'
import { cli } from './child.js'
import { golden } from './goldens.js'
import { math } from './math.js'
import * as reference from './reference/merge.js'
import { scratch } from './scratch.js'

let engine: Engine
const { fresh } = scratch('lora')

beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

const wave = (length: number, seed: number) => Array.from({ length }, (_, i) => math.fround(math.sin(i * seed + seed)))
const layer = 'model.layers.0'
const [q, up, table, head] = [`${layer}.self_attn.q_proj`, `${layer}.mlp.up_proj`, 'model.embed_tokens', 'lm_head']
const [rows, columns, rank] = [48, 40, 4]

function model(store = f32, more: Record<string, Raw> = {}, config: object = {}): string {
  return writeModel(
    fresh('model'),
    {
      [`${table}.weight`]: store(wave(10 * columns, 2), [10, columns]),
      [`${q}.weight`]: store(wave(rows * columns, 1), [rows, columns]),
      [`${up}.weight`]: store(wave(rows * columns, 3), [rows, columns]),
      ...more,
    },
    { num_hidden_layers: 1, vocab_size: 10, model_type: 'llama', tie_word_embeddings: false, ...config },
  )
}

function adapter(tensors: Record<string, Raw>, config: object = {}, mlx = false): string {
  const path = fresh('adapter')
  mkdirSync(path)
  const peft = { peft_type: 'LORA', r: rank, lora_alpha: 6, bias: 'none', ...config }
  writeFileSync(join(path, 'adapter_config.json'), JSON.stringify(mlx ? config : peft))
  const named = Object.entries(tensors).map(([name, raw]) => [mlx ? name : `base_model.model.${name}`, raw])
  writeSafetensors(
    join(path, mlx ? 'adapters.safetensors' : 'adapter_model.safetensors'),
    Object.fromEntries(named) as Record<string, Raw>,
  )
  return path
}

const factors = (module: string, seed: number, outputs = rows, inputs = columns, r = rank) => ({
  [`${module}.lora_A.weight`]: f32(wave(r * inputs, seed), [r, inputs]),
  [`${module}.lora_B.weight`]: f32(wave(outputs * r, seed + 1), [outputs, r]),
})

/** W + s (B A) of the factors above. */
const adapted = (weight: ArrayLike<number>, seed: number, scale: number, outputs = rows, inputs = columns, r = rank) =>
  reference.lora(Array.from(weight), wave(outputs * r, seed + 1), wave(r * inputs, seed), {
    columns: inputs,
    rank: r,
    scale,
    transposed: false,
  })

async function fold(base: string, adapters: FoldOptions['adapters'], options: Partial<FoldOptions> = {}) {
  const out = fresh('out')
  const report = await foldAdapters(engine, base, { adapters, out, sync: false, ...options, dryRun: false })
  return { out, report, tensors: readFolder(out) }
}

const failure = (base: string, adapters: FoldOptions['adapters'], options: Partial<FoldOptions> = {}) =>
  fold(base, adapters, options).then(
    () => 'no error',
    (error: Error & { code?: string }) => `${error.code}: ${error.message}`,
  )

function near(raw: Raw | undefined, want: ArrayLike<number>, bound = 4e-6): void {
  const got = values(raw!)
  expect(got.length).toBe(want.length)
  for (let i = 0; i < got.length; i++) {
    if (!(math.abs(got[i]! - want[i]!) <= bound)) expect({ i, got: got[i], want: want[i] }).toBe(`within ${bound}`)
  }
}

const configOf = (out: string) => JSON.parse(readFileSync(join(out, 'config.json'), 'utf8')) as Record<string, unknown>

describe('fold', () => {
  test('adds several adapters in order, each with its weight, as a recipe does', async () => {
    const base = model()
    const [a, b] = [
      adapter(factors(q, 5)),
      adapter({ ...factors(q, 7, rows, columns, 2), ...factors(up, 8, rows, columns, 2) }, { r: 2 }),
    ]
    const { tensors, report } = await fold(base, [a, { adapter: b, weight: -0.5 }])
    near(tensors.get(`${q}.weight`), adapted(adapted(wave(rows * columns, 1), 5, 1.5), 7, -1.5, rows, columns, 2))
    near(tensors.get(`${up}.weight`), adapted(wave(rows * columns, 3), 8, -1.5, rows, columns, 2))
    expect(report.adapters).toEqual([
      { adapter: a, weight: 1 },
      { adapter: b, weight: -0.5 },
    ])
    expect(report.notes).toEqual([])

    const both = await fold(base, [a, b])
    const out = fresh('merged')
    await merge(engine, { merge_method: 'passthrough', models: [{ model: `${base}+${a}+${b}` }] }, { out, sync: false })
    for (const [name, { bytes }] of readFolder(out)) expect(both.tensors.get(name)!.bytes.equals(bytes)).toBe(true)
  })

  test('takes back what it has added', async () => {
    const base = model(bf16)
    const a = adapter(factors(q, 5), { lora_alpha: 1 })
    const there = await fold(base, [a], { dtype: 'float32' })
    const back = await fold(there.out, [{ adapter: a, weight: -1 }], { dtype: 'bfloat16' })
    for (const [name, { bytes }] of readFolder(base)) expect(back.tensors.get(name)!.bytes.equals(bytes)).toBe(true)
  })

  test('gives the same bytes whatever tiles cut rows into, and in columns that strips share', async () => {
    const [long, r] = [1416, 8]
    const weight = wave(130 * long, 4)
    const base = model(bf16, { [`${layer}.mlp.down_proj.weight`]: bf16(weight, [130, long]) })
    const path = adapter(factors(`${layer}.mlp.down_proj`, 5, 130, long, r), { r })
    const [whole, cut] = [await fold(base, [path]), await fold(base, [path], { memory: '400KiB' })]
    const stored = values(readFolder(base).get(`${layer}.mlp.down_proj.weight`)!)
    const want = adapted(stored, 5, 0.75, 130, long, r)
    const raw = whole.tensors.get(`${layer}.mlp.down_proj.weight`)!
    near(raw, want, 0.06)
    const exact = bf16(want.map(math.fround), [130, long])
    const rounded = values(exact)
    const apart = values(raw).filter((value, i) => value !== rounded[i]).length
    expect(apart).toBeLessThan(want.length * 1e-4)
    expect(cut.tensors.get(`${layer}.mlp.down_proj.weight`)!.bytes.equals(raw.bytes)).toBe(true)
    expect(cut.report.folded).toEqual(whole.report.folded)
  })

  test('adds more adapters than one kernel takes', async () => {
    const base = model()
    const all = Array.from({ length: 19 }, (_, i) =>
      adapter(factors(q, 5 + i, rows, columns, 1), { r: 1, lora_alpha: 0.1 }),
    )
    const { tensors, report } = await fold(base, all)
    let want: ArrayLike<number> = wave(rows * columns, 1)
    for (const [i] of all.entries()) want = adapted(want, 5 + i, 0.1, rows, columns, 1)
    near(tensors.get(`${q}.weight`), want)
    expect(report.notes.join()).toMatch(/1 tensor is made before the merge/)
  })

  test('says how many elements changed, and of how many the rounding swallowed the change', async () => {
    const base = model(bf16)
    for (const lora_alpha of [6, 0.002]) {
      const { tensors, report } = await fold(base, [adapter(factors(q, 5), { lora_alpha })], { checksum: 'none' })
      const [was, is] = [values(readFolder(base).get(`${q}.weight`)!), values(tensors.get(`${q}.weight`)!)]
      const changed = is.filter((value, i) => value !== was[i]).length
      expect(report.folded).toEqual({ elements: rows * columns, changed, swallowed: rows * columns - changed })
      expect(report.adapted).toEqual([{ tensor: `${q}.weight`, ...report.folded }])
    }
    const still = adapter({
      ...factors(q, 5),
      [`${q}.lora_B.weight`]: f32(new Float32Array(rows * rank), [rows, rank]),
    })
    expect((await fold(base, [still])).report.folded).toEqual({ elements: rows * columns, changed: 0, swallowed: 0 })
  })

  test('refuses weights other than 1 where there is no sum to scale', async () => {
    const base = model()
    const m = { [`${q}.lora_magnitude_vector`]: f32(wave(rows, 3)) }
    const dora = adapter({ ...factors(q, 5), ...m }, { use_dora: true })
    const whole = adapter({ ...factors(q, 5), [`${up}.weight`]: f32(wave(rows * columns, 9), [rows, columns]) })
    expect(await failure(base, [{ adapter: dora, weight: -1 }])).toMatch(
      /FORMAT: .*weight is -1, but it is a DoRA adapter/,
    )
    expect(await failure(base, [{ adapter: whole, weight: 0.5 }])).toMatch(
      /FORMAT: .*weight is 0.5, but it replaces .*up_proj/,
    )
    expect(await failure(base, [{ adapter: whole, weight: Number.NaN }])).toMatch(/ARGUMENT: .*weight to be a number/)
    expect(await failure('constructor', [whole])).toMatch(/NOT_FOUND: Model constructor not found/)
    expect(await failure(base, [])).toMatch(/ARGUMENT: .*at least one adapter/)
  })

  test('gives the rows of a DoRA adapter their lengths, and leaves a row without a direction at 0', async () => {
    const weight = wave(rows * columns, 1)
    const m = wave(rows, 3)
    const b = wave(rows * rank, 6)
    for (let j = 0; j < columns; j++) weight[j] = 0
    for (let k = 0; k < rank; k++) b[k] = 0
    const base = model(f32, { [`${q}.weight`]: f32(weight, [rows, columns]) })
    const { tensors } = await fold(base, [
      adapter(
        {
          ...factors(q, 5),
          [`${q}.lora_B.weight`]: f32(b, [rows, rank]),
          [`${q}.lora_magnitude_vector.weight`]: f32(m),
        },
        { use_dora: true },
      ),
    ])
    const sum = reference.lora(weight, b, wave(rank * columns, 5), { columns, rank, scale: 1.5, transposed: false })
    const want = sum.map((value, i) => {
      const row = math.floor(i / columns)
      const length = math.hypot(...sum.subarray(row * columns, (row + 1) * columns))
      return row === 0 ? 0 : (value * m[row]!) / length
    })
    near(tensors.get(`${q}.weight`), want, 1e-6)
  })

  test('splits a table for both ends only where it is asked to', async () => {
    const base = model(f32, {}, { tie_word_embeddings: true })
    const words = adapter({
      [`${table}.lora_embedding_A`]: f32(wave(rank * 10, 5), [rank, 10]),
      [`${table}.lora_embedding_B`]: f32(wave(columns * rank, 7), [columns, rank]),
    })
    expect(await failure(base, [words])).toMatch(/FORMAT: .*one table for both; fold it with --untie/)
    const { out, tensors } = await fold(base, [words], { untie: true })
    const options = { columns, rank, scale: 1.5, transposed: true }
    near(
      tensors.get(`${table}.weight`),
      reference.lora(wave(10 * columns, 2), wave(columns * rank, 7), wave(rank * 10, 5), options),
    )
    near(tensors.get(`${head}.weight`), wave(10 * columns, 2), 0)
    expect(configOf(out).tie_word_embeddings).toBe(false)
  })

  test('lets the vocabulary grow only where it is asked to', async () => {
    const base = model(f32, { [`${head}.weight`]: f32(wave(10 * columns, 4), [10, columns]) })
    const grown = adapter({
      [`${table}.weight`]: f32(wave(12 * columns, 5), [12, columns]),
      [`${head}.weight`]: f32(wave(12 * columns, 6), [12, columns]),
    })
    expect(await failure(base, [grown])).toMatch(
      /FORMAT: .*it has 12 rows in its tables of tokens; fold it with --resize/,
    )
    const { out, tensors } = await fold(base, [grown], { resize: true })
    expect(tensors.get(`${head}.weight`)!.shape).toEqual([12, columns])
    expect(configOf(out).vocab_size).toBe(12)
  })

  test('replaces rows of tokens by their ids, of one table or several', async () => {
    const base = model(f32, { [`${head}.weight`]: f32(wave(10 * columns, 4), [10, columns]) })
    const delta = (module: string, seed: number) => ({
      [`${module}.token_adapter.trainable_tokens_delta`]: f32(wave(2 * columns, seed), [2, columns]),
    })
    const indices = { embed_tokens: [7, 2], lm_head: [0, 9] }
    const tokens = adapter({ ...delta(table, 5), ...delta(head, 6) }, { trainable_token_indices: indices })
    const { tensors } = await fold(base, [tokens])
    for (const [module, ids, seed, own] of [
      [table, indices.embed_tokens, 5, 2],
      [head, indices.lm_head, 6, 4],
    ] as const) {
      const want = wave(10 * columns, own)
      for (const [row, id] of ids.entries()) {
        for (let j = 0; j < columns; j++) want[id * columns + j] = wave(2 * columns, seed)[row * columns + j]!
      }
      near(tensors.get(`${module}.weight`), want, 0)
    }
    const beyond = adapter(delta(table, 5), { trainable_token_indices: [3, 10] })
    expect(await failure(base, [beyond])).toMatch(
      /SHAPE_MISMATCH: .*row for token 10, but .*embed_tokens.weight has 10 rows/,
    )
    const less = adapter(delta(table, 5), { trainable_token_indices: [3] })
    expect(await failure(base, [less])).toMatch(/FORMAT: .*\[2, 40\], but its config names 1 tokens/)
  })

  test('finds the text model of a larger one, and the reverse', async () => {
    const larger = model(f32, { 'model.language_model.layers.0.self_attn.k_proj.weight': f32(wave(80, 4), [2, 40]) })
    const k = (name: string) => adapter(factors(name, 5, 2))
    const want = adapted(wave(80, 4), 5, 1.5, 2)
    for (const name of ['model.layers.0.self_attn.k_proj', 'language_model.model.layers.0.self_attn.k_proj']) {
      const { tensors } = await fold(larger, [k(name)])
      near(tensors.get('model.language_model.layers.0.self_attn.k_proj.weight'), want)
    }
    const { tensors } = await fold(model(), [adapter(factors('layers.0.self_attn.q_proj', 5))])
    near(tensors.get(`${q}.weight`), adapted(wave(rows * columns, 1), 5, 1.5))
  })
})

describe('experts', () => {
  const experts = 3
  const owner = `${layer}.mlp.experts`
  const place = (parameter: string) => `${owner}.${parameter}`
  /** A [r E, in] and B [out, r E], where the expert is the fastest index of B. */
  const stacked = (path: string, seed: number, outputs: number, inputs: number) => ({
    [`${path}.lora_A.weight`]: f32(wave(rank * experts * inputs, seed), [rank * experts, inputs]),
    [`${path}.lora_B.weight`]: f32(wave(outputs * rank * experts, seed + 1), [outputs, rank * experts]),
  })
  function want(weight: number[], seed: number, outputs: number, inputs: number, transposed: boolean): number[] {
    const [a, b] = [wave(rank * experts * inputs, seed), wave(outputs * rank * experts, seed + 1)]
    return weight.map((value, at) => {
      const [e, rest] = [math.floor(at / (outputs * inputs)), at % (outputs * inputs)]
      const width = transposed ? outputs : inputs
      const [row, column] = [math.floor(rest / width), rest % width]
      const [o, i] = transposed ? [column, row] : [row, column]
      let sum = 0
      for (let k = 0; k < rank; k++) {
        sum += a[(e * rank + k) * inputs + i]! * b[o * rank * experts + k * experts + e]!
      }
      return value + 1.5 * sum
    })
  }

  test.each([
    ['as [out, in]', false],
    ['as [in, out]', true],
  ])('of one tensor fold whether they are stored %s', async (_, transposed) => {
    const [outputs, inputs] = [6, 8]
    const shape = transposed ? [experts, inputs, outputs] : [experts, outputs, inputs]
    const weight = wave(experts * outputs * inputs, 4)
    const base = model(f32, { [place('down_proj')]: f32(weight, shape) })
    const { tensors } = await fold(base, [
      adapter(stacked(owner, 5, outputs, inputs), { target_parameters: ['mlp.experts.down_proj'] }),
    ])
    near(tensors.get(place('down_proj')), want(weight, 5, outputs, inputs, transposed))
  })

  test('of two parameters are told apart by how deep they lie', async () => {
    const [hidden, inner] = [8, 5]
    const [first, second] = [wave(experts * 2 * inner * hidden, 4), wave(experts * hidden * inner, 6)]
    const base = model(f32, {
      [place('gate_up_proj')]: f32(first, [experts, 2 * inner, hidden]),
      [place('down_proj')]: f32(second, [experts, hidden, inner]),
    })
    const { tensors } = await fold(base, [
      adapter(
        { ...stacked(owner, 7, hidden, inner), ...stacked(`${owner}.base_layer`, 9, 2 * inner, hidden) },
        { target_parameters: ['experts.down_proj', 'experts.gate_up_proj'] },
      ),
    ])
    near(tensors.get(place('gate_up_proj')), want(first, 9, 2 * inner, hidden, false))
    near(tensors.get(place('down_proj')), want(second, 7, hidden, inner, false))
  })

  test.each([
    ['mlp.experts', ['gate_proj', 'up_proj']],
    ['block_sparse_moe.experts', ['w1', 'w3']],
  ])('that a base stores by themselves as %s get their rows of the change', async (folder, [gate = '', up = '']) => {
    const [hidden, inner] = [8, 5]
    const name = (e: number, part: string) => `${layer}.${folder}.${e}.${part}.weight`
    const each = [0, 1, 2].flatMap((e) =>
      [gate, up].map((part, i) => [name(e, part), f32(wave(inner * hidden, 4 + e + 3 * i), [inner, hidden])] as const),
    )
    const base = model(f32, Object.fromEntries(each))
    const { tensors } = await fold(base, [
      adapter(stacked(owner, 7, 2 * inner, hidden), { target_parameters: ['mlp.experts.gate_up_proj'] }),
    ])
    const joined = [0, 1, 2].flatMap((e) => [...wave(inner * hidden, 4 + e), ...wave(inner * hidden, 7 + e)])
    const all = want(joined, 7, 2 * inner, hidden, false)
    for (const e of [0, 1, 2]) {
      for (const [i, part] of [gate, up].entries()) {
        near(tensors.get(name(e, part)), all.slice((2 * e + i) * inner * hidden, (2 * e + i + 1) * inner * hidden))
      }
    }
  })

  test('that are square are refused where nothing says how they are stored', async () => {
    const weight = wave(experts * 64, 4)
    const tensors = { [place('down_proj')]: f32(weight, [experts, 8, 8]) }
    const square = adapter(stacked(owner, 5, 8, 8), { target_parameters: ['experts.down_proj'] })
    expect(await failure(model(f32, tensors), [square])).toMatch(/FORMAT: .*down_proj are square, and neither/)
    const { tensors: folded } = await fold(model(f32, tensors, { model_type: 'gpt_oss' }), [square])
    near(folded.get(place('down_proj')), want(weight, 5, 8, 8, true))
  })

  test('of another shape, or too many of them, are refused', async () => {
    const base = model(f32, { [place('down_proj')]: f32(wave(experts * 48, 4), [experts, 6, 8]) })
    const parameters = { target_parameters: ['experts.down_proj'] }
    expect(await failure(base, [adapter(stacked(owner, 5, 6, 9), parameters)])).toMatch(/SHAPE_MISMATCH/)
    expect(await failure(base, [adapter(stacked(owner, 5, 6, 8), { r: 2, ...parameters })])).toMatch(/SHAPE_MISMATCH/)
    expect(await failure(base, [adapter(stacked(owner, 5, 6, 8), { r: 5, ...parameters })])).toMatch(/says rank 5/)
    const two = { target_parameters: ['experts.down_proj', 'experts.gate_up_proj'] }
    expect(await failure(base, [adapter(stacked(owner, 5, 6, 8), two)])).toMatch(/FORMAT: .*but it has 1 of them/)
  })
})

describe('an adapter of mlx-lm', () => {
  const mlx = { fine_tune_type: 'lora', num_layers: 1, lora_parameters: { rank, scale: 2.5, dropout: 0 } }
  const turned = (module: string) => ({
    [`${module}.lora_a`]: f32(wave(columns * rank, 7), [columns, rank]),
    [`${module}.lora_b`]: f32(wave(rank * rows, 5), [rank, rows]),
  })
  const options = { columns, rank, scale: 2.5, transposed: true }

  test('is turned, and its scale is taken as it is', async () => {
    const { tensors } = await fold(model(), [adapter(turned(q), mlx, true)])
    near(
      tensors.get(`${q}.weight`),
      reference.lora(wave(rows * columns, 1), wave(columns * rank, 7), wave(rank * rows, 5), options),
    )
    const { tensors: usual } = await fold(model(), [adapter(turned(q), { fine_tune_type: 'lora' }, true)])
    near(
      usual.get(`${q}.weight`),
      reference.lora(wave(rows * columns, 1), wave(columns * rank, 7), wave(rank * rows, 5), { ...options, scale: 20 }),
      2e-5,
    )
  })

  test('changes tables of tokens, experts, lengths of rows, and whole weights', async () => {
    const words = {
      [`${table}.lora_a`]: f32(wave(10 * rank, 7), [10, rank]),
      [`${table}.lora_b`]: f32(wave(rank * columns, 5), [rank, columns]),
    }
    const { tensors } = await fold(model(), [adapter(words, mlx, true)])
    const plain = { columns, rank, scale: 2.5, transposed: false }
    near(
      tensors.get(`${table}.weight`),
      reference.lora(wave(10 * columns, 2), wave(10 * rank, 7), wave(rank * columns, 5), plain),
    )

    const many = `${layer}.mlp.switch_mlp.up_proj`
    const stack = {
      [`${many}.lora_a`]: f32(wave(2 * rank * 8, 5), [2, rank, 8]),
      [`${many}.lora_b`]: f32(wave(2 * 6 * rank, 7), [2, 6, rank]),
    }
    const base = model(f32, { [`${many}.weight`]: f32(wave(96, 4), [2, 6, 8]) })
    const { tensors: experts } = await fold(base, [adapter(stack, mlx, true)])
    const want = [0, 1].flatMap((e) => [
      ...reference.lora(
        wave(96, 4).slice(48 * e, 48 * (e + 1)),
        wave(2 * 6 * rank, 7).slice(24 * e, 24 * (e + 1)),
        wave(2 * rank * 8, 5).slice(32 * e, 32 * (e + 1)),
        { columns: 8, rank, scale: 2.5, transposed: false },
      ),
    ])
    near(experts.get(`${many}.weight`), want)

    const long = adapter({ ...turned(q), [`${q}.m`]: f32(wave(rows, 3)) }, { ...mlx, fine_tune_type: 'dora' }, true)
    const { tensors: dora } = await fold(model(), [long])
    const sum = reference.lora(wave(rows * columns, 1), wave(columns * rank, 7), wave(rank * rows, 5), options)
    const lengths = Array.from({ length: rows }, (_, i) => math.hypot(...sum.subarray(i * columns, (i + 1) * columns)))
    near(
      dora.get(`${q}.weight`),
      sum.map((value, i) => (value * wave(rows, 3)[math.floor(i / columns)]!) / lengths[math.floor(i / columns)]!),
      1e-6,
    )
    const full = adapter(
      { [`${up}.weight`]: f32(wave(rows * columns, 9), [rows, columns]) },
      { fine_tune_type: 'full' },
      true,
    )
    near((await fold(model(), [full])).tensors.get(`${up}.weight`), wave(rows * columns, 9), 0)
  })

  test.each([
    [{ ...turned(q), extra: f32([1]) }, {}, /FORMAT: .*it has the tensor extra/],
    [{ ...turned(q), [`${q}.m`]: f32(wave(rows, 3)) }, {}, /FORMAT: .*vectors m, but its fine_tune_type is lora/],
    [turned(q), { fine_tune_type: 'dora' }, /FORMAT: .*0 vectors m for 1 pairs/],
    [turned(q), { fine_tune_type: 'qlora' }, /FORMAT: .*fine_tune_type is "qlora"/],
    [turned(q), { lora_parameters: { scale: '2' } }, /FORMAT: .*scale is "2"/],
    [turned(q), { lora_parameters: { rank: 8 } }, /FORMAT: .*has rank 4, but its config says 8/],
    [{ [`${q}.lora_a`]: f32(wave(8, 7), [4, 2]) }, {}, /FORMAT: .*without lora_b/],
    [{}, {}, /FORMAT: .*no tensors/],
  ])('is refused where it contradicts itself (%#)', async (tensors, config, message) => {
    expect(await failure(model(), [adapter(tensors as Record<string, Raw>, { ...mlx, ...config }, true)])).toMatch(
      message,
    )
  })
})

describe('inspect', () => {
  test('gives norms and effective ranks of the product, without and with a base', async () => {
    const base = model(bf16)
    const path = adapter({ ...factors(q, 5), ...factors(up, 8, rows, columns, 2) }, { rank_pattern: { up_proj: 2 } })
    const report = await inspectAdapter(path, { base, engine })
    const product = adapted(new Float64Array(rows * columns), 5, 1.5)
    const weight = values(readFolder(base).get(`${q}.weight`)!)
    const [first, second] = report.modules
    expect(first).toMatchObject({
      weight: `${q}.weight`,
      outputs: rows,
      inputs: columns,
      rank: 4,
      alpha: 6,
      scale: 1.5,
    })
    expect(first!.norm / math.hypot(...product)).toBeCloseTo(1, 10)
    expect(first!.relative! / (math.hypot(...product) / math.hypot(...weight))).toBeCloseTo(1, 6)
    expect(second).toMatchObject({ rank: 2, alpha: 6, scale: 3 })
    expect(second!.effectiveRank).toBeGreaterThan(1)
    expect(second!.effectiveRank).toBeLessThanOrEqual(2)
    expect(report.features).toEqual(['rank_pattern'])
    expect(report.hazards.join()).toMatch(/rank_pattern, which some servers ignore/)
    expect((await inspectAdapter(path)).modules[0]).not.toHaveProperty('relative')
  })

  test('finds the weights of a base as fold does, and names those that it lacks', async () => {
    const path = adapter({
      ...factors('layers.0.self_attn.q_proj', 5),
      ...factors('model.layers.9.self_attn.q_proj', 6),
    })
    const { modules, hazards } = await inspectAdapter(path, { base: model(), engine })
    expect(modules.map((module) => 'relative' in module)).toEqual([true, false])
    expect(hazards.join()).toMatch(/has no tensor model\.layers\.9\.self_attn\.q_proj\.weight\./)
  })

  test('has an effective rank of one for one direction, however large the rank is', async () => {
    const one = wave(columns, 5)
    const a = Array.from({ length: rank }, (_, k) => one.map((value) => value * (k + 1))).flat()
    const report = await inspectAdapter(
      adapter(
        { ...factors(q, 5), [`${q}.lora_A.weight`]: f32(a, [rank, columns]) },
        { target_modules: ['q_proj', 'k_proj'] },
      ),
    )
    expect(report.modules[0]!.effectiveRank).toBeCloseTo(1, 6)
    expect(report.unmatched).toEqual({ named: ['k_proj'], held: [] })
  })

  test.each([
    ['pissa', {}, /began as a part of the base \(pissa\)/],
    ['rslora', {}, /use_rslora/],
    ['tied-embedding', { base: 'tied' }, /one table for embedding and head, and it changes model.embed_tokens/],
  ])('warns of what may go wrong with %s', async (name, { base }: { base?: string }, message) => {
    const options = base === undefined ? {} : { base: golden(`lora/${base}`), engine }
    const report = await inspectAdapter(golden(`lora/adapters/${name}`), options)
    expect(report.obstacles).toEqual([])
    expect(report.hazards.join(' ')).toMatch(message)
  })

  test('shows what cannot be folded, and NaN', async () => {
    const other = await inspectAdapter(adapter({ 'x.hada_w1_a': f32([1]) }, { peft_type: 'LOHA' }))
    expect(other).toMatchObject({ modules: [], obstacles: [expect.stringMatching(/"LOHA", a product of products/)] })
    const active = await inspectAdapter(
      adapter(factors(q, 5), { alora_invocation_tokens: [1], layer_replication: [[0, 2]] }),
    )
    expect(active.obstacles).toHaveLength(2)
    expect(active.modules).toHaveLength(1)
    const broken = adapter({
      ...factors(q, 5),
      [`${q}.lora_B.weight`]: f32(new Float32Array(rows * rank).fill(Number.NaN), [rows, rank]),
    })
    expect((await inspectAdapter(broken)).nonFinite).toEqual([`base_model.model.${q}.lora_B.weight`])
  })

  test('names adapters of other programs', async () => {
    const folder = fresh('kohya')
    mkdirSync(folder)
    writeSafetensors(join(folder, 'last.safetensors'), {
      'lora_te_text_model_layers_0.lora_down.weight': f32([1], [1, 1]),
    })
    for (const path of [folder, join(folder, 'last.safetensors')]) {
      await expect(inspectAdapter(path)).rejects.toMatchObject({
        code: 'ERR_WEIGHTSMITH_FORMAT',
        message: expect.stringMatching(/kohya/),
      })
    }
  })
})

describe('the command line', () => {
  test('folds and inspects', async () => {
    const [base, path, out] = [model(), adapter(factors(q, 5)), fresh('out')]
    const forecast = await cli('lora', 'fold', base, out, '--adapter', `${path}=0.5`, '--dry-run', '--json')
    expect(JSON.parse(forecast.stdout)).toMatchObject({
      forecast: { model: base, adapters: [{ adapter: path, weight: 0.5 }] },
    })
    const done = await cli('lora', 'fold', base, out, '--adapter', `${path}=0.5`, path)
    expect(done).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/Of 1,920 adapted elements 100.00 % changed/),
    })
    near(readFolder(out).get(`${q}.weight`), adapted(wave(rows * columns, 1), 5, 2.25))
    const shown = await cli('lora', 'inspect', path, '--base', base)
    expect(shown.stdout).toMatch(/q_proj\.weight +48x40 +4 +6 +1\.5 +F32/)
    const [tuned, extracted] = [golden('reasoner/improved-1'), fresh('extracted')]
    const data = join(fresh('data'), 'lines.jsonl')
    mkdirSync(dirname(data))
    const lines = readFileSync(golden('reasoner/tasks/calibration.jsonl'), 'utf8').split('\n')
    writeFileSync(data, lines.slice(0, 4).join('\n'))
    const args = [golden('reasoner/base'), tuned, extracted, '--rank', '8', '--data', data, '--json']
    const { loss } = JSON.parse((await cli('lora', 'extract', ...args)).stdout) as { loss: Record<string, number> }
    const lossOf = async (path: string) => (await evaluate(engine, path, { data })).sets[0]!.value
    expect(loss).toEqual({
      tuned: await lossOf(tuned),
      adapted: await lossOf(`${golden('reasoner/base')}+${extracted}`),
    })
    expect((await cli('lora', 'fold', '--help')).stdout).toMatch(/Example:\n {2}weightsmith lora fold/)
  })
})

test('a model with adapters is scored as the folded model is, and told from others', async () => {
  const [base, path] = [golden('reasoner/base'), golden('lora/adapters/plain')]
  const { out } = await fold(base, [path])
  const data = golden('reasoner/tasks/calibration.jsonl')
  const [mine, theirs] = [fresh('scores'), fresh('scores')]
  await score(engine, `${base}+${path}`, { methods: ['wanda'], data, out: mine, limit: 4 })
  await score(engine, out, { methods: ['wanda'], data, out: theirs, limit: 4 })
  const arrays = (file: string) => [...readSafetensors(file)].map(([name, { bytes }]) => [name, bytes.toString('hex')])
  expect(arrays(mine)).toEqual(arrays(theirs))
  await expect(openScores(engine, mine, `${base}+${path}`)).resolves.toBeDefined()
  await expect(openScores(engine, mine, base)).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_INPUT_CHANGED' })
})

describe('a model with adapters that is compared', () => {
  test.each(['plain', 'dora', 'modules-to-save'])(
    'differs from the base as the folded model does: %s',
    async (name) => {
      const [base, path] = [golden('reasoner/base'), golden(`lora/adapters/${name}`)]
      const { out } = await fold(base, [path])
      const [{ tensors }, folded] = [await diff(engine, base, `${base}+${path}`), await diff(engine, base, out)]
      expect(tensors).toEqual(folded.tensors)
      expect(folded.total.maxAbs).toBeGreaterThan(0)
    },
  )
})

describe('a model with adapters that is run', () => {
  test.each([
    ['plain', 'reasoner/base'],
    ['dora', 'reasoner/base'],
    ['trainable-tokens', 'reasoner/base'],
    ['tied-saved', 'lora/tied'],
  ])('says what the folded model says: %s', async (name, base) => {
    const path = golden(`lora/adapters/${name}`)
    const { out } = await fold(golden(base), [path])
    const data = golden('reasoner/tasks/calibration.jsonl')
    const run = async (model: string) => {
      const { sets } = await evaluate(engine, model, { data, metric: 'nll', limit: 8 })
      const { continuations } = await generate(engine, model, ['12+34='], { maxTokens: 4 })
      return { loss: sets[0]!.value, text: continuations[0]!.text }
    }
    for (const file of ['tokenizer.json', 'tokenizer_config.json']) {
      if (!existsSync(join(out, file))) copyFileSync(join(golden('reasoner/base'), file), join(out, file))
    }
    const bare = fresh('base')
    cpSync(golden(base), bare, { recursive: true })
    for (const file of ['tokenizer.json', 'tokenizer_config.json']) {
      if (!existsSync(join(bare, file))) copyFileSync(join(golden('reasoner/base'), file), join(bare, file))
    }
    expect(await run(`${bare}+${path}`)).toEqual(await run(out))
    expect(await run(bare)).not.toEqual(await run(out))
  })
})
