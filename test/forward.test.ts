/** Models run on the device equal numbers computed in float64 outside this project, and refuse what they cannot run. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, type Model, openModel } from 'weightsmith'
import { modelSpec } from '../lib/architectures/index.js'
import { readSafetensors, values } from './checkpoint.js'
import { forward } from './forward.js'

const goldens = join(process.cwd(), 'test/goldens')
const full = join(goldens, 'base-f32')
const models = join(process.cwd(), 'demo/models')
const golden = JSON.parse(readFileSync(join(goldens, 'forward.json'), 'utf8')) as {
  prompts: { text: string; ids: number[]; nll_per_token: number[]; nll_mean: number }[]
  calibration: { line_token_ids: number[][]; line_nll_sum: number[]; nll: Record<string, { all: number }> }
}
const tensors = readSafetensors(join(goldens, 'forward.safetensors'))

/** The largest distance between what came out and a golden tensor. */
function distance(got: ArrayLike<number>, name: string): number {
  const want = values(tensors.get(name)!)
  expect(got.length).toBe(want.length)
  let most = 0
  for (let i = 0; i < want.length; i++) most = Math.max(most, Math.abs(got[i]! - want[i]!) || 0)
  return most
}

const sum = (numbers: Iterable<number>) => [...numbers].reduce((a, b) => a + b, 0)

/** Losses of sequences, those of a pass together: how a batch is scored. */
async function losses(model: Model, sequences: number[][]): Promise<number[]> {
  const result: number[] = []
  let waiting: number[][] = []
  const flush = async () => {
    const { nll } = await model.run(model.pack(waiting))
    let at = 0
    for (const { length } of waiting) {
      result.push(sum(nll.subarray(at, at + length)))
      at += length
    }
    waiting = []
  }
  for (const sequence of sequences) {
    if (sum([...waiting, sequence].map(({ length }) => length)) > model.batchTokens) await flush()
    waiting.push(sequence)
  }
  await flush()
  return result
}

describe.each([
  { name: 'as it comes', options: {} },
  { name: 'on copies', options: { slots: 'staging' } },
  { name: 'with tensors in blocks', options: { maxBufferBytes: 96 * 2 ** 10 } },
] as const)('the trained reasoner in f32, $name,', ({ options }) => {
  let engine: Engine
  beforeAll(async () => {
    engine = await Engine.open(options)
  })
  afterAll(() => engine?.close())

  test.each([...golden.prompts.entries()])(
    'has the golden logits, hidden states and losses of prompt %i',
    async (i, prompt) => {
      const pass = await forward(engine, full, prompt.ids, { logits: true, hidden: true })
      expect(distance(pass.logits!, `logits/${i}`)).toBeLessThan(2e-4)
      expect(pass.hidden).toHaveLength(9)
      for (const [layer, rows] of pass.hidden!.entries()) {
        expect(distance(rows, `hidden/${i}/${layer}`)).toBeLessThan(2e-4)
      }
      expect(distance(pass.normed!, `normed/${i}`)).toBeLessThan(2e-4)
      const { nll_per_token: want, nll_mean: mean } = prompt
      for (const [t, loss] of want.entries()) expect(Math.abs(pass.nll[t]! - loss)).toBeLessThan(1e-5 * (1 + loss))
      expect(pass.nll[want.length]).toBe(0)
      expect(Math.abs(sum(pass.nll) / want.length / mean - 1)).toBeLessThan(1e-5)
    },
  )
})

describe('a model on the device', () => {
  let engine: Engine
  beforeAll(async () => {
    engine = await Engine.open()
  })
  afterAll(() => engine?.close())

  test('gives each sequence of a packed batch the loss it has alone, and the golden one', async () => {
    const { line_token_ids: lines, line_nll_sum: want } = golden.calibration
    const model = await openModel(engine, full, { batchTokens: 128 })
    try {
      const got = await losses(model, lines)
      for (const [i, loss] of want.entries()) expect(Math.abs(got[i]! / loss - 1)).toBeLessThan(1e-5)
      const alone = await model.run(model.pack([lines[1]!]))
      expect(sum(alone.nll)).toBe(got[1])
    } finally {
      await model.close()
    }
  })

  test.each(['base', 'improved-1', 'improved-2'])('in bf16, %s has the golden loss', async (name) => {
    const { line_token_ids: lines, nll } = golden.calibration
    const model = await openModel(engine, join(models, name), { batchTokens: 1024 })
    const total = sum(await losses(model, lines))
    await model.close()
    const predicted = sum(lines.map(({ length }) => length - 1))
    expect(Math.abs(total / predicted / nll[name]!.all - 1)).toBeLessThan(1e-5)
  })

  test('attends to what an earlier pass left in the cache', async () => {
    const { ids } = golden.prompts[1]!
    const model = await openModel(engine, full, { batchTokens: ids.length, cache: 40 })
    const tokens = model.pack([ids]).map((token) => ({ ...token, start: 20, row: token.row + 20 }))
    await model.run(tokens.slice(0, 11))
    const rest: Float32Array[] = []
    for (const token of tokens.slice(11)) rest.push((await model.run([token], { logits: true })).logits!)
    await model.close()
    const want = values(tensors.get('logits/1')!).subarray(11 * 64)
    const got = rest.flatMap((row) => [...row])
    expect(got).toHaveLength(want.length)
    for (let i = 0; i < want.length; i++) expect(Math.abs(got[i]! - want[i]!)).toBeLessThan(2e-4)
  })

  test('runs passes that are asked for at once one after another', async () => {
    const model = await openModel(engine, full)
    const prompts = golden.prompts.map(({ ids }) => ids)
    const together = await Promise.all(prompts.map((ids) => model.run(model.pack([ids]))))
    for (const [i, ids] of prompts.entries()) {
      expect([...together[i]!.nll]).toEqual([...(await model.run(model.pack([ids]))).nll])
    }
    await model.close()
  })

  test('is loaded again after a loss of the device, and after close', async () => {
    const own = await Engine.open()
    const model = await openModel(own, join(models, 'base'))
    const tokens = model.pack([golden.prompts[0]!.ids])
    const before = await model.run(tokens)
    own.forceLoss()
    await expect(model.run(tokens)).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_DEVICE_LOST')
    expect([...(await model.run(tokens)).nll]).toEqual([...before.nll])
    await model.close()
    expect([...(await model.run(tokens)).nll]).toEqual([...before.nll])
    await own.close()
    await expect(model.run(tokens)).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_DISPOSED')
  })

  test('refuses ids and lengths that it does not have, and a budget that is too small', async () => {
    const model = await openModel(engine, full, { batchTokens: 8 })
    const refused = (work: () => unknown, message: RegExp) => {
      let thrown: unknown
      try {
        work()
      } catch (error) {
        thrown = error
      }
      expect(thrown).toHaveProperty('code', 'ERR_WEIGHTSMITH_ARGUMENT')
      expect(thrown).toHaveProperty('message', expect.stringMatching(message))
    }
    refused(
      () =>
        model.pack([
          [1, 2],
          [3, 64],
        ]),
      /Sequence 1 has the id 64.*0 to 63/,
    )
    refused(() => model.pack([[1.5]]), /id 1\.5/)
    refused(() => model.pack([[]]), /Sequence 0 is empty/)
    refused(() => model.pack([new Array(257).fill(1)]), /257 tokens.*256/)
    refused(() => model.run([]), /1 to 8 tokens, but 0/)
    refused(() => model.run(model.pack([new Array(9).fill(1)])), /1 to 8 tokens, but 9/)
    const small = await Engine.open({ memory: '512KiB' })
    await expect(forward(small, full, [1])).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_OUT_OF_MEMORY',
      message: expect.stringMatching(/takes \d+ bytes.*524288/),
    })
    await small.close()
  })

  test('refuses a model that it cannot run', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'weightsmith-forward-'))
    try {
      cpSync(join(models, 'base'), folder, { recursive: true })
      const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf8')) as object
      const changed = (change: object) => {
        writeFileSync(join(folder, 'config.json'), JSON.stringify({ ...config, ...change }))
        return openModel(engine, folder)
      }
      await expect(changed({ num_hidden_layers: 9 })).rejects.toMatchObject({
        code: 'ERR_WEIGHTSMITH_MISSING_TENSOR',
        message: expect.stringMatching(/has no model\.layers\.8.* and 6 more/),
      })
      await expect(changed({ intermediate_size: 351 })).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_SHAPE_MISMATCH')
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  })
})

describe('what a config describes', () => {
  const config = JSON.parse(readFileSync(join(full, 'config.json'), 'utf8')) as Record<string, unknown>
  const shapes = new Map(
    [1, 2, 3].flatMap((i) => [...readSafetensors(join(full, `model-0000${i}-of-00003.safetensors`))]),
  )
  const spec = (change: object) => modelSpec({ ...config, ...change }, shapes, 'it')
  const windows = (change: object) =>
    spec(change).language.layers.flatMap(({ ops }) => ops.flatMap((op) => (op.op === 'attention' ? [op.window] : [])))

  test('names what is known when the architecture is not', () => {
    const known = /LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM/
    expect(() => spec({ architectures: ['GPT2LMHeadModel'] })).toThrow(/GPT2LMHeadModel/)
    expect(() => spec({ architectures: ['GPT2LMHeadModel'] })).toThrow(known)
    expect(() => spec({ architectures: undefined })).toThrow(known)
  })

  test('lists every field and every feature that is missing', () => {
    expect(() => spec({ vocab_size: undefined, rms_norm_eps: 'no' })).toThrow(/vocab_size, rms_norm_eps/)
    expect(() => spec({ hidden_act: 'mish', rope_scaling: { rope_type: 'longrope', factor: 4 } })).toThrow(
      /the activation mish, rotary scaling of type longrope/,
    )
    expect(() => spec({ num_key_value_heads: 3 })).toThrow(/4 query heads on 3 KV heads/)
    expect(() => spec({ head_dim: 33 })).toThrow(/heads of 33 elements/)
  })

  test('wants the biases of Qwen2 and keeps the window of Mistral', () => {
    expect(() => spec({ architectures: ['Qwen2ForCausalLM'] })).toThrow(/q_proj\.bias/)
    expect(windows({ architectures: ['MistralForCausalLM'], sliding_window: 9 })).toEqual(new Array(8).fill(9))
    expect(windows({ architectures: ['MistralForCausalLM'], sliding_window: null })).toEqual(new Array(8).fill(0))
    expect(windows({})).toEqual(new Array(8).fill(0))
  })

  test('takes the embedding for the head where they are tied', () => {
    expect(spec({ tie_word_embeddings: true }).head.weight).toBe('model.embed_tokens.weight')
    expect(spec({}).head.weight).toBe('lm_head.weight')
  })

  test('has units that fill the tensors they are parts of', () => {
    const { language, tensors: wanted } = spec({})
    for (const { units } of language.layers) {
      expect(units.map(({ kind }) => kind)).toEqual(['neuron', 'group'])
      for (const { count, rows, columns } of units) {
        for (const { tensor, size } of rows) expect(wanted.get(tensor)![0]).toBe(count * size)
        for (const { tensor, size } of columns) expect(wanted.get(tensor)![1]).toBe(count * size)
      }
    }
  })

  test('scales rotary angles as its type says', () => {
    const rotary = (rope_scaling: object, length = 1) => spec({ rope_scaling }).language.attention.rotary!(length)
    const plain = rotary({}).frequencies
    expect([...plain].slice(0, 2)).toEqual([1, 10000 ** (-2 / 32)])
    const linear = rotary({ type: 'linear', factor: 4 }).frequencies
    expect([...linear]).toEqual([...plain].map((frequency) => frequency / 4))
    const llama3 = rotary({
      rope_type: 'llama3',
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 256,
    }).frequencies
    // Waves shorter than 64 positions are kept, longer than 256 stretched by 8, between them interpolated.
    for (const [i, frequency] of plain.entries()) {
      const length = (2 * Math.PI) / frequency
      if (length < 64) expect(llama3[i]).toBe(frequency)
      else if (length > 256) expect(llama3[i]).toBe(frequency / 8)
      else {
        const share = (256 / length - 1) / 3
        expect(llama3[i]).toBeCloseTo(frequency * (share + (1 - share) / 8), 12)
      }
    }
  })
})
