/** What a training run does when: steps, learning rates and the log, all the same for a run that was interrupted. */
import { readFileSync, writeFileSync } from 'node:fs'
import { describe, expect, test } from '@jest/globals'
import {
  type BatchOptions,
  openLog,
  planBatches,
  rateSchedule,
  readLog,
  type TrainingExample,
  type TrainingLogLine,
  type TrainingStep,
} from '../lib/training/index.js'
import { randomWords } from './reference/philox.js'
import { scratch } from './scratch.js'

const { fresh } = scratch('training-plan')

/** Examples with a number each as their first id, of 2 to 9 tokens. */
const examples = (count: number, first = 0): TrainingExample[] =>
  Array.from({ length: count }, (_, i) => {
    const length = 2 + ((i * 5) % 8)
    const targets = Uint8Array.from({ length }, (_, k) => (k > length / 2 ? 1 : 0))
    return { ids: Array.from({ length }, (_, k) => (k === 0 ? first + i : 0)), targets, where: `Line ${i + 1}` }
  })
const numbersOf = ({ microBatches }: TrainingStep) => microBatches.flat().map(({ ids }) => ids[0]!)
const plan = (count: number, options: Partial<BatchOptions> = {}) =>
  planBatches([{ examples: examples(count) }], { batch: 4, seed: 7, ...options })
const all = <T>(count: number, of: (i: number) => T) => Array.from({ length: count }, (_, i) => of(i))
const sorted = (numbers: readonly number[]) => [...numbers].sort((a, b) => a - b)

describe('the steps of training', () => {
  test('take every example once an epoch, in another order each, and the last step of an epoch has what is left', () => {
    const { steps, stepsPerEpoch, examples, stepAt } = plan(18, { epochs: 3 })
    expect([steps, stepsPerEpoch, examples]).toEqual([15, 5, 18])
    const done = all(steps, stepAt)
    expect(done.map((step) => numbersOf(step).length)).toEqual([4, 4, 4, 4, 2, 4, 4, 4, 4, 2, 4, 4, 4, 4, 2])
    expect(done.map(({ epoch }) => epoch)).toEqual([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2])
    const epochs = all(3, (e) => done.slice(5 * e, 5 * e + 5).flatMap(numbersOf))
    for (const numbers of epochs) expect(sorted(numbers)).toEqual(all(18, (i) => i))
    expect(new Set(epochs.map(String)).size).toBe(3)
  })

  test('are shuffled by the words of Philox: Fisher and Yates', () => {
    for (const epoch of [0, 2]) {
      const order = all(50, (i) => i)
      const words = randomWords(2n ** 40n + 3n, 'order of source 0', 0, 50, BigInt(epoch) << 34n)
      for (let last = 49; last > 0; last--) {
        const other = Number((BigInt(words[last]!) * BigInt(last + 1)) >> 32n)
        ;[order[last], order[other]] = [order[other]!, order[last]!]
      }
      const { stepAt } = plan(50, { batch: 50, seed: 2 ** 40 + 3, epochs: 3 })
      expect(numbersOf(stepAt(epoch))).toEqual(order)
    }
  })

  test('can be had in any order, and depend on the seed alone', () => {
    const sources = [
      { examples: examples(11), share: 0.7 },
      { examples: examples(23, 100), share: 0.3 },
    ]
    const of = (seed: number) => planBatches(sources, { batch: 5, seed, epochs: 4 })
    const { steps, stepAt } = of(3)
    const inOrder = all(steps, stepAt)
    for (const step of [17, 2, steps - 1, 9, 8, 0]) expect(of(3).stepAt(step)).toEqual(inOrder[step])
    const { stepAt: again } = of(3)
    expect(all(steps, (i) => again(steps - 1 - i)).reverse()).toEqual(inOrder)
    expect(all(steps, of(4).stepAt)).not.toEqual(inOrder)
  })

  test('are in the order of the file where they are not to be shuffled', () => {
    const { steps, stepAt } = plan(6, { shuffle: false, epochs: 2 })
    expect(all(steps, stepAt).map(numbersOf)).toEqual([
      [0, 1, 2, 3],
      [4, 5],
      [0, 1, 2, 3],
      [4, 5],
    ])
  })

  test('are cut into micro-batches of neighbours, as many as there is room for, and say what they hold', () => {
    const lengths = (count: number) => examples(count).map(({ ids }) => ids.length)
    expect(lengths(8)).toEqual([2, 7, 4, 9, 6, 3, 8, 5])
    const cut = (tokens: number) => plan(8, { batch: 8, tokens, shuffle: false }).stepAt(0)
    const sizes = ({ microBatches }: TrainingStep) => microBatches.map((micro) => micro.map(({ ids }) => ids.length))
    expect(sizes(cut(12))).toEqual([[2, 7], [4], [9], [6, 3], [8], [5]])
    const step = cut(13)
    expect(sizes(step)).toEqual([[2, 7, 4], [9], [6, 3], [8, 5]])
    expect(step.tokens).toBe(44)
    expect(step.targets).toBe(examples(8).reduce((sum, { targets }) => sum + targets.reduce((a, b) => a + b), 0))
  })

  test('end after some steps or epochs, which may end within one', () => {
    expect(plan(18).steps).toBe(5)
    expect(plan(18, { epochs: 1.5 }).steps).toBe(8)
    expect(plan(18, { steps: 23 }).steps).toBe(23)
    expect(plan(3, { steps: 2 }).stepAt(1)).toMatchObject({ epoch: 1 })
  })

  test('without shares take all sources as one', () => {
    const parts = [{ examples: examples(7) }, { examples: examples(9, 100) }]
    const { stepAt, steps } = planBatches(parts, { batch: 4, seed: 1 })
    expect(sorted(all(steps, stepAt).flatMap(numbersOf))).toEqual([...all(7, (i) => i), ...all(9, (i) => 100 + i)])
    const firsts = numbersOf(stepAt(0))
    expect(firsts.some((n) => n < 100) && firsts.some((n) => n >= 100)).toBe(true)
  })

  test('with shares draw sources as often, and go through each of them before any example comes again', () => {
    const sources = [
      { examples: examples(40), share: 3 },
      { examples: examples(400, 1000), share: 1 },
    ]
    const { steps, stepAt, examples: drawn } = planBatches(sources, { batch: 8, seed: 5, epochs: 3 })
    expect([drawn, steps]).toEqual([440, 165])
    const numbers = all(steps, stepAt).flatMap(numbersOf)
    const small = numbers.filter((n) => n < 1000)
    // 990 are to be expected of 1320, with a standard deviation of 15.7.
    expect(Math.abs(small.length - 990)).toBeLessThan(63)
    for (let pass = 0; pass + 40 <= small.length; pass += 40) {
      expect(sorted(small.slice(pass, pass + 40))).toEqual(all(40, (i) => i))
    }
    expect(small.slice(0, 40)).not.toEqual(small.slice(40, 80))
    const large = numbers.filter((n) => n >= 1000)
    expect(new Set(large).size).toBe(large.length)
    const words = randomWords(5n, 'source', 0, numbers.length)
    // Sources of one size have orders of their own.
    const twins = planBatches(
      [examples(20), examples(20, 100)].map((one) => ({ examples: one, share: 1 })),
      {
        batch: 99,
        seed: 5,
      },
    )
    const [a, b] = [
      numbersOf(twins.stepAt(0)).filter((n) => n < 100),
      numbersOf(twins.stepAt(0)).filter((n) => n >= 100),
    ]
    expect(a.slice(0, 10)).not.toEqual(b.slice(0, 10).map((n) => n - 100))
    expect(numbers.map((n) => n < 1000)).toEqual(Array.from(words, (word) => word < 0.75 * 2 ** 32))
  })

  test.each<[Partial<BatchOptions>, RegExp]>([
    [{ batch: 0 }, /the batch to be a whole number above 0/],
    [{ tokens: 1.5 }, /the tokens of a micro-batch/],
    [{ steps: 0 }, /the steps/],
    [{ epochs: 0 }, /the epochs/],
    [{ epochs: Number.POSITIVE_INFINITY }, /the epochs/],
    [{ steps: 3, epochs: 2 }, /Both 3 steps and 2 epochs/],
    [{ seed: -1 }, /the seed/],
    [{ seed: 2 ** 53 }, /the seed/],
    [{ tokens: 8 }, /^Line 4 has 9 tokens, but a micro-batch has room for 8/],
  ])('are not planned with %j', (options, message) => {
    expect(() => plan(8, options)).toThrow(
      expect.objectContaining({ code: 'ERR_WEIGHTSMITH_ARGUMENT', message: expect.stringMatching(message) }),
    )
  })

  test.each([
    [[], /There are no examples/],
    [[{ examples: [] }], /There are no examples/],
    [
      [
        { examples: examples(2), share: 1 },
        { examples: [], share: 1 },
      ],
      /A file of data with a share has no examples/,
    ],
    [[{ examples: examples(2), share: 1 }, { examples: examples(2) }], /Of 2 files of data 1 have a share/],
    [[{ examples: examples(2), share: 0 }], /the share of a file of data to be a number above 0/],
    [[{ examples: examples(2), share: Number.NaN }], /the share of a file of data/],
  ])('are not planned of sources that have none, or wrong shares (%#)', (sources, message) => {
    expect(() => planBatches(sources, { batch: 4, seed: 7 })).toThrow(
      expect.objectContaining({ code: 'ERR_WEIGHTSMITH_ARGUMENT', message: expect.stringMatching(message) }),
    )
  })
})

describe('the learning rate', () => {
  // transformers 5.24.0: get_last_lr() before every step
  test.each([
    [
      { rate: 2e-4, schedule: 'constant', warmup: 3 },
      [0, 6.666666666666667e-5, 1.3333333333333334e-4, 2e-4, 2e-4, 2e-4],
    ],
    [{ rate: 2e-4, schedule: 'linear' }, [2e-4, 1.6e-4, 1.2e-4, 8e-5, 4e-5]],
    [{ rate: 2e-4 }, [2e-4, 1.6e-4, 1.2e-4, 8e-5, 4e-5]],
    [
      { rate: 1e-3, schedule: 'linear', warmup: 3 },
      [
        ...[0, 3.333333333333333e-4, 6.666666666666666e-4, 1e-3, 8.571428571428571e-4, 7.142857142857143e-4],
        ...[5.714285714285714e-4, 4.2857142857142855e-4, 2.857142857142857e-4, 1.4285714285714284e-4],
      ],
    ],
    [
      { rate: 1e-3, schedule: 'cosine', warmup: 0.25 },
      [
        ...[0, 3.333333333333333e-4, 6.666666666666666e-4, 1e-3, 9.330127018922195e-4, 7.5e-4, 5e-4],
        ...[2.500000000000001e-4, 6.698729810778065e-5],
      ],
    ],
    [
      { rate: 5e-5, schedule: 'linear', warmup: 2, lowest: 0.1 },
      [0, 2.5e-5, 5e-5, 4.25e-5, 3.5000000000000004e-5, 2.7500000000000004e-5, 2e-5, 1.2499999999999999e-5],
    ],
    [
      { rate: 1e-3, schedule: 'cosine', warmup: 2, lowest: 0.1 },
      [
        ...[0, 5e-4, 1e-3, 9.397114317029974e-4, 7.750000000000001e-4, 5.5e-4, 3.2500000000000015e-4],
        1.6028856829700258e-4,
      ],
    ],
  ] as const)('of %j is that of transformers', (options, rates) => {
    const rate = rateSchedule(options, rates.length)
    for (const [step, wanted] of rates.entries())
      expect(Math.abs(rate(step) - wanted)).toBeLessThanOrEqual(1e-12 * wanted)
  })

  test.each([
    [{ rate: 0 }, /the learning rate to be above 0 and up to 1/],
    [{ rate: 1.5 }, /the learning rate/],
    [{ rate: Number.NaN }, /the learning rate/],
    [{ rate: 1e-3, schedule: 'step' as 'linear' }, /constant, linear, cosine/],
    [{ rate: 1e-3, warmup: -1 }, /the warm-up/],
    [{ rate: 1e-3, warmup: 1.5 }, /the warm-up/],
    [{ rate: 1e-3, warmup: 10 }, /The warm-up takes 10 steps, but the run has only 10/],
    [{ rate: 1e-3, lowest: 1 }, /the lowest learning rate/],
    [{ rate: 1e-3, lowest: 0.1, schedule: 'constant' as const }, /A constant learning rate has no lowest one/],
  ])('of %j is refused', (options, message) => {
    expect(() => rateSchedule(options, 10)).toThrow(
      expect.objectContaining({ code: 'ERR_WEIGHTSMITH_ARGUMENT', message: expect.stringMatching(message) }),
    )
  })
})

describe('the log of training', () => {
  const line = (step: number): TrainingLogLine => ({
    ...{ step, epoch: 0, loss: 1 / step, gradientNorm: step / 3 },
    ...{ rate: 1e-4, tokens: 10 * step, targets: 3 * step },
  })
  const heldOut = (step: number): TrainingLogLine => ({ step, heldOutLoss: 2 / step })
  const run = [heldOut(0.5), line(1), line(2), heldOut(2), line(3), line(4), heldOut(4), line(5)].map((one) =>
    one.step === 0.5 ? { step: 0, heldOutLoss: 4 } : one,
  )

  async function written(file: string, lines: readonly TrainingLogLine[], options = {}): Promise<string> {
    const log = await openLog(file, options)
    for (const one of lines) await log.write(one)
    await log.sync()
    await log.close()
    return readFileSync(file, 'utf8')
  }

  test('is a line of JSON for what happens, and is read again', async () => {
    const file = fresh('log.jsonl')
    const text = await written(file, run)
    expect(text).toBe(run.map((one) => `${JSON.stringify(one)}\n`).join(''))
    expect(await readLog(file)).toEqual(run)
  })

  test.each([0, 1, 2, 3, 4, 5])(
    'of a run that goes on after step %d has the bytes of one that did not stop',
    async (after) => {
      const file = fresh('log.jsonl')
      const whole = await written(file, run)
      // It went on for longer than its checkpoint says, and ended within a line.
      writeFileSync(file, whole.slice(0, -7))
      if (after === 5) writeFileSync(file, whole)
      const log = await openLog(file, { after, measured: after })
      expect(log.lines).toEqual(run.filter(({ step }) => step <= after))
      for (const one of run.filter(({ step }) => step > after)) await log.write(one)
      expect(log.lines).toEqual(run)
      await log.close()
      expect(readFileSync(file, 'utf8')).toBe(whole)
    },
  )

  test('of a run that was stopped before it measured has no later measurement', async () => {
    const file = fresh('log.jsonl')
    const whole = await written(file, [line(1), line(2), { step: 2, heldOutLoss: 3 }])
    const log = await openLog(file, { after: 2 })
    expect(log.lines).toEqual([line(1), line(2)])
    await log.write({ step: 2, heldOutLoss: 3 })
    await log.close()
    expect(readFileSync(file, 'utf8')).toBe(whole)
  })

  test('is replaced only where that is asked for', async () => {
    const file = fresh('log.jsonl')
    await written(file, run)
    await expect(openLog(file)).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_OUTPUT_EXISTS', file })
    expect(await written(file, run.slice(0, 1), { overwrite: true })).toBe(`${JSON.stringify(run[0])}\n`)
  })

  test.each([
    ['is missing', undefined, /there is no such file/],
    ['is shorter', run.slice(0, 4).map((one) => JSON.stringify(one)), /the steps 1 to 3, but has 2 lines of steps/],
    ['lacks a step', [line(1), line(3), line(4)].map((one) => JSON.stringify(one)), /the steps 1 to 3, but has 2/],
    ['has a step twice', [line(1), line(3), line(3)].map((one) => JSON.stringify(one)), /the steps 1 to 3, but has 3/],
    ['is another file', ['{"prompt": "a"}'], /line 1 is not one of a log: it has no step with a loss/],
    ['is no JSON', ['hello'], /line 1 is not one of a log/],
  ])('cannot go on where the file %s', async (_, lines, message) => {
    const file = fresh('log.jsonl')
    if (lines !== undefined) writeFileSync(file, `${lines.join('\n')}\n`)
    const problem = { code: 'ERR_WEIGHTSMITH_RESUME', message: expect.stringMatching(message) }
    await expect(openLog(file, { after: 3, measured: 3 })).rejects.toMatchObject(problem)
    if (lines !== undefined) expect(readFileSync(file, 'utf8')).toBe(`${lines.join('\n')}\n`)
  })

  test('is refused by name where it cannot be written', async () => {
    await expect(openLog(`${fresh('none')}/log.jsonl`)).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_IO_WRITE' })
  })
})
