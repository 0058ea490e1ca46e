/** Writing adapters: the folder is one that PEFT reads, byte for byte what was asked for, or it is not there. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, verify } from 'weightsmith'
import { type AdaptedModule, readFactors, saveAdapter } from '../lib/adapters/index.js'
import { cutTensor, openCheckpoint } from '../lib/checkpoint/index.js'
import { openAdapter } from '../lib/lora/index.js'
import { bf16, f32, readSafetensors, writeModel, writeSafetensors } from './checkpoint.js'
import { scratch } from './scratch.js'

let engine: Engine
const { fresh } = scratch('save-adapter')

beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

const wave = (length: number, seed: number) => Float32Array.from({ length }, (_, i) => Math.sin(i * seed + seed))
const layer = (i: number) => `model.layers.${i}.self_attn.q_proj`

/** Values that halves hold, so that every type stores them as they are. */
const coarse = (length: number, seed: number) => wave(length, seed).map((x) => Math.round(64 * x) / 64)

function module(name: string, rank: number, fill = wave, more: Partial<AdaptedModule> = {}): AdaptedModule {
  const [outputs, inputs] = [12, 10]
  return {
    ...{ module: name, rank, outputs, inputs },
    factors: () => ({ a: fill(rank * inputs, 5), b: fill(outputs * rank, 7) }),
    ...more,
  }
}

const about = { inputs: [], recipe: { verb: 'a test' }, about: 'For a test.', sync: false }
const save = (modules: AdaptedModule[], more: object = {}, options: object = {}) => {
  const out = fresh('out')
  return engine.use((host) => saveAdapter(host, { modules, ...more }, { ...about, out, ...options })).then(() => out)
}
const failure = (work: Promise<unknown>) =>
  work.then(
    () => 'no error',
    (error: Error & { code?: string }) => `${error.code}: ${error.message}`,
  )
const configOf = (out: string) => JSON.parse(readFileSync(join(out, 'adapter_config.json'), 'utf8'))
const tensorsOf = (out: string) => readSafetensors(join(out, 'adapter_model.safetensors'))
const open = (path: string) => engine.use(({ addon }) => openAdapter(addon, path, path))

describe('an adapter that is written', () => {
  test('has what was given, and opens with ranks and scales of 1', async () => {
    const modules = [
      module(layer(0), 2),
      module(layer(1), 3),
      module('model.embed_tokens', 4, wave, { embedding: true }),
    ]
    const out = await save(modules, { base: 'some/base' })
    const tensors = tensorsOf(out)
    const prefix = 'base_model.model.'
    expect([...tensors.keys()]).toEqual([
      `${prefix}model.embed_tokens.lora_embedding_A`,
      `${prefix}model.embed_tokens.lora_embedding_B`,
      ...[0, 1].flatMap((i) => [`${prefix}${layer(i)}.lora_A.weight`, `${prefix}${layer(i)}.lora_B.weight`]),
    ])
    const a = tensors.get(`${prefix}${layer(1)}.lora_A.weight`)!
    expect(a.shape).toEqual([3, 10])
    expect(a.bytes.equals(f32(wave(30, 5)).bytes)).toBe(true)
    const config = configOf(out)
    expect(config).toMatchObject({
      ...{ peft_type: 'LORA', r: 4, lora_alpha: 4, bias: 'none', use_rslora: false, use_dora: false },
      ...{ task_type: 'CAUSAL_LM', base_model_name_or_path: 'some/base', modules_to_save: null },
      target_modules: ['model.embed_tokens', layer(0), layer(1)],
      rank_pattern: { [layer(0)]: 2, [layer(1)]: 3 },
    })
    expect(config.alpha_pattern).toEqual(config.rank_pattern)
    const { matrices } = await open(out)
    expect(matrices.map(({ target, rank, scale }) => [target, rank, scale])).toEqual([
      ['model.embed_tokens.weight', 4, 1],
      [`${layer(0)}.weight`, 2, 1],
      [`${layer(1)}.weight`, 3, 1],
    ])
    expect((await verify(out)).tensors).toBe(6)
  })

  test('tells modules apart whose names end in each other', async () => {
    const names = ['layers.0.q', 'model.layers.0.q', 'other.model.layers.0.q', 'model.layers_0.q']
    const out = await save(names.map((name, i) => module(name, i + 1)))
    const { matrices } = await open(out)
    expect(matrices.map(({ target, rank, scale }) => [target, rank, scale]).sort()).toEqual(
      names.map((name, i) => [`${name}.weight`, i + 1, 1]).sort(),
    )
  })

  test('is rounded once to the type that is asked for', async () => {
    const out = await save([module(layer(0), 3)], {}, { dtype: 'BF16' })
    const a = tensorsOf(out).get(`base_model.model.${layer(0)}.lora_A.weight`)!
    expect(a.dtype).toBe('BF16')
    expect(a.bytes.equals(bf16(wave(30, 5)).bytes)).toBe(true)
    await verify(out)
  })

  test.each(['F32', 'BF16', 'F16'] as const)('is read back from %s as it was written', async (dtype) => {
    const out = await save([module(layer(0), 3, coarse)], {}, { dtype })
    const adapter = await open(out)
    const read = (scale: number) =>
      engine.use((host) => readFactors(host, adapter.checkpoint, adapter.matrices[0]!, { scale }))
    expect(await read(1)).toEqual({ a: coarse(30, 5), b: coarse(36, 7) })
    expect((await read(0.5)).a).toEqual(coarse(30, 5).map((x) => x / 2))
  })

  test('has whole tensors as their file has them', async () => {
    const path = fresh('model')
    writeModel(path, { 'lm_head.weight': bf16(wave(40, 3), [4, 10]), 'model.norm.weight': f32(wave(10, 2)) })
    const base = await engine.use(({ addon }) => openCheckpoint(addon, path))
    const whole = new Map([...base.tensors].map(([name, tensor]) => [name, cutTensor(base, tensor)]))
    const out = await save([module(layer(0), 2)], { whole }, { inputs: [base] })
    expect(configOf(out).modules_to_save).toEqual(['lm_head', 'model.norm'])
    for (const [name, raw] of readSafetensors(join(path, 'model.safetensors'))) {
      const copy = tensorsOf(out).get(`base_model.model.${name}`)!
      expect([copy.dtype, copy.shape]).toEqual([raw.dtype, raw.shape])
      expect(copy.bytes.equals(raw.bytes)).toBe(true)
    }
    expect([...(await open(out)).replaced.keys()].sort()).toEqual(['lm_head.weight', 'model.norm.weight'])
    await verify(out)
  })
})

describe('an adapter that cannot be written', () => {
  test('is refused by what is wrong with it', async () => {
    const tensor = { dtype: 'F32', shape: [1], size: 4, bytes: () => new Blob([new Uint8Array(4)]).stream() }
    const whole = new Map([[`${layer(0)}.weight`, tensor]])
    expect(await failure(save([]))).toMatch(/_ARGUMENT: The adapter would have no factors/)
    expect(await failure(save([module('a.b', 1), module('a.b', 2)]))).toMatch(/_ARGUMENT: The adapter has a\.b twice/)
    expect(await failure(save([module(layer(0), 1)], { whole }))).toMatch(/_ARGUMENT: .*as factors and .* whole/)
    expect(await failure(save([module(layer(0), 0)]))).toMatch(/_ARGUMENT: .*rank 0/)
  })

  test('leaves nothing behind', async () => {
    const huge = module(layer(1), 2, (length) => new Float32Array(length).fill(1e5))
    const out = fresh('out')
    const error = await failure(save([module(layer(0), 2), huge], {}, { out, dtype: 'F16' }))
    expect(error).toBe(
      `ERR_WEIGHTSMITH_NON_FINITE: The factors of ${layer(1)} have 44 values that are NaN or infinite as F16.`,
    )
    const late = new AbortController()
    const abort = module(layer(1), 2, (length) => {
      late.abort()
      return new Float32Array(length)
    })
    expect(await failure(save([module(layer(0), 2), abort], {}, { out, signal: late.signal }))).toMatch(/_ABORTED/)
    for (const path of [out, `${out}.partial`]) expect(existsSync(path)).toBe(false)
  })

  test('replaces another one only if it may', async () => {
    const out = await save([module(layer(0), 2)])
    expect(await failure(save([module(layer(0), 3)], {}, { out }))).toMatch(/_OUTPUT_EXISTS/)
    await save([module(layer(0), 3)], {}, { out, overwrite: true })
    expect(configOf(out).r).toBe(3)
    const adapter = await open(out)
    const inside = save([module(layer(0), 3)], {}, { out: join(out, 'in'), inputs: [adapter.checkpoint] })
    expect(await failure(inside)).toMatch(/_OUTPUT_INSIDE_INPUT/)
  })

  test('is not read where its type has no kernel', async () => {
    const path = await save([module(layer(0), 2)])
    const tensors = Object.fromEntries(tensorsOf(path))
    for (const raw of Object.values(tensors)) raw.dtype = 'I32'
    writeSafetensors(join(path, 'adapter_model.safetensors'), tensors)
    const { checkpoint, matrices } = await open(path)
    expect(await failure(engine.use((host) => readFactors(host, checkpoint, matrices[0]!)))).toMatch(/_DTYPE.*I32/)
  })
})
