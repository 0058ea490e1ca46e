/**
 * Inputs that could be merged into something wrong without a word: packed numbers, integers that differ, heads that are
 * tied in one model only, a base that is no model. Values are compared with plain arithmetic, refusals by code and what
 * they name.
 */
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { diff, Engine, type MergeOptions, merge, prune, type RecipeInput } from 'weightsmith'
import { bf16, f32, type Raw, readFolder, values, writeModel } from './checkpoint.js'
import { forward } from './forward.js'
import { scratch } from './scratch.js'

let engine: Engine
const { fresh } = scratch('silent')

beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

async function run(recipe: RecipeInput, options: Partial<Omit<MergeOptions, 'dryRun'>> = {}) {
  const out = fresh('out')
  const report = await merge(engine, recipe, { out, sync: false, ...options })
  const file = join(out, 'config.json')
  const config = existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>) : {}
  return { out, report, config, tensors: readFolder(out) }
}

const failure = (work: Promise<unknown>) =>
  work.then(
    () => 'no error',
    (error: Error & { code?: string }) => `${error.code}: ${error.message}`,
  )
const refusal = (recipe: RecipeInput, options: Partial<MergeOptions> = {}) =>
  failure(merge(engine, recipe, { out: fresh('out'), ...options }))

const raw = (dtype: string, shape: number[], bytes: number[]): Raw => ({ dtype, shape, bytes: Buffer.from(bytes) })
const soup = (models: string[]): RecipeInput => ({
  merge_method: 'linear',
  models: models.map((model) => ({ model })),
  parameters: { weight: 1 },
})

describe('quantised checkpoints', () => {
  const i32 = (shape: number[], seed: number) =>
    raw(
      'I32',
      shape,
      Array.from({ length: 4 * shape.reduce((a, b) => a * b, 1) }, (_, i) => (7 * i + seed) & 255),
    )
  const few = (dtype: string, shape: number[], seed: number) =>
    raw(
      dtype,
      shape,
      Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => (i + seed) & 63),
    )
  const at = 'model.layers.0.mlp.up_proj'
  const experts = 'model.layers.0.mlp.experts'
  /** What each method stores: [how it is called, the tensors of one linear, its config]. */
  const methods: [string, (seed: number) => Record<string, Raw>, object?][] = [
    [
      'gptq',
      (s) => ({
        [`${at}.qweight`]: i32([1, 4], s),
        [`${at}.qzeros`]: i32([2, 1], s),
        [`${at}.scales`]: bf16([s, 1, 2, 3, 4, 5, 6, 7], [2, 4]),
        [`${at}.g_idx`]: i32([8], 0),
      }),
      { quantization_config: { quant_method: 'gptq', bits: 4 } },
    ],
    [
      'GPTQ or AWQ',
      (s) => ({
        [`${at}.qweight`]: i32([8, 1], s),
        [`${at}.qzeros`]: i32([1, 1], s),
        [`${at}.scales`]: bf16([s, 1], [1, 2]),
      }),
    ],
    [
      'bitsandbytes',
      (s) => ({
        [`${at}.weight`]: few('U8', [16, 1], s),
        [`${at}.weight.absmax`]: f32([s]),
        [`${at}.weight.quant_map`]: f32([0, 1]),
        [`${at}.weight.quant_state.bitsandbytes__nf4`]: few('U8', [9], 0),
      }),
    ],
    ['bitsandbytes', (s) => ({ [`${at}.weight`]: few('I8', [2, 8], s), [`${at}.SCB`]: f32([s, 1]) })],
    [
      'bitsandbytes',
      (s) => ({ [`${at}.weight`]: few('U8', [16, 1], s) }),
      { text_config: { quantization_config: { load_in_4bit: true } } },
    ],
    ['FP8 with scales', (s) => ({ [`${at}.weight`]: few('F8_E4M3', [2, 8], s), [`${at}.weight_scale`]: bf16([s, 1]) })],
    [
      'fp8',
      (s) => ({ [`${at}.weight`]: few('F8_E4M3', [2, 8], s), [`${at}.weight_scale_inv`]: f32([s], [1, 1]) }),
      { quantization_config: { quant_method: 'fp8' } },
    ],
    [
      'compressed-tensors',
      (s) => ({
        [`${at}.weight_packed`]: i32([2, 1], s),
        [`${at}.weight_scale`]: bf16([s, 1]),
        [`${at}.weight_shape`]: i32([2], 0),
      }),
    ],
    [
      'modelopt',
      (s) => ({
        [`${at}.weight`]: few('U8', [2, 4], s),
        [`${at}.weight_scale`]: few('F8_E4M3', [2, 1], s),
        [`${at}.weight_scale_2`]: f32([s]),
      }),
      { quantization_config: { quant_method: 'modelopt' } },
    ],
    [
      'MXFP4',
      (s) => ({
        [`${experts}.down_proj_blocks`]: few('U8', [2, 2, 4], s),
        [`${experts}.down_proj_scales`]: few('U8', [2, 2], s),
      }),
    ],
    [
      'HQQ',
      (s) => ({
        [`${at}.W_q`]: few('U8', [4, 2], s),
        [`${at}.scale`]: bf16([s, 1]),
        [`${at}.zero`]: bf16([0, 1]),
      }),
    ],
    [
      'quantization',
      (s) => ({ [`${at}.weight`]: raw('U32', [2, 1], [1, 2, 3, s, 5, 6, 7, 8]), [`${at}.scales`]: bf16([s, 1]) }),
      { quantization: { bits: 4 } },
    ],
    ['U8 with scales', (s) => ({ [`${at}.weight._data`]: few('U8', [2], s), [`${at}.weight._scale`]: bf16([s]) })],
  ]
  const formats = methods.map(([method, tensors, config = {}]) => ({ method, tensors, config }))
  const plain = (seed: number) => ({ 'model.embed_tokens.weight': bf16([seed, 1, 2, 3], [2, 2]) })
  const written = (tensors: (seed: number) => Record<string, Raw>, seed: number, config?: object) =>
    writeModel(fresh('packed'), { ...plain(seed), ...tensors(seed) }, { num_hidden_layers: 1, ...config })

  test.each(formats)('of $method are refused, and copied as a whole', async ({ method, tensors, config }) => {
    const [a = '', b = ''] = [1, 2].map((seed) => written(tensors, seed, config))
    const unpacked = writeModel(fresh('plain'), { ...plain(3), [`${at}.weight`]: bf16(new Float32Array(16), [2, 8]) })
    const said = [`ERR_WEIGHTSMITH_DTYPE: `, `is quantised (${method}): `, Object.keys(tensors(1))[0]!]
    const base = { merge_method: 'task_arithmetic', base_model: unpacked, parameters: { weight: 1 } }
    const refused: [RecipeInput, Partial<MergeOptions>?][] = [
      [soup([a, b])],
      [soup([unpacked, b])],
      [{ ...base, models: [{ model: a }] }],
      [{ merge_method: 'passthrough', base_model: a, models: [{ model: unpacked }] }],
      [{ merge_method: 'passthrough', models: [{ model: a, parameters: { scale: 2 } }] }],
      [soup([a]), { dtype: 'float32' }],
    ]
    for (const [recipe, options] of refused) {
      for (const part of said) expect(await refusal(recipe, options)).toContain(part)
    }
    const { tensors: copied, config: kept, out } = await run({ merge_method: 'passthrough', models: [{ model: a }] })
    expect(copied).toEqual(readFolder(a))
    expect(kept).toEqual(JSON.parse(readFileSync(join(a, 'config.json'), 'utf8')))
    for (const part of said) {
      expect(await failure(diff(engine, a, b))).toContain(part)
      expect(await failure(forward(engine, out, [1]))).toContain(part)
      expect(await failure(prune(engine, a, { method: 'magnitude', out: fresh('pruned') }))).toContain(part)
    }
  })

  test('are refused where their layers move', async () => {
    const { tensors, config } = formats[0]!
    const layer = (i: number) =>
      Object.fromEntries(
        Object.entries(tensors(i)).map(([name, value]) => [name.replace('layers.0', `layers.${i}`), value]),
      )
    const a = writeModel(fresh('packed'), { ...layer(0), ...layer(1) }, { num_hidden_layers: 2, ...config })
    const slices = (...ranges: [number, number][]): RecipeInput => ({
      merge_method: 'passthrough',
      slices: ranges.map((layer_range) => ({ sources: [{ model: a, layer_range }] })),
    })
    expect(await refusal(slices([1, 2]))).toContain('is quantised (gptq)')
    expect((await run(slices([0, 1], [1, 2]))).tensors).toEqual(readFolder(a))
  })

  test('are refused as the base of an adapter', async () => {
    const { tensors } = formats.find(({ method }) => method === 'FP8 with scales')!
    const base = written(tensors, 1)
    const adapter = writeModel(fresh('adapter'), {
      [`base_model.model.${at}.lora_A.weight`]: f32(new Float32Array(8), [1, 8]),
      [`base_model.model.${at}.lora_B.weight`]: f32([1, 2], [2, 1]),
    })
    renameSync(join(adapter, 'model.safetensors'), join(adapter, 'adapter_model.safetensors'))
    writeFileSync(join(adapter, 'adapter_config.json'), JSON.stringify({ peft_type: 'LORA', r: 1, lora_alpha: 1 }))
    const recipe = { merge_method: 'passthrough', models: [{ model: `${base}+${adapter}` }] }
    expect(await refusal(recipe)).toContain('is quantised (FP8 with scales)')
  })

  test('are told from plain weights', async () => {
    const models = [1, 2].map((seed) =>
      writeModel(fresh('plain'), {
        // plain F8, in a norm that has a scale and a bias too
        'norm.scale': few('F8_E4M3', [4], seed),
        'norm.bias': few('F8_E4M3', [4], seed),
        'c.weight': few('F8_E5M2', [4], seed),
        // KV scales of other weights, a mask beside a temperature
        'a.k_scale': f32([seed]),
        'a.k_proj.weight': f32([seed]),
        'b.logit_scale': f32([seed]),
        'b.relative_position_index': raw('I64', [1], [1, 0, 0, 0, 0, 0, 0, 0]),
      }),
    )
    const { tensors } = await run(soup(models))
    expect(tensors.get('c.weight')!.dtype).toBe('BF16')
    expect([...values(tensors.get('a.k_scale')!)]).toEqual([1.5])
  })

  test('whose config alone says so are merged as what they are, and it is said', async () => {
    const config = { quantization_config: { quant_method: 'bitsandbytes' } }
    const models = [1, 3].map((seed) => writeModel(fresh('plain'), { w: f32([seed]) }, config))
    const { tensors, report } = await run(soup(models))
    expect([...values(tensors.get('w')!)]).toEqual([2])
    expect(report.notes).toEqual([expect.stringContaining('quantised (bitsandbytes), but they are not')])
  })
})

describe('a head that is the embedding in one model only', () => {
  const embed = 'model.embed_tokens.weight'
  const head = 'lm_head.weight'
  const table = (...numbers: number[]) => f32(numbers, [numbers.length, 1])
  const tied = (start: number, config: object = { tie_word_embeddings: true }, name = embed) =>
    writeModel(fresh('tied'), { [name]: table(start, start + 1), 'model.layers.0.w': f32([start]) }, config)
  const untied = (start: number, config: object = { tie_word_embeddings: false }, name = embed) =>
    writeModel(
      fresh('untied'),
      { [name]: table(start, start + 1), 'model.layers.0.w': f32([start]), [head]: table(10 * start, 20 * start) },
      config,
    )
  const at = (tensors: Map<string, Raw>, name: string) => [...values(tensors.get(name)!)]

  test.each(['tied', 'untied'])('counts by its embedding where the base is %s', async (which) => {
    const [a, b] = [tied(1), untied(3)]
    const base_model = which === 'tied' ? a : b
    const { tensors, config, report, out } = await run({ ...soup([a, b]), base_model })
    expect(at(tensors, embed)).toEqual([2, 3])
    expect(at(tensors, head)).toEqual([15.5, 31])
    expect(config.tie_word_embeddings).toBe(false)
    expect(report.notes).toEqual([expect.stringContaining(`that of ${a} is the embedding`)])
    // what comes out is an untied model
    const again = await run(soup([out, b]))
    expect(at(again.tensors, head)).toEqual([22.75, 45.5])

    const moved = await run({
      merge_method: 'task_arithmetic',
      base_model,
      models: [{ model: which === 'tied' ? b : a, parameters: { weight: 2 } }],
    })
    // B + 2 (M - B)
    expect(at(moved.tensors, head)).toEqual(which === 'tied' ? [59, 118] : [-28, -56])
  })

  test('counts by its embedding in stages, slices and modules', async () => {
    const [a, b] = [tied(1), untied(3)]
    const stage = { ...soup([a, b]), name: 'mean' }
    const staged = await run({ ...soup(['mean', b]), stages: [stage] })
    expect(at(staged.tensors, head)).toEqual([22.75, 45.5])
    expect(staged.config.tie_word_embeddings).toBe(false)

    const slices = (...models: string[]): RecipeInput => ({
      merge_method: 'passthrough',
      slices: models.map((model) => ({ sources: [{ model, layer_range: [0, 1] }] })),
    })
    const own = await run(slices(a, b))
    expect([at(own.tensors, embed), at(own.tensors, head)]).toEqual([
      [1, 2],
      [30, 60],
    ])
    expect(own.config.tie_word_embeddings).toBe(false)
    const embedded = await run(slices(b, a))
    expect([at(embedded.tensors, embed), at(embedded.tensors, head)]).toEqual([
      [3, 4],
      [1, 2],
    ])
    expect(embedded.config.tie_word_embeddings).toBe(false)

    const text = { tie_word_embeddings: true }
    const sees = writeModel(
      fresh('vision'),
      { [`language_model.${embed}`]: table(1, 2), 'language_model.model.layers.0.w': f32([1]), 'vision.w': f32([9]) },
      { text_config: text },
    )
    const modules = { language_model: { models: [{ model: sees }, { model: b }] } }
    const { tensors, config } = await run({
      merge_method: 'linear',
      base_model: sees,
      modules,
      parameters: { weight: 1 },
    })
    expect(at(tensors, `language_model.${head}`)).toEqual([15.5, 31])
    expect(config).toMatchObject({ tie_word_embeddings: false, text_config: { tie_word_embeddings: false } })
  })

  test('is told by what a model class does where its config says nothing', async () => {
    for (const [model_type, name] of [
      ['gemma2', embed],
      ['gpt2', 'transformer.wte.weight'],
    ] as const) {
      const b = untied(3, { model_type, tie_word_embeddings: false }, name)
      const { tensors, config } = await run(soup([tied(1, { model_type }, name), b]))
      expect(at(tensors, head)).toEqual([15.5, 31])
      expect(config.tie_word_embeddings).toBe(false)
      // both are tied, so a stored head is a copy
      const alike = await run(soup([tied(1, { model_type }, name), untied(3, { model_type }, name)]))
      expect(alike.tensors.has(head)).toBe(false)
      expect(alike.report.notes).toEqual([expect.stringContaining(`${head} is left out`)])
    }
    for (const model_type of ['llama', 'qwen2', 'mistral']) {
      const [a, b] = [tied(1, { model_type }), untied(3, { model_type })]
      const said = `ERR_WEIGHTSMITH_MISSING_TENSOR: Tensor ${head} is in ${b}, but not in ${a}`
      for (const models of [
        [a, b],
        [b, a],
      ])
        expect(await refusal(soup(models))).toContain(said)
    }
  })

  test('is refused in T5, which scales what a tied head reads', async () => {
    const config = (tied: boolean) => ({ model_type: 't5', is_encoder_decoder: true, tie_word_embeddings: tied })
    const [a, b] = [tied(1, config(true)), untied(3, config(false))]
    expect(await refusal(soup([a, b]))).toContain(`Tensor ${head} is in ${b}, but not in ${a}`)
  })

  test('is left out with a note where all models tie it, whichever stores a copy', async () => {
    const both = { tie_word_embeddings: true }
    for (const models of [
      [tied(1), untied(3, both)],
      [untied(3, both), tied(1)],
    ]) {
      const { tensors, config, report } = await run(soup(models))
      expect(tensors.has(head)).toBe(false)
      expect(config.tie_word_embeddings).toBe(true)
      expect(report.notes).toEqual([expect.stringContaining(`${head} is left out`)])
    }
  })
})

describe('a base that is not among the models', () => {
  const one = (start: number) => writeModel(fresh('model'), { w: f32([start, -start]) }, { made: start })
  const wOf = ({ tensors }: { tensors: Map<string, Raw> }) => [...values(tensors.get('w')!)]

  test.each(['linear', 'karcher', 'geometric_median', 'fisher', 'regmean'])(
    'is one more model of %s',
    async (method) => {
      const [base, a, b] = [one(1), one(2), one(6)] as const
      const parameters = {
        ...(method === 'linear' && { weight: 1 }),
        ...(/fisher|regmean/.test(method) && { statistics: writeModel(fresh('statistics'), {}) }),
      }
      const recipe = (models: string[], base_model?: string): RecipeInput => ({
        merge_method: method,
        ...(base_model && { base_model }),
        models: models.map((model) => ({ model })),
        parameters,
      })
      const { config, report, ...own } = await run(recipe([a, b], base))
      expect(config.made).toBe(1)
      expect(wOf(own)).toEqual(wOf(await run(recipe([a, b, base]))))
      expect(wOf(own)[0]).toBeCloseTo(method === 'geometric_median' ? 2 : 3, 5)
      expect(report.notes.filter((note) => note.includes('base_model'))).toEqual([])
      // a base that is listed is not counted twice
      expect(wOf(await run(recipe([base, a, b], base)))).toEqual(wOf(await run(recipe([base, a, b]))))
    },
  )

  test('needs what the method asks of a model, and counts', async () => {
    const [base, a, b] = [one(1), one(2), one(6)] as const
    const models = [a, b].map((model) => ({ model, parameters: { weight: 1 } }))
    expect(await refusal({ merge_method: 'linear', base_model: base, models })).toContain(
      'models[2] (base_model).parameters.weight of the recipe should be a number, which method linear needs',
    )
    const many = Array.from({ length: 32 }, (_, i) => ({ model: one(i) }))
    expect(await refusal({ merge_method: 'karcher', base_model: base, models: many })).toContain(
      '1 to 32 models for method karcher, but "33"',
    )
    const modules = { part: { prefix: '', models: [{ model: a }, { model: b }] } }
    const parts = await run({ merge_method: 'linear', base_model: base, modules, parameters: { weight: 1 } })
    expect(wOf(parts)).toEqual([3, -3])
  })

  test('gives passthrough and slices config and tokenizer alone, and a note says so', async () => {
    const layers = (start: number) =>
      writeModel(fresh('model'), { 'layers.0.w': f32([start]) }, { num_hidden_layers: 1, made: start })
    const [base, a, b] = [layers(1), layers(2), layers(6)] as const
    const note = (method: string) => `base_model gives config and tokenizer alone: method ${method} has no base.`
    const whole = await run({ merge_method: 'passthrough', base_model: base, models: [{ model: a }] })
    expect([...values(whole.tensors.get('layers.0.w')!)]).toEqual([2])
    expect(whole.config.made).toBe(1)
    expect(whole.report.notes).toEqual([note('passthrough')])
    const layer_range: [number, number] = [0, 1]
    const sources = [a, b].map((model) => ({ model, layer_range }))
    const recipe = { merge_method: 'linear', base_model: base, parameters: { weight: 1 } }
    const sliced = await run({ ...recipe, slices: [{ sources, base_model: a }] })
    expect([...values(sliced.tensors.get('layers.0.w')!)]).toEqual([4])
    expect(sliced.report.notes).toEqual([
      'slices[0].base_model changes nothing: method linear has no base.',
      note('linear'),
    ])
  })

  test.each(['slerp', 'nuslerp', 'multislerp'])('is the base of %s', async (method) => {
    const [base, a, b] = [one(1), one(2), one(6)] as const
    const models = (method === 'slerp' ? [a] : [a, b]).map((model) => ({ model }))
    const parameters: Record<string, number> = method === 'slerp' ? { t: 0.5 } : { weight: 1 }
    const listed = { merge_method: method, base_model: base, models: [{ model: base }, ...models], parameters }
    expect(wOf(await run({ ...listed, models }))).toEqual(wOf(await run(listed)))
  })
})

describe('layers by other names', () => {
  /** A tensor a layer, all holding `start`, and what stands before and behind. */
  const stack = (names: string[], start: number, config: object, more: string[] = []) =>
    writeModel(
      fresh('model'),
      Object.fromEntries(
        [...names.flatMap((name) => [0, 1, 2].map((i) => name.replace('N', `${i}`))), ...more].map((n) => [
          n,
          f32([start]),
        ]),
      ),
      config,
    )
  const gradient = async (names: string[], config: object, more: string[] = []) => {
    const [a = '', b = ''] = [0, 8].map((start) => stack(names, start, config, more))
    const parameters = { t: [0, 0.25, 1] }
    const recipe = { merge_method: 'nearswap', base_model: a, models: [{ model: b }], parameters }
    return (await run({ ...recipe, dtype: 'float32' })).tensors
  }

  test.each([
    ['BERT, ViT', 'encoder.layer.N.attention.self.query.weight'],
    ['RoBERTa', 'roberta.encoder.layer.N.output.dense.weight'],
    ['DistilBERT', 'distilbert.transformer.layer.N.attention.q_lin.weight'],
    ['MPT', 'transformer.blocks.N.attn.Wqkv.weight'],
    ['one block', 'net.block.N.w'],
    ['T5, whose layers have numbered parts', 'encoder.block.N.layer.0.SelfAttention.q.weight'],
    ['parts of layers', 'model.layers.N.blocks.1.w'],
  ])('take the values of a gradient: %s', async (_, name) => {
    const tensors = await gradient([name], {})
    // nearswap moves the base by t at most
    expect([0, 1, 2].map((i) => values(tensors.get(name.replace('N', `${i}`))!)[0])).toEqual([0, 0.25, 1])
  })

  test.each([
    ['T5', 'encoder.block.N.layer.1.w', 'decoder.block.N.layer.2.w', { is_encoder_decoder: true, num_layers: 3 }],
    [
      'BART',
      'model.encoder.layers.N.w',
      'model.decoder.layers.N.w',
      { is_encoder_decoder: true, num_hidden_layers: 3 },
    ],
  ])(
    'take the values of a gradient in encoder and decoder, but are not moved: %s',
    async (_, encoder, decoder, config) => {
      const tensors = await gradient([encoder, decoder], config)
      for (const name of [encoder, decoder]) {
        expect([0, 1, 2].map((i) => values(tensors.get(name.replace('N', `${i}`))!)[0])).toEqual([0, 0.25, 1])
      }
      const sources = [{ model: stack([encoder, decoder], 1, config), layer_range: [0, 2] as [number, number] }]
      expect(await refusal({ merge_method: 'passthrough', slices: [{ sources }] })).toMatch(
        /RECIPE: slices of the recipe move layers, but .* has those of an encoder and of a decoder/,
      )
    },
  )

  test.each(['num_hidden_layers', 'n_layers'])('are moved, with the number in %s', async (key) => {
    const names = ['bert.encoder.layer.N.attention.self.query.weight']
    const more = [
      'bert.embeddings.word_embeddings.weight',
      'bert.pooler.dense.weight',
      'cls.predictions.bias',
      'classifier.bias',
    ]
    const [a = '', b = ''] = [1, 2].map((start) => stack(names, start, { [key]: 3 }, more))
    const slices = [
      { sources: [{ model: a, layer_range: [0, 2] as [number, number] }] },
      { sources: [{ model: b, layer_range: [1, 3] as [number, number] }] },
    ]
    const { tensors, config, report } = await run({ merge_method: 'passthrough', slices })
    const of = (name: string) => values(tensors.get(name)!)[0]
    expect([0, 1, 2, 3].map((i) => of(names[0]!.replace('N', `${i}`)))).toEqual([1, 1, 2, 2])
    expect(more.map(of)).toEqual([1, 2, 2, 2])
    expect(config[key]).toBe(4)
    expect(report.notes).toEqual([])
  })

  test('whose number the config says by a key that is not known are moved with a note', async () => {
    const a = stack(['model.layers.N.w'], 1, { depth: 3 })
    const slices = [{ sources: [{ model: a, layer_range: [0, 2] as [number, number] }] }]
    expect((await run({ merge_method: 'passthrough', slices })).report.notes).toEqual([
      `config.json of ${a} has no known key for the number of layers; the output has 2.`,
    ])
  })
})

describe('integers', () => {
  const model = (positions: Raw, seed: number) => writeModel(fresh('model'), { w: f32([seed]), positions })
  const i64 = (...numbers: number[]) =>
    raw(
      'I64',
      [numbers.length],
      numbers.flatMap((n) => [n, 0, 0, 0, 0, 0, 0, 0]),
    )

  test('that differ between models are refused by name', async () => {
    const [a, b] = [model(i64(0, 1, 2), 1), model(i64(0, 1, 3), 2)]
    const base = { merge_method: 'task_arithmetic', base_model: a, models: [{ model: b, parameters: { weight: 1 } }] }
    for (const recipe of [soup([a, b]), base]) {
      const said = await refusal(recipe, { dryRun: true })
      expect(said).toContain('ERR_WEIGHTSMITH_DTYPE: Tensor positions holds no floats (I64)')
      expect(said).toContain(`differs between ${a} and ${b}`)
    }
    expect(
      await refusal(soup([a, model(raw('I32', [3], i64(0, 1, 2).bytes.toJSON().data.slice(0, 12)), 2)])),
    ).toContain('is I64 and I32 in')
    expect(await refusal(soup([a, model(f32([0, 1, 2]), 2)]))).toContain('is I64 and F32 in')
  })

  test('that differ are refused in stages too', async () => {
    const [a, b] = [model(i64(4), 1), model(i64(5), 2)]
    const stage = { ...soup([a, b]), name: 'mean' }
    const recipe = { merge_method: 'passthrough', models: [{ model: 'mean' }], stages: [stage] }
    expect(await refusal(recipe)).toContain('Tensor positions holds no floats')
  })

  test('are copied where all models have the same, or one is taken', async () => {
    const [a, b, c] = [model(i64(4, 5), 1), model(i64(4, 5), 3), model(i64(6, 5), 3)]
    const mean = await run(soup([a, b]))
    expect(mean.tensors.get('positions')).toEqual(i64(4, 5))
    expect([...values(mean.tensors.get('w')!)]).toEqual([2])
    const taken = await run({ merge_method: 'passthrough', models: [{ model: c }] })
    expect(taken.tensors.get('positions')).toEqual(i64(6, 5))
  })

  test('of any length are compared to their end', async () => {
    const length = 3_000_001
    const of = (last: number, seed: number) =>
      model({ dtype: 'U8', shape: [length], bytes: Buffer.alloc(length, 1).fill(last, length - 1) }, seed)
    const a = of(1, 1)
    expect(await refusal(soup([a, of(2, 2)]), { dryRun: true })).toContain('differs between')
    expect((await run(soup([a, of(1, 2)]))).tensors.get('positions')!.bytes.length).toBe(length)
  })
})
