/** What recipes can say beside a method: moved layers, modules, stages. Values are compared with plain arithmetic. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, type MergeOptions, type MergeReport, merge, type RecipeInput, verify } from 'weightsmith'
import { bf16, f32, type Raw, readFolder, values, writeModel } from './checkpoint.js'
import { scratch } from './scratch.js'

let engine: Engine
const { fresh } = scratch('recipes')

beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

async function run(
  recipe: RecipeInput | string,
  options: Partial<Omit<MergeOptions, 'dryRun'>> = {},
): Promise<{ out: string; report: MergeReport; tensors: Map<string, Raw>; config: Record<string, unknown> }> {
  const out = fresh('out')
  const report = await merge(engine, recipe, { out, sync: false, ...options })
  const config = join(out, 'config.json')
  return {
    out,
    report,
    tensors: readFolder(out),
    config: existsSync(config) ? (JSON.parse(readFileSync(config, 'utf8')) as Record<string, unknown>) : {},
  }
}

const at = (tensors: Map<string, Raw>, name: string) => [...values(tensors.get(name)!)]
const failure = (recipe: RecipeInput | string) =>
  merge(engine, recipe, { out: fresh('out') }).then(
    () => 'no error',
    (error: Error & { code?: string }) => `${error.code}: ${error.message}`,
  )

/** A language model whose tensors hold `start`, plus 10 a layer. */
function language(layers: number, start: number, prefix = '', head = 'lm_head.weight'): Record<string, Raw> {
  const tensors: Record<string, Raw> = { [`${prefix}embed_tokens.weight`]: f32([start, start + 1], [2, 1]) }
  for (let i = 0; i < layers; i++) {
    tensors[`${prefix}layers.${i}.mlp.weight`] = f32([start + 10 * i])
    tensors[`${prefix}layers.${i}.norm.weight`] = f32([start + 10 * i + 5])
  }
  return { ...tensors, [`${prefix}norm.weight`]: f32([start + 500]), [head]: f32([start + 600, start + 601], [2, 1]) }
}

const config = (layers: number, more: object = {}) => ({ num_hidden_layers: layers, ...more })
const model = (layers: number, start: number, more: object = {}) =>
  writeModel(fresh('model'), language(layers, start, 'model.'), config(layers, more))

describe('slices', () => {
  test('stack layers of two models, with the embedding of the first and the head of the last slice', async () => {
    const a = model(4, 0)
    const b = model(4, 1000)
    const { tensors, config } = await run({
      merge_method: 'passthrough',
      slices: [
        { sources: [{ model: a, layer_range: [0, 3] }] },
        { sources: [{ model: b, layer_range: [1, 4] }] },
        { sources: [{ model: a, layer_range: [2, 3], parameters: { scale: 2 } }] },
        { sources: [{ model: b, layer_range: [3, 4] }], parameters: { scale: [{ filter: 'mlp', value: 0.5 }] } },
      ],
    })
    const layers = [0, 10, 20, 1010, 1020, 1030, 40, 515]
    expect(config.num_hidden_layers).toBe(layers.length)
    expect(layers.map((_, i) => at(tensors, `model.layers.${i}.mlp.weight`)[0])).toEqual(layers)
    expect(at(tensors, 'model.layers.7.norm.weight')).toEqual([1035])
    expect(at(tensors, 'model.embed_tokens.weight')).toEqual([0, 1])
    expect(at(tensors, 'model.norm.weight')).toEqual([1500])
    expect(at(tensors, 'lm_head.weight')).toEqual([1600, 1601])
  })

  test('may repeat layers; lists with an entry a layer, and lists of layer numbers, follow', async () => {
    const a = model(4, 0, {
      layer_types: ['full', 'slide', 'slide', 'last'],
      no_rope_layers: [1, 1, 1, 0],
      mlp_only_layers: [1],
      eos_token_id: [1, 2, 3, 4],
    })
    const range = (first: number, end: number) => ({
      sources: [{ model: a, layer_range: [first, end] as [number, number] }],
    })
    const { tensors, config } = await run({ merge_method: 'passthrough', slices: [range(0, 3), range(1, 4)] })
    expect(tensors.size).toBe(6 * 2 + 3)
    expect(config).toMatchObject({
      num_hidden_layers: 6,
      layer_types: ['full', 'slide', 'slide', 'slide', 'slide', 'last'],
      no_rope_layers: [1, 1, 1, 1, 1, 0],
      mlp_only_layers: [1, 3],
      eos_token_id: [1, 2, 3, 4],
    })
  })

  test('write types of layers down where they went by the numbers of layers', async () => {
    const qwen = { use_sliding_window: true, sliding_window: 4, max_window_layers: 2 }
    const a = model(4, 0, qwen)
    const range = { sources: [{ model: a, layer_range: [1, 4] as [number, number] }] }
    const { config } = await run({ merge_method: 'passthrough', slices: [range] })
    expect(config.layer_types).toEqual(['full_attention', 'sliding_attention', 'sliding_attention'])
    const still = await run({ merge_method: 'passthrough', models: [{ model: a }] })
    expect(still.config).not.toHaveProperty('layer_types')
  })

  test('mix layers of several models, each slice with a base and gradients of its own', async () => {
    const [a, b, c] = [model(4, 0), model(4, 100), model(4, 200)]
    const source = (path: string, weight: number | number[]) => ({
      model: path,
      layer_range: [1, 4] as [number, number],
      parameters: { weight },
    })
    const { tensors } = await run({
      merge_method: 'task_arithmetic',
      base_model: a,
      slices: [
        { sources: [source(a, 0), source(b, [0, 1])] },
        { base_model: b, sources: [source(b, 0), source(c, 0.5)] },
      ],
    })
    // b - a = 100 everywhere
    expect([0, 1, 2].map((i) => at(tensors, `model.layers.${i}.mlp.weight`)[0])).toEqual([10, 70, 130])
    expect([3, 4, 5].map((i) => at(tensors, `model.layers.${i}.mlp.weight`)[0])).toEqual([160, 170, 180])
    expect(at(tensors, 'model.norm.weight')).toEqual([650])
  })

  test('are refused where layers are missing or counts differ', async () => {
    const a = model(2, 0)
    const b = model(2, 1)
    const slices = (...ranges: [number, number][]) => ({
      merge_method: 'linear',
      slices: [{ sources: ranges.map((layer_range, i) => ({ model: [a, b][i]!, layer_range })) }],
    })
    expect(await failure(slices([0, 3]))).toMatch(
      /RECIPE: slices\[0\]\.sources\[0\]\.layer_range of the recipe ends at layer 3, but .* has 2 layers/,
    )
    expect(await failure(slices([0, 2], [0, 1]))).toMatch(
      /RECIPE: slices\[0\]\.sources\[1\]\.layer_range .* should be 2 layers like the first source .*, but "1 layers"/,
    )
    expect(await failure({ ...slices([0, 2]), models: [] })).toMatch(/either models or slices/)
  })
})

/** A vision model around a language model, with the names of older or newer transformers. */
function vision(naming: 'old' | 'new', start: number): string {
  const text =
    naming === 'old'
      ? language(2, start, 'language_model.model.', 'language_model.lm_head.weight')
      : language(2, start, 'model.language_model.')
  const before = naming === 'old' ? '' : 'model.'
  const tower: Record<string, Raw> = {
    [`${before}vision_tower.embeddings.weight`]: f32([start + 1]),
    [`${before}multi_modal_projector.linear_1.weight`]: f32([start + 2]),
    [`${before}image_newline`]: f32([start + 3]),
  }
  for (let i = 0; i < 3; i++) tower[`${before}vision_tower.encoder.layers.${i}.fc1.weight`] = f32([start + 10 * i])
  return writeModel(
    fresh('vision'),
    { ...text, ...tower },
    { model_type: 'llava', text_config: config(2), vision_config: config(3) },
  )
}

describe('a gradient', () => {
  test('goes from the first layer to the last; what stands before and behind them takes its first value', async () => {
    const [a, b] = [model(3, 0), model(3, 100)]
    const slerpish: RecipeInput = {
      merge_method: 'linear',
      models: [
        { model: a, parameters: { weight: [1, 0] } },
        { model: b, parameters: { weight: [0, 1] } },
      ],
    }
    const { tensors } = await run(slerpish)
    expect([0, 1, 2].map((i) => at(tensors, `model.layers.${i}.mlp.weight`)[0])).toEqual([0, 60, 120])
    expect(at(tensors, 'model.embed_tokens.weight')).toEqual([0, 1])
    expect(at(tensors, 'model.norm.weight')).toEqual([500])
    expect(at(tensors, 'lm_head.weight')).toEqual([600, 601])
  })
})

describe('modules', () => {
  test('are merged each in its own way; what is in none comes from the base', async () => {
    const [a, b] = [vision('old', 0), vision('old', 100)]
    const both = (weight: number) => [
      { model: a, parameters: { weight: 1 - weight } },
      { model: b, parameters: { weight } },
    ]
    const { tensors, config, report } = await run({
      merge_method: 'linear',
      base_model: a,
      modules: {
        language_model: { models: both(0.5) },
        vision_tower: {
          merge_method: 'passthrough',
          slices: [{ sources: [{ model: b, layer_range: [0, 2] }] }, { sources: [{ model: a, layer_range: [0, 3] }] }],
        },
        multi_modal_projector: { models: both(0.25), parameters: { normalize: false } },
      },
    })
    expect(at(tensors, 'language_model.model.layers.1.mlp.weight')).toEqual([60])
    expect(at(tensors, 'language_model.lm_head.weight')).toEqual([650, 651])
    expect([0, 1, 2, 3, 4].map((i) => at(tensors, `vision_tower.encoder.layers.${i}.fc1.weight`)[0])).toEqual([
      100, 110, 0, 10, 20,
    ])
    expect(at(tensors, 'multi_modal_projector.linear_1.weight')).toEqual([27])
    expect(at(tensors, 'image_newline')).toEqual([3])
    expect(config).toMatchObject({ text_config: { num_hidden_layers: 2 }, vision_config: { num_hidden_layers: 5 } })
    expect(report.notes.join()).toMatch(/1 tensor of no module is copied/)
  })

  test.each(['old', 'new'] as const)(
    'let a language model be merged into a vision model (%s names)',
    async (naming) => {
      const a = vision(naming, 0)
      const b = model(2, 100)
      const { tensors } = await run({
        merge_method: 'slerp',
        base_model: a,
        modules: { language_model: { models: [{ model: a }, { model: b }] } },
        parameters: { t: 1 },
      })
      expect([...tensors.keys()].sort()).toEqual([...readFolder(a).keys()].sort())
      const stem = naming === 'old' ? 'language_model.model' : 'model.language_model'
      expect(at(tensors, `${stem}.layers.1.mlp.weight`)).toEqual([110])
      expect(at(tensors, naming === 'old' ? 'language_model.lm_head.weight' : 'lm_head.weight')).toEqual([700, 701])
      expect(
        at(tensors, naming === 'old' ? 'vision_tower.embeddings.weight' : 'model.vision_tower.embeddings.weight'),
      ).toEqual([1])
    },
  )

  test('match tokens where the vision model has more of them', async () => {
    const a = vision('old', 0)
    const b = writeModel(
      fresh('model'),
      {
        ...language(2, 100, 'model.'),
        'model.embed_tokens.weight': f32([700], [1, 1]),
        'lm_head.weight': f32([800], [1, 1]),
      },
      config(2, { vocab_size: 1 }),
    )
    const tokens = (...names: string[]) =>
      JSON.stringify({ model: { vocab: Object.fromEntries(names.map((name, id) => [name, id])) } })
    writeFileSync(join(a, 'tokenizer.json'), tokens('<image>', 'x'))
    writeFileSync(join(b, 'tokenizer.json'), tokens('x'))
    const recipe: RecipeInput = {
      merge_method: 'linear',
      base_model: a,
      modules: { language_model: { models: [{ model: a }, { model: b }] } },
      parameters: { weight: 1 },
    }
    expect(await failure(recipe)).toMatch(/has 2 rows in .*, but 1 in .*: their vocabularies differ/)
    const { tensors, config: written } = await run({ ...recipe, tokenizer_source: 'base' })
    // <image> is the vision model's alone; x is its second row
    expect(at(tensors, 'language_model.model.embed_tokens.weight')).toEqual([0, (1 + 700) / 2])
    expect(at(tensors, 'language_model.lm_head.weight')).toEqual([600, (601 + 800) / 2])
    expect(written).toMatchObject({ text_config: { vocab_size: 2 } })
  })

  test('match names of older and newer vision models, and prefixes that are given', async () => {
    const [a, b] = [vision('old', 0), vision('new', 100)]
    const odd = writeModel(fresh('model'), language(2, 300, 'odd.'), config(2))
    const { tensors } = await run({
      merge_method: 'linear',
      base_model: b,
      modules: {
        text_decoder: { models: [{ model: a }, { model: b }], parameters: { weight: 1 } },
        vision_tower: { models: [{ model: a }, { model: b }], parameters: { weight: 1 } },
      },
    })
    expect(at(tensors, 'model.language_model.layers.0.mlp.weight')).toEqual([50])
    expect(at(tensors, 'model.vision_tower.encoder.layers.2.fc1.weight')).toEqual([70])
    const given = await run({
      merge_method: 'linear',
      base_model: a,
      modules: {
        decoder: {
          prefix: 'language_model.model.layers.',
          models: [{ model: a }, { model: odd, prefix: 'odd.layers.' }],
          parameters: { weight: 1 },
        },
      },
    })
    expect(at(given.tensors, 'language_model.model.layers.1.mlp.weight')).toEqual([160])
  })

  test("match mergekit's names of the parts of Qwen2-VL", async () => {
    const qwen = (start: number, stem: string, text: string) =>
      writeModel(
        fresh('model'),
        {
          ...language(2, start, text),
          [`${stem}patch_embed.proj.weight`]: f32([start + 1]),
          [`${stem}blocks.0.attn.proj.weight`]: f32([start + 2]),
          [`${stem}blocks.1.attn.proj.weight`]: f32([start + 3]),
          [`${stem}merger.mlp.0.weight`]: f32([start + 4]),
        },
        config(2, { model_type: 'qwen2_vl', vision_config: { depth: 2 } }),
      )
    for (const [stem, text] of [
      ['visual.', 'model.'],
      ['model.visual.', 'model.language_model.'],
    ] as const) {
      const [a, b] = [qwen(0, stem, text), qwen(100, stem, text)]
      const both = (weight: number) => ({
        models: [
          { model: a, parameters: { weight: 1 - weight } },
          { model: b, parameters: { weight } },
        ],
      })
      const { tensors, report } = await run({
        merge_method: 'linear',
        base_model: a,
        modules: { text_decoder: both(0.5), vision_tower: both(0.25), multi_modal_projector: both(0.75) },
      })
      expect(at(tensors, `${text}layers.1.mlp.weight`)).toEqual([60])
      expect(at(tensors, `${stem}patch_embed.proj.weight`)).toEqual([26])
      expect(at(tensors, `${stem}blocks.1.attn.proj.weight`)).toEqual([28])
      expect(at(tensors, `${stem}merger.mlp.0.weight`)).toEqual([79])
      expect(report.notes).toEqual([])
    }
  })

  test('may be one that is the whole model, called default as mergekit does, or of an empty prefix', async () => {
    const types = { layer_types: ['full', 'slide', 'last'] }
    const [a, b] = [model(3, 0, types), model(3, 100, { tie_word_embeddings: true })]
    const models = [a, b].map((path, i) => ({ model: path, parameters: { weight: [i, 1 - i] } }))
    const slices = [
      { sources: [{ model: b, layer_range: [0, 1] as [number, number] }] },
      { sources: [{ model: a, layer_range: [1, 3] as [number, number] }] },
    ]
    for (const sources of [
      { merge_method: 'linear', entry: { models } },
      { merge_method: 'passthrough', entry: { slices } },
    ]) {
      const recipe = { merge_method: sources.merge_method, base_model: a }
      const plain = await run({ ...recipe, ...sources.entry })
      const named = await run({ ...recipe, modules: { default: sources.entry } })
      const prefixed = await run({ ...recipe, modules: { whole: { prefix: '', ...sources.entry } } })
      for (const { tensors, config, report } of [named, prefixed]) {
        expect(tensors).toEqual(plain.tensors)
        expect(config).toEqual(plain.config)
        expect(report.notes.filter((note) => !note.startsWith('base_model'))).toEqual(
          plain.report.notes.filter((note) => !note.startsWith('base_model')),
        )
      }
    }
    const own = { 'default.weight': f32([1]), 'other.weight': f32([2]) }
    const [c, d] = [writeModel(fresh('model'), own), writeModel(fresh('model'), { ...own, 'default.weight': f32([3]) })]
    const mean = { models: [c, d].map((path) => ({ model: path, parameters: { weight: 1 } })) }
    const { report } = await run({ merge_method: 'linear', base_model: c, modules: { default: mean } })
    expect(report.notes).toEqual([`1 tensor of no module is copied from ${c}.`])
  })

  test('are refused where a model has no such part, or two share tensors', async () => {
    const a = vision('old', 0)
    const b = model(2, 1)
    const modules = (modules: RecipeInput['modules']) => ({
      merge_method: 'linear',
      base_model: a,
      parameters: { weight: 1 },
      modules: modules!,
    })
    expect(await failure(modules({ vision_tower: { models: [{ model: a }, { model: b }] } }))).toMatch(
      /RECIPE: modules\.vision_tower .* should be a module of .*, but it has no such tensors; give prefix/,
    )
    expect(
      await failure(modules({ language_model: { models: [{ model: a }] }, text_model: { models: [{ model: a }] } })),
    ).toMatch(/RECIPE: modules\.text_model .* is in two of them/)
    expect(await failure(modules({ language_model: { parameters: {} } }))).toMatch(
      /modules\.language_model\.models of the recipe should be a list of models \(or slices\), but is missing/,
    )
  })
})

describe('models that call the same tensors otherwise', () => {
  const mean = (first: string, second: string): RecipeInput => ({
    merge_method: 'linear',
    models: [{ model: first }, { model: second }],
    parameters: { weight: 1 },
  })

  test('are matched: vision models of older and newer transformers', async () => {
    const [older, newer] = [vision('old', 0), vision('new', 100)]
    for (const [first, second] of [
      [older, newer],
      [newer, older],
    ] as const) {
      const { tensors, report } = await run(mean(first, second))
      expect([...tensors.keys()].sort()).toEqual([...readFolder(first).keys()].sort())
      const [a, b] = [readFolder(older), readFolder(newer)]
      const sum = (all: Map<string, Raw>) =>
        [...all.values()].flatMap((raw) => [...values(raw)]).reduce((x, y) => x + y, 0)
      expect(sum(tensors)).toBeCloseTo((sum(a) + sum(b)) / 2, 3)
      const stem = first === older ? 'language_model.model' : 'model.language_model'
      expect(at(tensors, `${stem}.layers.1.mlp.weight`)).toEqual([60])
      expect(report.notes.join()).toMatch(/calls its tensors otherwise than .* \(.* for .*\); they are matched/)
    }
  })

  test('are matched: a model saved without its head, and with it', async () => {
    for (const [stem, bare] of [
      ['model.', ''],
      ['model.decoder.', 'decoder.'],
      ['transformer.', ''],
    ] as const) {
      const whole = writeModel(fresh('model'), language(2, 0, stem), config(2, { tie_word_embeddings: true }))
      const { 'lm_head.weight': _, ...rest } = language(2, 100, bare)
      const headless = writeModel(fresh('model'), rest, config(2, { tie_word_embeddings: true }))
      const { tensors } = await run(mean(whole, headless))
      expect(at(tensors, `${stem}layers.1.mlp.weight`)).toEqual([60])
      const other = await run(mean(headless, whole))
      expect(at(other.tensors, `${bare}layers.1.mlp.weight`)).toEqual([60])
      expect(at(other.tensors, `${bare}norm.weight`)).toEqual([550])
    }
  })

  test('stay as they are where a name would be that of two tensors', async () => {
    const twice = writeModel(fresh('model'), { 'model.x': f32([1]), x: f32([2]) })
    expect(await failure(mean(twice, writeModel(fresh('model'), { x: f32([1]) })))).toContain('MISSING_TENSOR')
  })
})

describe('stages', () => {
  const write = (text: string) => {
    const file = `${fresh('recipe')}.yml`
    writeFileSync(file, text)
    return file
  }

  test('feed later ones; sums of sums are joined and never written', async () => {
    const [a, b, c] = [model(2, 0), model(2, 100), model(2, 1000)]
    const file = write(`
name: half
merge_method: linear
models:
  - {model: ${a}, parameters: {weight: 1}}
  - {model: ${b}, parameters: {weight: 1}}
---
name: tall
merge_method: passthrough
slices:
  - sources: [{model: half, layer_range: [0, 2]}]
  - sources: [{model: ${c}, layer_range: [1, 2]}]
---
merge_method: linear
models:
  - {model: tall, parameters: {weight: 3}}
  - {model: tall2, parameters: {weight: 1}}
---
name: tall2
merge_method: passthrough
slices:
  - sources: [{model: ${c}, layer_range: [0, 2]}]
  - sources: [{model: ${a}, layer_range: [0, 1]}]
`)
    const { tensors, config, report } = await run(file)
    expect(config.num_hidden_layers).toBe(3)
    // layer 0: 3/4 · 50 + 1/4 · 1000, layer 2: 3/4 · 1010 + 1/4 · 0
    expect([0, 1, 2].map((i) => at(tensors, `model.layers.${i}.mlp.weight`)[0])).toEqual([287.5, 297.5, 757.5])
    expect(report.notes).toEqual([])
    expect(report.bytesRead).toBeLessThan(3 * 200)
  })

  test('that cannot be joined are made first, in float32, and leave no file behind', async () => {
    const ramp = (start: number) =>
      Object.fromEntries(
        ['x', 'y'].map((name, k) => [
          `model.layers.0.${name}.weight`,
          bf16(
            Array.from({ length: 3000 }, (_, i) => Math.sin(start + k + i * (start + 1))),
            [30, 100],
          ),
        ]),
      )
    const [a, b] = [1, 2].map((n) => writeModel(fresh('model'), ramp(n), config(1))) as [string, string]
    const stage: RecipeInput = {
      name: 'mixed',
      merge_method: 'slerp',
      base_model: a,
      models: [{ model: a }, { model: b }],
      parameters: { t: 0.3 },
    }
    const final: RecipeInput = {
      merge_method: 'ties',
      base_model: a,
      models: [{ model: 'mixed', parameters: { weight: 1, density: 0.5 } }],
      stages: [stage],
    }
    // in memory, and in files
    for (const memory of ['1GiB', '90KiB']) {
      const { out, tensors, report } = await run(final, { memory })
      expect(report.notes.join()).toMatch(/2 tensors are made before the merge, in float32/)
      expect(existsSync(join(out, 'stages'))).toBe(false)
      const apart = await run({ ...stage, dtype: 'float32' })
      const { stages: _, ...alone } = final
      const expected = await run({ ...alone, models: [{ ...final.models![0]!, model: apart.out }] })
      expect(tensors.get('model.layers.0.x.weight')!.dtype).toBe('BF16')
      for (const [name, { bytes }] of expected.tensors) expect(tensors.get(name)!.bytes.equals(bytes)).toBe(true)
    }
    // a copy of what a stage makes is made in its place, with the same random numbers
    const dare: RecipeInput = { ...stage, merge_method: 'dare_linear', parameters: { weight: 1, density: 0.5 } }
    const direct = await run(dare)
    const moved = await run({
      merge_method: 'passthrough',
      slices: [0, 1].map(() => ({ sources: [{ model: 'mixed', layer_range: [0, 1] as [number, number] }] })),
      stages: [dare],
    })
    expect(moved.report.notes).toEqual([])
    for (const layer of [0, 1]) {
      const name = `model.layers.${layer}.x.weight`
      expect(moved.tensors.get(name)!.bytes.equals(direct.tensors.get('model.layers.0.x.weight')!.bytes)).toBe(true)
    }
  })

  test('keep facts of a whole model, whatever later ones take from it', async () => {
    const layers = (seed: number) =>
      writeModel(
        fresh('model'),
        Object.fromEntries(
          [0, 1, 2].map((i) => [
            `model.layers.${i}.x.weight`,
            f32(
              Array.from({ length: 500 }, (_, k) => (i + 1) * Math.sin(seed + k * (seed + i))),
              [20, 25],
            ),
          ]),
        ),
        config(3),
      )
    const [a, b, c] = [layers(1), layers(2), layers(3)]
    const stage: RecipeInput = {
      merge_method: 'ties',
      base_model: a,
      models: [b, c].map((path) => ({ model: path, parameters: { weight: 1, density: 0.3 } })),
      parameters: { scope: 'model' },
    }
    const direct = await run(stage)
    const later = (store: string, more: Partial<RecipeInput> = {}): RecipeInput => ({
      merge_method: 'passthrough',
      slices: [{ sources: [{ model: store, layer_range: [1, 2] }] }],
      ...more,
    })
    const { tensors } = await run(later('whole', { stages: [{ ...stage, name: 'whole' }] }))
    const name = 'model.layers.0.x.weight'
    expect(tensors.get(name)!.bytes.equals(direct.tensors.get('model.layers.1.x.weight')!.bytes)).toBe(true)
    const out = fresh('sweep')
    const { report } = { report: await merge(engine, { ...stage, sweep: { lambda: [0.5, 1] } }, { out, sync: false }) }
    for (const [key, { bytes }] of direct.tensors)
      expect(readFolder(report.sweep![1]!.out).get(key)!.bytes.equals(bytes)).toBe(true)
  })

  test('are refused in circles, without a name or with the same one', async () => {
    const a = model(1, 0)
    const stage = (name: string, from: string): RecipeInput => ({
      name,
      merge_method: 'passthrough',
      models: [{ model: from }],
    })
    const final = (...stages: RecipeInput[]): RecipeInput => ({ ...stage('last', 'x'), stages })
    expect(await failure(final(stage('x', 'y'), stage('y', 'x')))).toMatch(
      /stages that do not read one another in a circle/,
    )
    expect(await failure(final(stage('x', a), stage('x', a)))).toMatch(/stages\[1\]\.name .* a name of its own/)
    const { name: _, ...unnamed } = stage('x', a)
    const unread = await run({ ...stage('last', a), stages: [stage('x', a)] })
    expect(unread.report.notes.join()).toMatch(/Stage x changes nothing: no other reads it/)
    expect(await failure({ ...stage('last', 'x+y'), stages: [stage('x', a)] })).toMatch(/RECIPE: .*only stored models/)
    expect(await failure(final(unnamed))).toMatch(/stages\[0\]\.name of the recipe .* is missing/)
    expect(await failure(final({ ...stage('x', a), parameters: { scael: 2 } }))).toMatch(/Stage x: parameters\.scael/)
  })
})

describe('a chat template', () => {
  const chatty = (template: string | undefined, file = false) => {
    const path = model(1, 0)
    const config = template === undefined || file ? {} : { chat_template: template }
    writeFileSync(join(path, 'tokenizer_config.json'), JSON.stringify({ model_max_length: 7, ...config }))
    if (file) writeFileSync(join(path, 'chat_template.jinja'), template!)
    return path
  }
  const merged = async (models: string[], chat_template: string) => {
    const { out, report } = await run({
      merge_method: 'linear',
      models: models.map((path) => ({ model: path })),
      parameters: { weight: 1 },
      chat_template,
    })
    const text = (name: string) => (existsSync(join(out, name)) ? readFileSync(join(out, name), 'utf8') : undefined)
    const config = JSON.parse(text('tokenizer_config.json')!) as Record<string, unknown>
    return { file: text('chat_template.jinja'), config, report }
  }
  const [x, y] = ['{% for m in messages %}x{% endfor %}', '{% for m in messages %}y{% endfor %}']

  test('by name or as it is goes to both places transformers looks in', async () => {
    const named = await merged([chatty(x)], 'chatml')
    expect(named.file).toMatch(/<\|im_start\|>/)
    expect(named.config).toEqual({ model_max_length: 7, chat_template: named.file })
    expect((await merged([chatty(x, true)], y)).file).toBe(y)
  })

  test('auto is what most models have', async () => {
    const { file, config } = await merged([chatty(y), chatty(x), chatty(x, true)], 'auto')
    expect([file, config.chat_template]).toEqual([x, x])
    const none = await merged([chatty(undefined)], 'auto')
    expect(none.file).toBeUndefined()
    expect(none.report.notes.join()).toMatch(/no model has a template/)
  })

  test('of an unknown name is refused', async () => {
    expect(
      await failure({ merge_method: 'passthrough', models: [{ model: chatty(x) }], chat_template: 'cahtml' }),
    ).toMatch(/chat_template of the recipe should be auto, alpaca, chatml, exaone, llama3, mistral or a Jinja template/)
  })
})

describe('a sweep', () => {
  const ramp = (seed: number, store = bf16) =>
    writeModel(
      fresh('model'),
      Object.fromEntries(
        ['x', 'y'].map((name, k) => [
          `model.layers.0.${name}.weight`,
          store(
            Array.from({ length: 9000 }, (_, i) => Math.sin(seed + k + i * seed)),
            [90, 100],
          ),
        ]),
      ),
      config(1),
    )
  const swept = async (recipe: RecipeInput, options: Partial<Omit<MergeOptions, 'dryRun'>> = {}) => {
    const out = fresh('sweep')
    return { out, report: await merge(engine, recipe, { out, sync: false, ...options }) }
  }
  const same = async (path: string, recipe: RecipeInput) => {
    const { tensors } = await run(recipe)
    const got = readFolder(path)
    expect([...got.keys()]).toEqual([...tensors.keys()])
    for (const [name, { bytes }] of tensors) expect(got.get(name)!.bytes.equals(bytes)).toBe(true)
  }

  test('gives the outputs of its recipes from one read of the inputs', async () => {
    const [a, b] = [ramp(1), ramp(2)]
    const size = 2 * 18000
    for (const method of ['linear', 'ties', 'dare_linear']) {
      const weights = [0.125, 0.25, 0.5, 0.75]
      const recipe = (more: Partial<RecipeInput>): RecipeInput => ({
        merge_method: method,
        ...(method === 'linear' ? {} : { base_model: a }),
        models: method === 'linear' ? [{ model: a }, { model: b, parameters: { weight: 1 } }] : [{ model: b }],
        ...more,
      })
      const { out, report } = await swept(
        recipe({ sweep: { weight: weights } }).merge_method === 'linear'
          ? recipe({ sweep: { 'models[0].parameters.weight': weights } })
          : recipe({ sweep: { weight: weights } }),
      )
      const label = method === 'linear' ? 'models.0.weight' : 'weight'
      expect(report.sweep!.map((point) => point.label)).toEqual(weights.map((w) => `${label}=${w}`))
      expect(report.bytesRead).toBe(2 * size)
      expect(report.bytesWritten).toBeGreaterThanOrEqual(weights.length * size)
      for (const [i, weight] of weights.entries()) {
        const path = report.sweep![i]!.out
        expect(path).toBe(join(out, `${label}=${weight}`))
        const single =
          method === 'linear'
            ? recipe({
                models: [
                  { model: a, parameters: { weight } },
                  { model: b, parameters: { weight: 1 } },
                ],
              })
            : recipe({ parameters: { weight } })
        await same(path, single)
        expect((await verify(path)).tensors).toBe(2)
        const manifest = JSON.parse(readFileSync(join(path, 'weightsmith.json'), 'utf8')) as { recipe: object }
        expect(manifest.recipe).not.toHaveProperty('sweep')
      }
    }
  })

  test('combines several parameters, with gradients, and values that need no kernel', async () => {
    const [a, b] = [ramp(1), ramp(2)]
    const recipe: RecipeInput = {
      merge_method: 'task_arithmetic',
      base_model: a,
      models: [{ model: b, parameters: { weight: 1 } }],
    }
    const { report } = await swept({
      ...recipe,
      sweep: { 'models[0].parameters.weight': [0, [0, 1]], lambda: [0.5, 1] },
    })
    expect(report.sweep!.map(({ label }) => label)).toEqual([
      'models.0.weight=0,lambda=0.5',
      'models.0.weight=0,lambda=1',
      'models.0.weight=0_1,lambda=0.5',
      'models.0.weight=0_1,lambda=1',
    ])
    const at = (weight: number | number[], lambda: number) => ({
      ...recipe,
      models: [{ model: b, parameters: { weight } }],
      parameters: { lambda },
    })
    for (const [i, [weight, lambda]] of (
      [
        [0, 0.5],
        [0, 1],
        [[0, 1], 0.5],
        [[0, 1], 1],
      ] as const
    ).entries()) {
      await same(report.sweep![i]!.out, at(weight as number, lambda))
    }
  })

  test('makes what its recipes share only once', async () => {
    const [a, b] = [ramp(1), ramp(2)]
    const stage: RecipeInput = {
      name: 'mixed',
      merge_method: 'slerp',
      base_model: a,
      models: [{ model: b }],
      parameters: { t: 0.5 },
    }
    const recipe: RecipeInput = { merge_method: 'slerp', base_model: a, models: [{ model: 'mixed' }], stages: [stage] }
    const { report } = await swept({ ...recipe, sweep: { t: [0.2, 0.4, 0.6] } })
    // a (bf16) and the stage (f32), once for all three
    expect(report.bytesRead).toBe(36000 + 72000)
    for (const [i, t] of [0.2, 0.4, 0.6].entries()) await same(report.sweep![i]!.out, { ...recipe, parameters: { t } })
  })

  test('publishes all outputs or none, and plans without writing', async () => {
    const [a, b] = [ramp(1), ramp(2)]
    const recipe: RecipeInput = {
      merge_method: 'slerp',
      base_model: a,
      models: [{ model: b }],
      sweep: { t: [0.25, 0.5] },
    }
    const out = fresh('sweep')
    const { forecast } = await merge(engine, recipe, { out, dryRun: true })
    expect(existsSync(out)).toBe(false)
    expect(forecast).toMatchObject({ sweep: ['t=0.25', 't=0.5'], files: { length: 2 } })
    expect(forecast.plan.map(({ file }) => file)).toContain('t=0.5/model.safetensors')
    const controller = new AbortController()
    const target = fresh('sweep')
    await expect(
      merge(engine, recipe, { out: target, signal: controller.signal, onProgress: () => controller.abort() }),
    ).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_ABORTED' })
    expect(existsSync(target) ? readdirSync(target) : []).toEqual([])
  })

  test('is refused where it would change nothing, or is no list', async () => {
    const a = ramp(1)
    const recipe = (sweep: unknown): RecipeInput => ({
      merge_method: 'linear',
      models: [{ model: a, parameters: { weight: 1 } }],
      sweep: sweep as never,
    })
    expect(await failure(recipe({ weight: [1, 2] }))).toMatch(
      /sweep\.weight of the recipe should be the path of the value to change, such as models\[0\]\.parameters\.weight/,
    )
    expect(await failure(recipe({ 'models[3].parameters.weight': [1] }))).toMatch(
      /sweep\.models\[3\]\.parameters\.weight .* path of a value/,
    )
    expect(await failure(recipe({ 'models[0].parameters.weight': 1 }))).toMatch(/a list of values, one an output/)
    expect(await failure(recipe({ 'models[0].parameters.weight': [1, 1] }))).toMatch(/values that differ/)
    expect(await failure(recipe({ 'models[0].parameters.weight': [1, 'x'] }))).toMatch(
      /models\[0\]\.parameters\.weight of the recipe should be a number/,
    )
    expect(await failure(recipe({ 'models[0].parameters.weight': Array.from({ length: 300 }, (_, i) => i) }))).toMatch(
      /at most 256/,
    )
    expect(await failure(recipe({}))).toMatch(/at least one parameter/)
  })
})
