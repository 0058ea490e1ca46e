/** Many merges: at once, in a row, on one output. Nothing is mixed up, and nothing is left behind. */
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, merge, type RecipeInput, verify } from 'weightsmith'
import { bf16, f32, readFolder, values, writeModel } from './checkpoint.js'
import { appears, cli, cliPath, script, start, until } from './child.js'
import { scratch } from './scratch.js'
import { sparseModel } from './sparse.js'

const MiB = 2 ** 20
const { folder, fresh } = scratch('reliability')
let engine: Engine

beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

const model = (value: number) => writeModel(fresh('model'), { a: f32([value, value]), b: bf16([value]) })
const soup = (...models: string[]): RecipeInput => ({
  merge_method: 'linear',
  models: models.map((path) => ({ model: path, parameters: { weight: 1 } })),
})
const first = (out: string) => values(readFolder(out).get('a')!)[0]

function recipeFile(recipe: RecipeInput): string {
  const path = `${fresh('recipe')}.yml`
  writeFileSync(path, JSON.stringify(recipe))
  return path
}

/** Takes long enough to be met in the middle. */
const slow = () => {
  const [base, ...others] = [0, 1, 2].map(() => sparseModel(fresh('large'), 32 * MiB))
  return {
    merge_method: 'ties',
    base_model: base!,
    models: others.map((path) => ({ model: path, parameters: { weight: 1, density: 0.5 } })),
  }
}

describe('one output folder', () => {
  const busy = (out: string) => ({ code: 'ERR_WEIGHTSMITH_BUSY', message: expect.stringContaining(out) })

  test('takes one process at a time; the second is told so and harms nothing', async () => {
    const out = fresh('out')
    const recipe = recipeFile(slow())
    const running = start([cliPath, 'merge', recipe, out])
    await appears(join(`${out}.partial`, 'model.safetensors'), running)
    running.child.kill('SIGSTOP')
    for (const flags of [[], ['--resume'], ['--overwrite']]) {
      const second = await cli('merge', recipe, out, ...flags)
      expect(second.code).toBe(1)
      expect(second.stderr).toContain('ERR_WEIGHTSMITH_BUSY')
      expect(second.stderr).toContain(out)
    }
    running.child.kill('SIGCONT')
    expect((await running.ended).code).toBe(0)
    await verify(out)
  })

  test('takes one job of a process at a time', async () => {
    const out = fresh('out')
    const recipe = slow()
    const begun = merge(engine, recipe, { out, sync: false })
    await until(() => existsSync(`${out}.partial`))
    await expect(merge(engine, recipe, { out, sync: false })).rejects.toMatchObject(busy(out))
    await begun
    await verify(out)
  })

  test('that many want at once is written by one of them', async () => {
    const out = fresh('out')
    const recipes = Array.from({ length: 8 }, (_, i) => soup(model(i), model(i)))
    const ended = await Promise.allSettled(recipes.map((recipe) => merge(engine, recipe, { out, sync: false })))
    const winners = ended.flatMap(({ status }, i) => (status === 'fulfilled' ? [i] : []))
    expect(winners).toHaveLength(1)
    for (const one of ended) {
      if (one.status === 'fulfilled') continue
      expect(one.reason).toMatchObject({ code: expect.stringMatching(/^ERR_WEIGHTSMITH_(BUSY|OUTPUT_EXISTS)$/) })
    }
    expect(first(out)).toBe(winners[0])
    expect(existsSync(`${out}.partial`)).toBe(false)
  })

  test('is free again after its process was killed', async () => {
    const out = fresh('out')
    const recipe = recipeFile(slow())
    const running = start([cliPath, 'merge', recipe, out])
    await appears(join(`${out}.partial`, 'model.safetensors'), running)
    running.child.kill('SIGKILL')
    await running.ended
    expect((await cli('merge', recipe, out, '--resume')).code).toBe(0)
    await verify(out)
  })
})

describe('one engine', () => {
  test('runs ten queued merges, each to its own result', async () => {
    const outs = await Promise.all(
      Array.from({ length: 10 }, async (_, i) => {
        const out = fresh('out')
        await merge(engine, soup(model(i), model(i + 2)), { out, sync: false })
        return out
      }),
    )
    expect(outs.map(first)).toEqual(outs.map((_, i) => i + 1))
  })

  test('drops an aborted merge from its queue and goes on with the others', async () => {
    const abort = new AbortController()
    const jobs = Array.from({ length: 10 }, (_, i) => {
      const out = fresh('out')
      const options = { out, sync: false, ...(i % 3 === 1 && { signal: abort.signal }) }
      return { out, done: merge(engine, i === 0 ? slow() : soup(model(i), model(i)), options) }
    })
    const ended = Promise.allSettled(jobs.map(({ done }) => done))
    await sleep(20)
    abort.abort()
    for (const [i, one] of (await ended).entries()) {
      if (i % 3 !== 1) expect(one).toMatchObject({ status: 'fulfilled' })
      else if (one.status === 'rejected') expect(one.reason).toMatchObject({ code: 'ERR_WEIGHTSMITH_ABORTED' })
      expect(existsSync(jobs[i]!.out)).toBe(one.status === 'fulfilled')
    }
  })
})

test('two engines in two worker threads queue their own merges', async () => {
  const recipes = [1, 2].map((i) => Array.from({ length: 5 }, () => recipeFile(soup(model(i), model(i)))))
  const body = `import { isMainThread, Worker, workerData } from 'node:worker_threads'
    import { once } from 'node:events'
    if (isMainThread) {
      const workers = JSON.parse(process.argv[2]).map((jobs) => new Worker(new URL(import.meta.url), { workerData: jobs }))
      console.log(JSON.stringify(await Promise.all(workers.map(async (worker) => (await once(worker, 'exit'))[0]))))
    } else {
      const engine = await Engine.open()
      await Promise.all(workerData.map((recipe) => merge(engine, recipe, { out: recipe + '.out', sync: false })))
      await engine.close()
    }`
  const ended = await start([script(folder, 'workers', body), JSON.stringify(recipes)]).ended
  expect(ended).toEqual({ code: 0, signal: null, stdout: '[0,0]\n', stderr: '' })
  for (const [i, jobs] of recipes.entries()) {
    for (const recipe of jobs) expect(first(`${recipe}.out`)).toBe(i + 1)
  }
})

const onLinux = process.platform === 'linux' ? test : test.skip

onLinux('200 merges in a row leave no file open, no buffer allocated and no memory taken', async () => {
  const recipe = recipeFile(soup(model(1), model(3)))
  const failing = recipeFile(soup(model(1), writeModel(fresh('model'), { a: f32([1]) })))
  const body = `import { readdirSync, readFileSync, rmSync } from 'node:fs'
    const [recipe, failing, out] = process.argv.slice(2)
    const engine = await Engine.open({ memory: '64MiB' })
    const run = async (count) => {
      for (let i = 0; i < count; i++) {
        await merge(engine, recipe, { out, sync: false })
        rmSync(out, { recursive: true })
        if (i % 10 === 0) await merge(engine, failing, { out }).catch(() => {})
      }
      globalThis.gc()
      return {
        files: readdirSync('/proc/self/fd').length,
        mappings: readFileSync('/proc/self/maps', 'utf8').split('\\n').length,
        memory: process.memoryUsage.rss(),
      }
    }
    // The first ones compile, and fill the caches of the driver and of V8.
    const before = await run(300)
    const after = await run(200)
    console.log(JSON.stringify({ before, after }))
    await engine.close()`
  const args = ['--expose-gc', script(folder, 'soak', body), recipe, failing, fresh('out')]
  const { code, stdout, stderr } = await start(args).ended
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
  const { before, after } = JSON.parse(stdout) as Record<'before' | 'after', Record<string, number>>
  expect(after!.files).toBeLessThanOrEqual(before!.files!)
  // Every buffer of a device is a mapping: 200 merges that leak one each would show; heaps that grow are a few.
  expect(after!.mappings! - before!.mappings!).toBeLessThan(100)
  expect(after!.memory! - before!.memory!).toBeLessThan(20 * MiB)
})

onLinux(
  'merges of unlike models in turn, some of them aborted, take no more memory than the engine was given',
  async () => {
    // The buffers of neither hold the other: one reads much at a time, one has many tensors to know about.
    const wide = { a: { dtype: 'F32', shape: [2 ** 22], bytes: Buffer.alloc(2 ** 24) } }
    const many = Object.fromEntries(Array.from({ length: 400 }, (_, i) => [`t${i}`, f32([i])]))
    const recipes = [wide, many].map((tensors) =>
      recipeFile(soup(...[0, 1].map(() => writeModel(fresh('model'), tensors)))),
    )
    const body = `const [wide, many, out] = process.argv.slice(2)
    const engine = await Engine.open({ memory: '64MiB', maxBufferBytes: 4 * 2 ** 20 })
    const options = { out, overwrite: true, sync: false }
    let aborted = 0
    const run = async (count) => {
      for (let i = 0; i < count; i++) {
        await merge(engine, wide, options)
        await merge(engine, many, options)
        const abort = new AbortController()
        const one = merge(engine, wide, { ...options, signal: abort.signal, onProgress: () => abort.abort() })
        await one.catch(() => aborted++)
      }
      return process.memoryUsage.rss()
    }
    const before = await run(4)
    const after = await run(10)
    console.log(JSON.stringify({ grown: after - before, aborted }))
    await engine.close()`
    // A small nursery is full at once; otherwise V8 goes on enlarging it for as long as this lasts.
    const args = ['--max-semi-space-size=1', script(folder, 'turns', body), ...recipes, fresh('out')]
    const { code, stdout, stderr } = await start(args).ended
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const { grown, aborted } = JSON.parse(stdout) as { grown: number; aborted: number }
    expect(aborted).toBeGreaterThan(0)
    // 30 merges that each leave one of their buffers behind would take twice as much.
    expect(grown).toBeLessThan(64 * MiB)
  },
)

describe('verify', () => {
  const output = async () => {
    const out = fresh('out')
    const tensors = Object.fromEntries(['a', 'b', 'c', 'd'].map((name, i) => [name, f32([i, i, i, i])]))
    const models = [0, 1].map(() => writeModel(fresh('model'), tensors))
    await merge(engine, soup(...models), { out, shardSize: 40, sync: false })
    return out
  }
  const shards = (out: string) =>
    readdirSync(out)
      .filter((name) => name.endsWith('.safetensors'))
      .sort()

  test('reports everything that does not match, not only the first', async () => {
    const out = await output()
    const [one, two] = shards(out) as [string, string]
    const bytes = readFileSync(join(out, one))
    bytes.writeFloatLE(Number.NaN, bytes.length - 4)
    writeFileSync(join(out, one), bytes)
    writeFileSync(join(out, two), readFileSync(join(out, two)).subarray(0, -1))
    rmSync(join(out, 'config.json'))
    writeModel(out, { x: f32([1]) })
    rmSync(join(out, 'config.json'))
    const index = JSON.parse(readFileSync(join(out, 'model.safetensors.index.json'), 'utf8')) as {
      weight_map: Record<string, string>
    }
    index.weight_map.ghost = one
    writeFileSync(join(out, 'model.safetensors.index.json'), JSON.stringify(index))
    const error = await verify(out).catch((reason: unknown) => reason)
    const { problems, code, message } = error as { problems: string[]; code: string; message: string }
    expect(code).toBe('ERR_WEIGHTSMITH_VERIFY')
    for (const part of [
      `${one} has the SHA-256`,
      `${one}: tensor b holds 1 NaN`,
      `${two} has`,
      'config.json is missing',
      'model.safetensors is not in the manifest',
      'model.safetensors.index.json has',
      'lists tensor ghost',
    ]) {
      expect(problems.filter((problem) => problem.includes(part))).toHaveLength(1)
      expect(message).toContain(part)
    }
    const { code: status, stdout } = await cli('verify', out, '--json')
    expect(status).toBe(1)
    expect((JSON.parse(stdout) as { error: { problems: string[] } }).error.problems).toEqual(problems)
  })

  test('takes values that are not finite where it is told to', async () => {
    const out = fresh('out')
    await merge(engine, soup(...[0, 1].map(() => writeModel(fresh('model'), { a: bf16([Number.NaN, 1]) }))), { out })
    await expect(verify(out)).rejects.toMatchObject({
      problems: ['model.safetensors: tensor a holds 1 NaN or infinite values'],
    })
    expect((await verify(out, { finite: false })).tensors).toBe(1)
    expect((await cli('verify', out, '--allow-non-finite')).code).toBe(0)
  })

  test('finds a type that is not the one that was written', async () => {
    const out = await output()
    const file = join(out, 'weightsmith.json')
    writeFileSync(file, readFileSync(file, 'utf8').replace('"dtype": "float32"', '"dtype": "bfloat16"'))
    await expect(verify(out)).rejects.toMatchObject({ problems: [expect.stringContaining('stored as float32')] })
  })

  test('reports progress, and ends when it is aborted', async () => {
    const large = sparseModel(fresh('large'), 64 * MiB)
    const out = fresh('out')
    await merge(engine, { merge_method: 'passthrough', models: [{ model: large }] }, { out, sync: false })
    const events: number[] = []
    await verify(out, { onProgress: ({ done }) => events.push(done) })
    expect(events).toEqual([...events].sort((a, b) => a - b))
    expect(events.at(-1)).toBeGreaterThan(128 * MiB)
    const abort = new AbortController()
    const checking = verify(out, { signal: abort.signal })
    setTimeout(() => abort.abort(), 10)
    await expect(checking).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_ABORTED', name: 'AbortError' })
  })
})
