/** LoRA adapters as `model+adapter`: what they make of a model, in every method and layout PEFT writes. */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, type MergeOptions, merge, type RecipeInput } from 'weightsmith'
import { bf16, f32, type Raw, readFolder, values, writeModel, writeSafetensors } from './checkpoint.js'
import * as reference from './reference/merge.js'
import { scratch } from './scratch.js'

let engine: Engine
const { fresh } = scratch('adapter')

beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

async function run(recipe: RecipeInput, options: Partial<MergeOptions> = {}) {
  const out = fresh('out')
  const report = await merge(engine, recipe, { out, sync: false, ...options })
  return { out, report, tensors: readFolder(out) }
}

const failure = (recipe: RecipeInput) =>
  merge(engine, recipe, { out: fresh('out') }).then(
    () => 'no error',
    (error: Error & { code?: string }) => `${error.code}: ${error.message}`,
  )

const wave = (length: number, seed: number) => Array.from({ length }, (_, i) => Math.fround(Math.sin(i * seed + seed)))
const q = 'model.layers.0.self_attn.q_proj'
const embedding = 'model.embed_tokens.weight'
const [rows, columns, rank] = [48, 40, 4]

function model(seed: number, store = f32): string {
  return writeModel(
    fresh('model'),
    {
      [embedding]: store(wave(10 * columns, seed + 1), [10, columns]),
      [`${q}.weight`]: store(wave(rows * columns, seed), [rows, columns]),
      'model.layers.0.mlp.up_proj.weight': store(wave(8, seed + 2)),
      'lm_head.weight': store(wave(10 * columns, seed + 3), [10, columns]),
    },
    { num_hidden_layers: 1, vocab_size: 10 },
  )
}

function adapter(config: object, tensors: Record<string, Raw>): string {
  const path = fresh('adapter')
  mkdirSync(path)
  writeFileSync(
    join(path, 'adapter_config.json'),
    JSON.stringify({ peft_type: 'LORA', r: rank, lora_alpha: 6, bias: 'none', ...config }),
  )
  const named = Object.entries(tensors).map(([name, raw]) => [`base_model.model.${name}`, raw])
  writeSafetensors(join(path, 'adapter_model.safetensors'), Object.fromEntries(named) as Record<string, Raw>)
  return path
}

const a = wave(rank * columns, 5)
const b = wave(rows * rank, 7)
const plain = { [`${q}.lora_A.weight`]: f32(a, [rank, columns]), [`${q}.lora_B.weight`]: f32(b, [rows, rank]) }
const adapted = (seed: number, scale: number) =>
  reference.lora(wave(rows * columns, seed), b, a, { columns, rank, scale, transposed: false })

function near(raw: Raw, want: ArrayLike<number>, bound = 4e-6): void {
  const got = values(raw)
  expect(got.length).toBe(want.length)
  for (let i = 0; i < got.length; i++) {
    if (!(Math.abs(got[i]! - want[i]!) <= bound)) expect({ i, got: got[i], want: want[i] }).toBe(`within ${bound}`)
  }
}

const copyOf = (path: string): RecipeInput => ({ merge_method: 'passthrough', models: [{ model: path }] })

describe('a model with an adapter', () => {
  test('is written in one step, and what the adapter leaves alone is copied', async () => {
    const base = model(1)
    const { tensors, report } = await run(copyOf(`${base}+${adapter({}, plain)}`))
    near(tensors.get(`${q}.weight`)!, adapted(1, 1.5))
    for (const [name, { bytes }] of readFolder(base)) {
      if (name !== `${q}.weight`) expect(tensors.get(name)!.bytes.equals(bytes)).toBe(true)
    }
    expect(report.tensors).toEqual({ total: 4, computed: 1, copied: 3 })
    expect(report.notes).toEqual([])
  })

  test('keeps the type of its weights, with one rounding', async () => {
    const base = model(1, bf16)
    const { tensors } = await run(copyOf(`${base}+${adapter({}, plain)}`))
    const raw = tensors.get(`${q}.weight`)!
    expect(raw.dtype).toBe('BF16')
    const stored = values(readFolder(base).get(`${q}.weight`)!)
    const want = reference.lora(stored, b, a, { columns, rank, scale: 1.5, transposed: false })
    expect(raw.bytes.equals(bf16(want.map(Math.fround), [rows, columns]).bytes)).toBe(true)
  })

  test('takes part in any method, as the merged model would', async () => {
    const [base, other] = [model(1), model(2)]
    const combined = `${base}+${adapter({}, plain)}`
    const merged = (await run(copyOf(combined))).out
    const recipes = (path: string): RecipeInput[] => [
      { merge_method: 'linear', models: [path, other].map((name) => ({ model: name })), parameters: { weight: 1 } },
      { merge_method: 'slerp', base_model: other, models: [{ model: path }], parameters: { t: 0.3 } },
      {
        merge_method: 'dare_ties',
        base_model: base,
        models: [path, other].map((name) => ({ model: name })),
        parameters: { weight: 0.5, density: 0.6 },
      },
      { merge_method: 'task_arithmetic', base_model: path, models: [{ model: other }], parameters: { weight: 0.5 } },
    ]
    for (const [i, recipe] of recipes(combined).entries()) {
      for (const memory of ['1GiB', '200KiB']) {
        const { out, tensors, report } = await run(recipe, { memory })
        const expected = await run(recipes(merged)[i]!)
        expect(report.notes.join()).toMatch(/1 tensors are made before the merge, in float32/)
        expect(existsSync(join(out, 'stages'))).toBe(false)
        for (const [name, { bytes }] of expected.tensors) expect(tensors.get(name)!.bytes.equals(bytes)).toBe(true)
      }
    }
  })

  test('follows rslora, patterns of alpha and rank, fan_in_fan_out, embeddings and whole modules', async () => {
    const base = model(1)
    const rslora = await run(copyOf(`${base}+${adapter({ use_rslora: true }, plain)}`))
    near(rslora.tensors.get(`${q}.weight`)!, adapted(1, 6 / 2))
    const pattern = await run(
      copyOf(
        `${base}+${adapter({ r: 64, alpha_pattern: { 'self_attn.q_proj': 2 }, rank_pattern: { q_proj: 4 } }, plain)}`,
      ),
    )
    near(pattern.tensors.get(`${q}.weight`)!, adapted(1, 0.5))

    const turned = adapter(
      { fan_in_fan_out: true },
      {
        [`${q}.lora_A.weight`]: f32(wave(rank * rows, 5), [rank, rows]),
        [`${q}.lora_B.weight`]: f32(wave(columns * rank, 7), [columns, rank]),
      },
    )
    const fan = await run(copyOf(`${base}+${turned}`))
    const options = { columns, rank, scale: 1.5, transposed: true }
    near(
      fan.tensors.get(`${q}.weight`)!,
      reference.lora(wave(rows * columns, 1), wave(columns * rank, 7), wave(rank * rows, 5), options),
    )

    const words = adapter(
      { modules_to_save: ['lm_head'] },
      {
        'model.embed_tokens.lora_embedding_A': f32(wave(rank * 10, 5), [rank, 10]),
        'model.embed_tokens.lora_embedding_B': f32(wave(columns * rank, 7), [columns, rank]),
        'lm_head.weight': f32(wave(10 * columns, 9), [10, columns]),
      },
    )
    const { tensors } = await run(copyOf(`${base}+${words}`))
    near(
      tensors.get(embedding)!,
      reference.lora(wave(10 * columns, 2), wave(columns * rank, 7), wave(rank * 10, 5), options),
    )
    near(tensors.get('lm_head.weight')!, wave(10 * columns, 9), 0)
  })

  test('may have a plus in its own path', async () => {
    const base = model(1)
    const path = `${fresh('a')}+b`
    writeModel(path, Object.fromEntries(readFolder(base)), { num_hidden_layers: 1 })
    expect((await run(copyOf(path))).tensors.size).toBe(4)
    expect((await run(copyOf(`${path}+${adapter({}, plain)}`))).report.tensors.computed).toBe(1)
  })

  test.each([
    [{ use_dora: true }, plain, /FORMAT: .*DoRA/],
    [{ peft_type: 'IA3' }, plain, /FORMAT: .*peft_type is "IA3"/],
    [{ bias: 'all' }, plain, /FORMAT: .*bias is "all"/],
    [{ lora_alpha: 'x' }, plain, /FORMAT: .*lora_alpha/],
    [{ alpha_pattern: { '(a+)+$': 1 } }, plain, /FORMAT: .*alpha_pattern/],
    [{ layer_replication: [[0, 4]] }, plain, /FORMAT: .*layer_replication/],
    [{}, { [`${q}.lora_A.weight`]: f32(a, [rank, columns]) }, /FORMAT: .*without its B/],
    [{}, { [`${q}.lora_B.weight`]: f32(b, [rows, rank]) }, /FORMAT: .*without its A/],
    [{}, { ...plain, [`${q}.lora_magnitude_vector`]: f32([1]) }, /FORMAT: .*magnitude_vector/],
    [
      {},
      { 'x.lora_A.weight': f32(a, [rank, columns]), 'x.lora_B.weight': f32(b, [rows, rank]) },
      /MISSING_TENSOR: .*changes x\.weight/,
    ],
    [
      {},
      { [`${q}.lora_A.weight`]: f32(a, [rank, columns]), [`${q}.lora_B.weight`]: f32(wave(8, 1), [2, rank]) },
      /SHAPE_MISMATCH: .*does not fit/,
    ],
    [
      {},
      { [`${q}.lora_A.weight`]: f32(a, [rank, columns]), [`${q}.lora_B.weight`]: f32(wave(9, 1), [3, 3]) },
      /FORMAT: .*as many rows/,
    ],
    [{}, { 'model.layers.0.mlp.up_proj.weight': f32([1]) }, /SHAPE_MISMATCH/],
  ])('is refused where the adapter has %j', async (config, tensors, message) => {
    expect(await failure(copyOf(`${model(1)}+${adapter(config, tensors as Record<string, Raw>)}`))).toMatch(message)
  })

  test('needs memory for A and B as a whole', async () => {
    const wide = {
      [`${q}.lora_A.weight`]: f32(wave(512 * columns, 5), [512, columns]),
      [`${q}.lora_B.weight`]: f32(wave(rows * 512, 7), [rows, 512]),
    }
    const recipe = copyOf(`${model(1)}+${adapter({}, wide)}`)
    const short = merge(engine, recipe, { out: fresh('out'), memory: '256KiB' })
    await expect(short).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_OUT_OF_MEMORY' })
    await expect(short).rejects.toThrow(/One block of the tensor .*q_proj\.weight needs \d+ bytes/)
    const { tensors } = await run(recipe, { memory: '1MiB' })
    const options = { columns, rank: 512, scale: 6 / 512, transposed: false }
    near(
      tensors.get(`${q}.weight`)!,
      reference.lora(wave(rows * columns, 1), wave(rows * 512, 7), wave(512 * columns, 5), options),
      1e-5,
    )
  })

  test('is refused where there is no adapter', async () => {
    expect(await failure(copyOf(`${model(1)}+${model(2)}`))).toMatch(/NOT_FOUND: There is no .*adapter_config\.json/)
    expect(await failure(copyOf(`${model(1)}+nowhere`))).toMatch(/NOT_FOUND: The model nowhere is not there/)
  })
})
