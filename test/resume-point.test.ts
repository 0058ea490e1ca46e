/** Resume points, which every verb that can be interrupted goes on from. */
import { existsSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { basename, dirname } from 'node:path'
import { describe, expect, test } from '@jest/globals'
import { ResumePoint, type Run, type SavedTensors } from '../lib/checkpoint/resume/index.js'
import { loadAddon } from '../lib/native/load.js'
import { scratch } from './scratch.js'

const { fresh } = scratch('resume-point')
const addon = loadAddon()

const input = { path: '/models/base/model.safetensors', size: 100, mtimeMs: 1e12, headerHash: 'ab' }
const run: Run = {
  verb: 'train',
  facts: { seed: 0, config: { optimiser: { name: 'adamw', rate: 0.1 }, steps: 9 }, layers: [1, 2] },
  inputs: [input],
  plan: 'f'.repeat(64),
}
const resume = { resume: true, overwrite: false }
const files = (path: string) => readdirSync(dirname(path)).filter((name) => name.startsWith(basename(path)))

/** A folder with a note in it, of a run that has done something. */
async function noted(done: unknown = { step: 3 }, tensors?: SavedTensors): Promise<string> {
  const path = fresh('note')
  await (await ResumePoint.open(path, run, resume)).save(done, tensors)
  return path
}

const tensorsOf = (step: number): SavedTensors =>
  new Map([
    ['adapter.A', { dtype: 'F32', shape: [2, 3], values: async () => Float32Array.from([1, 2, 3, 4, 5, step]) }],
    ['moments', { dtype: 'F64', shape: [2], values: async () => Float64Array.from([0.1, step]) }],
    ['none', { dtype: 'F32', shape: [0, 4], values: async () => new Float32Array(0) }],
  ])

async function valuesOf(tensors: SavedTensors): Promise<object> {
  const entries = [...tensors].map(async ([name, { shape, values }]) => [name, shape, [...(await values())]] as const)
  return await Promise.all(entries)
}

test('a run starts from scratch where nothing is, and goes on with what it has noted last', async () => {
  const path = fresh('note')
  const first = await ResumePoint.open(path, run, resume)
  expect(first).toMatchObject({ resumed: false, done: null })
  expect(existsSync(path)).toBe(false)
  await first.save({ step: 1 })
  await first.save({ step: 2, losses: [0.5, 0.25] })
  const next = await ResumePoint.open(path, run, resume)
  expect(next).toMatchObject({ resumed: true, done: { step: 2, losses: [0.5, 0.25] } })
  await next.remove()
  expect(files(path)).toEqual([])
})

test('options that are not given decide nothing, as JSON has none of them', async () => {
  const path = await noted()
  const facts = { ...run.facts, rank: undefined }
  expect((await ResumePoint.open(path, { ...run, facts }, resume)).resumed).toBe(true)
})

describe('tensors', () => {
  test('come back as they were, with those of the last note alone on disk', async () => {
    const path = await noted({ step: 1 }, tensorsOf(1))
    for (const step of [2, 3]) {
      await (await ResumePoint.open(path, run, resume)).save({ step }, tensorsOf(step))
      const point = await ResumePoint.open(path, run, resume)
      expect(point.done).toEqual({ step })
      expect(await valuesOf(await point.tensors(addon))).toEqual(await valuesOf(tensorsOf(step)))
      expect(files(path)).toHaveLength(2)
    }
    const point = await ResumePoint.open(path, run, resume)
    await point.save({ step: 4 })
    expect((await point.tensors(addon)).size).toBe(0)
    expect(files(path)).toEqual([basename(path)])
  })

  test('of a note are there until the next note is, however the next one fails', async () => {
    const path = await noted({ step: 1 }, tensorsOf(1))
    const broken = new Map([['a', { dtype: 'F32', shape: [3], values: async () => new Float32Array(2) }]] as const)
    const failing = async () => {
      throw new Error('the device is gone')
    }
    const lost = new Map([['a', { dtype: 'F32', shape: [3], values: failing }]] as const)
    for (const tensors of [broken, lost]) {
      await expect((await ResumePoint.open(path, run, resume)).save({ step: 2 }, tensors)).rejects.toThrow()
      const point = await ResumePoint.open(path, run, resume)
      expect(point.done).toEqual({ step: 1 })
      expect(await valuesOf(await point.tensors(addon))).toEqual(await valuesOf(tensorsOf(1)))
    }
    // The draft of a note can have no name.
    mkdirSync(`${path}.new`)
    const failed = (await ResumePoint.open(path, run, resume)).save({ step: 2 }, tensorsOf(2))
    await expect(failed).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_IO_WRITE')
    const point = await ResumePoint.open(path, run, resume)
    expect(await valuesOf(await point.tensors(addon))).toEqual(await valuesOf(tensorsOf(1)))
  })

  test('that are torn or gone are refused', async () => {
    const path = await noted({ step: 1 }, tensorsOf(1))
    const file = `${path}-0.safetensors`
    const whole = readFileSync(file)
    for (const size of [whole.length - 1, 20, 0]) {
      truncateSync(file, size)
      const point = await ResumePoint.open(path, run, resume)
      await expect(point.tensors(addon)).rejects.toMatchObject({
        code: 'ERR_WEIGHTSMITH_RESUME',
        message: expect.stringMatching(/note-\d+-0\.safetensors is torn: .*[^.]\. Start over with overwrite/),
      })
      writeFileSync(file, whole)
    }
  })
})

describe('a note', () => {
  test('that is not asked for is neither continued nor touched, and is discarded with overwrite', async () => {
    const path = await noted({ step: 1 }, tensorsOf(1))
    const before = files(path)
    await expect(ResumePoint.open(path, run, { resume: false, overwrite: false })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_OUTPUT_EXISTS',
      message: expect.stringMatching(/--resume.*--overwrite/),
    })
    expect(files(path)).toEqual(before)
    expect((await ResumePoint.open(path, run, { resume: true, overwrite: true })).resumed).toBe(true)
    expect((await ResumePoint.open(path, run, { resume: false, overwrite: true })).resumed).toBe(false)
    expect(files(path)).toEqual([])
  })

  test.each<[string, Partial<Run>]>([
    ['another verb (train then, score now)', { verb: 'score' }],
    ['another seed (0 then, 1 now)', { facts: { ...run.facts, seed: 1 } }],
    [
      'another config: optimiser.rate differs',
      { facts: { ...run.facts, config: { optimiser: { name: 'adamw', rate: 0.2 }, steps: 9 } } },
    ],
    ['another config: optimiser, steps differ', { facts: { ...run.facts, config: { steps: 10 } } }],
    ['another layers ([1,2] then, [1] now)', { facts: { ...run.facts, layers: [1] } }],
    ['another rank (none then, 8 now)', { facts: { ...run.facts, rank: 8 } }],
    ['another set of input files', { inputs: [] }],
    ['another plan', { plan: 'e'.repeat(64) }],
  ])('of another run is refused: it was begun with %s', async (what, other) => {
    const path = await noted()
    const place = dirname(path)
    const before = readFileSync(path)
    const now = { ...run, ...other }
    await expect(ResumePoint.open(path, now, { ...resume, place })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_RESUME',
      message: expect.stringContaining(`${place} cannot be continued, because it was begun with ${what}`),
      file: place,
    })
    expect(readFileSync(path)).toEqual(before)
  })

  test.each([
    ['size in bytes', { size: 101 }],
    ['time of change', { mtimeMs: 2e12 }],
    ["header's SHA-256", { headerHash: 'cd' }],
  ])('is refused after the %s of an input has changed', async (what, change) => {
    const path = await noted()
    const changed = ResumePoint.open(path, { ...run, inputs: [{ ...input, ...change }] }, resume)
    await expect(changed).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_INPUT_CHANGED',
      message: expect.stringContaining(what),
      file: input.path,
    })
  })

  test('that is torn or of another format is refused, and so is what is no file', async () => {
    const path = await noted()
    const text = readFileSync(path, 'utf8')
    const other = (fields: object) => JSON.stringify({ ...(JSON.parse(text) as object), ...fields })
    const texts = [
      ...['', 'null', '[]', '7', text.slice(0, -1), text.slice(1), `${text}\0`],
      other({ format: 2 }),
      other({ run: undefined }),
      other({ run: { ...run, facts: null } }),
      other({ run: { ...run, inputs: [null] } }),
      other({ run: { ...run, inputs: {} } }),
      other({ tensors: '../../x' }),
    ]
    for (const torn of texts) {
      writeFileSync(path, torn)
      await expect(ResumePoint.open(path, run, resume)).rejects.toMatchObject({
        code: 'ERR_WEIGHTSMITH_RESUME',
        message: expect.stringMatching(/torn or of another version/),
      })
    }
    const folder = fresh('folder')
    mkdirSync(folder)
    await expect(ResumePoint.open(folder, run, resume)).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_RESUME')
  })
})
