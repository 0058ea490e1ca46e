/**
 * What goes wrong in the middle of a merge: failing file calls (a layer under the shipped program, see
 * faults/faults.cpp), inputs that change under our hands, a device that is lost or full. Each ends in a coded error
 * with nothing under the final name, and where the same call can succeed later, it goes on and gives the same bytes.
 */
import { execFileSync } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, type MergeReport, merge, type RecipeInput } from 'weightsmith'
import { bf16, type Raw, writeModel } from './checkpoint.js'
import { appears, cli, cliPath, script, start } from './child.js'
import { scratch } from './scratch.js'
import { sparseModel } from './sparse.js'

const { folder, fresh } = scratch('faults')
const layer = join(folder, 'faults.so')
const weights = 'model.safetensors'

let models: string[]
let recipe: string
let expected: Buffer
const flags = ['--memory', '1MiB', '--journal-every', '1']

const soup = (paths: string[]): RecipeInput => ({
  merge_method: 'linear',
  models: paths.map((model) => ({ model, parameters: { weight: 1 } })),
})

function recipeFile(paths: string[]): string {
  const path = `${fresh('recipe')}.yml`
  writeFileSync(path, JSON.stringify(soup(paths)))
  return path
}

function pair(): string[] {
  return ['first', 'second'].map((name, seed) => {
    const tensors = Array.from({ length: 40 }, (_, i): [string, Raw] => [
      `t${i}`,
      bf16(Float32Array.from({ length: 20_000 + i }, (_, k) => (k % 97) + seed)),
    ])
    return writeModel(fresh(name), Object.fromEntries(tensors))
  })
}

beforeAll(async () => {
  models = pair()
  recipe = recipeFile(models)
  const out = fresh('expected')
  await cli('merge', recipe, out, ...flags)
  expected = readFileSync(join(out, weights))
})

const onLinux = process.platform === 'linux' ? describe : describe.skip

onLinux('file calls that fail:', () => {
  beforeAll(() => {
    execFileSync('c++', ['-std=c++20', '-shared', '-fPIC', '-O1', '-o', layer, 'test/faults/faults.cpp', '-ldl'])
  })

  const faulty = (fault: string, out: string, file = recipe) =>
    start([cliPath, 'merge', file, out, ...flags], {
      env: { LD_PRELOAD: layer, WEIGHTSMITH_FAULT: fault },
    })

  const [EIO, EACCES, ENOSPC, EINTR, EINVAL, EDQUOT] = [5, 13, 28, 4, 22, 122]
  test.each([
    ['an input cannot be read', `read:${EIO}:/first:9`, 'IO_READ', true],
    ['an input may not be opened when its header is read', `open:${EACCES}:/first:0`, 'IO_READ', false],
    ['an input may not be opened when the run begins', `open:${EACCES}:/second-1/model:1`, 'IO_READ', true],
    ['an output cannot be made', `open:${EACCES}:.partial/model:0`, 'IO_WRITE', true],
    ['an output cannot get its size', `resize:${ENOSPC}:.partial/model:1`, 'DISK_FULL', true],
    ['an output cannot be written', `write:${EIO}:.partial/model:5`, 'IO_WRITE', true],
    ['the disk fills up', `write:${ENOSPC}:.partial/model:5`, 'DISK_FULL', true],
    ['the quota is used up', `write:${EDQUOT}:.partial/model:5`, 'DISK_FULL', true],
    ['the disk fails a flush', `sync:${EIO}:.partial/model:2`, 'IO_WRITE', true],
    ['the journal cannot be written', `write:${ENOSPC}:.weightsmith-journal:2`, 'DISK_FULL', true],
    ['the run cannot be described', `write:${ENOSPC}:.weightsmith-run:0`, 'DISK_FULL', true],
    ['the manifest cannot be written', `write:${ENOSPC}:/weightsmith.json:0`, 'DISK_FULL', true],
    ['the description cannot get its name', `rename:${EIO}:.weightsmith-run:0`, 'IO_WRITE', true],
    ['the folder cannot get its name', `rename:${EIO}:.partial:1`, 'IO_WRITE', true],
  ])('%s', async (_, fault, code, resumable) => {
    const out = fresh('out')
    const ended = await faulty(fault, out).ended
    expect({ code: ended.code, signal: ended.signal }).toEqual({ code: 1, signal: null })
    expect(ended.stderr).toContain(`[ERR_WEIGHTSMITH_${code}]`)
    expect(existsSync(out)).toBe(false)
    if (resumable) {
      const { code: resumed, stderr } = await cli('merge', recipe, out, ...flags, '--resume')
      expect({ resumed, stderr }).toMatchObject({ resumed: 0 })
      expect(readFileSync(join(out, weights)).equals(expected)).toBe(true)
    } else {
      expect(existsSync(`${out}.partial`)).toBe(false)
    }
  })

  test.each([
    ['the run is killed', 'kill', { signal: 'SIGKILL' }],
    ['the disk fails', EIO, { code: 1, signal: null }],
  ])('a sweep of which some outputs have their names already, when %s, goes on', async (_, what, ending) => {
    const out = fresh('sweep')
    const file = `${fresh('recipe')}.yml`
    const sweep = { 'models[0].parameters.weight': [0.5, 1, 2] }
    writeFileSync(file, JSON.stringify({ ...soup(models), sweep }))
    // Three descriptions and the first output have got their names by then.
    expect(await faulty(`rename:${what}:.partial:4`, out, file).ended).toMatchObject(ending)
    expect(readdirSync(out).filter((name) => !name.endsWith('.partial'))).toHaveLength(1)
    const { code, stdout } = await cli('merge', file, out, ...flags, '--resume', '--json')
    expect({ code, bytesRead: (JSON.parse(stdout) as MergeReport).bytesRead }).toEqual({ code: 0, bytesRead: 0 })
    const points = readdirSync(out).map((name) => join(out, name))
    expect(points).toHaveLength(3)
    for (const point of points) {
      expect(readdirSync(point).filter((name) => name.startsWith('.'))).toEqual([])
      expect((await cli('verify', point)).code).toBe(0)
    }
    expect(points.some((point) => readFileSync(join(point, weights)).equals(expected))).toBe(true)
  })

  test.each([
    ['reads give less than was asked for', 'read:short:/:0'],
    ['writes take less than they were given', 'write:short:.partial:0'],
    ['a read is interrupted', `read:once=${EINTR}:/first:7`],
    ['a write is interrupted', `write:once=${EINTR}:.partial/model:3`],
    ['a flush is interrupted', `sync:once=${EINTR}:.partial/model:0`],
  ])('%s, which is no error', async (_, fault) => {
    const out = fresh('out')
    const { code, stderr } = await faulty(fault, out).ended
    expect({ code, stderr }).toMatchObject({ code: 0 })
    expect(readFileSync(join(out, weights)).equals(expected)).toBe(true)
  })

  describe('writes past the page cache', () => {
    let large: string
    let whole: Buffer
    const none = ['--checksum', 'none']
    beforeAll(async () => {
      const paths = [1, 2].map((seed) =>
        writeModel(fresh('large'), {
          odd: bf16(Float32Array.from({ length: 1001 }, (_, k) => k * seed)),
          wide: bf16(Float32Array.from({ length: 1_500_001 }, (_, k) => (k % 251) - seed)),
          tall: bf16(Float32Array.from({ length: 700_003 }, (_, k) => (k % 127) + seed)),
        }),
      )
      large = recipeFile(paths)
      const out = fresh('whole')
      await cli('merge', large, out, '--memory', '64MiB')
      whole = readFileSync(join(out, weights))
    })

    const merged = (fault: string, out: string, ...more: string[]) =>
      start([cliPath, 'merge', large, out, '--memory', '64MiB', ...more], {
        env: { LD_PRELOAD: layer, WEIGHTSMITH_FAULT: fault },
      }).ended

    test.each([
      ['are not opened', `open:${EINVAL}:.partial/model:1`],
      ['are refused', `write:once=${EINVAL}:.partial/model:3`],
      ['take less than they were given', 'write:short:.partial/model:0'],
      ['are interrupted', `write:once=${EINTR}:.partial/model:3`],
    ])('that %s give the same bytes and the same checksum', async (_, fault) => {
      const out = fresh('out')
      expect(await merged(fault, out)).toMatchObject({ code: 0 })
      expect(readFileSync(join(out, weights)).equals(whole)).toBe(true)
      expect((await cli('verify', out)).code).toBe(0)
    })

    test.each([
      ['find the disk full', `write:${ENOSPC}:.partial/model:3`, 'DISK_FULL'],
      ['fail', `write:${EIO}:.partial/model:3`, 'IO_WRITE'],
    ])('that %s end the run', async (_, fault, code) => {
      const out = fresh('out')
      const ended = await merged(fault, out, ...none)
      expect(ended).toMatchObject({ code: 1, signal: null })
      expect(ended.stderr).toContain(`[ERR_WEIGHTSMITH_${code}]`)
      expect(existsSync(out)).toBe(false)
    })
  })

  test.each<[string, (path: string, other: string) => void, string]>([
    ['truncated', (path) => truncateSync(path, 100_000), 'ERR_WEIGHTSMITH_(IO_READ|INPUT_CHANGED)'],
    ['replaced', (path, other) => renameSync(other, path), 'ERR_WEIGHTSMITH_INPUT_CHANGED'],
    ['removed', (path) => rmSync(path), 'ERR_WEIGHTSMITH_INPUT_CHANGED'],
    ['written to', (path) => utimesSync(path, 0, 1e9), 'ERR_WEIGHTSMITH_INPUT_CHANGED'],
  ])('an input that is %s during the run gives no result', async (_, change, code) => {
    const file = join(models[0]!, weights)
    const other = join(pair()[0]!, weights)
    const spare = fresh('spare')
    copyFileSync(file, spare)
    const out = fresh('out')
    const running = faulty('read:slow=20:/first:4', out)
    await appears(join(`${out}.partial`, weights), running)
    change(file, other)
    const ended = await running.ended
    copyFileSync(spare, file)
    expect(ended).toMatchObject({ code: 1, signal: null })
    expect(ended.stderr).toMatch(new RegExp(`${models[0]}.*\\[${code}\\]`))
    expect(existsSync(out)).toBe(false)
  })
})

const exiting = `const engine = await Engine.open()
  const options = { out: process.argv[3], memory: '1MiB', journalEvery: 1 }
  merge(engine, process.argv[2], { ...options, onProgress: () => process.exit(7) })`

test('a process that ends itself pulls no driver from under the threads that work with it', async () => {
  const file = script(folder, 'exit', exiting)
  for (let i = 0; i < 12; i++) {
    const ended = await start([file, recipe, fresh('out')], { env: { WEIGHTSMITH_DEVICE: 'swiftshader' } }).ended
    expect(ended).toMatchObject({ code: 7, signal: null, stderr: '' })
  }
})

test('a process that ends itself in the middle leaves what the next one goes on with', async () => {
  const out = fresh('out')
  const ended = await start([script(folder, 'exit', exiting), recipe, out]).ended
  expect(ended).toMatchObject({ code: 7, signal: null, stderr: '' })
  expect(existsSync(out)).toBe(false)
  expect((await cli('merge', recipe, out, ...flags, '--resume')).code).toBe(0)
  expect(readFileSync(join(out, weights)).equals(expected)).toBe(true)
})

test('a worker that is terminated in the middle leaves what the next merge goes on with', async () => {
  const out = fresh('out')
  const body = `import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
    import { once } from 'node:events'
    const [, , recipe, out] = process.argv
    const options = { out, memory: '1MiB', journalEvery: 1 }
    if (isMainThread) {
      const worker = new Worker(new URL(import.meta.url), { argv: [recipe, out] })
      await once(worker, 'message')
      await worker.terminate()
    } else {
      const engine = await Engine.open()
      await merge(engine, recipe, { ...options, onProgress: () => parentPort.postMessage('merging') })
    }`
  const ended = await start([script(folder, 'worker', body), recipe, out]).ended
  expect(ended).toMatchObject({ code: 0, signal: null, stderr: '' })
  const finished = existsSync(out)
  if (!finished) expect((await cli('merge', recipe, out, ...flags, '--resume')).code).toBe(0)
  expect(readFileSync(join(out, weights)).equals(expected)).toBe(true)
})

describe('an engine', () => {
  test('whose device is lost in the middle rejects with what to go on with, and goes on', async () => {
    await using engine = await Engine.open()
    const out = fresh('out')
    const options = { out, memory: '1MiB', journalEvery: 1 }
    let lost = false
    const lose = () => {
      if (!lost) engine.forceLoss()
      lost = true
    }
    const failing = merge(engine, recipe, { ...options, onProgress: lose })
    await expect(failing).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_DEVICE_LOST', partial: `${out}.partial` })
    expect(existsSync(out)).toBe(false)
    await merge(engine, recipe, { ...options, resume: true })
    expect(readFileSync(join(out, weights)).equals(expected)).toBe(true)
  })

  const onLinuxOnly = process.platform === 'linux' ? test : test.skip
  onLinuxOnly('whose device has no room rejects, and is fit for the next merge', async () => {
    const large = [0, 1].map(() => sparseModel(fresh('large'), 2 ** 28))
    const body = `import { execFileSync } from 'node:child_process'
      import { readFileSync } from 'node:fs'
      const [large, small, ...outs] = process.argv.slice(2)
      const engine = await Engine.open({ device: 'swiftshader', slots: 'staging', memory: '8GiB' })
      const run = (recipe, out) => merge(engine, recipe, { out, sync: false, checksum: 'none' }).then(() => 'done', (e) => e.code)
      const limit = (bytes) => execFileSync('prlimit', ['--pid', String(process.pid), '--as=' + bytes + ':'])
      const codes = [await run(small, outs[0])]
      const size = 1024 * Number(/VmSize:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1])
      limit(size + 100 * 2 ** 20)
      codes.push(await run(large, outs[1]))
      limit('unlimited')
      codes.push(await run(small, outs[2]))
      await engine.close()
      console.log(codes.join(' '))`
    const outs = [fresh('out'), fresh('out'), fresh('out')]
    const ended = await start([script(folder, 'memory', body), recipeFile(large), recipe, ...outs]).ended
    expect(ended).toMatchObject({ code: 0, stdout: 'done ERR_WEIGHTSMITH_OUT_OF_MEMORY done\n' })
    expect(readFileSync(join(outs[2]!, weights)).equals(expected)).toBe(true)
  })
})
