/** A training that was interrupted, however, goes on and ends with the bytes of one that was not. */
import { execFileSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, type TrainOptions, train } from 'weightsmith'
import { stream } from '../lib/util/philox.js'
import { bf16, fill } from './checkpoint.js'
import { cliPath, over, script, start, until } from './child.js'
import { scratch } from './scratch.js'
import { lines, smallModel, sums } from './training-model.js'

const { folder, fresh } = scratch('train-resume')
/** How a file is called that holds the tensors of a resume point. */
const tensorFile = /\.resume-[01]\.safetensors$/
const files = ['adapter_model.safetensors', 'adapter_config.json']

let engine: Engine
let model: string
let data: string
let heldOut: string
/** What a run leaves that was never interrupted, and what its resume points held, by their steps. */
let whole: Map<string, Buffer>
const states = new Map<number, Buffer>()

const common = () =>
  ({ data, heldOut, steps: 12, batch: 6, rank: 4, dropout: 0.1, rate: 0.02, saveEvery: 2, heldOutEvery: 5 }) as const

/** A place for an output, in a folder of its own with its log. */
function place(): { out: string; log: string } {
  const parent = fresh('run')
  mkdirSync(parent)
  return { out: join(parent, 'out'), log: join(parent, 'log.jsonl') }
}

function leftBy({ out, log }: { out: string; log: string }): Map<string, Buffer> {
  return new Map([...files.map((name) => join(out, name)), log].map((path) => [basename(path), readFileSync(path)]))
}

function expectWhole(at: { out: string; log: string }): void {
  const left = leftBy(at)
  for (const [name, bytes] of whole) {
    if (name === 'log.jsonl') expect(left.get(name)!.toString()).toBe(bytes.toString())
    expect({ name, same: left.get(name)!.equals(bytes) }).toEqual({ name, same: true })
  }
  expect(readdirSync(dirname(at.out)).sort()).toEqual(['log.jsonl', 'out'])
}

/** The tensors of a resume point: what is trained, its moments and the best state. */
function stateOf(out: string): Buffer {
  const [name, ...others] = readdirSync(dirname(out)).filter((name) => tensorFile.test(name))
  expect(others).toEqual([])
  return readFileSync(join(dirname(out), name!))
}

const run = (options: Partial<Omit<TrainOptions, 'dryRun'>>) =>
  train(engine, model, { out: fresh('out'), ...common(), ...options })

/** Ends a run after so many steps, as Ctrl-C does. */
async function stopped(at: { out: string; log: string }, after: number, options: Partial<TrainOptions> = {}) {
  const stop = new AbortController()
  const onLine: TrainOptions['onLine'] = ({ step }) => step === after && stop.abort()
  const failed = run({ ...at, signal: stop.signal, onLine, ...(options as object) })
  await expect(failed).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_ABORTED', partial: `${at.out}.resume` })
}

beforeAll(async () => {
  engine = await Engine.open()
  model = smallModel(fresh('model'))
  data = lines(fresh('sums.jsonl'), sums(24))
  heldOut = lines(fresh('held-out.jsonl'), sums(5, 50))
  const at = place()
  const onLine: TrainOptions['onLine'] = (line) => {
    // The step before has been saved, and nothing is being written.
    if ('loss' in line && line.step > 1) states.set(line.step - 1, stateOf(at.out))
  }
  await run({ ...at, saveEvery: 1, onLine })
  whole = leftBy(at)
})
afterAll(() => engine?.close())

describe('a run that is aborted', () => {
  // The loss of data held out is measured after 0, 5, 10 and 12 steps; the abort comes before that.
  test.each([0, 1, 5, 11, 12])('after step %d goes on and ends with the same bytes', async (after) => {
    const at = place()
    await stopped(at, after)
    expect(existsSync(at.out)).toBe(false)
    const report = await run({ ...at, resume: true })
    expect(report.resumedAfter).toBe(after)
    expectWhole(at)
  })

  test('twice has the moments of one that was aborted once, and goes on with another memory', async () => {
    const [at, once] = [place(), place()]
    await stopped(at, 3)
    await stopped(at, 8, { resume: true })
    await stopped(once, 8)
    expect(stateOf(at.out).equals(stateOf(once.out))).toBe(true)
    const less = await Engine.open({ memory: '8MiB' })
    try {
      const report = await train(less, model, { ...at, ...common(), resume: true })
      expect(report.deviceBytes).toBeLessThanOrEqual(8 * 2 ** 20)
    } finally {
      await less.close()
    }
    expectWhole(at)
  })

  test('trains masters and moments in float32 on, where the model is bfloat16', async () => {
    const options = { method: 'full', rank: undefined, dropout: undefined, rate: 1e-4 } as const
    const [one, two] = [place(), place()]
    await run({ ...one, ...options })
    await stopped(two, 7, options)
    await run({ ...two, ...options, resume: true })
    const weights = [one, two].map(({ out }) => readFileSync(join(out, 'model.safetensors')))
    expect(weights[0]!.equals(weights[1]!)).toBe(true)
  })

  test('is refused without resume, and begun anew with overwrite', async () => {
    const at = place()
    await stopped(at, 4)
    await expect(run(at)).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_OUTPUT_EXISTS',
      message: expect.stringMatching(/unfinished.*--resume.*--overwrite/),
    })
    const report = await run({ ...at, overwrite: true })
    expect(report).not.toHaveProperty('resumedAfter')
    expectWhole(at)
  })

  test('does not replace an output that has come there since', async () => {
    const at = place()
    await stopped(at, 4)
    mkdirSync(at.out)
    writeFileSync(join(at.out, 'mine'), '')
    const heard: number[] = []
    const failed = run({ ...at, resume: true, onLine: ({ step }) => heard.push(step) })
    await expect(failed).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_OUTPUT_EXISTS')
    expect(heard).toEqual([])
    rmSync(at.out, { recursive: true })
    await run({ ...at, resume: true })
    expectWhole(at)
  })
})

describe('a resume point', () => {
  /** A run that was aborted after step 4, as files. */
  let kept: { parent: string; names: string[] }
  beforeAll(async () => {
    const at = place()
    await stopped(at, 4)
    const parent = dirname(at.out)
    kept = { parent, names: readdirSync(parent) }
    expect(kept.names.sort()).toEqual([
      expect.stringMatching(/^log/),
      'out.resume',
      expect.stringMatching(/^out\.resume-/),
    ])
  })

  const copied = () => {
    const parent = fresh('copy')
    cpSync(kept.parent, parent, { recursive: true })
    return { out: join(parent, 'out'), log: join(parent, 'log.jsonl') }
  }
  const refused = async (
    change: object,
    code: string,
    message: RegExp,
    harm: (out: string) => void = () => undefined,
  ) => {
    const at = copied()
    harm(at.out)
    const before = new Map(kept.names.map((name) => [name, readFileSync(join(dirname(at.out), name))]))
    const failed = run({ ...at, resume: true, ...change })
    await expect(failed).rejects.toMatchObject({ code, message: expect.stringMatching(message) })
    for (const [name, bytes] of before) expect(readFileSync(join(dirname(at.out), name)).equals(bytes)).toBe(true)
  }
  const another = (change: object, message: RegExp) => refused(change, 'ERR_WEIGHTSMITH_RESUME', message)

  test('of another run is refused with what differs', async () => {
    await another({ seed: 3 }, /another seed \(0 then, 3 now\)/)
    await another({ rate: 0.03 }, /another rate \(0\.02 then, 0\.03 now\)/)
    await another({ rank: 8 }, /another rank \(4 then, 8 now\)/)
    await another({ steps: 13 }, /another steps \(12 then, 13 now\)/)
    await another({ targets: ['q_proj'] }, /another set of modules/)
    await another({ patience: 3 }, /another patience/)
    await another({ data: lines(fresh('other.jsonl'), sums(24, 1)) }, /another set of data/)
    await another({ data: [{ file: data, share: 2 }] }, /another set of data, or shares of it/)
    await another({ heldOut: lines(fresh('other.jsonl'), sums(5, 60)) }, /another set of data held out/)
    await another({ maxLength: 9 }, /another set of data/)
  })

  test('is gone on from where data has another name, but says the same', async () => {
    const at = copied()
    const renamed = fresh('renamed.jsonl')
    cpSync(data, renamed)
    await run({ ...at, data: renamed, resume: true, saveEvery: 5 })
    expectWhole(at)
  })

  test('is refused after the model has changed', async () => {
    const at = place()
    const changed = smallModel(fresh('changed'))
    const stop = new AbortController()
    const options = { ...at, ...common(), signal: stop.signal, onLine: () => stop.abort() }
    await expect(train(engine, changed, options)).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_ABORTED')
    utimesSync(join(changed, 'model.safetensors'), 1, 1)
    await expect(train(engine, changed, { ...at, ...common(), resume: true })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_INPUT_CHANGED',
      message: expect.stringMatching(/time of change/),
    })
  })

  test('that is torn is refused', async () => {
    const tensors = (out: string) => join(dirname(out), kept.names.find((name) => tensorFile.test(name))!)
    const size = readFileSync(tensors(join(kept.parent, 'out'))).length
    const torn = (message: RegExp, harm: (out: string) => void) => refused({}, 'ERR_WEIGHTSMITH_RESUME', message, harm)
    for (const length of [size - 4, 100, 0]) await torn(/torn/, (out) => truncateSync(tensors(out), length))
    await torn(/torn/, (out) => truncateSync(`${out}.resume`, 200))
    await torn(/its note is torn/, (out) => {
      const note = JSON.parse(readFileSync(`${out}.resume`, 'utf8')) as object
      writeFileSync(`${out}.resume`, JSON.stringify({ ...note, done: { step: -1 } }))
    })
    await torn(/its tensor master\/.* is torn/, (out) => {
      const text = readFileSync(tensors(out)).toString('latin1').replace('master/', 'mastre/')
      writeFileSync(tensors(out), Buffer.from(text, 'latin1'))
    })
    await torn(/log .* is not that of the training so far/, (out) => truncateSync(join(out, '..', 'log.jsonl'), 50))
  })

  test('stays as it was when a loss is not finite', async () => {
    const { model: reader } = JSON.parse(readFileSync(join(model, 'tokenizer.json'), 'utf8'))
    const name = 'model.embed_tokens.weight'
    const rows = fill(name, [64, 16])
    rows.fill(Number.NaN, 16 * reader.vocab.z, 16 * (reader.vocab.z + 1))
    const broken = smallModel(fresh('broken'), { [name]: bf16(rows, [64, 16]) })
    const records = lines(fresh('z.jsonl'), [...sums(23), { prompt: 'r:z=', answer: 'z' }])
    const at = place()
    const heard: number[] = []
    const options = {
      data: records,
      batch: 4,
      rank: 4,
      saveEvery: 1,
      onLine: ({ step }: { step: number }) => heard.push(step),
    }
    await expect(train(engine, broken, { ...at, ...options })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_NON_FINITE',
      message: expect.stringMatching(
        /at step [2-6]: its loss is NaN, as the model's model\.embed_tokens\.weight is not/,
      ),
      tensor: name,
      partial: `${at.out}.resume`,
    })
    const last = heard.at(-1)
    expect(JSON.parse(readFileSync(`${at.out}.resume`, 'utf8')).done).toMatchObject({ step: last, ended: false })
    const stop = new AbortController()
    const until = { ...place(), ...options, onLine: ({ step }: { step: number }) => step === last && stop.abort() }
    const failed = train(engine, broken, { ...until, signal: stop.signal })
    await expect(failed).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_ABORTED')
    expect(stateOf(at.out).equals(stateOf(until.out))).toBe(true)
    expect(existsSync(at.out)).toBe(false)
  })
})

describe('a process that is killed', () => {
  /** Goes on with runs, all at once. */
  const child = () =>
    script(
      folder,
      'train',
      `const engine = await Engine.open()
       const [model, ...runs] = process.argv.slice(2)
       await Promise.all(runs.map((run) => train(engine, model, JSON.parse(run))))
       await engine.close()`,
    )
  const begin = (runs: object[], env: Record<string, string> = {}) => {
    const options = runs.map((at) => JSON.stringify({ ...common(), saveEvery: 1, ...at, resume: true }))
    return start([child(), model, ...options], { env })
  }

  /** Whether a run has left a resume point before its end, which holds what one that was not killed held then. */
  function comparesState(out: string): boolean {
    if (!existsSync(`${out}.resume`)) return false
    const { done, tensors } = JSON.parse(readFileSync(`${out}.resume`, 'utf8')) as {
      done: { step: number; ended: boolean }
      tensors: 0 | 1
    }
    const state = states.get(done.step)
    if (done.ended || state === undefined) return false
    const same = readFileSync(`${out}.resume-${tensors}.safetensors`).equals(state)
    expect({ step: done.step, same }).toEqual({ step: done.step, same: true })
    return true
  }

  // Five runs are in each process, so that a kill strikes them at five moments: a process for each kill, which compiles
  // its kernels anew, is for `npm run soak`.
  test('20 times at any moment, ends with the same bytes, and has the same moments after each', async () => {
    const word = stream('kills of a training', 7)
    let draws = 0
    let runs = [1, 2, 1, 3, 1].map((saveEvery) => ({ ...place(), saveEvery }))
    const finished: typeof runs = []
    let kills = 0
    let compared = 0
    while (runs.length > 0) {
      const running = begin(runs)
      const lineCount = () => runs.reduce((sum, { log }) => sum + textOf(log).split('\n').length, 0)
      const [before, more] = [lineCount(), word(draws++) % 9]
      if (kills < 20) {
        await until(() => lineCount() > before + more || over(running))
        await sleep(word(draws++) % 12)
        if (running.child.kill('SIGKILL')) kills += runs.length
      }
      const { code, stderr } = await running.ended
      expect({ code, stderr }).toEqual({ code: kills < 20 || code === null ? null : 0, stderr: '' })
      // It can be killed between the last rename and the end of its resume point.
      const done = runs.filter(({ out }) => existsSync(out) && !existsSync(`${out}.resume`))
      finished.push(...done)
      compared += runs.filter(({ out }) => !done.some((at) => at.out === out) && comparesState(out)).length
      runs = runs.filter((at) => !done.includes(at))
      while (runs.length < 5 && kills < 20) runs.push({ ...place(), saveEvery: 1 })
    }
    for (const at of finished) expectWhole(at)
    expect(kills).toBeGreaterThanOrEqual(20)
    expect(compared).toBeGreaterThanOrEqual(5)
  }, 240_000)

  const onLinux = process.platform === 'linux' ? test : test.skip

  onLinux('while a resume point is written, or whose disk is full, has the moments of one that was not', async () => {
    const layer = join(folder, 'faults.so')
    execFileSync('c++', ['-std=c++20', '-shared', '-fPIC', '-O1', '-o', layer, 'test/faults/faults.cpp', '-ldl'])
    const [at, once] = [place(), place()]
    for (const fault of ['write:kill:.resume-:4', 'rename:kill:.resume:1', 'write:28:.resume-:1']) {
      const { signal, stderr } = await begin([at], { LD_PRELOAD: layer, WEIGHTSMITH_FAULT: fault }).ended
      if (fault.includes('kill')) expect({ fault, signal }).toEqual({ fault, signal: 'SIGKILL' })
      else expect(stderr).toMatch(/ERR_WEIGHTSMITH_DISK_FULL/)
      expect(existsSync(at.out)).toBe(false)
    }
    await stopped(at, 9, { resume: true })
    await stopped(once, 9)
    expect(stateOf(at.out).equals(stateOf(once.out))).toBe(true)
    await run({ ...at, resume: true })
    expectWhole(at)
  })

  test('or interrupted prints the command that goes on, which works', async () => {
    const at = place()
    const { data, heldOut, steps, batch, rank, dropout, rate, heldOutEvery } = common()
    const words = ['train', model, at.out, '--data', data, '--held-out', heldOut, '--held-out-every', `${heldOutEvery}`]
    const figures = { steps, batch, rank, dropout, rate, log: at.log }
    const more = Object.entries(figures).flatMap(([name, value]) => [`--${name}`, `${value}`])
    const running = start([cliPath, ...words, ...more])
    await until(() => textOf(at.log).length > 0 || over(running))
    running.child.kill('SIGINT')
    const { code, stderr } = await running.ended
    expect(code).toBe(130)
    const command = /To continue: weightsmith (.*)\n/.exec(stderr)![1]!
    expect(command).toBe([...words, ...more, '--resume'].join(' '))
    const resumed = await start([cliPath, ...command.split(' ')]).ended
    expect({ code: resumed.code, stderr: resumed.stderr }).toMatchObject({ code: 0 })
    expect(resumed.stdout).toMatch(/Resumed after step/)
    expectWhole(at)
  })
})

function textOf(file: string): string {
  return existsSync(file) ? readFileSync(file, 'utf8') : ''
}
