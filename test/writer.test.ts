/** What a merge writes: shards, order, header, the files beside the weights, the manifest, and odd but legal inputs. */
import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, inspect, type MergeOptions, merge, type RecipeInput, verify } from 'weightsmith'
import { bf16, f32, type Raw, readFolder, readSafetensors, values, writeModel } from './checkpoint.js'
import { decode, encode, type FloatDType } from './reference/dtypes.js'
import { scratch } from './scratch.js'

let engine: Engine

beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(async () => {
  await engine?.close()
  if (disk !== undefined) execFileSync('umount', [disk])
})
// Its folder is removed after that.
const { folder, fresh } = scratch('writer')

const model = (tensors: Record<string, Raw>, config: object = {}) => writeModel(fresh('model'), tensors, config)
const soup = (models: string[], more: Partial<RecipeInput> = {}): RecipeInput => ({
  merge_method: 'linear',
  models: models.map((path) => ({ model: path, parameters: { weight: 1 } })),
  ...more,
})

async function merged(recipe: RecipeInput, options: Partial<MergeOptions> = {}): Promise<string> {
  const out = fresh('out')
  await merge(engine, recipe, { out, sync: false, ...options })
  return out
}

const numbers = (path: string, name: string) => [...values(readFolder(path).get(name)!)]
const json = (...path: string[]) => JSON.parse(readFileSync(join(...path), 'utf8')) as Record<string, unknown>
const raw = (dtype: string, shape: number[], bytes: ArrayLike<number>): Raw => ({
  dtype,
  shape,
  bytes: Buffer.from(Array.from(bytes)),
})

/** Length and text of a safetensors header. */
function headerOf(path: string): { length: number; text: string } {
  const file = readFileSync(path)
  const length = Number(file.readBigUInt64LE(0))
  return { length, text: file.toString('utf8', 8, 8 + length) }
}

describe('a file', () => {
  test('has its tensors by type, largest first, then by name, and a header padded to 8 bytes', async () => {
    const tensors = {
      z: f32([1]),
      bytes: raw('U8', [3], [1, 2, 3]),
      half: raw('F16', [1], [0, 0x3c]),
      a: f32([2]),
      brain: bf16([3]),
      index: raw('I64', [1], [7, 0, 0, 0, 0, 0, 0, 0]),
      flag: raw('BOOL', [1], [1]),
      small: raw('I32', [1], [9, 0, 0, 0]),
    }
    const out = await merged(soup([model(tensors), model(tensors)]))
    const path = join(out, 'model.safetensors')
    const { length, text } = headerOf(path)
    expect((8 + length) % 8).toBe(0)
    expect(text).toMatch(/^\{"__metadata__":\{"format":"pt"\},.*\} {0,7}$/)
    expect([...readSafetensors(path).keys()]).toEqual(['index', 'a', 'z', 'small', 'brain', 'half', 'bytes', 'flag'])
    const header = JSON.parse(text) as Record<string, { data_offsets: [number, number] }>
    let end = 0
    for (const [name, entry] of Object.entries(header)) {
      if (name === '__metadata__') continue
      expect(entry.data_offsets[0]).toBe(end)
      end = entry.data_offsets[1]
    }
    expect(readFileSync(path).length).toBe(8 + length + end)
  })

  test('keeps names that JSON has to escape', async () => {
    const names = ['a "quoted" name', 'back\\slash', 'tab\t', 'Gewicht.größe', '模型.权重', '😀']
    const tensors = Object.fromEntries(names.map((name, i) => [name, f32([i])]))
    const out = await merged(soup([model(tensors), model(tensors)]))
    expect([...readFolder(out).keys()].sort()).toEqual([...names].sort())
    for (const [i, name] of names.entries()) expect(numbers(out, name)).toEqual([i])
  })
})

describe('a sharded output', () => {
  const tensors = Object.fromEntries(['a', 'b', 'c', 'd', 'e'].map((name, i) => [name, f32([i, i, i, i])]))

  test('has files that are no larger than asked for, and an index of them', async () => {
    const out = await merged(soup([model(tensors), model(tensors)]), { shardSize: 40 })
    const shards = readdirSync(out).filter((name) => name.endsWith('.safetensors'))
    const names = [1, 2, 3].map((i) => `model-0000${i}-of-00003.safetensors`)
    expect(shards.sort()).toEqual(names)
    expect(existsSync(join(out, 'model.safetensors'))).toBe(false)
    const index = json(out, 'model.safetensors.index.json') as {
      metadata: { total_size: number }
      weight_map: Record<string, string>
    }
    expect(index.metadata.total_size).toBe(80)
    expect(Object.keys(index.weight_map)).toEqual(Object.keys(tensors))
    for (const [name, file] of Object.entries(index.weight_map)) {
      expect([...readSafetensors(join(out, file)).keys()]).toContain(name)
    }
    for (const name of names) {
      const bytes = [...readSafetensors(join(out, name)).values()].reduce((sum, tensor) => sum + tensor.bytes.length, 0)
      expect(bytes).toBeLessThanOrEqual(40)
    }
  })

  test('gives a tensor that is larger than a shard a file of its own', async () => {
    const out = await merged(soup([model(tensors), model(tensors)]), { shardSize: 1 })
    expect(readdirSync(out).filter((name) => name.endsWith('.safetensors'))).toHaveLength(5)
    for (const [i, name] of Object.keys(tensors).entries()) expect(numbers(out, name)).toEqual([i, i, i, i])
  })

  test('can be inspected, verified and merged again', async () => {
    const first = await merged(soup([model(tensors), model(tensors)]), { shardSize: 40 })
    const { files, dtypes, size } = await inspect(first)
    expect(files).toHaveLength(3)
    expect({ dtypes, size }).toEqual({ dtypes: [{ dtype: 'F32', tensors: 5, parameters: 20, size: 80 }], size: 80 })
    expect((await verify(first)).tensors).toBe(5)
    const second = await merged(soup([first, model(tensors)]))
    expect(numbers(second, 'e')).toEqual([4, 4, 4, 4])
  })
})

describe('beside the weights', () => {
  const files = {
    'generation_config.json': '{"do_sample": true}',
    'tokenizer.json': '{"a": 1}',
    'tokenizer_config.json': '{"b": 2}',
    'special_tokens_map.json': '{}',
    'chat_template.jinja': '{{ messages }}',
  }
  const dressed = (mark: string) => {
    const path = model({ a: f32([1]) }, { torch_dtype: 'float32', mark })
    for (const [name, text] of Object.entries(files)) writeFileSync(join(path, name), `${text}\n${mark}`)
    writeFileSync(join(path, 'notes.txt'), 'not part of a model')
    return path
  }

  test('config, tokenizer and template of the first model are copied, with a card and a manifest', async () => {
    const out = await merged(soup([dressed('first'), dressed('second')]))
    expect(readdirSync(out).sort()).toEqual(
      [...Object.keys(files), 'README.md', 'config.json', 'model.safetensors', 'weightsmith.json'].sort(),
    )
    for (const [name, text] of Object.entries(files)) {
      expect(readFileSync(join(out, name), 'utf8')).toBe(`${text}\nfirst`)
    }
    expect(json(out, 'config.json')).toEqual({ model_type: 'llama', torch_dtype: 'float32', mark: 'first' })
    expect(readFileSync(join(out, 'README.md'), 'utf8')).toMatch(/^---\nbase_model:/)
  })

  test('code that the config names is copied and vocabularies of tiktoken are; what is left is named', async () => {
    const path = model({ a: f32([1]) }, { auto_map: { AutoModelForCausalLM: 'modeling_own.OwnForCausalLM' } })
    const copied = ['configuration_own.py', 'modeling_own.py', 'own.tiktoken', 'tokenization_own.py']
    for (const name of [...copied, 'modules.json', 'LICENSE.txt', 'trainer_state.json']) {
      writeFileSync(join(path, name), name)
    }
    mkdirSync(join(path, '1_Pooling'))
    const out = fresh('out')
    const { notes } = await merge(engine, soup([path, path.replace(/$/, '/')]), { out, sync: false })
    for (const name of copied) expect(readFileSync(join(out, name), 'utf8')).toBe(name)
    expect(readdirSync(out)).not.toContain('modules.json')
    expect(notes).toEqual([`Not copied from ${path}: 1_Pooling, modules.json.`])
    await verify(out)
    const plain = model({ a: f32([1]) })
    writeFileSync(join(plain, 'train.py'), '')
    const second = fresh('out')
    const report = await merge(engine, soup([plain, `${plain}/`]), { out: second, sync: false })
    expect(readdirSync(second)).not.toContain('train.py')
    expect(report.notes).toEqual([`Not copied from ${plain}: train.py.`])
  })

  test('numbers of the config stay as they were written', async () => {
    const [a, b] = [0, 1].map(() => model({ w: { dtype: 'F32', shape: [1], bytes: Buffer.alloc(4) } }))
    const text =
      '{"model_type":"llama","a":1.0,"b":[1e-05,2,-3.50],"c":{"d":10000.0,"e\\"1.0":"1.0"},"torch_dtype":"x"}'
    writeFileSync(join(a!, 'config.json'), text)
    const out = fresh('out')
    await merge(engine, soup([a!, b!]), { out })
    const written = readFileSync(join(out, 'config.json'), 'utf8')
    expect(JSON.parse(written)).toEqual({ ...(JSON.parse(text) as object), torch_dtype: 'float32' })
    for (const part of ['"a": 1.0,', '1e-05,', '2,', '-3.50', '"d": 10000.0', '"e\\"1.0": "1.0"']) {
      expect(written).toContain(part)
    }
  })

  test('the config says which type was written', async () => {
    const out = await merged(soup([dressed('first'), dressed('second')]), { dtype: 'bfloat16' })
    expect(json(out, 'config.json').torch_dtype).toBe('bfloat16')
  })

  test('tokenizer_source chooses the tokenizer, or none', async () => {
    const models = [dressed('first'), dressed('second')]
    const second = await merged(soup(models, { tokenizer_source: models[1]! }))
    expect(readFileSync(join(second, 'tokenizer.json'), 'utf8')).toContain('second')
    expect(readFileSync(join(second, 'generation_config.json'), 'utf8')).toContain('first')
    const none = await merged(soup(models, { tokenizer_source: 'none' }))
    expect(readdirSync(none)).not.toContain('tokenizer.json')
    expect(readdirSync(none)).toContain('generation_config.json')
  })
})

describe('the manifest', () => {
  const pair = () => [model({ a: f32([1, 2]), b: bf16([1]) }), model({ a: f32([3, 4]), b: bf16([3]) })]

  test('verifies as written', async () => {
    const report = await verify(await merged(soup(pair())))
    expect(report.tensors).toBe(2)
    expect(report.files.every((file) => file.hashed)).toBe(true)
  })

  test('says what was merged, and how', async () => {
    const models = pair()
    const out = await merged(soup(models), { seed: 5, checksum: 'full' })
    const manifest = json(out, 'weightsmith.json') as {
      recipe: unknown
      seed: number
      inputs: { model: string; files: { name: string; headerHash: string; sha256: string }[] }[]
    }
    expect(manifest).toMatchObject({ format: 1, recipe: soup(models), seed: 5, dtype: 'float32' })
    expect(manifest.inputs.map((input) => input.model)).toEqual(models)
    for (const { files } of manifest.inputs) {
      for (const file of files) {
        expect(file.headerHash).toMatch(/^[0-9a-f]{64}$/)
        expect(file.sha256).toMatch(/^[0-9a-f]{64}$/)
      }
    }
  })

  test('finds one changed byte in any file, a shorter file and a missing one', async () => {
    const out = await merged(soup(pair()))
    const names = readdirSync(out).filter((name) => name !== 'weightsmith.json')
    for (const name of names) {
      const path = join(out, name)
      const before = readFileSync(path)
      const refused = { code: 'ERR_WEIGHTSMITH_VERIFY', message: expect.stringContaining(name) }
      const changed = Buffer.from(before)
      changed[changed.length - 1]! ^= 1
      writeFileSync(path, changed)
      await expect(verify(out)).rejects.toMatchObject(refused)
      truncateSync(path, before.length - 1)
      await expect(verify(out)).rejects.toMatchObject(refused)
      rmSync(path)
      await expect(verify(out)).rejects.toMatchObject(refused)
      writeFileSync(path, before)
    }
    await verify(out)
  })

  test('does not vouch for hashes it has not got', async () => {
    const report = await verify(await merged(soup(pair()), { checksum: 'none' }))
    expect(report.files.some((file) => file.hashed)).toBe(false)
  })

  test('and everything else is the same for the same merge', async () => {
    const models = pair()
    const outs = [join(fresh('once'), 'out'), join(fresh('again'), 'out')]
    for (const out of outs) await merge(engine, soup(models), { out })
    for (const name of readdirSync(outs[0]!)) {
      expect(readFileSync(join(outs[1]!, name)).equals(readFileSync(join(outs[0]!, name)))).toBe(true)
    }
  })
})

describe('tied embeddings', () => {
  const embedding = Array.from({ length: 64 }, (_, i) => Math.sin(i))
  const embed = (scale: number) => f32(embedding.map((value) => value * scale))
  const tied = { tie_word_embeddings: true }
  const embedName = 'model.embed_tokens.weight'

  test('stay without a head where no model stores one', async () => {
    const out = await merged(soup([model({ [embedName]: embed(1) }, tied), model({ [embedName]: embed(3) }, tied)]))
    expect([...readFolder(out).keys()]).toEqual([embedName])
    expect(json(out, 'config.json').tie_word_embeddings).toBe(true)
  })

  test.each([0, 1])('stay without a head where only model %i stores one', async (storing) => {
    const models = [0, 1].map((i) =>
      model({ [embedName]: embed(1 + i), ...(i === storing && { 'lm_head.weight': embed(1 + i) }) }, tied),
    )
    expect([...readFolder(await merged(soup(models))).keys()]).toEqual([embedName])
  })

  test.each(['dare_linear', 'ties', 'linear'])('stay equal to a head that all models store, by %s', async (method) => {
    const models = [1, 2].map((scale) =>
      model({ [embedName]: embed(scale), 'lm_head.weight': embed(scale) }, { ...tied, num_hidden_layers: 0 }),
    )
    const recipe: RecipeInput =
      method === 'linear'
        ? {
            merge_method: 'linear',
            models: [
              { model: models[0]!, parameters: { weight: [0, 1] } },
              { model: models[1]!, parameters: { weight: [1, 0] } },
            ],
          }
        : {
            merge_method: method,
            base_model: models[0]!,
            models: [{ model: models[1]!, parameters: { weight: 0.5, density: 0.5 } }],
          }
    const tensors = readFolder(await merged(recipe))
    const head = tensors.get('lm_head.weight')
    if (head !== undefined) expect(head.bytes.equals(tensors.get(embedName)!.bytes)).toBe(true)
  })
})

describe('an output that is there already', () => {
  const pair = () => [model({ a: f32([1, 2]) }), model({ a: f32([3, 4]) })]

  test('is replaced as a whole by overwrite', async () => {
    const out = await merged(soup(pair()))
    writeFileSync(join(out, 'old.txt'), 'old')
    await merge(engine, soup([model({ b: f32([5]) }), model({ b: f32([7]) })]), { out, overwrite: true })
    expect([...readFolder(out).keys()]).toEqual(['b'])
    expect(existsSync(join(out, 'old.txt'))).toBe(false)
    expect(readdirSync(folder).filter((name) => /replaced|partial/.test(name))).toEqual([])
  })

  test('stays as it was when the merge fails', async () => {
    const out = await merged(soup(pair()))
    const before = readdirSync(out).map((name) => [name, readFileSync(join(out, name), 'hex')])
    const broken = soup([model({ a: f32([Number.NaN, 1]) }), model({ a: f32([1, 1]) })])
    await expect(merge(engine, broken, { out, overwrite: true, checkFinite: true })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_NON_FINITE',
      tensor: 'a',
    })
    expect(readdirSync(out).map((name) => [name, readFileSync(join(out, name), 'hex')])).toEqual(before)
    expect(existsSync(`${out}.partial`)).toBe(false)
  })

  test('is not replaced by a merge of itself', async () => {
    const out = await merged(soup(pair()))
    await expect(merge(engine, soup([out, model({ a: f32([3, 4]) })]), { out, overwrite: true })).rejects.toMatchObject(
      { code: 'ERR_WEIGHTSMITH_OUTPUT_INSIDE_INPUT' },
    )
    expect(numbers(out, 'a')).toEqual([2, 3])
  })

  test('may be an empty folder', async () => {
    const out = fresh('empty')
    mkdirSync(out)
    await merge(engine, soup(pair()), { out })
    expect(numbers(out, 'a')).toEqual([2, 3])
  })

  test('is not mistaken for a folder where it is a file', async () => {
    const out = fresh('file')
    writeFileSync(out, 'mine')
    await expect(merge(engine, soup(pair()), { out, overwrite: true })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_OUTPUT_EXISTS',
    })
    expect(readFileSync(out, 'utf8')).toBe('mine')
  })

  test('and a work folder that is not ours is left alone', async () => {
    const out = fresh('out')
    mkdirSync(`${out}.partial`)
    writeFileSync(join(`${out}.partial`, 'mine.txt'), 'mine')
    await expect(merge(engine, soup(pair()), { out })).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_OUTPUT_EXISTS' })
    expect(readFileSync(join(`${out}.partial`, 'mine.txt'), 'utf8')).toBe('mine')
    rmSync(`${out}.partial`, { recursive: true })
  })
})

describe('layers', () => {
  const layers = (n: number, value: (i: number) => number) => ({
    'model.embed_tokens.weight': f32([value(0)]),
    ...Object.fromEntries(
      Array.from({ length: n }, (_, i) => [`model.layers.${i}.mlp.up_proj.weight`, f32([value(i)])]),
    ),
    'model.norm.weight': f32([value(n - 1)]),
    'lm_head.weight': f32([value(n - 1)]),
  })
  const stack = (n: number, value: (i: number) => number) => model(layers(n, value), { num_hidden_layers: n })
  const ups = (path: string, n: number) =>
    Array.from({ length: n }, (_, i) => numbers(path, `model.layers.${i}.mlp.up_proj.weight`)[0])

  test('of slices are stacked and renumbered, with the config to match', async () => {
    const a = stack(12, (i) => i)
    const b = stack(12, (i) => 100 + i)
    const out = await merged({
      merge_method: 'passthrough',
      slices: [
        { sources: [{ model: a, layer_range: [0, 8] }] },
        { sources: [{ model: b, layer_range: [4, 12] }] },
        { sources: [{ model: a, layer_range: [10, 12] }] },
      ],
    })
    expect(ups(out, 18)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 104, 105, 106, 107, 108, 109, 110, 111, 10, 11])
    expect(readFolder(out).size).toBe(18 + 3)
    expect(json(out, 'config.json').num_hidden_layers).toBe(18)
    expect(numbers(out, 'model.embed_tokens.weight')).toEqual([0])
    expect(numbers(out, 'lm_head.weight')).toEqual([11])
  })

  test('of a slice are mixed with the parameters of that slice', async () => {
    const a = stack(4, () => 1)
    const b = stack(4, () => 3)
    const both = (range: [number, number]) => [
      { model: a, layer_range: range, parameters: { weight: 0.25 } },
      { model: b, layer_range: range, parameters: { weight: 0.75 } },
    ]
    const out = await merged({
      merge_method: 'linear',
      slices: [
        { sources: both([0, 2]), parameters: { normalize: false } },
        { sources: both([2, 4]).map((source) => ({ ...source, parameters: { weight: 1 } })) },
      ],
    })
    expect(ups(out, 4)).toEqual([2.5, 2.5, 2, 2])
  })

  test('that a model has not got are refused', async () => {
    const a = stack(4, () => 1)
    const recipe: RecipeInput = {
      merge_method: 'passthrough',
      slices: [{ sources: [{ model: a, layer_range: [2, 5] }] }],
    }
    await expect(merged(recipe)).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_RECIPE',
      message: expect.stringContaining('layer_range'),
    })
  })

  test('take their values of a gradient by depth', async () => {
    const a = stack(5, () => 0)
    const b = stack(5, () => 8)
    const out = await merged({
      merge_method: 'linear',
      models: [
        { model: a, parameters: { weight: [1, 0.5, 0] } },
        { model: b, parameters: { weight: [0, 0.5, 1] } },
      ],
    })
    expect(ups(out, 5)).toEqual([0, 2, 4, 6, 8])
    expect(numbers(out, 'model.embed_tokens.weight')).toEqual([0])
    expect(numbers(out, 'model.norm.weight')).toEqual([0])
  })

  test('take the value of the first filter that fits', async () => {
    const a = stack(3, () => 0)
    const b = stack(3, () => 1)
    const out = await merged({
      merge_method: 'linear',
      parameters: { normalize: false },
      models: [
        { model: a, parameters: { weight: 0 } },
        {
          model: b,
          parameters: { weight: [{ filter: 'mlp', value: [2, 4] }, { filter: 'lm_head', value: 5 }, { value: 7 }] },
        },
      ],
    })
    expect(ups(out, 3)).toEqual([2, 3, 4])
    expect(numbers(out, 'lm_head.weight')).toEqual([5])
    expect(numbers(out, 'model.norm.weight')).toEqual([7])
  })
})

describe('types', () => {
  const data = Array.from({ length: 3001 }, (_, i) => Math.sin(i) * 3)
  const tensorOf = (dtype: FloatDType): Raw => ({
    dtype,
    shape: [data.length],
    bytes: Buffer.from(encode(dtype, Float64Array.from(data))),
  })
  const kept = { F32: 'F32', F16: 'F16', BF16: 'BF16', F64: 'F32', F8_E4M3: 'BF16', F8_E5M2: 'BF16' } as const
  const asked = { float32: 'F32', float16: 'F16', bfloat16: 'BF16' } as const

  for (const [from, same] of Object.entries(kept) as [FloatDType, FloatDType][]) {
    test(`${from} becomes ${same}, or what is asked for, with one rounding`, async () => {
      const path = model({ a: tensorOf(from) })
      // Two models of the same values, weighted 1/2 each: the mean is exact in f32.
      const twin = model({ a: tensorOf(from) })
      const stored = decode(from, new Uint8Array(tensorOf(from).bytes))
      const exact = Float64Array.from(stored, Math.fround)
      const half = soup([path, twin])
      for (const [dtype, to] of [[undefined, same], ...Object.entries(asked)] as [string | undefined, FloatDType][]) {
        for (const recipe of [half, dtype === undefined ? half : soup([path], { dtype })]) {
          const out = await merged(recipe, dtype === undefined ? {} : { dtype })
          const tensor = readFolder(out).get('a')!
          expect(tensor.dtype).toBe(to)
          expect(tensor.bytes.equals(Buffer.from(encode(to, exact)))).toBe(true)
        }
      }
    })
  }

  test('that no kernel computes with are copied', async () => {
    const integers = (seed: number) => ({
      a: f32([seed]),
      positions: raw('I64', [1], [3, 0, 0, 0, 0, 0, 0, 0]),
      mask: raw('BOOL', [3], [1, 0, 1]),
      bytes: raw('U8', [2], [3, 255]),
    })
    const base = model(integers(3))
    const other = model(integers(8))
    for (const recipe of [
      soup([base, other]),
      {
        merge_method: 'task_arithmetic',
        base_model: base,
        models: [{ model: other, parameters: { weight: 1 } }],
      },
    ]) {
      const tensors = readFolder(await merged(recipe, { dtype: 'bfloat16' }))
      for (const name of ['positions', 'mask', 'bytes'] as const) {
        expect(tensors.get(name)).toEqual(integers(3)[name])
      }
      expect(tensors.get('a')!.dtype).toBe('BF16')
    }
  })
})

describe('odd but legal checkpoints', () => {
  const many = (n: number, seed: number) => Array.from({ length: n }, (_, i) => Math.fround(Math.sin(i * 0.7 + seed)))
  const odd = (seed: number): Record<string, Raw> => ({
    first: bf16([seed]),
    second: f32(many(5000, seed)),
    byte: raw('U8', [1], [7]),
    third: f32(many(2049, seed + 1)),
    fourth: bf16(many(4097, seed + 2)),
    fifth: f32(many(3, seed + 3)),
  })

  test.each([{}, { slots: 'staging' }, { maxBufferBytes: 65_536 }] as const)(
    'with tensors at odd file offsets merge, with %j',
    async (options) => {
      await using own = await Engine.open(options)
      const out = fresh('out')
      await merge(own, soup([model(odd(1)), model(odd(5))]), { out, sync: false })
      for (const [name, tensor] of readFolder(out)) {
        if (tensor.dtype === 'U8') continue
        const [a, b] = [odd(1)[name]!, odd(5)[name]!].map(values)
        const mean = Array.from(a!, (value, i) => value * 0.5 + b![i]! * 0.5)
        const want = tensor.dtype === 'F32' ? f32(mean) : bf16(mean)
        expect(tensor.bytes.equals(want.bytes)).toBe(true)
      }
    },
  )

  test('with tensors without elements and without dimensions merge', async () => {
    const tensors = {
      empty: f32([], [0, 4]),
      scalar: f32([3], []),
      'also.empty': bf16([], [2, 0, 3]),
      vector: f32([1, 2]),
    }
    const out = await merged(soup([model(tensors), model(tensors)]))
    const found = readFolder(out)
    for (const [name, tensor] of Object.entries(tensors)) expect(found.get(name)).toEqual(tensor)
    expect((await verify(out)).tensors).toBe(4)
  })

  test('of nothing but tensors without elements merge', async () => {
    const nothing = () => model({ empty: f32([], [0]) })
    const out = await merged(soup([nothing(), nothing()]))
    expect(readFolder(out).get('empty')).toEqual(f32([], [0]))
  })

  test('with values that are not finite are merged and reported', async () => {
    const a = model({ a: f32([Number.NaN, 1, Number.POSITIVE_INFINITY]), b: f32([1]) })
    const b = model({ a: f32([1, 1, 1]), b: f32([1]) })
    const { nonFinite } = await merge(engine, soup([a, b]), { out: fresh('out') })
    expect(nonFinite).toEqual([{ tensor: 'a', count: 2 }])
  })
})

/** A small disk of our own, where the system lets us have one. */
function smallDisk(): string | undefined {
  const path = fresh('disk')
  mkdirSync(path)
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', path], { stdio: 'ignore' })
    return path
  } catch {
    return undefined
  }
}

const disk = smallDisk()
const onSmallDisk = disk === undefined ? test.skip : test

onSmallDisk('a disk that is too small is a coded error before anything is written', async () => {
  const big = () => model({ a: f32(new Float32Array(2 ** 19)) })
  const out = join(disk!, 'out')
  await expect(merge(engine, soup([big(), big()]), { out })).rejects.toMatchObject({
    code: 'ERR_WEIGHTSMITH_DISK_FULL',
    message: expect.stringContaining(out),
  })
  expect(readdirSync(disk!)).toEqual([])
})

onSmallDisk(
  'a disk that fills up during the merge is a coded error, and the merge goes on once there is room',
  async () => {
    const part = () => model({ a: f32(new Float32Array(100_000)) })
    // The weights alone would fit; the tokenizer does not fit beside them.
    const first = part()
    writeFileSync(join(first, 'tokenizer.json'), ' '.repeat(900_000))
    const out = join(disk!, 'out')
    const recipe = soup([first, part()])
    const full = { code: 'ERR_WEIGHTSMITH_DISK_FULL' }
    await expect(merge(engine, recipe, { out })).rejects.toMatchObject(full)
    expect(readdirSync(disk!)).toEqual([])
    // The same with notes of what is finished, which a run of this size does not take by itself.
    const journalEvery = 1
    await expect(merge(engine, recipe, { out, journalEvery })).rejects.toMatchObject(full)
    expect(readdirSync(disk!)).toEqual(['out.partial'])
    rmSync(join(first, 'tokenizer.json'))
    expect((await merge(engine, recipe, { out, journalEvery, resume: true })).resumed).toBe(1)
    expect(readdirSync(disk!)).toEqual(['out'])
  },
)
