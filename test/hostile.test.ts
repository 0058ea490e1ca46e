/** Bad input gets a coded error with a sentence that names it, and leaves nothing behind. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, merge, type RecipeInput } from 'weightsmith'
import { bf16, f32, writeModel } from './checkpoint.js'

let engine: Engine
let folder: string
let count = 0

beforeAll(async () => {
  engine = await Engine.open()
  folder = mkdtempSync(join(tmpdir(), 'weightsmith-hostile-'))
})
afterAll(async () => {
  await engine?.close()
  rmSync(folder, { recursive: true, force: true })
})

const fresh = (name: string) => join(folder, `${name}-${count++}`)
const good = () => writeModel(fresh('good'), { a: f32([1, 2, 3]), b: bf16([1, 2]) })
const soup = (...models: string[]): RecipeInput => ({
  merge_method: 'linear',
  models: models.map((model) => ({ model, parameters: { weight: 0.5 } })),
})

/** The error of a merge that must fail; nothing may be left under the final name, nor beside it. */
async function refused(recipe: RecipeInput | string, out = fresh('out')): Promise<{ code: string; message: string }> {
  const error = await merge(engine, recipe, { out }).then(
    () => undefined,
    (reason: { code: string; message: string }) => reason,
  )
  expect(error).toBeDefined()
  expect(existsSync(out)).toBe(false)
  expect(existsSync(`${out}.partial`)).toBe(false)
  expect(error!.message).toMatch(/^\S.* .*\.$/)
  return error!
}

/** A model whose safetensors header is `header`, followed by `data` bytes. */
function withHeader(header: string, data: number, length = Buffer.byteLength(header)): string {
  const path = fresh('bad')
  mkdirSync(path)
  const size = Buffer.alloc(8)
  size.writeBigUInt64LE(BigInt(length))
  writeFileSync(join(path, 'model.safetensors'), Buffer.concat([size, Buffer.from(header), Buffer.alloc(data)]))
  writeFileSync(join(path, 'config.json'), '{}')
  return path
}

describe('a safetensors file is refused when', () => {
  const entry = (offsets: string, shape = '[2]') => `{"dtype":"F32","shape":${shape},"data_offsets":${offsets}}`
  const cases: [string, () => string][] = [
    [
      'it is cut off',
      () => {
        const path = good()
        truncateSync(join(path, 'model.safetensors'), readFileSync(join(path, 'model.safetensors')).length - 1)
        return path
      },
    ],
    [
      'it is empty',
      () => {
        const path = withHeader('', 0)
        truncateSync(join(path, 'model.safetensors'), 0)
        return path
      },
    ],
    ['its header is longer than the file', () => withHeader('{}', 0, 1000)],
    ['its header claims 2^60 bytes', () => withHeader('{}', 0, 2 ** 60)],
    ['its header is no JSON', () => withHeader('{"a":', 0)],
    ['two tensors overlap', () => withHeader(`{"a":${entry('[0,8]')},"b":${entry('[4,12]')}}`, 12)],
    ['there is a hole', () => withHeader(`{"a":${entry('[0,8]')},"b":${entry('[12,20]')}}`, 20)],
    ['offsets are out of range', () => withHeader(`{"a":${entry('[0,80]', '[20]')}}`, 8)],
    ['bytes do not match shape and type', () => withHeader(`{"a":${entry('[0,8]', '[3]')}}`, 8)],
    ['a shape overflows', () => withHeader(`{"a":${entry('[0,8]', '[4294967296,4294967296,4]')}}`, 8)],
    ['a name occurs twice', () => withHeader(`{"a":${entry('[0,8]')},"a":${entry('[0,8]')}}`, 8)],
    ['a number is negative', () => withHeader(`{"a":${entry('[-8,0]')}}`, 8)],
    ['nesting is deep', () => withHeader('['.repeat(100_000), 0)],
  ]
  test.each(cases)('%s', async (_, make) => {
    const bad = make()
    const error = await refused(soup(good(), bad))
    expect(error.code).toBe('ERR_WEIGHTSMITH_FORMAT')
    expect(error.message).toContain(bad)
  })
})

describe('a sharded checkpoint is refused when', () => {
  test.each(['../other.safetensors', '/etc/passwd', 'a/b.safetensors', ''])(
    'its index names the file %p',
    async (file) => {
      const path = fresh('index')
      mkdirSync(path)
      writeFileSync(join(path, 'config.json'), '{}')
      writeFileSync(
        join(path, 'model.safetensors.index.json'),
        JSON.stringify({ metadata: {}, weight_map: { a: file, b: file } }),
      )
      expect((await refused(soup(good(), path))).code).toBe('ERR_WEIGHTSMITH_INDEX')
    },
  )

  test('a shard is missing', async () => {
    const path = fresh('index')
    mkdirSync(path)
    writeFileSync(join(path, 'config.json'), '{}')
    writeFileSync(
      join(path, 'model.safetensors.index.json'),
      JSON.stringify({ metadata: {}, weight_map: { a: 'model-00001-of-00001.safetensors' } }),
    )
    const error = await refused(soup(good(), path))
    expect(error.message).toContain('model-00001-of-00001.safetensors')
  })
})

describe('a merge is refused when', () => {
  test('shapes differ, naming the tensor', async () => {
    const error = await refused(soup(good(), writeModel(fresh('shape'), { a: f32([1, 2]), b: bf16([1, 2]) })))
    expect(error.code).toBe('ERR_WEIGHTSMITH_SHAPE_MISMATCH')
    expect(error.message).toContain('a')
  })

  test('a tensor is missing in one model', async () => {
    const error = await refused(soup(good(), writeModel(fresh('missing'), { a: f32([1, 2, 3]) })))
    expect(error.code).toBe('ERR_WEIGHTSMITH_MISSING_TENSOR')
    expect(error.message).toContain('b')
  })

  const base = (parameters: object, more: object = {}): RecipeInput => {
    const path = good()
    return {
      merge_method: 'ties',
      base_model: path,
      models: [{ model: good(), parameters: { weight: 1, density: 0.5, ...parameters } }],
      ...more,
    } as RecipeInput
  }
  test.each([
    ['a weight is NaN', { weight: Number.NaN }],
    ['a weight is infinite', { weight: Number.POSITIVE_INFINITY }],
    ['a density is above 1', { density: 1.5 }],
    ['a density is negative', { density: -0.1 }],
    ['a key is unknown', { wieght: 1 }],
  ])('%s', async (_, parameters) => {
    expect((await refused(base(parameters))).code).toBe('ERR_WEIGHTSMITH_RECIPE')
  })

  test('the method is unknown, listing those there are', async () => {
    const error = await refused({ ...base({}), merge_method: 'tise' } as RecipeInput)
    expect(error.code).toBe('ERR_WEIGHTSMITH_RECIPE')
    expect(error.message).toContain('ties')
  })

  test('a top-level key is unknown', async () => {
    expect((await refused(base({}, { modells: [] }))).code).toBe('ERR_WEIGHTSMITH_RECIPE')
  })

  test('the YAML is not a recipe', async () => {
    const path = fresh('recipe.yml')
    writeFileSync(path, '- just\n- a list\n')
    expect((await refused(path)).code).toBe('ERR_WEIGHTSMITH_RECIPE')
    writeFileSync(path, 'a: [1\n')
    expect((await refused(path)).code).toBe('ERR_WEIGHTSMITH_RECIPE')
  })

  test('the output lies inside an input', async () => {
    const path = good()
    const error = await refused(soup(path, good()), join(path, 'merged'))
    expect(error.code).toBe('ERR_WEIGHTSMITH_OUTPUT_INSIDE_INPUT')
  })

  test('the output is there already, and stays as it was', async () => {
    const out = good()
    const before = readFileSync(join(out, 'model.safetensors'))
    const error = await merge(engine, soup(good(), good()), { out }).catch((reason: { code: string }) => reason)
    expect((error as { code: string }).code).toBe('ERR_WEIGHTSMITH_OUTPUT_EXISTS')
    expect(readFileSync(join(out, 'model.safetensors')).equals(before)).toBe(true)
  })

  test('it is aborted', async () => {
    const out = fresh('out')
    const error = await merge(engine, soup(good(), good()), { out, signal: AbortSignal.abort() }).catch(
      (reason: { name: string }) => reason,
    )
    expect((error as { name: string }).name).toBe('AbortError')
    expect(existsSync(out)).toBe(false)
  })
})

test('density 0 is legal and leaves the base unchanged', async () => {
  const base = good()
  const out = fresh('zero')
  await merge(
    engine,
    {
      merge_method: 'ties',
      base_model: base,
      models: [
        {
          model: writeModel(fresh('other'), { a: f32([9, 9, 9]), b: bf16([9, 9]) }),
          parameters: { weight: 1, density: 0 },
        },
      ],
    },
    { out },
  )
  const { values, readFolder } = await import('./checkpoint.js')
  expect([...values(readFolder(out).get('a')!)]).toEqual([1, 2, 3])
})

test('a device that is not there is a coded error that names those that are', async () => {
  const error = await Engine.open({ device: 'no such device' }).catch((reason: { code: string }) => reason)
  expect((error as { code: string }).code).toBe('ERR_WEIGHTSMITH_NO_DEVICE')
})

test('after a lost device the next call opens a new one', async () => {
  const own = await Engine.open()
  own.forceLoss()
  const call = () => own.kernel('linear').run({ inputs: [Float32Array.of(1)], coefficients: [2] })
  await expect(call()).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_DEVICE_LOST' })
  expect([...(await call())]).toEqual([2])
  await own.close()
  await expect(call()).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_DISPOSED' })
})
