/** Whole processes: exit codes, what is printed where, interruptions, and ends with a device still open. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from '@jest/globals'
import type { Command } from 'commander'
import { Engine, merge, type RecipeInput } from 'weightsmith'
import { makeProgram } from '../lib/cli/program.js'
import { lineOf } from '../lib/cli/progress.js'
import { bf16, f32, readFolder, values, writeModel } from './checkpoint.js'
import { appears, cli, cliPath, script, start } from './child.js'
import { scratch } from './scratch.js'
import { sparseModel } from './sparse.js'

const MiB = 2 ** 20
const { folder, fresh } = scratch('process')

let small: { models: string[]; recipe: string }
let large: { models: string[]; recipe: string }

/** JSON is YAML. */
function recipeFile(recipe: RecipeInput): string {
  const path = `${fresh('recipe')}.yml`
  writeFileSync(path, JSON.stringify(recipe))
  return path
}

const soup = (models: string[]): RecipeInput => ({
  merge_method: 'linear',
  models: models.map((model) => ({ model, parameters: { weight: 0.5 } })),
})

beforeAll(() => {
  const models = [
    writeModel(fresh('model'), { 'model.norm.weight': f32([1, 2, 3]), 'model.embed_tokens.weight': bf16([1, 2]) }),
    writeModel(fresh('model'), { 'model.norm.weight': f32([3, 4, 5]), 'model.embed_tokens.weight': bf16([5, 6]) }),
  ]
  small = { models, recipe: recipeFile(soup(models)) }
  // TIES reads everything three times, so there is time to interrupt it.
  const [base, ...others] = [0, 1, 2].map(() => sparseModel(fresh('large'), 64 * MiB))
  const ties = {
    merge_method: 'ties',
    base_model: base!,
    models: others.map((model) => ({ model, parameters: { weight: 1, density: 0.5 } })),
  }
  large = { models: [base!, ...others], recipe: recipeFile(ties) }
})

/** Nothing but whole documents may be on stdout. */
function document(text: string): Record<string, unknown> {
  return JSON.parse(text) as Record<string, unknown>
}

describe('the command line', () => {
  test('merges, says where the result is, and exits with 0', async () => {
    const out = fresh('out')
    const { code, stdout } = await cli('merge', small.recipe, out)
    expect(code).toBe(0)
    expect(stdout).toContain(out)
    expect([...values(readFolder(out).get('model.norm.weight')!)]).toEqual([2, 3, 4])
  })

  test('writes nothing in a dry run', async () => {
    const out = fresh('out')
    const { code, stdout } = await cli('merge', small.recipe, out, '--dry-run', '--json')
    expect(code).toBe(0)
    expect(document(stdout)).toMatchObject({ forecast: { out, method: 'linear', plan: { length: 2 } } })
    expect(existsSync(out)).toBe(false)
    expect(existsSync(`${out}.partial`)).toBe(false)
  })

  test('prints one JSON document with --json, and nothing beside it', async () => {
    const out = fresh('out')
    const [a, b] = small.models as [string, string]
    const cases: [string[], object][] = [
      [['merge', small.recipe, out], { method: 'linear', milliseconds: expect.any(Number) }],
      [['verify', out], { tensors: 2 }],
      [['inspect', out], { parameters: 5 }],
      [['diff', a, b], { a, b }],
      [['doctor', '--folder', folder], { platform: expect.any(String) }],
      [['bench', 'linear', '--size', '1MiB'], { dtype: 'BF16' }],
    ]
    for (const [args, expected] of cases) {
      const { code, stdout, stderr } = await cli(...args, '--json')
      expect({ args, code, stderr }).toEqual({ args, code: 0, stderr: '' })
      expect(document(stdout)).toMatchObject(expected)
    }
  })

  test('prints a failure as a JSON document too', async () => {
    const { code, stdout, stderr } = await cli('verify', fresh('nothing'), '--json')
    expect(code).toBe(1)
    expect(document(stdout)).toMatchObject({ error: { code: 'ERR_WEIGHTSMITH_NOT_FOUND' } })
    expect(stderr).toMatch(/^weightsmith: /)
  })

  test.each([
    ['a word that no verb knows', ['merge', '--no-such-option']],
    ['a missing argument', ['diff', 'a']],
    ['a choice that is none', ['prune', 'a', 'b', '--method', 'luck']],
    ['a verb that is none', ['polish']],
  ])('prints %s as a JSON document too', async (_, args) => {
    const { code, stdout } = await cli(...args, '--json')
    expect(code).toBe(2)
    expect(document(stdout)).toEqual({
      error: { code: 'ERR_WEIGHTSMITH_ARGUMENT', message: expect.not.stringMatching(/^error/) },
    })
  })

  test.each([
    ['methods', 'flap,bi', ['score', 'm', '--data', 'x', '--out', 'y', '--methods', 'flap,bi']],
    ['layers', '0-3,7', ['score', 'm', '--methods', 'flap', '--layers', '0-3,7']],
    ['alphas', '1,2', ['manu', 'm', '--forget', 'f', '--retain', 'r', '--sweep', '1,2']],
    ['weights', 'abs=2,rms=1', ['manu', 'm', '--forget', 'f', '--retain', 'r', '--weights', 'abs=2,rms=1']],
  ])('takes a list of %s separated by spaces, not by commas', async (_, found, args) => {
    const { code, stderr } = await cli(...args)
    expect(code).toBe(2)
    expect(stderr).toContain(`"${found}"`)
  })

  test('has help for every verb that ends with an example of it, and says --json', () => {
    const verbs = (command: Command): Command[] =>
      command.commands.length === 0 ? [command] : command.commands.flatMap(verbs)
    const found = verbs(makeProgram())
    expect(found.length).toBeGreaterThan(15)
    for (const verb of found) {
      let help = ''
      verb.configureOutput({ writeOut: (text) => (help += text) }).outputHelp()
      const words = verb.parent?.parent ? `${verb.parent.name()} ${verb.name()}` : verb.name()
      expect(help).toMatch(new RegExp(`\\nExample:\\n  weightsmith ${words}\\b.*\\n$`))
      expect(help).toContain('--json')
    }
  })

  test('refuses a report that has no folder before the work, not after it', async () => {
    const report = join(fresh('nothing'), 'diff.html')
    const [a, b] = small.models as [string, string]
    const { code, stdout, stderr } = await cli('diff', a, b, '--report', report)
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(stderr).toMatch(/The report cannot be written to .*ENOENT.* \[ERR_WEIGHTSMITH_IO_WRITE\]/)
  })

  test('finds out before the work that an output cannot be made', async () => {
    const plain = fresh('plain')
    writeFileSync(plain, '')
    const out = join(plain, 'out')
    for (const args of [
      ['merge', small.recipe, out, '--dry-run'],
      ['prune', 'demo/models/base', out, '--method', 'magnitude'],
    ]) {
      const { code, stderr } = await cli(...args)
      expect({ args, code }).toEqual({ args, code: 1 })
      expect(stderr).toMatch(/out cannot be written: .* is a file\. \[ERR_WEIGHTSMITH_IO_WRITE\]/)
    }
  })

  test('shows the control characters of hostile names, and the terminal sees none', async () => {
    const hostile = writeModel(fresh('hostile'), { 'model.\u001b[2J.weight': f32([1]) })
    const { code, stdout } = await cli('inspect', hostile)
    expect(code).toBe(0)
    expect(stdout).toContain('model.\\x1b[2J.weight')
    const lines = `${fresh('lines')}.jsonl`
    writeFileSync(lines, '\u001b[2J')
    const { stderr } = await cli('eval', 'demo/models/base', '--data', lines)
    expect(stderr).toContain('\\x1b[2J')
    expect(`${stdout}${stderr}`).not.toMatch(/(?!\n)\p{Cc}/u)
  })

  test('keeps what a file of results held when a run fails', async () => {
    const out = fresh('said.jsonl')
    writeFileSync(out, 'earlier')
    expect((await cli('generate', 'demo/models/base', '1+1=', '--top-p', '2', '--out', out)).code).toBe(2)
    expect(readFileSync(out, 'utf8')).toBe('earlier')
    expect(existsSync(`${out}.partial`)).toBe(false)
  })

  test.each([[['--help']], [['--version']], [['merge', '--help']]])('exits with 0 for %j', async (args) => {
    const { code, stdout } = await cli(...args)
    expect(code).toBe(0)
    expect(stdout.trim()).not.toBe('')
  })

  test('exits with 1 when a job fails', async () => {
    const missing = recipeFile(soup([small.models[0]!, fresh('nothing')]))
    const out = fresh('out')
    const { code, stderr } = await cli('merge', missing, out)
    expect(code).toBe(1)
    expect(stderr).toContain('ERR_WEIGHTSMITH_NOT_FOUND')
    expect(existsSync(out)).toBe(false)
  })

  test('exits with 2 for misuse', async () => {
    const bad = recipeFile({ ...soup(small.models), merge_method: 'no-such-method' })
    const out = fresh('out')
    const misuses = [
      ['merge'],
      ['merge', small.recipe],
      ['no-such-command'],
      ['merge', small.recipe, out, '--no-such-option'],
      ['merge', small.recipe, out, '--seed', 'x'],
      ['merge', small.recipe, out, '--memory', 'much'],
      ['merge', small.recipe, out, '--shard-size', '-1'],
      ['merge', small.recipe, out, '--dtype', 'int8'],
      ['merge', small.recipe, out, '--checksum', 'some'],
      ['merge', bad, out],
    ]
    for (const args of misuses) {
      const { code, stderr } = await cli(...args)
      expect({ args, code }).toEqual({ args, code: 2 })
      expect(stderr).not.toMatch(/\n\s+at /)
    }
    expect(existsSync(out)).toBe(false)
  })

  test('stays calm when the reader of its output goes away', async () => {
    const running = start([cliPath, 'inspect', small.models[0]!])
    running.child.stdout?.destroy()
    expect(await running.ended).toMatchObject({ code: 0, signal: null })
    const failing = start([cliPath, 'verify', fresh('nothing'), '--json'])
    failing.child.stdout?.destroy()
    expect(await failing.ended).toMatchObject({ code: 1, signal: null })
  })

  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('on %s exits with %i, with nothing under the final name', async (signal, status) => {
    const out = fresh('out')
    const running = start([cliPath, 'merge', large.recipe, out])
    await appears(`${out}.partial`, running)
    running.child.kill(signal)
    const { code, stderr } = await running.ended
    expect(code).toBe(status)
    expect(stderr).toContain('Interrupted')
    expect(existsSync(out)).toBe(false)
  })

  test('killed in the middle leaves nothing under the final name, and the next run takes over', async () => {
    const out = fresh('out')
    const running = start([cliPath, 'merge', large.recipe, out])
    await appears(`${out}.partial/model.safetensors`, running)
    running.child.kill('SIGKILL')
    expect((await running.ended).signal).toBe('SIGKILL')
    expect(existsSync(out)).toBe(false)
    expect(existsSync(`${out}.partial`)).toBe(true)
    expect((await cli('merge', small.recipe, out)).code).toBe(0)
    expect(existsSync(`${out}.partial`)).toBe(false)
    expect(readdirSync(out).filter((name) => name.startsWith('.'))).toEqual([])
  })
})

describe('a process', () => {
  const run = (name: string, body: string, ...args: string[]) => start([script(folder, name, body), ...args]).ended

  test('ends by itself while an engine is open, and Dawn prints nothing', async () => {
    const ended = await run(
      'open',
      `const engine = await Engine.open()
       const output = await engine.kernel('linear').run({ inputs: [Float32Array.of(3)], coefficients: [2] })
       console.log(output[0])`,
    )
    expect(ended).toEqual({ code: 0, signal: null, stdout: '6\n', stderr: '' })
  })

  test('ends by itself after a merge with an engine that nobody closes', async () => {
    const ended = await run(
      'merged',
      `const engine = await Engine.open()
       await merge(engine, process.argv[2], { out: process.argv[3] })`,
      small.recipe,
      fresh('out'),
    )
    expect(ended).toEqual({ code: 0, signal: null, stdout: '', stderr: '' })
  })

  test('keeps running until a merge that nobody awaits is done', async () => {
    const out = fresh('out')
    const ended = await run(
      'floating',
      `const engine = await Engine.open()
       merge(engine, process.argv[2], { out: process.argv[3] })`,
      small.recipe,
      out,
    )
    expect(ended).toMatchObject({ code: 0, signal: null })
    expect(existsSync(out)).toBe(true)
  })

  test('ends at once by process.exit during a merge', async () => {
    const out = fresh('out')
    const ended = await run(
      'exit',
      `const engine = await Engine.open()
       merge(engine, process.argv[2], { out: process.argv[3], onProgress: () => process.exit(7) })
       setTimeout(() => process.exit(8), 200)`,
      large.recipe,
      out,
    )
    expect([7, 8]).toContain(ended.code)
    expect(ended.stderr).toBe('')
    expect(existsSync(out)).toBe(false)
  })

  test('ends with its own error when something throws while a device is open', async () => {
    const ended = await run(
      'throw',
      `const engine = await Engine.open()
       merge(engine, process.argv[2], { out: process.argv[3] }).catch(() => {})
       setTimeout(() => { throw new Error('thrown on purpose') }, 50)`,
      large.recipe,
      fresh('out'),
    )
    expect(ended).toMatchObject({ code: 1, signal: null })
    expect(ended.stderr).toContain('thrown on purpose')
  })

  test('merges in two worker threads at once, each with its own engine', async () => {
    const outs = [fresh('out'), fresh('out')]
    const ended = await run(
      'workers',
      `import { isMainThread, Worker, workerData } from 'node:worker_threads'
       import { once } from 'node:events'
       if (isMainThread) {
         const [recipe, ...outs] = process.argv.slice(2)
         const workers = outs.map((out) => new Worker(new URL(import.meta.url), { workerData: { recipe, out } }))
         console.log(JSON.stringify(await Promise.all(workers.map(async (worker) => (await once(worker, 'exit'))[0]))))
       } else {
         const engine = await Engine.open()
         await merge(engine, workerData.recipe, { out: workerData.out })
         await engine.close()
       }`,
      small.recipe,
      ...outs,
    )
    expect(ended).toEqual({ code: 0, signal: null, stdout: '[0,0]\n', stderr: '' })
    const [first, second] = outs.map((out) => readFileSync(join(out, 'model.safetensors')))
    expect(first!.equals(second!)).toBe(true)
  })

  test('survives a worker thread that is terminated in the middle of a merge', async () => {
    const ended = await run(
      'terminate',
      `import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
       import { once } from 'node:events'
       if (isMainThread) {
         const [large, small, out, next] = process.argv.slice(2)
         const worker = new Worker(new URL(import.meta.url), { workerData: { recipe: large, out } })
         await once(worker, 'message')
         await worker.terminate()
         const engine = await Engine.open()
         await merge(engine, small, { out: next })
         await engine.close()
         console.log('alive')
       } else {
         const engine = await Engine.open()
         const done = merge(engine, workerData.recipe, { out: workerData.out })
         setTimeout(() => parentPort.postMessage('merging'), 30)
         await done
       }`,
      large.recipe,
      small.recipe,
      fresh('out'),
      fresh('out'),
    )
    expect(ended).toEqual({ code: 0, signal: null, stdout: 'alive\n', stderr: '' })
  })

  test('keeps its event loop free while 128 MiB are merged', async () => {
    const ended = await run(
      'responsive',
      `const engine = await Engine.open()
       const recipe = process.argv[2]
       const shares = []
       // The first merge compiles the kernels and is measured like the second one.
       for (const out of process.argv.slice(3)) {
         let ticks = 0
         const start = performance.now()
         const timer = setInterval(() => ticks++, 1)
         await merge(engine, recipe, { out, sync: false })
         clearInterval(timer)
         shares.push(ticks / (performance.now() - start))
       }
       await engine.close()
       console.log(Math.min(...shares))`,
      recipeFile(soup(large.models.slice(0, 2))),
      fresh('out'),
      fresh('out'),
    )
    expect(ended).toMatchObject({ code: 0, stderr: '' })
    // Ticks a millisecond: 1 on an idle machine, near 0 where the loop waits for the run. The bench has the figure.
    expect(Number(ended.stdout)).toBeGreaterThan(0.05)
  })
})

describe('an engine', () => {
  test('leaves the variables of drivers, which child processes inherit, as they were', async () => {
    const names = ['VK_DRIVER_FILES', 'VK_ADD_DRIVER_FILES']
    const before = names.map((name) => process.env[name])
    await using engine = await Engine.open({ device: 'swiftshader' })
    expect(engine.device.name).toMatch(/swiftshader/i)
    expect(names.map((name) => process.env[name])).toEqual(before)
  })

  test('is fit for the next merge after one was aborted in the middle', async () => {
    await using engine = await Engine.open()
    const out = fresh('out')
    const abort = new AbortController()
    const running = merge(engine, large.recipe, { out, signal: abort.signal })
    setTimeout(() => abort.abort(), 50)
    await expect(running).rejects.toMatchObject({ name: 'AbortError', code: 'ERR_WEIGHTSMITH_ABORTED' })
    expect(existsSync(out)).toBe(false)
    await merge(engine, small.recipe, { out, overwrite: true })
    expect(existsSync(`${out}.partial`)).toBe(false)
    expect([...values(readFolder(out).get('model.norm.weight')!)]).toEqual([2, 3, 4])
  })

  test('runs several merges at a time', async () => {
    await using engine = await Engine.open()
    const outs = Array.from({ length: 4 }, () => fresh('out'))
    await Promise.all(outs.map((out) => merge(engine, small.recipe, { out })))
    const [first, ...others] = outs.map((out) => readFileSync(join(out, 'model.safetensors')))
    for (const other of others) expect(other.equals(first!)).toBe(true)
  })

  test('that is closed during a merge rejects it, and everything after it', async () => {
    const engine = await Engine.open()
    const kernel = engine.kernel('linear')
    const out = fresh('out')
    const refused = expect(merge(engine, large.recipe, { out })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_DISPOSED',
    })
    await new Promise((wake) => setTimeout(wake, 50))
    await engine.close()
    await refused
    expect(existsSync(out)).toBe(false)
    const disposed = { code: 'ERR_WEIGHTSMITH_DISPOSED' }
    await expect(kernel.run({ inputs: [Float32Array.of(1)], coefficients: [2] })).rejects.toMatchObject(disposed)
    await expect(merge(engine, small.recipe, { out })).rejects.toMatchObject(disposed)
    await engine.close()
  })

  test('says in a line of progress how far it is and at what, whatever of that is known', () => {
    const event = { phase: 'run', done: 2, total: 8, unit: 'layers' as const }
    expect(lineOf('score', { ...event, item: 'layer 3' })).toBe('score: 2 of 8 layers, layer 3')
    for (const item of ['', undefined]) expect(lineOf('score', { ...event, item })).toBe('score: 2 of 8 layers, run')
    expect(lineOf('score', { ...event, total: 0, item: '' })).toBe('score: run')
  })

  test('reports progress that grows to its totals', async () => {
    await using engine = await Engine.open()
    const events: { bytesRead: number; bytesWritten: number; totalWrite: number; phase: string }[] = []
    await merge(engine, large.recipe, { out: fresh('out'), sync: false, onProgress: (event) => events.push(event) })
    expect(events.length).toBeGreaterThan(0)
    for (const [i, event] of events.entries()) {
      const before = events[i - 1]
      if (before === undefined) continue
      expect(event.bytesRead).toBeGreaterThanOrEqual(before.bytesRead)
      expect(event.bytesWritten).toBeGreaterThanOrEqual(before.bytesWritten)
    }
    const last = events.at(-1)!
    expect(last.phase).toBe('finish')
    expect(last.bytesWritten).toBe(last.totalWrite)
  })
})
