/**
 * Shapes of recipes that mergekit takes: what its cards and older versions write, quoted values, long names, keys that
 * it passes over. Each is taken as it means there, named as changing nothing, or refused with a sentence;
 * docs/recipes.md has the table.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, type MergeReport, merge, type RecipeInput } from 'weightsmith'
import { f32, readFolder, values, writeModel } from './checkpoint.js'
import { scratch } from './scratch.js'

let engine: Engine
const { folder, fresh } = scratch('recipe-shapes')

beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

const layers = 3
/** Tensors that hold `start`, plus 10 a layer. */
function model(name: string, start: number): string {
  const tensors = Object.fromEntries(
    Array.from({ length: layers }, (_, i) => [`model.layers.${i}.mlp.weight`, f32([start + 10 * i])]),
  )
  const all = { 'model.embed_tokens.weight': f32([start, start + 1], [2, 1]), ...tensors }
  return writeModel(join(folder, name), all, { num_hidden_layers: layers })
}
beforeAll(() => {
  model('a', 0)
  model('b', 100)
  model('base', 1)
})

interface Result {
  report: MergeReport
  /** The first value of each layer, and of the embedding. */
  layers: number[]
  embedding: number[]
  out: string
}

/** Runs a recipe as YAML, beside the models. */
async function run(yaml: string): Promise<Result> {
  const file = join(folder, 'recipe.yml')
  writeFileSync(file, yaml)
  const out = fresh('out')
  const report = await merge(engine, file, { out, sync: false })
  const tensors = readFolder(out)
  const first = (name: string) => values(tensors.get(name)!)[0]!
  const count = [...tensors.keys()].filter((name) => name.includes('layers')).length
  return {
    out,
    report,
    layers: Array.from({ length: count }, (_, i) => first(`model.layers.${i}.mlp.weight`)),
    embedding: [...values(tensors.get('model.embed_tokens.weight')!)],
  }
}
const refusal = (yaml: string) =>
  run(yaml).then(
    () => 'no error',
    (error: Error & { code?: string }) => `${error.code}: ${error.message}`,
  )

describe('a recipe may have', () => {
  test('merge keys', async () => {
    const { layers } = await run(`
merge_method: linear
models:
  - &first { model: a, parameters: { weight: 1 } }
  - { <<: *first, model: b }
`)
    expect(layers).toEqual([50, 60, 70])
  })

  test('keys that hold nothing', async () => {
    const { layers } = await run(`
merge_method: linear
base_model: null
models: [{ model: a, parameters: { weight: 1 } }, { model: b, parameters: null }]
slices:
modules: ~
parameters: { weight: 1 }
dtype: null
tokenizer: null
chat_template:
`)
    expect(layers).toEqual([50, 60, 70])
  })

  test('numbers and booleans in quotes', async () => {
    const { layers, embedding } = await run(`
merge_method: linear
slices:
  - sources:
      - { model: a, layer_range: ["0", "3"], parameters: { weight: ["1", "0"] } }
      - { model: b, layer_range: [0, 3], parameters: { weight: "1e0" } }
parameters: { normalize: "false" }
`)
    expect(layers).toEqual([100, 115, 120])
    expect(embedding).toEqual([100, 102])
    expect(await refusal('{ merge_method: linear, models: [{ model: a, parameters: { weight: "1,5" } }] }')).toMatch(
      /RECIPE: models\[0\]\.parameters\.weight of the recipe should be a number.*, but "1,5" was found/,
    )
    const dare = await run(`
merge_method: dare_linear
base_model: base
models: [{ model: a, parameters: { weight: "1", density: "1.0" } }]
parameters: { rescale: "True" }
`)
    expect(dare.layers).toEqual([0, 10, 20])
  })

  test('a filter outside of a list', async () => {
    const { layers, embedding } = await run(`
merge_method: linear
models:
  - { model: a, parameters: { weight: { filter: mlp, value: 3 } } }
  - { model: b, parameters: { weight: 1 } }
parameters: { weight: 1 }
`)
    expect(layers[0]).toBe(25)
    expect(embedding[0]).toBe(50)
  })

  test('models in the long form', async () => {
    const { layers, report } = await run(`
merge_method: task_arithmetic
base_model: { model: { path: base, revision: null }, lora: null }
models:
  - { model: { model: { path: a }, override_architecture: LlamaForCausalLM }, parameters: { weight: 1 } }
  - { model: { model: b }, parameters: { weight: 1 } }
tokenizer_source: { model: { path: base } }
`)
    expect(layers).toEqual([99, 109, 119])
    expect(report.notes).toEqual([])
    expect(await refusal('{ merge_method: passthrough, models: [{ model: { path: { model: a } } }] }')).toMatch(
      /RECIPE: models\[0\]\.model of the recipe should be the path or the org\/name of a model, but /,
    )
  })

  test('slices without layers, whose models may give what stands before and behind', async () => {
    const { layers, embedding, report } = await run(`
merge_method: passthrough
slices:
  - sources: [{ model: b, layer_range: [0, 0] }]
  - sources: [{ model: a, layer_range: [1, 3] }]
`)
    expect(layers).toEqual([10, 20])
    expect(embedding).toEqual([100, 101])
    expect(report.notes).toEqual(['slices[0] has no layers.'])
    expect(
      await refusal('{ merge_method: passthrough, slices: [{ sources: [{ model: a, layer_range: [2, 2] }] }] }'),
    ).toContain('RECIPE: slices of the recipe should be slices with at least one layer, but "none" was found')
  })

  test('a tokenizer of a model that is not merged', async () => {
    const tokenizer = (name: string, ...tokens: string[]) => {
      mkdirSync(join(folder, name), { recursive: true })
      const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]))
      writeFileSync(join(folder, name, 'tokenizer.json'), JSON.stringify({ model: { vocab } }))
    }
    for (const name of ['a', 'b']) tokenizer(name, 'x', 'y')
    tokenizer('words', 'y', 'x')
    try {
      const { embedding, out } = await run(`
merge_method: linear
models: [{ model: a }, { model: b }]
parameters: { weight: 1 }
tokenizer_source: model:words
`)
      expect(embedding).toEqual([51, 50])
      expect(readFileSync(join(out, 'tokenizer.json'), 'utf8')).toContain('{"y":0,"x":1}')
      expect(readFileSync(join(out, 'README.md'), 'utf8')).not.toMatch(/^- .*words/m)
      const nowhere =
        '{ merge_method: linear, models: [{ model: a }], parameters: { weight: 1 }, tokenizer_source: nowhere }'
      expect(await refusal(nowhere)).toMatch(/NOT_FOUND: Model nowhere not found; looked in /)
      expect(await refusal(nowhere.replace(/nowhere/, 'base'))).toBe('no error')
      model('silent', 5)
      expect(await refusal(nowhere.replace(/nowhere/, 'silent'))).toMatch(
        /NOT_FOUND: The recipe takes the tokenizer of silent, but its folder .*silent has no tokenizer\.json\./,
      )
    } finally {
      for (const name of ['a', 'b']) rmSync(join(folder, name, 'tokenizer.json'))
    }
  })
})

describe('what mergekit passes over is named', () => {
  test("options of mergekit's command line, ranges of whole models", async () => {
    const { layers, report } = await run(`
merge_method: linear
models:
  - { model: a, layer_range: [0, 2], parameters: { weight: 1 } }
  - { model: b, parameters: { weight: 1 } }
allow_crimes: true
out_shard_size: 1B
parameters: { int8_mask: true }
`)
    expect(layers).toEqual([50, 60, 70])
    expect(report.notes).toEqual([
      "allow_crimes changes nothing: it is an option of mergekit's command line.",
      "out_shard_size changes nothing: it is an option of mergekit's command line.",
      'models[0].layer_range changes nothing: models are merged whole, and slices take ranges.',
      'parameters.int8_mask changes nothing: method linear has no such parameter.',
    ])
  })
})

describe('what has a sentence of its own', () => {
  test('a recipe of mergekit-moe', async () => {
    expect(await refusal('{ base_model: base, gate_mode: hidden, experts: [{ source_model: a }] }')).toBe(
      'ERR_WEIGHTSMITH_RECIPE: The recipe is one of mergekit-moe (it has experts), which makes a mixture of experts of several ' +
        'models; that is not offered, but a mixture that mergekit-moe has made can be merged like any other model.',
    )
  })

  test('a folder with a GGUF, and the file itself', async () => {
    const path = fresh('gguf')
    mkdirSync(path)
    writeFileSync(join(path, 'model-Q4_K_M.gguf'), 'GGUF')
    for (const name of [path, join(path, 'model-Q4_K_M.gguf')]) {
      const recipe: RecipeInput = { merge_method: 'passthrough', models: [{ model: name }] }
      await expect(merge(engine, recipe, { out: fresh('out'), folder: dirname(path) })).rejects.toMatchObject({
        code: 'ERR_WEIGHTSMITH_FORMAT',
        message: expect.stringMatching(/has its weights as GGUF \(model-Q4_K_M\.gguf\).*take the safetensors/),
      })
    }
  })
})
