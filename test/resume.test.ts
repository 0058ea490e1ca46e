/** A run that ended early, however it ended, goes on where it was and gives the bytes it would have given. */
import { createHash } from 'node:crypto'
import {
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { batch, Engine, type MergeOptions, merge, type RecipeInput, verify } from 'weightsmith'
import { bf16, type Raw, writeModel } from './checkpoint.js'
import { appears, cli, cliPath, over, start, until } from './child.js'
import { scratch } from './scratch.js'

const { fresh } = scratch('resume')
let engine: Engine

const tensors = 150
const elements = 40_000
const noise = Float32Array.from({ length: 2 * elements }, (_, k) => Math.sin(k * k * 0.37))

/** Large enough that a run in small tiles can be interrupted, of two types so that tiles are cut in odd places. */
function model(seed: number): string {
  const layers: Record<string, Raw> = {}
  for (let i = 0; i < tensors; i++) {
    const values = noise.slice(97 * seed + i, 97 * seed + elements + 2 * i)
    const f32 = { dtype: 'F32', shape: [values.length], bytes: Buffer.from(values.buffer) }
    layers[`model.layers.${i}.mlp.up_proj.weight`] =
      i % 3 === 0 ? f32 : bf16(i % 3 === 1 ? values : values.slice(0, 999))
  }
  return writeModel(fresh('model'), layers, { num_hidden_layers: tensors })
}

let recipe: RecipeInput
let recipeFile: string
let expected: Map<string, Buffer>
// Tiles that hold a part of a tensor, or several small ones.
const options = { shardSize: '2MB', memory: '256KiB', journalEvery: 1 } as const
const flags = ['--shard-size', '2MB', '--memory', '256KiB', '--journal-every', '1']

const contents = (path: string) => new Map(readdirSync(path).map((name) => [name, readFileSync(join(path, name))]))
const hashes = (path: string) =>
  [...contents(path)].map(([name, bytes]) => [name, createHash('sha256').update(bytes).digest('hex')]).sort()

/** The same files with the same bytes; the manifest and the card name the device and the folder of the run. */
function expectSame(out: string): void {
  const found = contents(out)
  expect([...found.keys()].sort()).toEqual([...expected.keys()].sort())
  for (const [name, bytes] of expected) {
    if (name === 'README.md') continue
    if (name !== 'weightsmith.json')
      expect({ name, same: found.get(name)!.equals(bytes) }).toEqual({ name, same: true })
    else expect(outputsOf(found.get(name)!)).toEqual(outputsOf(bytes))
  }
}

const outputsOf = (manifest: Buffer) =>
  (JSON.parse(manifest.toString('utf8')) as { outputs: { name: string }[] }).outputs.filter(
    ({ name }) => name !== 'README.md',
  )

beforeAll(async () => {
  engine = await Engine.open()
  recipe = {
    merge_method: 'dare_ties',
    base_model: model(0),
    models: [1, 2].map((seed) => ({ model: model(seed), parameters: { weight: 0.5, density: 0.4 } })),
  }
  recipeFile = fresh('recipe.yml')
  writeFileSync(recipeFile, JSON.stringify(recipe))
  const out = fresh('expected')
  await merge(engine, recipe, { out, ...options })
  expected = contents(out)
})
afterAll(() => engine?.close())

const sizeOf = (path: string) => statSync(path, { throwIfNoEntry: false })?.size ?? 0

/** The error of a merge that is aborted as soon as a part of it is written. */
async function interrupted(out: string, source = recipe): Promise<unknown> {
  const abort = new AbortController()
  const onProgress = ({ bytesWritten }: { bytesWritten: number }) => bytesWritten > 0 && abort.abort()
  return merge(engine, source, { out, ...options, signal: abort.signal, onProgress }).catch((error: unknown) => error)
}

test('a run that was aborted leaves what it has, and the next one reads inputs only for the rest', async () => {
  const out = fresh('out')
  const error = await interrupted(out)
  expect(error).toMatchObject({ code: 'ERR_WEIGHTSMITH_ABORTED', partial: `${out}.partial` })
  expect(existsSync(out)).toBe(false)
  const { resumed, bytesRead } = await merge(engine, recipe, { out, ...options, resume: true })
  expect(resumed).toBeGreaterThan(0)
  expect(resumed).toBeLessThan(tensors)
  const whole = await merge(engine, recipe, { out: fresh('whole'), ...options })
  expect(bytesRead).toBeLessThan(whole.bytesRead)
  const share = (tensors - resumed) / tensors
  expect(bytesRead / whole.bytesRead).toBeLessThan(share * 1.5 + 0.02)
  expectSame(out)
  await verify(out)
  expect(existsSync(`${out}.partial`)).toBe(false)
})

test('tensors that share their facts are computed together, also after an interruption', async () => {
  const joint: RecipeInput = {
    ...recipe,
    merge_method: 'ties',
    parameters: { scope: 'model' },
  }
  const whole = fresh('whole')
  await merge(engine, joint, { out: whole, ...options })
  // Some tensors have to be finished; when the abort comes is chance.
  let out = ''
  for (let attempt = 0, noted = 0; attempt < 20 && noted < 2 * 87; attempt++) {
    out = fresh('out')
    await interrupted(out, joint)
    noted = sizeOf(join(`${out}.partial`, '.weightsmith-journal'))
  }
  expect((await merge(engine, joint, { out, ...options, resume: true })).resumed).toBe(0)
  for (const name of readdirSync(whole).filter((name) => name.endsWith('.safetensors'))) {
    expect(readFileSync(join(out, name)).equals(readFileSync(join(whole, name)))).toBe(true)
  }
})

test('a tensor of which only a part was written is not taken for finished', async () => {
  const large = [0, 1].map((seed) => {
    const pattern = bf16(noise.slice(seed)).bytes
    const weight = { dtype: 'BF16', shape: [2 ** 25], bytes: Buffer.alloc(2 ** 26, pattern) }
    return writeModel(fresh('large'), { weight })
  })
  const soup: RecipeInput = {
    merge_method: 'linear',
    models: large.map((path) => ({ model: path, parameters: { weight: 1 } })),
  }
  const [whole, out] = [fresh('whole'), fresh('out')]
  await merge(engine, soup, { out: whole, ...options })
  expect(await interrupted(out, soup)).toMatchObject({ code: 'ERR_WEIGHTSMITH_ABORTED' })
  expect((await merge(engine, soup, { out, ...options, resume: true })).resumed).toBe(0)
  for (const name of readdirSync(whole).filter((file) => file.endsWith('.safetensors'))) {
    expect(readFileSync(join(out, name)).equals(readFileSync(join(whole, name)))).toBe(true)
  }
})

test('resume begins where there is nothing to go on from', async () => {
  const out = fresh('out')
  const { resumed } = await merge(engine, recipe, { out, ...options, resume: true })
  expect(resumed).toBe(0)
  expectSame(out)
})

test('values that are not finite are reported of the earlier run too', async () => {
  const odd = Array.from({ length: 60 }, (_, i) => [
    `t${i}`,
    bf16([i % 7 === 0 ? Number.NaN : 1, ...new Float32Array(9000)]),
  ])
  const models = [0, 1].map(() => writeModel(fresh('nan'), Object.fromEntries(odd) as Record<string, Raw>))
  const nan: RecipeInput = {
    merge_method: 'linear',
    models: models.map((path) => ({ model: path, parameters: { weight: 1 } })),
  }
  const small = { memory: '256KiB', journalEvery: 1 }
  const whole = await merge(engine, nan, { out: fresh('out'), ...small })
  expect(whole.nonFinite).toHaveLength(9)
  const out = fresh('out')
  const abort = new AbortController()
  const first = merge(engine, nan, { out, ...small, signal: abort.signal, onProgress: () => abort.abort() })
  await expect(first).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_ABORTED' })
  const { nonFinite } = await merge(engine, nan, { out, ...small, resume: true })
  const sorted = (list: typeof nonFinite) => [...list].sort((a, b) => a.tensor.localeCompare(b.tensor))
  expect(sorted(nonFinite)).toEqual(sorted(whole.nonFinite))
})

describe('an unfinished output', () => {
  test('is not touched without being asked for, and the error says how to ask', async () => {
    const out = fresh('out')
    await interrupted(out)
    const before = hashes(`${out}.partial`)
    await expect(merge(engine, recipe, { out, ...options })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_OUTPUT_EXISTS',
      message: expect.stringMatching(/--resume.*--overwrite/),
    })
    expect(hashes(`${out}.partial`)).toEqual(before)
    const { resumed } = await merge(engine, recipe, { out, ...options, overwrite: true })
    expect(resumed).toBe(0)
    expectSame(out)
  })

  test('is not continued by another recipe, seed, type or shard size, and the error says which', async () => {
    const out = fresh('out')
    await interrupted(out)
    const before = hashes(`${out}.partial`)
    const others: [string, Partial<MergeOptions>, RecipeInput][] = [
      ['seed', { seed: 1 }, recipe],
      ['recipe', {}, { ...recipe, parameters: { lambda: 0.5 } }],
      ['type', { dtype: 'float32' }, recipe],
      ['shard size', { shardSize: '3MB' }, recipe],
      ['recipe: parameters differs', { journalEvery: '256MiB' }, { ...recipe, parameters: { lambda: 0.5 } }],
    ]
    for (const [what, more, other] of others) {
      await expect(merge(engine, other, { out, ...options, ...more, resume: true })).rejects.toMatchObject({
        code: 'ERR_WEIGHTSMITH_RESUME',
        message: expect.stringContaining(what),
      })
    }
    expect(hashes(`${out}.partial`)).toEqual(before)
    await merge(engine, recipe, { out, ...options, memory: '2MiB', checksum: 'full', resume: true })
  })

  test('is not continued after an input has changed, and the error says which', async () => {
    const out = fresh('out')
    const file = join(recipe.models![1]!.model, 'model.safetensors')
    utimesSync(file, 0, 1e9)
    await interrupted(out)
    utimesSync(file, 0, 1e9 + 1)
    await expect(merge(engine, recipe, { out, ...options, resume: true })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_INPUT_CHANGED',
      message: expect.stringContaining(file),
      file,
    })
    utimesSync(file, 0, 1e9)
    await merge(engine, recipe, { out, ...options, resume: true })
    expectSame(out)
  })

  test('is continued or refused by a batch, which discards it with overwrite', async () => {
    const out = fresh('batch')
    await interrupted(join(out, 'job'))
    const jobs = [{ recipe, name: 'job', seed: 1 }]
    const refused = await batch(engine, jobs, { out })
    expect(refused.jobs[0]).toMatchObject({
      status: 'failed',
      error: { code: 'ERR_WEIGHTSMITH_RESUME', message: expect.stringMatching(/another seed .*overwrite/) },
    })
    expect((await batch(engine, jobs, { out, overwrite: true })).merged).toBe(1)
    expect(readdirSync(out)).toEqual(['job'])
  })

  test('whose journal was torn, is of another run, or says what cannot be, is still completed', async () => {
    const journal = '.weightsmith-journal'
    const harm: ((path: string) => void)[] = [
      (path) => truncateSync(path, statSync(path).size - 5),
      (path) => truncateSync(path, 3),
      (path) => writeFileSync(path, Buffer.concat([readFileSync(path), Buffer.alloc(100, 7)])),
      (path) => writeFileSync(path, `weightsmith journal 2 ${'0'.repeat(64)}\n`),
      (path) => rmSync(path),
      (path) => rmSync(join(path, '..', readdirSync(join(path, '..')).find((name) => name.endsWith('.safetensors'))!)),
      (path) => {
        const bytes = readFileSync(path)
        bytes[bytes.length - 30]! ^= 1
        writeFileSync(path, bytes)
      },
    ]
    for (const damage of harm) {
      const out = fresh('out')
      await interrupted(out)
      damage(join(`${out}.partial`, journal))
      await merge(engine, recipe, { out, ...options, resume: true })
      expectSame(out)
      rmSync(out, { recursive: true })
    }
  })

  test('is left by no failure that the next call would meet again', async () => {
    const out = fresh('out')
    const odd = writeModel(fresh('odd'), { a: bf16([Number.NaN]) })
    const twice: RecipeInput = { merge_method: 'passthrough', models: [{ model: odd }] }
    const failing = merge(engine, twice, { out, checkFinite: true, dtype: 'float32' })
    await expect(failing).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_NON_FINITE' })
    expect(existsSync(`${out}.partial`)).toBe(false)
  })
})

describe('the command line', () => {
  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('prints on %s the command that goes on, which works', async (signal, status) => {
    const out = fresh('out')
    const running = start([cliPath, 'merge', recipeFile, out, ...flags])
    await appears(join(`${out}.partial`, '.weightsmith-journal'), running)
    running.child.kill(signal)
    const { code, stderr } = await running.ended
    expect(code).toBe(status)
    expect(existsSync(out)).toBe(false)
    const command = /To continue: weightsmith (.*)\n/.exec(stderr)![1]!
    expect(command).toBe(['merge', recipeFile, out, ...flags, '--resume'].join(' '))
    const resumed = await cli(...command.split(' '))
    expect({ code: resumed.code, stderr: resumed.stderr }).toMatchObject({ code: 0 })
    expectSame(out)
  })
})

test('25 kills a driver at random moments, drivers in turn, do not change a byte', async () => {
  const usual = engine.device.name
  const devices = /swiftshader/i.test(usual) ? ['swiftshader'] : [usual, 'swiftshader']
  const enough = 25 * devices.length
  let kills = 0
  let resumed = 0
  while (kills < enough) {
    const out = fresh('killed')
    const journal = join(`${out}.partial`, '.weightsmith-journal')
    for (let attempt = 0; ; attempt++) {
      const noted = sizeOf(journal)
      const args = [
        'merge',
        recipeFile,
        out,
        ...flags,
        '--resume',
        '--json',
        '--device',
        devices[attempt % devices.length]!,
      ]
      const running = start([cliPath, ...args])
      if (kills < enough) {
        // One in four at any moment of the process; the others after some more work is noted.
        if (Math.random() < 0.25) await sleep(Math.random() * 1000)
        else await until(() => sizeOf(journal) > noted || sizeOf(out) > 0 || over(running))
        await sleep(Math.random() * 50)
        if (running.child.kill('SIGKILL')) kills++
      }
      const { code, stdout } = await running.ended
      if (code === 0) resumed += (JSON.parse(stdout) as { resumed: number }).resumed
      // Published, by this run or by one that was killed right after.
      if (existsSync(out)) break
      expect(code).toBe(null)
    }
    // A kill right after the folder got its name may leave the notes of the run in it.
    for (const name of readdirSync(out)) if (name.startsWith('.weightsmith-')) rmSync(join(out, name))
    expectSame(out)
    rmSync(out, { recursive: true })
  }
  expect(resumed).toBeGreaterThan(0)
}, 300_000)
