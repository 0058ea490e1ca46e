/** What a folder of untrusted origin may do to us: lead elsewhere by links, or exhaust time and memory by its size. */

import { execFileSync } from 'node:child_process'
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, inspect, merge, type RecipeInput } from 'weightsmith'
import { f32, readFolder, values, writeModel } from './checkpoint.js'
import { cli, script, start } from './child.js'
import { scratch } from './scratch.js'

let engine: Engine
const { folder, fresh } = scratch('links')

beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

const model = (value = 1) => writeModel(fresh('model'), { a: f32([value]) })
const soup = (...models: string[]): RecipeInput => ({
  merge_method: 'linear',
  models: models.map((path) => ({ model: path, parameters: { weight: 1 } })),
})

/** Moves `name` of `from` to `to` and puts a link in its place. */
function linkAway(from: string, name: string, to: string): void {
  renameSync(join(from, name), to)
  symlinkSync(to, join(from, name))
}

const outside = { code: 'ERR_WEIGHTSMITH_OUTSIDE', message: expect.stringContaining('is a link to') }

describe('a link that leads out of the folder of a model is refused where it is', () => {
  test('a file of weights', async () => {
    const path = model()
    linkAway(path, 'model.safetensors', fresh('elsewhere.safetensors'))
    await expect(inspect(path)).rejects.toMatchObject(outside)
    await expect(merge(engine, soup(model(), path), { out: fresh('out') })).rejects.toMatchObject(outside)
  })

  test('a shard, the index or the configuration', async () => {
    for (const name of ['model-00001-of-00001.safetensors', 'model.safetensors.index.json', 'config.json']) {
      const path = model()
      renameSync(join(path, 'model.safetensors'), join(path, 'model-00001-of-00001.safetensors'))
      const index = { metadata: {}, weight_map: { a: 'model-00001-of-00001.safetensors' } }
      writeFileSync(join(path, 'model.safetensors.index.json'), JSON.stringify(index))
      await inspect(path)
      linkAway(path, name, fresh('elsewhere'))
      await expect(inspect(path)).rejects.toMatchObject(outside)
    }
  })

  test('a file that would be copied beside the weights', async () => {
    const path = model()
    symlinkSync('/etc/hostname', join(path, 'tokenizer_config.json'))
    const out = fresh('out')
    await expect(merge(engine, soup(path, model()), { out })).rejects.toMatchObject(outside)
  })

  test('a work folder', async () => {
    const out = fresh('out')
    const elsewhere = fresh('elsewhere')
    mkdirSync(elsewhere)
    symlinkSync(elsewhere, `${out}.partial`)
    await expect(merge(engine, soup(model(), model()), { out })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_OUTPUT_EXISTS',
    })
  })
})

describe('a link is followed where it', () => {
  test('stays in the folder', async () => {
    const path = model(3)
    mkdirSync(join(path, 'data'))
    linkAway(path, 'model.safetensors', join(path, 'data', 'weights'))
    expect((await inspect(path)).parameters).toBe(1)
  })

  test('is the model itself, or the file that was named', async () => {
    const path = model(3)
    const [alias, file] = [fresh('alias'), `${fresh('file')}.safetensors`]
    symlinkSync(path, alias)
    symlinkSync(join(path, 'model.safetensors'), file)
    const out = fresh('out')
    await merge(engine, soup(alias, file), { out })
    expect([...values(readFolder(out).get('a')!)]).toEqual([3])
  })

  test('leads from a snapshot to the blobs of its repository, as in the Hugging Face cache', async () => {
    const repository = join(fresh('hub'), 'models--org--name')
    const snapshot = join(repository, 'snapshots', 'abc')
    mkdirSync(join(repository, 'blobs'), { recursive: true })
    writeModel(snapshot, { a: f32([5]) })
    for (const name of ['model.safetensors', 'config.json']) {
      renameSync(join(snapshot, name), join(repository, 'blobs', `hash-of-${name}`))
      symlinkSync(`../../blobs/hash-of-${name}`, join(snapshot, name))
    }
    const out = fresh('out')
    await merge(engine, soup(snapshot, model(1)), { out })
    expect([...values(readFolder(out).get('a')!)]).toEqual([3])
    rmSync(join(snapshot, 'config.json'))
    symlinkSync('/etc/hostname', join(snapshot, 'config.json'))
    await expect(inspect(snapshot)).rejects.toMatchObject(outside)
  })
})

describe('a link that leads elsewhere is followed where that is asked for', () => {
  afterEach(() => {
    delete process.env.WEIGHTSMITH_FOLLOW_LINKS
  })

  test('with the weights, the configuration and what is copied', async () => {
    const path = model(3)
    for (const name of ['model.safetensors', 'config.json']) linkAway(path, name, fresh('elsewhere'))
    const tokenizer = fresh('tokenizer')
    writeFileSync(tokenizer, '{"a":1}')
    symlinkSync(tokenizer, join(path, 'tokenizer_config.json'))
    process.env.WEIGHTSMITH_FOLLOW_LINKS = '0'
    await expect(inspect(path)).rejects.toMatchObject({
      ...outside,
      message: expect.stringContaining('--follow-links'),
    })
    process.env.WEIGHTSMITH_FOLLOW_LINKS = '1'
    const out = fresh('out')
    await merge(engine, soup(path, model(1)), { out })
    expect([...values(readFolder(out).get('a')!)]).toEqual([2])
    expect(JSON.parse(readFileSync(join(out, 'config.json'), 'utf8'))).toHaveProperty('model_type')
    expect(JSON.parse(readFileSync(join(out, 'tokenizer_config.json'), 'utf8'))).toEqual({ a: 1 })
  })

  test('by the option of the command line', async () => {
    const path = model(3)
    linkAway(path, 'model.safetensors', fresh('elsewhere'))
    await expect(cli('inspect', path)).resolves.toMatchObject({ code: 1 })
    await expect(cli('inspect', path, '--follow-links')).resolves.toMatchObject({ code: 0 })
    await expect(cli('--follow-links', 'inspect', path)).resolves.toMatchObject({ code: 0 })
  })
})

test('a pipe in place of a configuration is refused, not waited for', async () => {
  const path = model()
  rmSync(join(path, 'config.json'))
  execFileSync('mkfifo', [join(path, 'config.json')])
  await expect(inspect(path)).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_IO_READ' })
})

test('a configuration that nests without end is refused', async () => {
  const path = model()
  writeFileSync(join(path, 'config.json'), `${'{"a":'.repeat(1e6)}0${'}'.repeat(1e6)}`)
  await expect(inspect(path)).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_FORMAT' })
})

describe('100 MB of header are refused in bounded memory where they are', () => {
  const MB100 = 100e6
  const mostMemory = 400 * 2 ** 20

  /** Writes `open`, then `unit(i)` again and again until the file has 100 MB, then `close`, all as one header. */
  function bomb(path: string, open: string, unit: (i: number) => string, close: string): void {
    const file = openSync(path, 'w')
    const length = Buffer.alloc(8)
    writeSync(file, length)
    let bytes = writeSync(file, open)
    // One stretch over and over: names that repeat are noticed later than what is looked for here.
    const stretch = Buffer.from(Array.from({ length: 20_000 }, (_, i) => unit(i)).join(''))
    while (bytes < MB100 - stretch.length - 100) bytes += writeSync(file, stretch)
    bytes += writeSync(file, close)
    length.writeBigUInt64LE(BigInt(bytes))
    writeSync(file, length, 0, 8, 0)
    closeSync(file)
  }

  const entry = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
  test.each<[string, string, (i: number) => string, string]>([
    ['keys', '{', (i) => `"k${i}":0,`, '"z":0}'],
    ['metadata', '{"__metadata__":{', (i) => `"k${i}":"",`, '"z":""}}'],
    ['tensors without elements', '{', (i) => `"t${i}":${entry},`, `"z":${entry}}`],
    ['dimensions', '{"t":{"dtype":"U8","data_offsets":[0,0],"shape":[', () => '1,', '1]}}'],
    ['empty lists', '{"t":[', () => '[],', '[]]}'],
    ['brackets', '{"t":', () => '[', ''],
  ])('%s', async (_, open, unit, close) => {
    const path = fresh('bomb')
    mkdirSync(path)
    bomb(join(path, 'model.safetensors'), open, unit, close)
    // The most this process ever had; a child's `maxRSS` begins with what its parent had.
    const body = `import { readFileSync } from 'node:fs'
      import { inspect } from ${JSON.stringify(new URL('../../dist/esm/index.js', import.meta.url).href)}
      const before = process.memoryUsage.rss()
      const code = await inspect(process.argv[2]).then(() => 'none', (error) => error.code)
      const peak = process.platform === 'linux'
        ? 1024 * Number(/VmHWM:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1])
        : process.memoryUsage.rss()
      console.log(JSON.stringify({ code, memory: peak - before }))`
    const { stdout, stderr } = await start([script(folder, 'bomb', body), path]).ended
    expect(stderr).toBe('')
    const { code, memory } = JSON.parse(stdout) as { code: string; memory: number }
    expect(code).toBe('ERR_WEIGHTSMITH_FORMAT')
    expect(memory).toBeLessThan(mostMemory)
    rmSync(path, { recursive: true })
  })

  test('an index of a hundred million bytes', async () => {
    const path = fresh('index')
    mkdirSync(path)
    const file = openSync(join(path, 'model.safetensors.index.json'), 'w')
    writeSync(file, '{"weight_map":{')
    const stretch = Buffer.from(Array.from({ length: 1e5 }, (_, k) => `"k${k}":"a",`).join(''))
    for (let i = 0; i < 60; i++) writeSync(file, stretch)
    writeSync(file, '"z":"a"}}')
    closeSync(file)
    await expect(inspect(path)).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_INDEX' })
  })
})
