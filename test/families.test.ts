/** Tiny models of every family give the hidden states and logits that transformers gives for them. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, evaluate, generate, openModel, prune, score } from 'weightsmith'
import { modelSpec } from '../lib/architectures/index.js'
import { rotaryOf } from '../lib/architectures/rope.js'
import { fill, type Raw, readFolder, readSafetensors, values, writeModel, writeSafetensors } from './checkpoint.js'
import { forward } from './forward.js'

const goldens = join(process.cwd(), 'test/peers/forward')
const { cases, rotary } = JSON.parse(readFileSync(join(goldens, 'forward.json'), 'utf8')) as {
  cases: Record<string, { config: Record<string, unknown>; ids: number[]; tensors: Record<string, number[]> }>
  rotary: Record<string, { config: Record<string, unknown>; length: number; frequencies: number[]; factor: number }>
}
const tensors = readSafetensors(join(goldens, 'forward.safetensors'))

const weights = (shapes: Record<string, number[]>): Record<string, Raw> =>
  Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => [
      name,
      { dtype: 'F32', shape, bytes: Buffer.from(fill(name, shape).buffer) },
    ]),
  )

function distance(got: ArrayLike<number>, name: string): number {
  const want = values(tensors.get(name)!)
  expect(got.length).toBe(want.length)
  return want.reduce((most, value, i) => Math.max(most, Math.abs(got[i]! - value)), 0)
}

describe('a tiny model', () => {
  let engine: Engine
  let root: string
  beforeAll(async () => {
    root = mkdtempSync(join(tmpdir(), 'weightsmith-families-'))
    engine = await Engine.open()
  })
  afterAll(async () => {
    rmSync(root, { recursive: true, force: true })
    await engine?.close()
  })

  test.each(Object.keys(cases))('%s has the hidden states and logits of transformers', async (name) => {
    const { config, ids, tensors: shapes } = cases[name]!
    const folder = writeModel(join(root, name), weights(shapes), config)
    const model = await openModel(engine, folder, { batchTokens: 64 })
    const images = 'vision_config' in config ? [fill('image', [3, 10, 10])] : []
    // A second sequence in front: positions are those of the own sequence.
    const tokens = model.pack([
      { ids: ids.slice(5, 9), images: [] },
      { ids, images },
    ])
    const pass = await model.run(tokens, { logits: true, hidden: true })
    const last = <T extends Float32Array>(rows: T) => rows.subarray((rows.length / tokens.length) * 4)
    expect(distance(last(pass.logits!), `${name}/logits`)).toBeLessThan(2e-5)
    for (const i of [0, 1]) expect(distance(last(pass.hidden![i]!), `${name}/hidden/${i}`)).toBeLessThan(2e-5)
    await model.close()
  })

  describe('saved without its head, so that names lack their first part', () => {
    const bare = (all: Iterable<[string, Raw]>) =>
      Object.fromEntries([...all].map(([name, raw]) => [name.replace(/^model\./, ''), raw]))

    test.each([
      ['opt', 'OPTForCausalLM'],
      ['opt', 'OPTModel'],
      ['qwen3-windows', 'Qwen3Model'],
      ['qwen2-yarn', 'Qwen2ForCausalLM'],
    ])('%s, a %s, has the same logits', async (name, architecture) => {
      const { config, ids, tensors: shapes } = cases[name]!
      const whole = weights(shapes)
      const logits = async (folder: string) => (await forward(engine, folder, ids, { logits: true })).logits!
      const want = await logits(writeModel(join(root, `${name}-whole`), whole, config))
      const own = { ...config, architectures: [architecture] }
      expect(await logits(writeModel(join(root, `${name}-bare`), bare(Object.entries(whole)), own))).toEqual(want)
    })

    test('is evaluated, scored and pruned alike, and completes prompts alike', async () => {
      const whole = join(process.cwd(), 'demo/models/base')
      const copy = join(root, 'base-bare')
      cpSync(whole, copy, { recursive: true })
      writeSafetensors(join(copy, 'model.safetensors'), bare(readFolder(whole)))
      const data = join(root, 'sums.jsonl')
      writeFileSync(data, ['1+6', '2+5'].map((sum) => JSON.stringify({ prompt: `${sum}=`, answer: '7' })).join('\n'))
      const results = []
      for (const [i, model] of [whole, copy].entries()) {
        const [scores, out] = [join(root, `base-${i}.scores`), join(root, `base-${i}`)]
        const { sets } = await evaluate(engine, model, { data })
        const { continuations } = await generate(engine, model, ['3+4='], { maxTokens: 4 })
        await score(engine, model, { data, methods: ['flap'], out: scores })
        await prune(engine, model, { method: 'flap', keepRatio: 1 / 2, scores, out })
        results.push({ value: sets[0]!.value, continuations, tensors: bare(readFolder(out)) })
      }
      expect(results[1]).toEqual(results[0])
    })

    test('cannot be run where its head was not the embedding', async () => {
      const { config, ids, tensors: shapes } = cases['qwen2-yarn']!
      const rest = Object.entries(weights(shapes)).filter(([name]) => name !== 'lm_head.weight')
      const folder = writeModel(join(root, 'headless'), bare(rest), { ...config, architectures: ['Qwen2Model'] })
      await expect(forward(engine, folder, ids)).rejects.toMatchObject({
        code: 'ERR_WEIGHTSMITH_MISSING_TENSOR',
        message: expect.stringContaining('has no lm_head.weight, which Qwen2ForCausalLM needs'),
      })
    })
  })

  test('has units that fill the tensors they are parts of', () => {
    for (const { config, tensors: shapes } of Object.values(cases)) {
      const raw = weights(shapes)
      const { language, vision } = modelSpec(config, new Map(Object.entries(raw)), 'it')
      for (const { units } of [...language.layers, ...(vision?.stack.layers ?? [])]) {
        expect(units.map(({ kind }) => kind)).toEqual(['neuron', 'group'])
        for (const { count, rows, columns } of units) {
          for (const { tensor, size } of rows) expect(shapes[tensor]![0]).toBe(count * size)
          for (const { tensor, size } of columns) expect(shapes[tensor]![1]).toBe(count * size)
        }
      }
    }
  })
})

test.each(Object.keys(rotary))('rotary angles with %s are those of transformers', (name) => {
  const { config, length, frequencies, factor } = rotary[name]!
  const size = Number(config.head_dim)
  const got = rotaryOf(config, size, Number(config.max_position_embeddings))!.angles(length)
  expect(Math.abs(got.factor / factor - 1)).toBeLessThan(1e-12)
  expect(got.frequencies).toHaveLength(frequencies.length)
  // Those of transformers are float32, and interpolated in it.
  for (const [i, want] of frequencies.entries()) expect(Math.abs(got.frequencies[i]! / want - 1)).toBeLessThan(4e-6)
})

describe('a config', () => {
  const refused = (name: string, change: object) => {
    const { config, tensors: shapes } = cases[name]!
    return expect(() => modelSpec({ ...config, ...change }, new Map(Object.entries(weights(shapes))), 'it'))
  }

  test('of OPT or LLaVA that asks for what is not there is refused with all of it', () => {
    refused('opt', { ffn_dim: undefined }).toThrow(/no number for ffn_dim.*OPTForCausalLM/)
    refused('opt', { activation_function: 'mish', layer_norm_elementwise_affine: false }).toThrow(
      /the activation mish, norms without weights/,
    )
    refused('llava-full', {
      vision_feature_layer: [1, 2],
      vision_feature_select_strategy: 'half',
      image_token_index: undefined,
      vision_config: { model_type: 'siglip_vision_model', hidden_size: 12 },
      text_config: { model_type: 'phi' },
    }).toThrow(
      /the language model phi, features of the layers 1,2, the selection half of features, an image_token_index, the vision encoder siglip_vision_model/,
    )
  })

  test('with types of layers that cannot be run, or not one a layer, is refused', () => {
    const types = (...layer_types: string[]) => ({ layer_types })
    refused('qwen2-layer-types', types('chunked_attention', 'linear_attention')).toThrow(
      /layers of the type chunked_attention, layers of the type linear_attention/,
    )
    refused('qwen2-layer-types', types('full_attention')).toThrow(/a type in layer_types for each of its 2 layers/)
    refused('qwen2-layer-types', { use_sliding_window: false }).toThrow(/a sliding_window for its layers/)
    refused('gemma', types('full_attention', 'sliding_attention')).toThrow(/layers of the type sliding_attention/)
    refused('gemma', { use_bidirectional_attention: true }).toThrow(/attention in both directions/)
  })

  test('says windows by the types of layers, else by what transformers takes for keys that are not there', () => {
    const windows = (name: string, change: object) => {
      const { config, tensors: shapes } = cases[name]!
      const read = JSON.parse(JSON.stringify({ ...config, ...change })) as Record<string, unknown>
      const { language } = modelSpec(read, new Map(Object.entries(weights(shapes))), 'it')
      return language.layers.flatMap(({ ops }) => ops.flatMap((op) => (op.op === 'attention' ? [op.window] : [])))
    }
    const types = { layer_types: ['full_attention', 'sliding_attention'] }
    expect(windows('mistral', {})).toEqual([5, 5])
    expect(windows('mistral', types)).toEqual([0, 5])
    expect(windows('mistral', { use_sliding_window: true, max_window_layers: 1 })).toEqual([5, 5])
    expect(windows('mistral', { sliding_window: null })).toEqual([0, 0])
    expect(windows('mistral', { sliding_window: undefined })).toEqual([4096, 4096])
    expect(windows('gemma', { layer_types: ['full_attention', 'attention'] })).toEqual([0, 0])
    expect(windows('qwen3-windows', {})).toEqual([0, 3])
    expect(windows('qwen3-windows', { max_window_layers: undefined })).toEqual([0, 0])
    expect(windows('qwen3-windows', { layer_types: ['sliding_attention', 'full_attention'] })).toEqual([3, 0])
  })

  test('with heads that are rotated in part is refused', () => {
    refused('llama-dynamic', { rope_scaling: { partial_rotary_factor: 0.5 } }).toThrow(/default for 0.5 of a head/)
  })
})
