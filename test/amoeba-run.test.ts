/** `amoeba strategy`: what it refuses and foretells, interruptions, models larger than the memory, its command. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { type AmoebaStrategyOptions, amoebaStrategy, Engine, inspectStrategy, openStrategy } from 'weightsmith'
import { cli, script, start } from './child.js'
import { scratch } from './scratch.js'
import { lines, smallModel } from './training-model.js'

const { folder, fresh } = scratch('amoeba-run')
const demo = join(process.cwd(), 'demo/models/base')
const data = join(process.cwd(), 'test/goldens/tasks/calibration.jsonl')
const common = { data, limit: 12, seed: 5, minDepth: 5, metric: 'nll', widths: [0.75] } as const

let engine: Engine
let model: string
/** The file of a run that nothing has interrupted. */
let whole: Buffer
const run = (options: Partial<Omit<AmoebaStrategyOptions, 'dryRun'>> & { out: string }) =>
  amoebaStrategy(engine, model, { ...common, ...options })

beforeAll(async () => {
  engine = await Engine.open()
  model = smallModel(fresh('model'), {}, { num_hidden_layers: 8 })
  const out = fresh('whole.strategy')
  const report = await run({ out })
  whole = readFileSync(out)
  // Masks of m of n removed blocks begin at the first of them, and the whole model is run once.
  let passes = 8
  for (let n = 1; n <= 7; n++) for (let m = 1; m <= Math.min(n, 3); m++) passes += n + 1 - m
  expect(report).toMatchObject({ cells: 18, blockPasses: passes, examples: 12, bytesWritten: whole.length })
})
afterAll(() => engine?.close())

describe('an interrupted run', () => {
  test('goes on behind what it has measured, and ends with the same bytes', async () => {
    const out = fresh('s.strategy')
    for (const [phase, after] of [
      ['depth', 20],
      ['depth', 40],
      ['width', 1],
    ] as const) {
      const stop = new AbortController()
      const onProgress: AmoebaStrategyOptions['onProgress'] = (event) => {
        if (event.phase === phase && event.done >= after) stop.abort()
      }
      const failed = run({ out, resume: true, signal: stop.signal, onProgress })
      await expect(failed).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_ABORTED', partial: `${out}.resume` })
      expect(existsSync(out)).toBe(false)
    }
    const seen: string[] = []
    const report = await run({ out, resume: true, onProgress: ({ phase }) => void seen.push(phase) })
    // All depths were known.
    expect([...new Set(seen)]).toEqual(['width'])
    expect(report.blockPasses).toBe(0)
    expect(readFileSync(out).equals(whole)).toBe(true)
    expect(existsSync(`${out}.resume`)).toBe(false)
  })

  test('that was killed does so too', async () => {
    const out = fresh('s.strategy')
    const options = JSON.stringify({ ...common, out })
    const body = `
      import { existsSync } from 'node:fs'
      const engine = await Engine.open()
      const onProgress = ({ done }) => {
        if (existsSync(${JSON.stringify(`${out}.resume`)})) process.kill(process.pid, 'SIGKILL')
      }
      await amoebaStrategy(engine, ${JSON.stringify(model)}, { ...${options}, onProgress })`
    expect(await start([script(folder, 'killed', body)]).ended).toEqual({
      code: null,
      stdout: '',
      stderr: '',
      signal: 'SIGKILL',
    })
    const { measured } = (JSON.parse(readFileSync(`${out}.resume`, 'utf8')) as { done: { measured: string[] } }).done
    expect(measured.length).toBeGreaterThan(0)
    const seen: number[] = []
    await run({ out, resume: true, onProgress: ({ phase, done }) => phase === 'depth' && void seen.push(done) })
    expect(readFileSync(out).equals(whole)).toBe(true)
    expect(readdirSync(dirname(out)).filter((name) => name.includes('.resume'))).toEqual([])
  })

  test('does not go on as another one', async () => {
    const out = fresh('s.strategy')
    const stop = new AbortController()
    const interrupted = run({ out, signal: stop.signal, onProgress: ({ done }) => done > 20 && stop.abort() })
    await expect(interrupted).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_ABORTED' })
    await expect(run({ out })).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_OUTPUT_EXISTS' })
    await expect(run({ out, resume: true, metric: 'accuracy' })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_RESUME',
      message: expect.stringContaining('search: metric differs') as unknown,
    })
    writeFileSync(`${out}.resume`, readFileSync(`${out}.resume`, 'utf8').replace(/"measured": \[/, '"measured": [7,'))
    await expect(run({ out, resume: true })).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_RESUME' })
    await run({ out, overwrite: true })
    expect(readFileSync(out).equals(whole)).toBe(true)
  })
})

test('a model that is larger than the memory gives the same strategy, which is read once for masks of a row', async () => {
  await using small = await Engine.open({ memory: '2MiB' })
  const [options, places] = [{ ...common, limit: 3, minDepth: 6 }, [fresh('s.strategy'), fresh('s.strategy')] as const]
  const fits = await amoebaStrategy(engine, demo, { ...options, out: places[0] })
  const report = await amoebaStrategy(small, demo, { ...options, out: places[1] })
  expect([fits.partitions, report.partitions]).toEqual([1, expect.any(Number)])
  expect(report.partitions).toBeGreaterThan(1)
  expect(report.blockPasses).toBe(fits.blockPasses)
  expect(readFileSync(places[1]).equals(readFileSync(places[0]))).toBe(true)
})

describe('a run', () => {
  test('foretells what it costs, and writes nothing', async () => {
    const out = fresh('s.strategy')
    const { forecast } = await amoebaStrategy(engine, model, { ...common, out, dryRun: true })
    expect(forecast).toMatchObject({
      ...{ model, metric: 'nll', order: 'deepest', layers: 8, minDepth: 5, keepLast: 1, widths: [1, 0.75] },
      ...{ examples: 12, cells: 18, blockPasses: 72, partitions: 1 },
    })
    expect(forecast.waitingBytes).toBe(7 * forecast.tokens * 16 * 4)
    expect(forecast.milliseconds).toBeGreaterThan(0)
    expect(existsSync(out)).toBe(false)
  })

  test.each([
    [{ minDepth: 0 }, /fewest blocks of a subnet are 1 to 8/],
    [{ minDepth: 9 }, /minDepth is 9/],
    [{ minDepth: 2, keepLast: 3 }, /are 3 to 8, because the last 3 always stay, but minDepth is 2/],
    [{ keepLast: 9 }, /the last 0 to 8 can be kept, but keepLast is 9/],
    [{ widths: [0.5, 1.5] }, /widths to be above 0 and at most 1, but received "1.5"/],
    [{ metric: 'loss' as 'nll' }, /metric to be one of accuracy, token-accuracy, nll/],
    [{ order: 'widest' as 'deepest' }, /order to be one of deepest, shallowest/],
    [{ limit: 0 }, /limit to be a whole number from 1/],
  ])('with %j is refused', async (options, message) => {
    const failed = run({ out: fresh('s.strategy'), ...options })
    await expect(failed).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_ARGUMENT' })
    await expect(failed).rejects.toThrow(message)
  })

  test('counts exact answers of answers alone, and losses of texts too', async () => {
    const file = lines(fresh('texts.jsonl'), [{ prompt: '1+1=', answer: '2' }, { text: '12+30=42' }])
    const out = fresh('s.strategy')
    await expect(run({ out, data: file, metric: 'accuracy' })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_ARGUMENT',
      message: expect.stringMatching(/^Line 2 of .* has a "text" alone, but an answer is needed/) as unknown,
    })
    const { examples, depths } = await run({ out, data: file, limit: undefined, minDepth: 8, calibration: data })
    expect(examples).toBe(2)
    expect(depths[0]!.value).toBeGreaterThan(0)
  })

  test('names the families that it knows where a model is of none', async () => {
    const other = smallModel(fresh('model'), {}, { architectures: ['MambaForCausalLM'] })
    await expect(amoebaStrategy(engine, other, { ...common, out: fresh('s.strategy') })).rejects.toThrow(
      /architecture MambaForCausalLM; what can be run is LlamaForCausalLM/,
    )
  })
})

test('the command finds a strategy, with shares as fractions, and inspect shows it', async () => {
  const [out, page] = [fresh('s.strategy'), fresh('page.html')]
  const small = smallModel(fresh('model'))
  const args = ['amoeba', 'strategy', small, '--data', data, '--limit', '4', '--order', 'shallowest']
  const found = await cli(...args, '--widths', '7/8', '.5', '--out', out, '--report', page, '--json')
  expect(JSON.parse(found.stdout)).toMatchObject({
    cells: 2,
    layers: 3,
    order: 'shallowest',
    out,
    widths: [1, 0.875, 0.5],
  })
  expect(readFileSync(page, 'utf8')).toContain('Blocks that stay at each depth')
  const { stdout } = await cli('inspect', out)
  expect(stdout).toContain(`a strategy of AmoebaLLM, 2 depths and 3 widths of ${small} (3 blocks)`)
  const inspected = JSON.parse((await cli('inspect', out, '--json')).stdout) as unknown
  expect(inspected).toEqual(await inspectStrategy(out))
  await expect(openStrategy(engine, out, demo)).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_INPUT_CHANGED' })
  const wrong = await cli(...args, '--widths', '3/0', '--out', fresh('s.strategy'))
  expect(wrong).toMatchObject({ code: 2, stderr: expect.stringContaining('such as 1 7/8 0.75') as unknown })
})
