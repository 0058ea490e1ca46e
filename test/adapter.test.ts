/** LoRA adapters as `model+adapter`: what they make of a model, in every method and layout PEFT writes. */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { diff, Engine, evaluate, inspect, type MergeOptions, merge, prune, type RecipeInput } from 'weightsmith'
import { bf16, f32, type Raw, readFolder, values, writeModel, writeSafetensors } from './checkpoint.js'
import * as reference from './reference/merge.js'
import { scratch } from './scratch.js'

let engine: Engine
const { fresh } = scratch('adapter')

beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

async function run(recipe: RecipeInput, options: Partial<Omit<MergeOptions, 'dryRun'>> = {}) {
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

const sizes = { num_hidden_layers: 1, vocab_size: 10 }

function model(seed: number, store = f32, config: object = sizes): string {
  return writeModel(
    fresh('model'),
    {
      [embedding]: store(wave(10 * columns, seed + 1), [10, columns]),
      [`${q}.weight`]: store(wave(rows * columns, seed), [rows, columns]),
      [`${q}.bias`]: store(wave(rows, seed + 4)),
      'model.layers.0.mlp.up_proj.weight': store(wave(8, seed + 2)),
      'lm_head.weight': store(wave(10 * columns, seed + 3), [10, columns]),
    },
    config,
  )
}

/** One table for both ends. */
function tied(config: object = { ...sizes, tie_word_embeddings: true }): string {
  const tensors = Object.fromEntries(readFolder(model(1)))
  delete tensors['lm_head.weight']
  return writeModel(fresh('tied'), tensors, config)
}

const configOf = (out: string) => JSON.parse(readFileSync(join(out, 'config.json'), 'utf8'))

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
    expect(report.tensors).toEqual({ total: 5, computed: 1, copied: 4 })
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
        expect(report.notes.join()).toMatch(/1 tensor is made before the merge, in float32/)
        expect(existsSync(join(out, 'stages'))).toBe(false)
        for (const [name, { bytes }] of expected.tensors) expect(tensors.get(name)!.bytes.equals(bytes)).toBe(true)
      }
    }
  })

  test('follows rslora, patterns of alpha and rank, embeddings and whole modules', async () => {
    const base = model(1)
    const rslora = await run(copyOf(`${base}+${adapter({ use_rslora: true }, plain)}`))
    near(rslora.tensors.get(`${q}.weight`)!, adapted(1, 6 / 2))
    const pattern = await run(
      copyOf(
        `${base}+${adapter({ r: 64, alpha_pattern: { 'self_attn.q_proj': 2 }, rank_pattern: { q_proj: 4 } }, plain)}`,
      ),
    )
    near(pattern.tensors.get(`${q}.weight`)!, adapted(1, 0.5))

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
      reference.lora(wave(10 * columns, 2), wave(columns * rank, 7), wave(rank * 10, 5), {
        columns,
        rank,
        scale: 1.5,
        transposed: true,
      }),
    )
    near(tensors.get('lm_head.weight')!, wave(10 * columns, 9), 0)
  })

  test('turns B A where the linears of a model are stored as [in, out]', async () => {
    const factors = {
      [`${q}.lora_A.weight`]: f32(wave(rank * rows, 5), [rank, rows]),
      [`${q}.lora_B.weight`]: f32(wave(columns * rank, 7), [columns, rank]),
    }
    const options = { columns, rank, scale: 1.5, transposed: true }
    const want = reference.lora(wave(rows * columns, 1), wave(columns * rank, 7), wave(rank * rows, 5), options)
    const untyped = { ...sizes, model_type: undefined }
    for (const [type, fan_in_fan_out] of [
      ['gpt2', true],
      ['gpt2', false],
      [undefined, true],
    ]) {
      const base = model(1, f32, { ...sizes, model_type: type })
      const { tensors } = await run(copyOf(`${base}+${adapter({ fan_in_fan_out }, factors)}`))
      near(tensors.get(`${q}.weight`)!, want)
    }
    expect(await failure(copyOf(`${model(1)}+${adapter({ fan_in_fan_out: true }, plain)}`))).toMatch(
      /FORMAT: .*fan_in_fan_out, but models of type llama store linears as \[out, in\]/,
    )
    // The head is a linear in every model.
    const head = {
      'lm_head.lora_A.weight': plain[`${q}.lora_A.weight`]!,
      'lm_head.lora_B.weight': f32(wave(40, 7), [10, 4]),
    }
    const { tensors } = await run(copyOf(`${model(1, f32, untyped)}+${adapter({ fan_in_fan_out: true }, head)}`))
    near(
      tensors.get('lm_head.weight')!,
      reference.lora(wave(10 * columns, 4), wave(40, 7), a, { ...options, transposed: false }),
    )
  })

  test('takes a pattern as PEFT does: an expression for the end of a name, and the first that matches', async () => {
    const base = model(1)
    const scaleOf = async (config: object, scale: number) => {
      const { tensors } = await run(copyOf(`${base}+${adapter(config, plain)}`))
      near(tensors.get(`${q}.weight`)!, adapted(1, scale))
    }
    await scaleOf({ alpha_pattern: { '.*\\.0\\..*': 2 } }, 0.5)
    await scaleOf({ alpha_pattern: { 'layers\\.[0-3]\\.self_attn\\.(q|v)_proj': 2, q_proj: 8 } }, 0.5)
    await scaleOf({ alpha_pattern: { q_proj: 8, 'layers\\.[0-3]\\.self_attn\\.(q|v)_proj': 2 } }, 2)
    await scaleOf({ r: 64, rank_pattern: { '^model.layers.\\d+.self_attn.q_proj': 4 } }, 1.5)
    // no name ends so
    await scaleOf({ alpha_pattern: { roj: 2, self_attn: 2, 'x|layers': 2 } }, 1.5)
  })

  test('takes biases that the adapter has as they are', async () => {
    const bias = wave(rows, 9)
    const tensors = { ...plain, [`${q}.base_layer.bias`]: f32(bias) }
    const one = await run(copyOf(`${model(1)}+${adapter({ bias: 'lora_only' }, tensors)}`))
    near(one.tensors.get(`${q}.weight`)!, adapted(1, 1.5))
    near(one.tensors.get(`${q}.bias`)!, bias, 0)
    const none = await run(copyOf(`${model(1)}+${adapter({ bias: 'all' }, plain)}`))
    near(none.tensors.get(`${q}.bias`)!, wave(rows, 5), 0)
  })

  test('may have a plus in its own path', async () => {
    const base = model(1)
    const path = `${fresh('a')}+b`
    writeModel(path, Object.fromEntries(readFolder(base)), { num_hidden_layers: 1 })
    expect((await run(copyOf(path))).tensors.size).toBe(5)
    expect((await run(copyOf(`${path}+${adapter({}, plain)}`))).report.tensors.computed).toBe(1)
  })

  test('is no name that objects have from the start', async () => {
    expect(await failure(copyOf('constructor'))).toMatch(/NOT_FOUND: Model constructor not found/)
  })

  test.each([
    [{ use_dora: true }, plain, /FORMAT: .*sets use_dora, but .*q_proj has no magnitude vector/],
    [{ peft_type: 'IA3' }, plain, /FORMAT: .*peft_type is "IA3"/],
    [{ peft_type: undefined }, plain, /FORMAT: .*peft_type is undefined/],
    [{ bias: 'some' }, plain, /FORMAT: .*bias is "some"/],
    [{ lora_alpha: 'x' }, plain, /FORMAT: .*lora_alpha is "x"/],
    [{ use_rslora: 'true' }, plain, /FORMAT: .*use_rslora is "true"/],
    [{ r: 8 }, plain, /FORMAT: .*has 4 rows, but its config says rank 8/],
    [{ r: undefined }, plain, /FORMAT: .*has 4 rows, but its config says rank 8/],
    [{ rank_pattern: { q_proj: 2 } }, plain, /FORMAT: .*has 4 rows, but its config says rank 2/],
    [{ alpha_pattern: { '(': 1 } }, plain, /FORMAT: .*alpha_pattern cannot be followed \(Invalid regular expression/],
    [{ alpha_pattern: { '(.|.)*x': 1 } }, plain, /FORMAT: .*alpha_pattern cannot be followed \(.*timed out/],
    [{ alpha_pattern: { q_proj: 'x' } }, plain, /FORMAT: .*alpha_pattern has "x" for q_proj/],
    [{ layer_replication: [[0, 4]] }, plain, /FORMAT: .*layer_replication/],
    [{ lora_bias: true }, plain, /FORMAT: .*lora_bias/],
    [{ alora_invocation_tokens: [1, 2] }, plain, /FORMAT: .*alora_invocation_tokens/],
    [{ trainable_token_indices: [1] }, plain, /FORMAT: .*trainable_token_indices/],
    [
      { target_parameters: ['mlp.experts.down_proj'] },
      plain,
      /FORMAT: .*target_parameters name mlp.experts.down_proj, but it has no factors/,
    ],
    [{ use_bdlora: { nblocks: 2 } }, plain, /FORMAT: .*use_bdlora/],
    [{ fine_tune_type: 'lora' }, plain, /FORMAT: .*it sets fine_tune_type, which may mean something else/],
    [
      { target_modules: ['q_proj', 'lm_head'] },
      plain,
      /FORMAT: .*its config names lm_head, but it has no tensor of it/,
    ],
    [{ modules_to_save: ['embed_tokens'] }, plain, /FORMAT: .*its config names embed_tokens/],
    [{}, {}, /FORMAT: .*it has no tensors/],
    [{}, { [`${q}.lora_A.weight`]: f32(a, [rank, columns]) }, /FORMAT: .*without its B/],
    [{}, { [`${q}.lora_B.weight`]: f32(b, [rows, rank]) }, /FORMAT: .*without its A/],
    [
      {},
      { ...plain, [`${q}.lora_magnitude_vector`]: f32([1]) },
      /FORMAT: .*magnitude_vector, but does not set use_dora/,
    ],
    [{}, { ...plain, [`${q}.lora_A.default.weight`]: f32(a, [rank, columns]) }, /FORMAT: .*for the same place/],
    [{}, { ...plain, [`${q}.weight`]: f32(wave(rows * columns, 2), [rows, columns]) }, /FORMAT: .*both whole and as/],
    [{}, { ...plain, 'lm_head.base_layer.weight': f32(wave(400, 2), [10, columns]) }, /FORMAT: .*without A and B/],
    [{}, { ...plain, 'lm_head.original_module.weight': f32(wave(400, 2), [10, columns]) }, /FORMAT: .*as it became/],
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
    [{}, { 'lm_head.weight': f32(wave(480, 2), [12, columns]) }, /FORMAT: .*lm_head.weight 12 rows, but .* has 10/],
    [
      {},
      { 'model.embed_tokens.weight': f32(wave(480, 2), [12, columns]) },
      /FORMAT: .*embed_tokens.weight 12 rows, but lm_head.weight has 10; .* give the base as many rows, or save both tables/,
    ],
    [
      { bias: 'all' },
      { ...plain, 'model.layers.0.mlp.up_proj.bias': f32([1]) },
      /MISSING_TENSOR: .*up_proj\.bias, but .* has no such tensor; put it on the model .*, whose linears have biases\./,
    ],
  ])('is refused where the adapter has %j', async (config, tensors, message) => {
    expect(await failure(copyOf(`${model(1)}+${adapter(config, tensors as Record<string, Raw>)}`))).toMatch(message)
  })

  test.each([...['pissa_niter_16', 'corda', 'loftq', 'lora_ga', 'something new']])(
    'is refused where the base was changed when training began: %s',
    async (start) => {
      const path = adapter({ init_lora_weights: start }, plain)
      const message = await failure(copyOf(`${model(1)}+${path}`))
      expect(message).toContain(`FORMAT: The adapter ${path} cannot be folded: `)
      expect(message).toContain(`init_lora_weights is "${start}", which changes the base model too`)
    },
  )

  test.each([
    ...[true, false, 'gaussian', 'eva', 'orthogonal', 'mica'].map((start) => ({ init_lora_weights: start })),
    // of an adapter that was converted to a plain one
    { init_lora_weights: true, corda_config: { corda_method: 'kpm' }, lora_ga_config: { direction: 'ArB2r' } },
    { eva_config: { rho: 2 }, velora_config: { num_groups: 64 }, lora_dropout: 0.1, lorap_emb_lr: 1e-6 },
    // what PEFT 0.21.2 writes
    {
      ...{ alora_invocation_tokens: null, alpha_pattern: {}, arrow_config: null, auto_mapping: null, bias: 'none' },
      ...{ base_model_name_or_path: 'org/base', corda_config: null, ensure_weight_tying: false, eva_config: null },
      ...{ exclude_modules: null, fan_in_fan_out: false, inference_mode: true, init_lora_weights: true },
      ...{ kasa_config: null, layer_replication: null, layers_pattern: null, layers_to_transform: null },
      ...{ loftq_config: {}, lora_bias: false, lora_dropout: 0.0, lora_ga_config: null, megatron_config: null },
      ...{ megatron_core: 'megatron.core', modules_to_save: null, monteclora_config: null, peft_version: '0.21.2' },
      ...{ qalora_group_size: 16, rank_pattern: {}, revision: null, target_modules: ['q_proj', 'v_proj'] },
      ...{ target_parameters: null, task_type: 'CAUSAL_LM', trainable_token_indices: null, use_bdlora: null },
      ...{ use_dora: false, use_qalora: false, use_rslora: false, velora_config: null },
    },
  ])('is plain where the config says %j', async (config) => {
    const { tensors } = await run(copyOf(`${model(1)}+${adapter(config, plain)}`))
    near(tensors.get(`${q}.weight`)!, adapted(1, 1.5))
  })

  test('reads adapter_model.safetensors, whatever else is in the folder', async () => {
    const base = model(1)
    const path = adapter({}, plain)
    const zeros = Object.entries(Object.fromEntries(readFolder(base))).map(([name, { shape }]) => [
      name,
      f32(new Float32Array(shape.reduce((x, y) => x * y)), shape),
    ])
    writeModel(path, Object.fromEntries(zeros) as Record<string, Raw>)
    writeSafetensors(join(path, 'new_embeddings.safetensors'), { x: f32([1, 1]) })
    const index = { metadata: {}, weight_map: { x: 'new_embeddings.safetensors' } }
    const check = async () => near((await run(copyOf(`${base}+${path}`))).tensors.get(`${q}.weight`)!, adapted(1, 1.5))
    await check()
    writeFileSync(join(path, 'model.safetensors.index.json'), JSON.stringify(index))
    await check()
    renameSync(join(path, 'adapter_model.safetensors'), join(path, 'adapter_model.bin'))
    expect(await failure(copyOf(`${base}+${path}`))).toMatch(/NOT_FOUND: There is no adapter_model\.safetensors beside/)
  })

  test('has the adapter among its inputs: in the manifest, and as no place for the output', async () => {
    const path = adapter({}, plain)
    const { out } = await run(copyOf(`${model(1)}+${path}`))
    const { inputs } = JSON.parse(readFileSync(join(out, 'weightsmith.json'), 'utf8'))
    const files = inputs[0].files.map(({ name }: { name: string }) => name)
    expect(files).toEqual(['model.safetensors', 'adapter_model.safetensors'])
    const before = readdirSync(path)
    const overlap = merge(engine, copyOf(`${model(1)}+${path}`), { out: path, overwrite: true })
    await expect(overlap).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_OUTPUT_INSIDE_INPUT' })
    expect(readdirSync(path)).toEqual(before)
  })

  test('may lack factors of experts that its config names', async () => {
    const tensors = { ...Object.fromEntries(readFolder(model(1))), 'model.layers.0.mlp.experts.0.w1.weight': f32([1]) }
    const base = writeModel(fresh('model'), tensors, sizes)
    const { report } = await run(copyOf(`${base}+${adapter({ target_modules: ['q_proj', 'w1'] }, plain)}`))
    expect(report.tensors.computed).toBe(1)
  })

  test('needs memory for A and B as a whole', async () => {
    const wide = {
      [`${q}.lora_A.weight`]: f32(wave(512 * columns, 5), [512, columns]),
      [`${q}.lora_B.weight`]: f32(wave(rows * 512, 7), [rows, 512]),
    }
    const recipe = copyOf(`${model(1)}+${adapter({ r: 512 }, wide)}`)
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
    expect(await failure(copyOf(`${model(1)}+nowhere`))).toMatch(/NOT_FOUND: Model nowhere not found; looked in /)
  })
})

describe('tables of tokens', () => {
  const headA = f32(a, [rank, columns])
  const headB = (count: number) => f32(wave(count * rank, 7), [count, rank])
  const options = { columns, rank, scale: 1.5, transposed: false }
  const table = (count: number, seed: number) => f32(wave(count * columns, seed), [count, columns])

  test('may come with what is below A and B, which may have more rows', async () => {
    const base = model(1, bf16)
    for (const count of [10, 12]) {
      const words = adapter(
        { target_modules: ['embed_tokens', 'lm_head'] },
        {
          'model.embed_tokens.base_layer.weight': table(count, 11),
          'model.embed_tokens.lora_embedding_A': f32(wave(rank * count, 5), [rank, count]),
          'model.embed_tokens.lora_embedding_B': f32(wave(columns * rank, 7), [columns, rank]),
          'lm_head.base_layer.weight': table(count, 12),
          'lm_head.lora_A.weight': headA,
          'lm_head.lora_B.weight': headB(count),
        },
      )
      const { out, tensors } = await run(copyOf(`${base}+${words}`))
      const head = reference.lora(wave(count * columns, 12), wave(count * rank, 7), a, options)
      expect(tensors.get('lm_head.weight')).toEqual(bf16(head.map(Math.fround), [count, columns]))
      const turned = { ...options, transposed: true }
      const [b, A] = [wave(columns * rank, 7), wave(rank * count, 5)]
      const words16 = reference.lora(wave(count * columns, 11), b, A, turned).map(Math.fround)
      expect(tensors.get(embedding)).toEqual(bf16(words16, [count, columns]))
      expect(configOf(out).vocab_size).toBe(count)
    }
  })

  test('may be saved whole, also under the second name that PEFT gives them, with what they were', async () => {
    const saved = adapter(
      { modules_to_save: ['embed_tokens', 'lm_head'] },
      {
        'model.embed_tokens.weight': table(12, 11),
        'model.embed_tokens.modules_to_save.weight': table(12, 11),
        'model.embed_tokens.original_module.weight': table(12, 13),
        'lm_head.modules_to_save.default.weight': table(12, 12),
      },
    )
    const { out, tensors } = await run(copyOf(`${model(1)}+${saved}`))
    near(tensors.get(embedding)!, wave(12 * columns, 11), 0)
    near(tensors.get('lm_head.weight')!, wave(12 * columns, 12), 0)
    expect(configOf(out).vocab_size).toBe(12)
  })

  test('that are one in the base come apart where the adapter has one of them whole', async () => {
    const [embed, head] = [{ 'model.embed_tokens.weight': table(10, 11) }, { 'lm_head.weight': table(10, 12) }]
    // a config that says nothing leaves it to the family
    for (const config of [undefined, { ...sizes, model_type: 'gemma' }]) {
      const base = tied(config)
      for (const [tensors, words, end] of [
        [embed, 11, 2],
        [head, 2, 12],
        [{ ...embed, ...head }, 11, 12],
      ] as const) {
        const modules = Object.keys(tensors).map((name) => name.replace('model.', '').replace('.weight', ''))
        const path = adapter({ modules_to_save: modules }, { ...plain, ...tensors })
        const merged = await run(copyOf(`${base}+${path}`))
        near(merged.tensors.get(embedding)!, wave(10 * columns, words), 0)
        near(merged.tensors.get('lm_head.weight')!, wave(10 * columns, end), 0)
        near(merged.tensors.get(`${q}.weight`)!, adapted(1, 1.5))
        expect(configOf(merged.out)).toMatchObject({ ...configOf(base), tie_word_embeddings: false })
      }
    }
  })

  test('that are one in the base and come apart are merged with that base, both ways round', async () => {
    const base = tied()
    const path = adapter({ modules_to_save: ['lm_head'] }, { ...plain, 'lm_head.weight': table(10, 12) })
    for (const models of [
      [base, `${base}+${path}`],
      [`${base}+${path}`, base],
    ]) {
      const entries = models.map((model) => ({ model, parameters: { weight: 1 } }))
      const { out, tensors } = await run({ merge_method: 'linear', models: entries })
      const [words, head] = [wave(10 * columns, 2), wave(10 * columns, 12)]
      near(
        tensors.get('lm_head.weight')!,
        words.map((value, i) => (value + head[i]!) / 2),
      )
      expect(configOf(out).tie_word_embeddings).toBe(false)
    }
  })

  test('that are one in the base stay so where the adapter leaves them alone', async () => {
    const { out, tensors } = await run(copyOf(`${tied()}+${adapter({}, plain)}`))
    expect(tensors.has('lm_head.weight')).toBe(false)
    expect(configOf(out).tie_word_embeddings).toBe(true)
  })

  test.each([
    [
      {
        'model.embed_tokens.lora_embedding_A': f32(wave(rank * 10, 5), [rank, 10]),
        'model.embed_tokens.lora_embedding_B': f32(wave(columns * rank, 7), [columns, rank]),
      },
      /FORMAT: .*has one table for both/,
    ],
    [{ 'lm_head.lora_A.weight': headA, 'lm_head.lora_B.weight': headB(10) }, /FORMAT: .*has one table for both/],
    [
      { 'model.embed_tokens.weight': table(12, 11) },
      /FORMAT: .*embed_tokens.weight 12 rows, but lm_head.weight has 10/,
    ],
  ])('that are one in the base are refused where it is not clear what becomes of them', async (tensors, message) => {
    expect(await failure(copyOf(`${tied()}+${adapter({}, tensors as Record<string, Raw>)}`))).toMatch(message)
  })

  test('that are one in the base are refused where a module is lost, or no config could say that they came apart', async () => {
    const path = adapter(
      { modules_to_save: ['embed_tokens', 'lm_head'] },
      { 'model.embed_tokens.weight': table(10, 11) },
    )
    expect(await failure(copyOf(`${tied()}+${path}`))).toMatch(/FORMAT: .*names lm_head/)
    const file = join(tied(), 'model.safetensors')
    const alone = adapter({}, { 'model.embed_tokens.weight': table(10, 11) })
    expect(await failure(copyOf(`${file}+${alone}`))).toMatch(/FORMAT: .*no config\.json/)
  })
})

describe('an adapter where a model is meant', () => {
  const outcome = (work: Promise<unknown>) =>
    work.then(
      () => 'no error',
      (error: Error & { code?: string }) => `${error.code}: ${error.message}`,
    )

  test('is refused by every verb, and the sentence says how a recipe names it', async () => {
    const [path, other] = [adapter({}, plain), adapter({}, plain)]
    const sentence = /_FORMAT: .* is an adapter, not a model; .*"base\+adapter"/
    const average = [path, other].map((name) => ({ model: name, parameters: { weight: 1 } }))
    expect(await failure({ merge_method: 'linear', models: average })).toMatch(sentence)
    const recipe: RecipeInput = {
      merge_method: 'slerp',
      base_model: path,
      models: [{ model: model(1) }],
      parameters: { t: 1 },
    }
    expect(await failure(recipe)).toMatch(sentence)
    expect(await outcome(inspect(path))).toMatch(sentence)
    expect(await outcome(diff(engine, path, other))).toMatch(sentence)
    expect(await outcome(evaluate(engine, path, { data: 'x.jsonl' }))).toMatch(sentence)
    expect(await outcome(prune(engine, path, { out: fresh('out'), method: 'magnitude', sparsity: 0.5 }))).toMatch(
      sentence,
    )
  })

  test('is known by its tensors too, those of other programs among them', async () => {
    for (const names of [
      ['base_model.model.lm_head.weight', 'base_model.model.x.lora_A.weight'],
      ['model.layers.0.self_attn.q_proj.lora_a', 'model.layers.0.self_attn.q_proj.lora_b'],
      ['lora_unet_mid_block.lora_down.weight', 'lora_unet_mid_block.lora_up.weight', 'lora_unet_mid_block.alpha'],
    ]) {
      const file = fresh('adapters.safetensors')
      writeSafetensors(file, Object.fromEntries(names.map((name) => [name, f32([1])])))
      expect(await outcome(inspect(file))).toMatch(/_FORMAT: .* is an adapter, not a model/)
    }
  })

  test('is not meant where the folder has a model as well', async () => {
    const path = adapter({}, plain)
    writeModel(path, Object.fromEntries(readFolder(model(1))), sizes)
    expect((await inspect(path)).tensors.length).toBe(5)
  })
})
