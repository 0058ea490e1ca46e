/**
 * Files as other programs leave them: buffers that some versions store and others do not, links, indexes, configs and
 * texts with what JSON does not know. Values are compared with plain arithmetic, refusals by code and what they name.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { batch, Engine, inspect, type MergeOptions, type MergeReport, merge, type RecipeInput } from 'weightsmith'
import { f32, type Raw, readFolder, values, writeModel, writeSafetensors } from './checkpoint.js'
import { scratch } from './scratch.js'

let engine: Engine
const { fresh } = scratch('peer-files')

beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

async function run(recipe: RecipeInput, options: Partial<Omit<MergeOptions, 'dryRun'>> = {}) {
  const out = fresh('out')
  const report: MergeReport = await merge(engine, recipe, { out, sync: false, ...options })
  return { out, report, tensors: readFolder(out) }
}

const refusal = (recipe: RecipeInput, options: Partial<MergeOptions> = {}) =>
  merge(engine, recipe, { out: fresh('out'), sync: false, ...options }).then(
    () => 'no error',
    (error: Error & { code?: string }) => `${error.code}: ${error.message}`,
  )

const at = (tensors: Map<string, Raw>, name: string) => [...values(tensors.get(name)!)]
const bytes = (dtype: string, shape: number[], numbers: number[]): Raw => ({
  dtype,
  shape,
  bytes: Buffer.from(numbers),
})
const i64 = (...numbers: number[]) =>
  bytes(
    'I64',
    [1, numbers.length],
    numbers.flatMap((n) => [n, 0, 0, 0, 0, 0, 0, 0]),
  )
const soup = (...models: string[]): RecipeInput => ({
  merge_method: 'linear',
  models: models.map((model) => ({ model })),
  parameters: { weight: 1 },
})

describe('an index', () => {
  const shards = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'] as const
  function sharded(files: Record<string, Raw>[], weightMap: Record<string, string>): string {
    const folder = writeModel(fresh('sharded'), {})
    rmSync(join(folder, 'model.safetensors'))
    for (const [i, tensors] of files.entries()) writeSafetensors(join(folder, shards[i]!), tensors)
    writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify({ metadata: {}, weight_map: weightMap }))
    return folder
  }
  const [one, two] = shards
  const halves: [Record<string, Raw>, Record<string, Raw>] = [{ a: f32([1]) }, { b: f32([2]) }]

  test('that lists more than the shards hold is followed as far as they go, and it is said', async () => {
    const more = sharded(halves, { a: one, b: two, ghost: one, 'x.rotary_emb.inv_freq': two })
    const note = `2 tensors such as ghost are in the index of ${more}, but not in its shards; what is there is taken.`
    const { tensors, report } = await run({ merge_method: 'passthrough', models: [{ model: more }] })
    expect([...tensors.keys()].sort()).toEqual(['a', 'b'])
    expect(report.notes).toEqual([note])
    expect((await inspect(more)).notes).toEqual([note])
    const whole = sharded([halves[0], { ...halves[1], ghost: f32([3]) }], { a: one, b: two, ghost: two })
    expect(await refusal(soup(whole, more))).toMatch(/MISSING_TENSOR: Tensor ghost is in .*, but not in /)
  })

  test('that lists less than the shards hold leaves nothing out', async () => {
    const less = sharded(halves, { a: one, other: two })
    const { tensors, report } = await run(soup(less, sharded(halves, { a: one, b: two })))
    expect([at(tensors, 'a'), at(tensors, 'b')]).toEqual([[1], [2]])
    expect(report.notes).toEqual([
      `Tensor other is in the index of ${less}, but not in its shards; what is there is taken.`,
      `Tensor b is in shards of ${less} where its index does not list them; the shards count.`,
    ])
  })

  test('says which of two shards a tensor is taken from; where it does not, it is refused', async () => {
    const twins = [
      { a: f32([1]), b: f32([7]) },
      { b: f32([2]), a: f32([8]) },
    ]
    const { tensors } = await run(soup(sharded(twins, { a: one, b: two })))
    expect([at(tensors, 'a'), at(tensors, 'b')]).toEqual([[1], [2]])
    const swapped = await run(soup(sharded(twins, { b: one, a: two })))
    expect([at(swapped.tensors, 'a'), at(swapped.tensors, 'b')]).toEqual([[8], [7]])
    const open = sharded(twins, { a: one, c: two })
    expect(await refusal(soup(open))).toMatch(/INDEX: The index .* is not valid: tensor b is in both /)
  })
})

describe('JSON that Python writes', () => {
  const withConfig = (text: string, more: Record<string, string> = {}) => {
    const folder = writeModel(fresh('model'), { 'model.embed_tokens.weight': f32([1], [1, 1]) })
    for (const [name, content] of Object.entries({ ...more, 'config.json': text }))
      writeFileSync(join(folder, name), content)
    return folder
  }

  test('keeps Infinity, NaN, floats and long integers of a config as they are', async () => {
    const config =
      '{"model_type": "llama", "limit": Infinity, "floor": [-Infinity, NaN], "theta": 10000.0, "eps": 1e-05, ' +
      '"big": 1000000000000000019884624838656, "name": "NaN and Infinity, 1.0", "deep": {"x": NaN}, "torch_dtype": "float32"}'
    const { out, report } = await run({ merge_method: 'passthrough', models: [{ model: withConfig(config) }] })
    const text = readFileSync(join(out, 'config.json'), 'utf8')
    expect(
      text
        .replace(/\s+/g, ' ')
        .replace(/\[ | \]|\{ | \}/g, (part) => part.trim())
        .trim(),
    ).toBe(config)
    expect(report.notes).toEqual([])
    await expect(inspect(withConfig('{"limit": Infinite}'))).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_FORMAT' })
  })

  test('keeps numbers of a tokenizer config that gets a chat template', async () => {
    const tokenizer = '{"model_max_length": 1000000000000000019884624838656, "dropout": 0.0, "scale": Infinity}'
    const model = withConfig('{"model_type": "llama"}', { 'tokenizer_config.json': tokenizer })
    const { out } = await run({ merge_method: 'passthrough', models: [{ model }], chat_template: 'chatml' })
    const text = readFileSync(join(out, 'tokenizer_config.json'), 'utf8')
    expect(text).toContain('"model_max_length": 1000000000000000019884624838656,')
    expect(text).toContain('"dropout": 0.0,')
    expect(text).toContain('"scale": Infinity,')
    expect(text).toContain('"chat_template": "{%')
  })
})

describe('a byte order mark', () => {
  test('before a config, a recipe or lines of jobs is passed over', async () => {
    const model = writeModel(fresh('model'), { a: f32([3]) })
    writeFileSync(join(model, 'config.json'), '\ufeff{"model_type": "llama"}')
    const recipe = fresh('recipe')
    writeFileSync(`${recipe}.yml`, `\ufeffmerge_method: passthrough\nmodels: [{ model: ${JSON.stringify(model)} }]\n`)
    const out = fresh('out')
    await merge(engine, `${recipe}.yml`, { out, sync: false })
    expect(at(readFolder(out), 'a')).toEqual([3])
    writeFileSync(`${recipe}.jsonl`, `\ufeff${JSON.stringify({ recipe: `${recipe}.yml`, name: 'first' })}\n`)
    const { jobs } = await batch(engine, `${recipe}.jsonl`, { out: fresh('batch'), sync: false })
    expect(jobs.map(({ name, status }) => [name, status])).toEqual([['first', 'merged']])
  })
})

describe('buffers', () => {
  const weights = (start: number): Record<string, Raw> => ({
    'wte.weight': f32([start, start], [2, 1]),
    'h.0.attn.c_attn.bias': f32([start + 1]),
    'h.1.attn.c_attn.bias': f32([start + 2]),
  })
  /** As GPT-2 and BERT of different versions store them. */
  const masks: Record<string, Raw> = {
    'h.0.attn.bias': f32([1, 0, 1, 1], [1, 1, 2, 2]),
    'h.1.attn.bias': bytes('U8', [1, 1, 2, 2], [1, 0, 1, 1]),
    'h.0.attn.masked_bias': f32([-10000], []),
    'h.0.attention.rotary_emb.inv_freq': f32([1, 0.5]),
    'embeddings.position_ids': i64(0, 1, 2),
    'bn.num_batches_tracked': i64(7),
  }
  const gpt2 = (start: number, more: Record<string, Raw> = {}) =>
    writeModel(fresh('model'), { ...weights(start), ...more }, { model_type: 'gpt2', n_layer: 2 })

  test('of one model only are copied where it is the first, and left out where it is not', async () => {
    const [older, newer] = [gpt2(0, masks), gpt2(10)]
    const kept = await run(soup(older, newer))
    for (const [name, raw] of Object.entries(masks)) expect(kept.tensors.get(name)).toEqual(raw)
    expect(at(kept.tensors, 'h.1.attn.c_attn.bias')).toEqual([7])
    expect(kept.report.notes).toEqual([
      `6 tensors, such as bn.num_batches_tracked, are no weights and not in every model: copied from ${older}.`,
    ])
    const left = await run(soup(newer, older))
    expect([...left.tensors.keys()].sort()).toEqual(Object.keys(weights(0)).sort())
    expect(at(left.tensors, 'h.0.attn.c_attn.bias')).toEqual([6])
    expect(left.report.notes).toEqual([
      `6 tensors, such as embeddings.position_ids, are no weights and not in every model: left out, because ${newer} has none.`,
    ])
    const one = await run(soup(gpt2(0, { 'embeddings.position_ids': i64(0, 1) }), newer))
    expect(one.report.notes[0]).toMatch(
      /^Tensor embeddings\.position_ids is no weight and not in every model: copied from /,
    )
  })

  test('that models compute may differ in length and type; the first one is taken as it is', async () => {
    const first = gpt2(0, masks)
    const longer: Record<string, Raw> = {
      ...masks,
      'h.0.attn.bias': bytes('BOOL', [1, 1, 3, 3], [1, 0, 0, 1, 1, 0, 1, 1, 1]),
      'h.1.attn.bias': f32([1, 0, 1, 1], [1, 1, 2, 2]),
      'h.0.attn.masked_bias': f32([Number.NEGATIVE_INFINITY], []),
      'embeddings.position_ids': i64(0, 1, 2, 3),
    }
    const { tensors, report } = await run({
      merge_method: 'task_arithmetic',
      base_model: first,
      models: [{ model: gpt2(10, longer), parameters: { weight: 0.5 } }],
      dtype: 'bfloat16',
    })
    for (const [name, raw] of Object.entries(masks)) expect(tensors.get(name)).toEqual(raw)
    expect(at(tensors, 'wte.weight')).toEqual([5, 5])
    expect(report.notes).toEqual([])
  })

  test('may be infinite, which masks are and weights are not', async () => {
    const never = { attn_mask: f32([0, Number.NEGATIVE_INFINITY, 0, 0], [2, 2]) }
    const [a, b] = [gpt2(0, never), gpt2(10, never)]
    const model = { model: b, parameters: { weight: 0.5 } }
    const recipe: RecipeInput = { merge_method: 'task_arithmetic', base_model: a, models: [model] }
    const { tensors } = await run(recipe, { checkFinite: true })
    expect(tensors.get('attn_mask')).toEqual(never.attn_mask)
    const broken = gpt2(0, { ...never, 'h.0.attn.c_attn.bias': f32([Number.POSITIVE_INFINITY]) })
    expect(await refusal({ ...recipe, base_model: broken }, { checkFinite: true })).toBe(
      'ERR_WEIGHTSMITH_NON_FINITE: The result holds 1 NaN or infinite values in 1 tensor; the first is h.0.attn.c_attn.bias ' +
        'with 1 of them.',
    )
  })

  test('are told from weights: a bias of attention that is in one model only is refused', async () => {
    const bias = { 'h.0.attn.bias': f32([1, 2]) }
    const [a, b] = [gpt2(0, bias), gpt2(1)]
    for (const models of [
      [a, b],
      [b, a],
    ] as const) {
      expect(await refusal(soup(...models))).toMatch(/MISSING_TENSOR: Tensor h\.0\.attn\.bias is in .*, but not in /)
    }
    expect(
      await refusal(soup(gpt2(0, { 'bn.num_batches_tracked': i64(7) }), gpt2(0, { 'bn.num_batches_tracked': i64(8) }))),
    ).toContain('ERR_WEIGHTSMITH_DTYPE: Tensor bn.num_batches_tracked holds no floats')
  })
})
