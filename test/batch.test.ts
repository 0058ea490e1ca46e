/**
 * Many merges through one engine: what each job comes to, what is left out on resuming, and what an end leaves behind.
 */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { type BatchJob, batch, Engine, merge, type ProgressEvent, type RecipeInput, verify } from 'weightsmith'
import { f32, readFolder, values, writeModel } from './checkpoint.js'
import { appears, cli, cliPath, start } from './child.js'
import { scratch } from './scratch.js'

const { folder, fresh } = scratch('batch')

let engine: Engine
beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(async () => {
  await engine.close()
})

const model = (value: number) => writeModel(fresh('model'), { 'model.norm.weight': f32([value, 2 * value]) })
const [one, three] = [model(1), model(3)]
const mix = (share: number, models = [one, three]): RecipeInput => ({
  merge_method: 'linear',
  models: models.map((path, i) => ({ model: path, parameters: { weight: i === 0 ? 1 - share : share } })),
})
const norm = (out: string) => [...values(readFolder(out).get('model.norm.weight')!)]
const statuses = (report: { jobs: { name: string; status: string }[] }) =>
  report.jobs.map(({ name, status }) => `${name} ${status}`)
const shares = (amount: number): BatchJob[] =>
  Array.from({ length: amount }, (_, i) => ({ recipe: mix(i / 100), name: `share-${i}` }))

describe('a batch', () => {
  test('gives every job its folder, with the bytes of a merge of its own', async () => {
    const out = fresh('out')
    const report = await batch(engine, shares(6), { out, seed: 5 })
    expect(report).toMatchObject({ out, merged: 6, skipped: 0, failed: 0 })
    expect(statuses(report)).toEqual(Array.from({ length: 6 }, (_, i) => `share-${i} merged`))
    const alone = join(fresh('alone'), 'share-4')
    await merge(engine, mix(0.04), { out: alone, seed: 5 })
    expect(readdirSync(join(out, 'share-4')).sort()).toEqual(readdirSync(alone).sort())
    for (const name of readdirSync(alone)) {
      expect({ name, bytes: readFileSync(join(out, 'share-4', name)) }).toEqual({
        name,
        bytes: readFileSync(join(alone, name)),
      })
    }
    expect(readdirSync(out).sort()).toEqual(report.jobs.map(({ name }) => name).sort())
  })

  test('goes on when jobs fail, and says which and why', async () => {
    const out = fresh('out')
    mkdirSync(join(out, 'taken'), { recursive: true })
    writeFileSync(join(out, 'taken', 'file'), '')
    const ended: string[] = []
    const seen: ProgressEvent[] = []
    const report = await batch(
      engine,
      [
        { recipe: mix(0.5), name: 'first' },
        { recipe: { ...mix(0.5), merge_method: 'soup' }, name: 'unsound' },
        { recipe: mix(0.5, [one, fresh('nothing')]), name: 'missing' },
        { recipe: mix(0.5), name: 'taken' },
        { recipe: mix(0.5), name: 'odd-type', dtype: 'int8' },
        { recipe: mix(1), name: 'last' },
      ],
      { out, onJob: ({ name }) => ended.push(name), onProgress: (event) => seen.push(event) },
    )
    expect(report.jobs.map(({ name, status, error }) => [name, status, error?.code])).toEqual([
      ['first', 'merged', undefined],
      ['unsound', 'failed', 'ERR_WEIGHTSMITH_RECIPE'],
      ['missing', 'failed', 'ERR_WEIGHTSMITH_NOT_FOUND'],
      ['taken', 'failed', 'ERR_WEIGHTSMITH_OUTPUT_EXISTS'],
      ['odd-type', 'failed', 'ERR_WEIGHTSMITH_ARGUMENT'],
      ['last', 'merged', undefined],
    ])
    expect(report).toMatchObject({ merged: 2, failed: 4 })
    expect([...ended].sort()).toEqual(report.jobs.map(({ name }) => name).sort())
    expect(seen).toEqual(ended.map((item, i) => ({ phase: 'merge', done: i + 1, total: 6, unit: 'jobs', item })))
    expect(norm(join(out, 'last'))).toEqual([3, 6])
    expect(readdirSync(out).sort()).toEqual(['first', 'last', 'taken'])
  })

  test('takes a file of jobs, whose paths start from its folder', async () => {
    const home = fresh('home')
    writeModel(join(home, 'a'), { x: f32([1]) })
    writeModel(join(home, 'b'), { x: f32([2]) })
    const recipe = mix(0.5, ['a', 'b'])
    writeFileSync(join(home, 'half.yml'), JSON.stringify(recipe))
    const lines = [{ recipe: 'half.yml' }, { recipe, name: 'by value', dtype: 'bfloat16', seed: 7 }, { recipe }]
    writeFileSync(join(home, 'jobs.jsonl'), `${lines.map((line) => JSON.stringify(line)).join('\n\n')}\n`)
    const out = fresh('out')
    const report = await batch(engine, join(home, 'jobs.jsonl'), { out })
    expect(statuses(report)).toEqual(['half merged', 'by value merged', 'job-0003 merged'])
    expect(readFolder(join(out, 'half')).get('x')!.dtype).toBe('F32')
    expect(readFolder(join(out, 'by value')).get('x')!.dtype).toBe('BF16')
    const manifest = JSON.parse(readFileSync(join(out, 'by value', 'weightsmith.json'), 'utf8')) as { seed: number }
    expect(manifest.seed).toBe(7)
  })

  test('takes a folder of recipes, and names the results after them', async () => {
    const recipes = fresh('recipes')
    mkdirSync(recipes)
    for (const name of ['b.yml', 'a.yaml', 'c.json', 'notes.txt'])
      writeFileSync(join(recipes, name), JSON.stringify(mix(0.5)))
    expect(statuses(await batch(engine, recipes, { out: fresh('out') }))).toEqual(['a merged', 'b merged', 'c merged'])
  })

  test('opens a model once, however many jobs name it', async () => {
    const [a, b] = [model(1), model(2)]
    const jobs = [0.25, 0.75].map((share) => ({ recipe: mix(share, [a!, b!]), name: `share-${share}` }))
    const report = await batch(engine, jobs, {
      out: fresh('out'),
      jobs: 1,
      sync: false,
      // Had the second job to open it again, it would have no configuration to hand on.
      onJob: () => rmSync(join(a!, 'config.json'), { force: true }),
    })
    expect(report.merged).toBe(2)
    expect(existsSync(join(report.jobs[1]!.out, 'config.json'))).toBe(true)
  })

  test('reads the models once for jobs that differ only in parameters', async () => {
    const out = fresh('out')
    const report = await batch(engine, shares(8), { out })
    expect(report).toMatchObject({ merged: 8, bytesRead: 2 * 8 + 8 })
    const written = report.jobs.map((job) => statSync(join(job.out, 'model.safetensors')).size)
    expect(report.jobs.map((job) => job.bytesWritten)).toEqual(written)
    expect(report.bytesWritten).toBe(written.reduce((a, b) => a + b, 0))
    // one of the shares is 0, which is a copy of the first model
    for (const [i, { out: each }] of report.jobs.entries()) {
      expect(norm(each)[0]).toBeCloseTo(1 + (2 * i) / 100, 6)
    }
    const alone = await batch(
      engine,
      shares(8).map((job, seed) => ({ ...job, seed })),
      { out: fresh('out') },
    )
    expect(alone.bytesRead).toBe(7 * 16 + 8)
  })

  test('refuses jobs that are none, before the first one starts', async () => {
    const out = fresh('out')
    const lines = (text: string) => {
      const path = fresh('jobs.jsonl')
      writeFileSync(path, text)
      return path
    }
    const recipe = mix(0.5)
    const wrong: [string | BatchJob[], RegExp][] = [
      [
        [
          { recipe, name: 'twin' },
          { recipe, name: 'twin' },
        ],
        /Job 2 .* folder "twin", as Job 1 does/,
      ],
      [[{ recipe, name: '../up' }], /name of a folder, but "\.\.\/up"/],
      [[{ recipe, name: 'x.partial' }], /name of a folder/],
      [lines(`${JSON.stringify({ recipe })}\n{`), /Line 2 of .* is not valid JSON/],
      [lines(JSON.stringify({ recipe, weight: 1 })), /Line 1 of .* it has weight/],
      [lines('[]'), /should be an object with recipe/],
      [lines('\n'), /has no jobs/],
    ]
    for (const [jobs, message] of wrong) {
      await expect(batch(engine, jobs, { out })).rejects.toMatchObject({
        code: 'ERR_WEIGHTSMITH_ARGUMENT',
        message: expect.stringMatching(message),
      })
    }
    await expect(batch(engine, fresh('nothing'), { out })).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_NOT_FOUND' })
    await expect(batch(engine, [{ recipe }], { out, jobs: 0 })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_ARGUMENT',
    })
    expect(existsSync(out)).toBe(false)
  })
})

describe('a dry run', () => {
  test('says what would become of every job, and writes nothing', async () => {
    const out = fresh('out')
    const done = await batch(engine, shares(3), { out })
    rmSync(join(out, 'share-2'), { recursive: true })
    const jobs = [...shares(3), { recipe: mix(0.5, [fresh('nothing')]), name: 'lost' }]
    const { forecast } = await batch(engine, jobs, { out, resume: true, dryRun: true })
    expect(forecast.jobs.map(({ name, status }) => `${name} ${status}`)).toEqual([
      'share-0 skip',
      'share-1 skip',
      'share-2 merge',
      'lost fail',
    ])
    expect(forecast).toMatchObject({ merge: 1, skip: 2, fail: 1, bytesRead: 16 })
    expect(forecast.bytesWritten).toBe(done.jobs[2]!.bytesWritten)
    expect(forecast.jobs[3]!.error).toMatchObject({ code: 'ERR_WEIGHTSMITH_NOT_FOUND' })
    expect(readdirSync(out).sort()).toEqual(['share-0', 'share-1'])
    const fail = { status: 'fail', error: { code: 'ERR_WEIGHTSMITH_OUTPUT_EXISTS' } }
    const again = await batch(engine, shares(2), { out, dryRun: true })
    expect(again.forecast.jobs).toMatchObject([fail, fail])
  })
})

describe('a resumed batch', () => {
  test('does what is not done yet, and only that', async () => {
    const out = fresh('out')
    await batch(engine, shares(3), { out })
    const before = readFileSync(join(out, 'share-1', 'weightsmith.json'))
    rmSync(join(out, 'share-2'), { recursive: true })
    const report = await batch(engine, shares(4), { out, resume: true })
    expect(statuses(report)).toEqual(['share-0 skipped', 'share-1 skipped', 'share-2 merged', 'share-3 merged'])
    expect(readFileSync(join(out, 'share-1', 'weightsmith.json'))).toEqual(before)
  })

  test('takes no output for done that is incomplete or was made otherwise', async () => {
    const [a, b] = [model(1), model(2)]
    const jobs = (share = 0.5): BatchJob[] => [{ recipe: mix(share, [a!, b!]), name: 'job' }]
    const out = fresh('out')
    await batch(engine, jobs(), { out })
    const again = async (options: object, list = jobs()) =>
      (await batch(engine, list, { out, resume: true, ...options })).jobs[0]!
    expect((await again({})).status).toBe('skipped')
    const exists = { status: 'failed', error: { code: 'ERR_WEIGHTSMITH_OUTPUT_EXISTS' } }
    expect(await again({ seed: 1 })).toMatchObject(exists)
    expect(await again({ dtype: 'bfloat16' })).toMatchObject(exists)
    expect(await again({}, jobs(0.25))).toMatchObject(exists)
    truncateSync(join(out, 'job', 'model.safetensors'), 20)
    expect(await again({})).toMatchObject(exists)
    expect((await again({ overwrite: true })).status).toBe('merged')
    expect((await again({ overwrite: true })).status).toBe('skipped')
    utimesSync(join(a!, 'model.safetensors'), 1, 1)
    expect(await again({})).toMatchObject(exists)
  })
})

describe('a batch that is ended', () => {
  test('by a signal keeps what was finished, leaves nothing half, and can be resumed', async () => {
    const out = fresh('out')
    const stop = new AbortController()
    const aborted = batch(engine, shares(200), {
      out,
      // Each may have a group of 64 outputs waiting for the disk when the first group reaches it.
      jobs: 2,
      signal: stop.signal,
      onProgress: ({ done }) => done === 64 && stop.abort(),
    })
    // With `partial` the command line says how to go on.
    const ended = { code: 'ERR_WEIGHTSMITH_ABORTED', name: 'AbortError', partial: out }
    await expect(aborted).rejects.toMatchObject(ended)
    const finished = readdirSync(out)
    expect(finished.length).toBeGreaterThanOrEqual(64)
    expect(finished.length).toBeLessThan(200)
    expect(finished.filter((name) => name.includes('partial'))).toEqual([])
    for (const name of finished) await verify(join(out, name))
    const report = await batch(engine, shares(200), { out, resume: true })
    expect(report).toMatchObject({ skipped: finished.length, merged: 200 - finished.length, failed: 0 })
  })

  test('by the end of its engine rejects', async () => {
    const own = await Engine.open()
    const running = batch(own, shares(300), { out: fresh('out'), onJob: () => void own.close() })
    await expect(running).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_DISPOSED' })
    await own.close()
  })

  test('by SIGKILL leaves only whole outputs under final names, and can be resumed', async () => {
    const out = fresh('out')
    const jobs = fresh('jobs.jsonl')
    writeFileSync(
      jobs,
      shares(300)
        .map((job) => JSON.stringify(job))
        .join('\n'),
    )
    const running = start([cliPath, 'batch', jobs, out])
    await appears(join(out, 'share-3'), running)
    running.child.kill('SIGKILL')
    expect((await running.ended).signal).toBe('SIGKILL')
    const finished = readdirSync(out).filter((name) => !name.endsWith('.partial'))
    for (const name of finished) await verify(join(out, name))
    const { code, stdout } = await cli('batch', jobs, out, '--resume', '--json')
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({ skipped: finished.length, merged: 300 - finished.length })
    expect(readdirSync(out)).toHaveLength(300)
  })
})

describe('on the command line a batch', () => {
  test('prints a table with failures first, and exits with 1 when a job failed', async () => {
    const recipes = fresh('recipes')
    mkdirSync(recipes)
    writeFileSync(join(recipes, 'good.yml'), JSON.stringify(mix(0.5)))
    writeFileSync(join(recipes, 'unsound.yml'), 'merge_method: soup')
    const { code, stdout, stderr } = await cli('batch', recipes, fresh('out'), '--jobs', '2')
    expect(code).toBe(1)
    expect(stdout).toMatch(/1 merged, 0 skipped, 1 failed/)
    expect(stdout).toMatch(/unsound +failed .*ERR_WEIGHTSMITH_RECIPE.*\n *good +merged/)
    expect(stderr).toContain('batch: unsound failed: ')
  })

  test('exits with 2 for misuse', async () => {
    expect((await cli('batch', folder, fresh('out'), '--jobs', 'many')).code).toBe(2)
  })
})
