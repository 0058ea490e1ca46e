/**
 * What holds for every model, whatever its sizes: configs are drawn at random (from a fixed seed), with odd widths,
 * groups of heads, biases, norms of heads, tied heads, types and shards.
 */
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { Engine, generateIds, openModel, type PruneOptions, prune, score } from 'weightsmith'
import { describe as described } from '../lib/architectures/index.js'
import { fill, type Raw, writeSafetensors } from './checkpoint.js'
import { forward } from './forward.js'
import { encode } from './reference/dtypes.js'
import { scratch } from './scratch.js'

const { fresh } = scratch('model-properties')
const base = join(process.cwd(), 'demo/models/base')
let engine: Engine
let small: Engine
beforeAll(async () => {
  engine = await Engine.open()
  small = await Engine.open({ memory: '320KiB' })
})
afterAll(async () => {
  await small?.close()
  await engine?.close()
})

const config = fc
  .record({
    architecture: fc.constantFrom('LlamaForCausalLM', 'MistralForCausalLM', 'Qwen2ForCausalLM', 'Qwen3ForCausalLM'),
    groups: fc.integer({ min: 2, max: 3 }),
    share: fc.integer({ min: 1, max: 3 }),
    headSize: fc.constantFrom(6, 8, 10),
    hidden: fc.integer({ min: 19, max: 40 }),
    inner: fc.integer({ min: 9, max: 70 }),
    layers: fc.integer({ min: 6, max: 8 }),
    vocabulary: fc.integer({ min: 64, max: 99 }),
    biased: fc.boolean(),
    tied: fc.boolean(),
  })
  .map(({ architecture, groups, share, headSize, hidden, inner, layers, vocabulary, biased, tied }) => ({
    architectures: [architecture],
    model_type: architecture.replace('ForCausalLM', '').toLowerCase(),
    hidden_size: hidden,
    intermediate_size: inner,
    num_hidden_layers: layers,
    num_attention_heads: groups * share,
    num_key_value_heads: groups,
    head_dim: headSize,
    vocab_size: vocabulary,
    max_position_embeddings: 64,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    hidden_act: 'silu',
    sliding_window: architecture === 'MistralForCausalLM' ? 3 : null,
    tie_word_embeddings: tied,
    eos_token_id: 2,
    ...(architecture === 'LlamaForCausalLM' && { attention_bias: biased, mlp_bias: biased }),
  }))

const ids = fc.array(fc.integer({ min: 3, max: 63 }), { minLength: 1, maxLength: 20 })

const drawn = fc.record({
  config,
  dtype: fc.constantFrom('F32' as const, 'F16' as const, 'BF16' as const),
  shards: fc.integer({ min: 1, max: 3 }),
  prompts: fc.array(ids, { minLength: 2, maxLength: 5 }),
  prune: fc.record({
    method: fc.constantFrom('flap' as const, 'wanda-sp' as const),
    allocation: fc.constantFrom('global' as const, 'uniform' as const),
    keepRatio: fc.constantFrom(0.5, 0.7),
  }),
})
type Drawn = typeof drawn extends fc.Arbitrary<infer T> ? T : never

/** A checkpoint of the config, in shards, with the tokenizer of the demo. */
function write({ config, dtype, shards }: Drawn): string {
  const folder = fresh('model')
  mkdirSync(folder)
  const shapes = [...described(config, new Map(), 'it').tensors]
  const weight_map: Record<string, string> = {}
  for (let shard = 0; shard < shards; shard++) {
    const file = shards === 1 ? 'model.safetensors' : `model-0000${shard + 1}-of-0000${shards}.safetensors`
    const own = shapes.filter((_, i) => i % shards === shard)
    const tensors = own.map(([name, shape]): [string, Raw] => {
      weight_map[name] = file
      // The second layer adds the least to the residual stream, so that a block is left out before others.
      const least = /layers\.1\..*(o_proj|down_proj)/.test(name) ? 0.02 : 1
      const values = fill(name, [...shape]).map((value) => least * value)
      return [name, { dtype, shape: [...shape], bytes: Buffer.from(encode(dtype, values)) }]
    })
    writeSafetensors(join(folder, file), Object.fromEntries(tensors))
  }
  if (shards > 1) writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map }))
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config))
  copyFileSync(join(base, 'tokenizer.json'), join(folder, 'tokenizer.json'))
  return folder
}

const logits = async (own: Engine, model: string, of: number[]) => (await forward(own, model, of)).logits!
const far = (a: Float32Array, b: Float32Array) =>
  a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0)

describe('every model', () => {
  test('gives a sequence the same bits alone, beside others, and where its weights pass by', async () => {
    let streamed = 0
    await fc.assert(
      fc.asyncProperty(drawn, async (one) => {
        const model = write(one)
        const say = async (own: Engine, prompts: number[][]) => {
          const open = await openModel(own, model, { batchTokens: 24, cache: 80 })
          if (own === small && !(await open.stays())) streamed++
          const said = await generateIds(open, prompts, { maxTokens: 4, eosTokenIds: new Set([2]) })
          await open.close()
          return said
        }
        const together = await say(engine, one.prompts)
        expect(await say(small, one.prompts)).toEqual(together)
        expect(await say(engine, one.prompts.slice(1, 2))).toEqual(together.slice(1, 2))
        const [prompt = [3]] = one.prompts
        const open = await openModel(engine, model)
        const beside = await open.run(open.pack(one.prompts), { logits: true })
        await open.close()
        const alone = await logits(engine, model, prompt)
        expect(beside.logits!.subarray(0, alone.length)).toEqual(alone)
        expect(await logits(small, model, prompt)).toEqual(alone)
      }),
      { seed: 41, numRuns: 5 },
    )
    expect(streamed).toBeGreaterThan(2)
  })

  test('says the same masked and compact, without heads and neurons, and without blocks after that', async () => {
    const data = fresh('data.jsonl')
    let differing = 0
    writeFileSync(data, ['49+45=94', 'r:xsoxbyaf=faybxosx'].map((text) => JSON.stringify({ text })).join('\n'))
    await fc.assert(
      fc.asyncProperty(drawn, async (one) => {
        const model = write(one)
        const scores = fresh('scores')
        await score(engine, model, { methods: ['flap', 'wanda', 'bi'], data, out: scores })
        const pruned = async (from: string, options: Omit<PruneOptions, 'out'>) => {
          const out = fresh('pruned')
          await prune(engine, from, { ...options, out })
          return out
        }
        const options = { ...one.prune, scores, ...(one.prune.method === 'flap' && { bias: false }) }
        const masked = await pruned(model, options)
        const compact = await pruned(model, { ...options, layout: 'compact' })
        const [prompt = [3]] = one.prompts
        const want = await logits(engine, masked, prompt)
        const scale = want.reduce((most, value) => Math.max(most, Math.abs(value)), 1)
        expect(far(await logits(engine, compact, prompt), want) / scale).toBeLessThan(1e-5)
        if ('per_layer_config' in JSON.parse(readFileSync(join(compact, 'config.json'), 'utf8'))) differing++
        const other = fresh('scores')
        await score(engine, compact, { methods: ['bi'], data, out: other })
        const remove = { method: 'bi', remove: 2, scores: other } as const
        const without = await logits(engine, await pruned(compact, remove), prompt)
        expect(await logits(engine, await pruned(compact, { ...remove, layout: 'compact' }), prompt)).toEqual(without)
      }),
      { seed: 42, numRuns: 5 },
    )
    expect(differing).toBeGreaterThan(1)
  })
})
