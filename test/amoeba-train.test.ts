/** `amoeba train`: which subnets learn, what is written, how it goes on after an interruption, and what it refuses. */
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import {
  type AmoebaTrainOptions,
  amoebaCut,
  amoebaEval,
  amoebaStrategy,
  amoebaTrain,
  Engine,
  evaluate,
  foldAdapters,
  type TrainingLogLine,
  type TrainReport,
} from 'weightsmith'
import { gateNoise, sandwich } from '../lib/workflows/amoeba/sandwich.js'
import { bf16, fill, readFolder } from './checkpoint.js'
import { cliPath, start, until } from './child.js'
import { math } from './math.js'
import { scratch } from './scratch.js'
import { layers, lines, smallModel, sums } from './training-model.js'

const { fresh } = scratch('amoeba-train')
let engine: Engine
let model: string
let data: string
let strategy: string

beforeAll(async () => {
  engine = await Engine.open()
  model = smallModel(fresh('model'))
  data = lines(fresh('sums.jsonl'), sums(16))
  strategy = fresh('s.strategy')
  await amoebaStrategy(engine, model, { data, out: strategy, metric: 'nll', minDepth: 2, widths: [1, 0.75, 0.5] })
})
afterAll(() => engine?.close())

/** A place for an output, in a folder of its own with its log. */
function place(): { out: string; log: string } {
  const parent = fresh('run')
  mkdirSync(parent)
  return { out: join(parent, 'out'), log: join(parent, 'log.jsonl') }
}

const common = () => ({ data, strategy, steps: 4, batch: 6, tokens: 48, rank: 2, rate: 0.02, experts: 3 }) as const
const run = (options: Partial<Omit<AmoebaTrainOptions, 'dryRun'>>): Promise<TrainReport> =>
  amoebaTrain(engine, model, { out: fresh('out'), ...common(), ...options })

const bytesOf = ({ out, log }: { out: string; log: string }) =>
  [join(out, 'adapter_model.safetensors'), join(out, 'adapter_config.json'), log].map((path) => readFileSync(path))

const stepsIn = (log: string) =>
  readFileSync(log, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as TrainingLogLine)
    .flatMap((line) => ('loss' in line ? [line] : []))

describe('the subnets of a micro-batch', () => {
  const range = { leastDepth: 5, layers: 8, widths: [1, 0.875, 0.75, 0.625] }
  const at = { seed: 7, step: 3, microBatch: 1 }

  test('are the largest, the smallest, and others in between that follow from seed, step and micro-batch', () => {
    const shapes = sandwich(range, { ...at, count: 7 })
    expect(shapes).toHaveLength(7)
    expect(shapes[0]).toEqual({ depth: 8, width: 1 })
    expect(shapes.at(-1)).toEqual({ depth: 5, width: 0.625 })
    const random = shapes.slice(1, -1)
    for (const { depth } of random) expect([5, 6, 7]).toContain(depth)
    // Four widths, each once, and then one of a new round.
    expect(new Set(random.slice(0, 4).map(({ width }) => width)).size).toBe(4)
    expect(sandwich(range, { ...at, count: 7 })).toEqual(shapes)
    const others = [{ seed: 8 }, { step: 4 }, { microBatch: 0 }].map((other) =>
      sandwich(range, { ...at, ...other, count: 7 }),
    )
    for (const other of others) expect(other).not.toEqual(shapes)
  })

  test('have depths and widths in equal shares', () => {
    const counts = new Map<string, number>()
    for (let step = 0; step < 600; step++) {
      for (const { depth, width } of sandwich(range, { ...at, step, count: 4 }).slice(1, 3)) {
        for (const key of [`depth ${depth}`, `width ${width}`]) counts.set(key, (counts.get(key) ?? 0) + 1)
      }
    }
    // Six standard deviations.
    for (const [key, count] of counts) {
      const expected = key.startsWith('depth') ? 400 : 300
      expect({ key, off: math.abs(count - expected) < 6 * math.sqrt(expected) }).toEqual({ key, off: true })
    }
  })

  test('choose experts with noise that is normal', () => {
    const values = Array.from({ length: 500 }, (_, step) => [...gateNoise(8, { ...at, step, subnet: 2 })]).flat()
    const mean = values.reduce((a, b) => a + b, 0) / values.length
    const square = values.reduce((a, b) => a + b * b, 0) / values.length
    expect(math.abs(mean)).toBeLessThan(0.08)
    expect(math.abs(square - 1)).toBeLessThan(0.12)
  })
})

describe('a mixture of experts', () => {
  test('learns at all shapes, and is written with the names of AmoebaLLM', async () => {
    const at = place()
    const report = await run({ ...at, steps: 12, rate: 0.01, heldOut: data })
    expect(report.heldOut!.last).toBeLessThan(report.heldOut!.first)
    const steps = stepsIn(at.log)
    expect(steps).toHaveLength(12)
    // 6 examples of 8 tokens and more are two micro-batches.
    for (const { subnets } of steps) {
      expect(subnets!.length % 4).toBe(0)
      expect(subnets![0]).toMatchObject({ depth: layers, width: 1, weight: 1 })
      expect(subnets![3]).toMatchObject({ depth: 2, width: 0.5 })
      for (const { loss, weight, gates } of subnets!.slice(0, 4)) {
        expect(math.abs(loss * weight - subnets![0]!.loss)).toBeLessThan(1e-9)
        expect(gates!.filter((gate) => gate > 0)).toHaveLength(2)
        expect(gates!.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 5)
      }
    }
    const tensors = [...readFolder(at.out).keys()]
    expect(tensors).toContain('base_model.model.model.layers.2.mlp.down_proj.lora_B.2.weight')
    expect(tensors).toContain('base_model.lora_sparsemoe.router.topkroute_linear.1.bias')
    expect(tensors).toHaveLength(2 * 3 * 7 * layers + 6)
    expect(JSON.parse(readFileSync(join(at.out, 'adapter_config.json'), 'utf8'))).toMatchObject({
      ...{ use_moe_lora: true, num_experts: 3, top_k: 2, width_choice: '[1,0.75,0.5]', r: 2, lora_alpha: 16 },
    })
  })

  test.each(['factor', 'output'] as const)(
    'of %ss can be cut at any shape, and says what it said uncut',
    async (mix) => {
      const [out, cut] = [fresh('out'), fresh('cut')]
      await run({ out, mix, steps: 3 })
      const widths = [1, 0.5]
      const { shapes } = await amoebaEval(engine, model, {
        strategy,
        adapter: out,
        data,
        metric: 'nll',
        depths: [2],
        widths,
      })
      await amoebaCut(engine, model, { strategy, adapter: out, out: cut, depths: [2], widths })
      for (const [i, width] of widths.entries()) {
        const { sets } = await evaluate(engine, join(cut, `2x${width}`), { data })
        // Folded weights are rounded to bfloat16.
        expect(math.abs(sets[0]!.answers! - shapes[i]!.loss)).toBeLessThan(0.02)
      }
      expect(math.abs(shapes[0]!.loss - shapes[1]!.loss)).toBeGreaterThan(1e-3)
    },
  )

  test('that was stopped after any step ends with the bytes of one that was not', async () => {
    const whole = place()
    await run(whole)
    for (const after of [1, 3]) {
      const at = place()
      const stop = new AbortController()
      const onLine = ({ step }: TrainingLogLine) => step === after && stop.abort()
      await expect(run({ ...at, signal: stop.signal, onLine })).rejects.toMatchObject({
        code: 'ERR_WEIGHTSMITH_ABORTED',
      })
      expect((await run({ ...at, resume: true })).resumedAfter).toBe(after)
      expect(bytesOf(at)).toEqual(bytesOf(whole))
    }
  })

  test('that was killed twice ends with the bytes of one that was not', async () => {
    const [whole, at] = [place(), place()]
    await run(whole)
    const given = [cliPath, 'amoeba', 'train', model, at.out, '--data', data, '--strategy', strategy]
    const sizes = '--steps 4 --batch 6 --tokens 48 --rank 2 --rate 0.02 --experts 3 --save-every 1 --resume'.split(' ')
    const args = [...given, ...sizes, '--log', at.log]
    for (const step of [1, 2]) {
      const { child, ended } = start(args)
      await until(() => existsSync(at.log) && readFileSync(at.log, 'utf8').split('\n').length > step)
      child.kill('SIGKILL')
      expect((await ended).signal).toBe('SIGKILL')
    }
    const { code, stderr } = await start(args).ended
    expect({ code, stderr }).toMatchObject({ code: 0 })
    expect(bytesOf(at)).toEqual(bytesOf(whole))
  })
})

test('one adapter for all shapes is one that PEFT takes', async () => {
  const [out, folded] = [fresh('out'), fresh('folded')]
  const { trained, parameters } = await run({ out, experts: 1, teacherShare: 0, balance: false })
  expect(trained).toBe(7 * layers)
  expect(parameters).toBe(layers * 2 * (2 * 32 + 2 * 24 + 3 * 40))
  await foldAdapters(engine, model, { adapters: [out], out: folded })
  expect(readFolder(folded).size).toBe(readFolder(model).size)
})

describe('what cannot be trained is refused:', () => {
  test.each<[string, Partial<AmoebaTrainOptions>, string]>([
    ['a width that the strategy lacks', { widths: [1, 0.6] }, 'are 1, 0.75, 0.5, but 0.6 was asked for'],
    ['fewer blocks than it has', { minDepth: 1 }, 'are 2 to 3 blocks, but the fewest were to be 1'],
    ['more experts of a subnet than there are', { top: 4 }, 'from 1 to 3'],
    ['one subnet', { subnets: 1 }, 'from 2 to 64'],
    ['a share above 1', { teacherShare: 1.5 }, 'from 0 to 1'],
  ])('%s', async (_, options, message) => {
    const failed = run(options as Partial<Omit<AmoebaTrainOptions, 'dryRun'>>)
    await expect(failed).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_ARGUMENT',
      message: expect.stringContaining(message),
    })
  })

  test('the strategy of another model', async () => {
    const norm = bf16(fill('another norm', [16]))
    const other = smallModel(fresh('other'), { 'model.norm.weight': norm })
    const failed = amoebaTrain(engine, other, { out: fresh('out'), ...common() })
    await expect(failed).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_INPUT_CHANGED' })
  })

  test('a resume point of other options', async () => {
    const at = place()
    const stop = new AbortController()
    const onLine = ({ step }: TrainingLogLine) => step === 1 && stop.abort()
    await run({ ...at, signal: stop.signal, onLine }).catch(() => undefined)
    await expect(run({ ...at, resume: true, balance: false })).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_RESUME' })
  })
})
