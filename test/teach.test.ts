/** `teach`, and `train` from what it has written: a student learns from a file what it learns from the model itself. */
import { createHash } from 'node:crypto'
import { existsSync, readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, type TeachOptions, type TrainOptions, teach, train } from 'weightsmith'
import { openCheckpoint } from '../lib/checkpoint/index.js'
import { openModel } from '../lib/runtime/open_model.js'
import { readTrainingData } from '../lib/training/index.js'
import { bf16, f32, fill, type Raw, readSafetensors, values, writeSafetensors } from './checkpoint.js'
import { cli } from './child.js'
import { math } from './math.js'
import { scratch } from './scratch.js'
import { near } from './training.js'
import { lines, shapes, smallModel, sums } from './training-model.js'

const { fresh } = scratch('teach')
const vocabulary = 64
let engine: Engine
let student: string
let teacher: string
let data: string

beforeAll(async () => {
  engine = await Engine.open()
  student = smallModel(fresh('student'))
  const changed = [...shapes()].map(([name, shape]): [string, Raw] => [name, bf16(fill(`other ${name}`, shape), shape)])
  teacher = smallModel(fresh('teacher'), Object.fromEntries(changed))
  data = lines(fresh('sums.jsonl'), sums(12))
})
afterAll(() => engine?.close())

const metadataOf = (file: string) => {
  const bytes = readFileSync(file)
  const header = bytes.toString('utf8', 8, 8 + Number(bytes.readBigUInt64LE(0)))
  return (JSON.parse(header) as { __metadata__: Record<string, string> }).__metadata__
}

/** A teacher's file. */
async function written(options: Partial<Omit<TeachOptions, 'dryRun'>> = {}): Promise<string> {
  const out = `${fresh('teacher')}.safetensors`
  await teach(engine, teacher, { data, out, ...options })
  return out
}

/** Losses of some steps of the student. */
async function losses(options: Partial<Omit<TrainOptions, 'dryRun'>>): Promise<number[]> {
  const all: number[] = []
  const onLine: TrainOptions['onLine'] = (line) => 'loss' in line && all.push(line.loss)
  const common = { out: fresh('out'), data, steps: 3, batch: 5, rank: 4, rate: 0.01, onLine }
  await train(engine, student, { ...common, ...options })
  return all
}

function expectNear(got: readonly number[], want: readonly number[], share: number): void {
  expect(got).toHaveLength(want.length)
  for (const [i, loss] of want.entries()) near(got[i]!, loss, share, `loss ${i}`)
}

/** The file with other tensors, or with other metadata. */
function like(file: string, tensors: Record<string, Raw>, metadata: Record<string, string> = {}): string {
  const path = `${fresh('like')}.safetensors`
  writeSafetensors(path, tensors, { ...metadataOf(file), ...metadata })
  return path
}

const int64 = (numbers: readonly number[], shape: number[]): Raw => ({
  ...{ dtype: 'I64', shape },
  bytes: Buffer.from(BigInt64Array.from(numbers, BigInt).buffer),
})
const int32 = (numbers: readonly number[], shape: number[]): Raw => ({
  ...{ dtype: 'I32', shape },
  bytes: Buffer.from(Int32Array.from(numbers).buffer),
})

/** Softmax of rows, as wide as they are. */
const probabilities = (logits: Float64Array, width: number) =>
  Array.from({ length: logits.length / width }, (_, t) => [...logits.subarray(t * width, (t + 1) * width)]).flatMap(
    (row) => {
      const weights = row.map((logit) => math.exp(logit - math.max(...row)))
      const total = weights.reduce((a, b) => a + b)
      return weights.map((weight) => weight / total)
    },
  )

/** The examples as ids, the tokens of each that are taught, and what the model says there, by a forward pass. */
async function said(mask: 'shifted' | 'own-label' = 'shifted'): Promise<Float32Array[]> {
  const model = await openModel(engine, teacher)
  const checkpoint = await engine.use(({ addon }) => openCheckpoint(addon, teacher))
  const { sources } = await readTrainingData({ spec: model.spec, checkpoint }, [{ file: data }])
  const rows: Float32Array[] = []
  for (const { ids, targets } of sources[0]!.examples) {
    const { logits } = await model.run(model.pack([ids]), { logits: true })
    for (let i = 0; i < ids.length; i++) {
      const taught = mask === 'shifted' ? targets[i + 1] : targets[i]
      if (taught) rows.push(logits!.subarray(i * vocabulary, (i + 1) * vocabulary))
    }
  }
  await model.close()
  return rows
}

describe("a teacher's file", () => {
  test.each(['shifted', 'own-label'] as const)('has what the model says at each token, %s', async (mask) => {
    const file = await written({ top: vocabulary, mask })
    const tensors = readSafetensors(file)
    const rows = await said(mask)
    expect([...tensors].map(([name, { dtype, shape }]) => [name, dtype, shape])).toEqual([
      ['logits', 'F32', [rows.length, vocabulary]],
    ])
    const got = values(tensors.get('logits')!)
    for (const [i, value] of rows.flatMap((row) => [...row]).entries()) expect(got[i]).toBeCloseTo(value, 4)
  })

  test('has the largest logits of every token with their ids, and says what of', async () => {
    const file = await written({ top: 5 })
    const [logits, ids] = ['logits', 'ids'].map((name) => readSafetensors(file).get(name)!)
    const rows = await said()
    expect(ids).toMatchObject({ dtype: 'I32', shape: [rows.length, 5] })
    const chosen = new Int32Array(
      ids!.bytes.buffer.slice(ids!.bytes.byteOffset, ids!.bytes.byteOffset + ids!.bytes.length),
    )
    for (const [t, row] of rows.entries()) {
      const largest = [...row.keys()].sort((a, b) => row[b]! - row[a]!).slice(0, 5)
      expect([...chosen.subarray(5 * t, 5 * t + 5)]).toEqual(largest)
      for (const [k, id] of largest.entries()) expect(values(logits!)[5 * t + k]).toBeCloseTo(row[id]!, 4)
    }
    const checkpoint = await engine.use(({ addon }) => openCheckpoint(addon, student))
    const spec = { vocabulary, context: 64 } as never
    const { sources } = await readTrainingData({ spec, checkpoint }, [{ file: data }])
    const hash = createHash('sha256')
    for (const { ids, targets } of sources[0]!.examples) {
      hash.update(Uint32Array.from([ids.length, ...ids])).update(targets)
    }
    expect(metadataOf(file)).toMatchObject({
      ...{ weightsmith_teacher: '1', model: teacher, mask: 'shifted', vocabulary: '64', data: hash.digest('hex') },
    })
  })

  test.each<[string, Partial<Omit<TrainOptions, 'dryRun'>>, Partial<TeachOptions>]>([
    ['', {}, {}],
    [
      ' at the tokens of the targets themselves',
      { teacherMask: 'own-label', teacherShare: 0.7 },
      { mask: 'own-label' },
    ],
    [' as a divergence, in micro-batches', { teacherLoss: 'kl', tokens: 24 }, { tokens: 24 }],
    [' of all tokens', { loss: 'all', teacherShare: 1 }, { loss: 'all' }],
  ])('with all logits teaches what the model does%s', async (_, options, more) => {
    const file = await written({ top: vocabulary, ...(more as object) })
    expectNear(await losses({ ...options, teacher: file }), await losses({ ...options, teacher }), 1e-5)
  })

  test('of some logits teaches their softmax, in any type that it may be stored in', async () => {
    const file = await written({ top: 4 })
    const want = await losses({ teacher: file })
    const [logits, ids] = ['logits', 'ids'].map((name) => readSafetensors(file).get(name)!)
    const [known, shape] = [values(logits!), logits!.shape]
    const chosen = [
      ...new Int32Array(ids!.bytes.buffer.slice(ids!.bytes.byteOffset, ids!.bytes.byteOffset + ids!.bytes.length)),
    ]
    const some = probabilities(known, 4)
    const each: Record<string, Raw> = { probabilities: f32(some, shape), ids: int64(chosen, shape) }
    expectNear(await losses({ teacher: like(file, each) }), want, 1e-5)
    // The same with zeros for all others.
    const all = new Float32Array(shape[0]! * vocabulary)
    for (const [i, id] of chosen.entries()) all[math.floor(i / 4) * vocabulary + id] = some[i]!
    expectNear(await losses({ teacher: like(file, { probabilities: f32(all, [shape[0]!, vocabulary]) }) }), want, 1e-5)
    const rounded = like(file, { logits: bf16(Float32Array.from(known), shape), ids: int32(chosen, shape) })
    expectNear(await losses({ teacher: rounded }), want, 1e-2)
    expect(await losses({ teacher: rounded })).not.toEqual(want)
    // Halves, of which a power of two has every digit.
    const powers = known.map((_, i) => -(i % 4))
    const half = { dtype: 'F16', shape, bytes: Buffer.from(Uint16Array.from(powers, (x) => halves[-x]!).buffer) }
    const plain = await losses({ teacher: like(file, { logits: f32(powers, shape), ids: int32(chosen, shape) }) })
    expect(await losses({ teacher: like(file, { logits: half, ids: int32(chosen, shape) }) })).toEqual(plain)
  })

  /** 0, -1, -2 and -3 in float16. */
  const halves = [0, 0xbc00, 0xc000, 0xc200]

  test('is refused for other data, ids or masks, and where it is torn', async () => {
    const file = await written({ top: 2 })
    const refused = async (options: Partial<Omit<TrainOptions, 'dryRun'>>, code: string, message: RegExp) =>
      expect(losses({ teacher: file, ...options })).rejects.toMatchObject({
        ...{ code: `ERR_WEIGHTSMITH_${code}`, message: expect.stringMatching(message) },
      })
    await refused({ data: lines(fresh('others.jsonl'), sums(12, 1)) }, 'ARGUMENT', /of other data/)
    await refused({ loss: 'all' }, 'ARGUMENT', /of other data/)
    await refused({ teacherMask: 'own-label' }, 'ARGUMENT', /mask shifted, but own-label/)
    const tensors = Object.fromEntries(readSafetensors(file))
    await refused({ teacher: like(file, tensors, { vocabulary: '65' }) }, 'ARGUMENT', /predicts 65 ids.* 64/)
    await refused({ teacher: like(file, tensors, { weightsmith_teacher: '2' }) }, 'FORMAT', /version 1/)
    const { logits, ids } = tensors as Record<'logits' | 'ids', Raw>
    const { shape } = ids
    const numbers = Array.from({ length: shape[0]! * 2 }, (_, i) => i % 2)
    const torn = async (changed: Record<string, Raw>, message: RegExp) =>
      refused({ teacher: like(file, changed) }, 'FORMAT', message)
    await torn(
      { logits: f32(numbers.slice(2), [shape[0]! - 1, 2]), ids: int32(numbers.slice(2), [shape[0]! - 1, 2]) },
      /rows/,
    )
    await torn({ logits }, /with as many ids/)
    await torn({ ids }, /either logits or probabilities/)
    await torn(
      {
        logits,
        ids: int32(
          numbers.map(() => 3),
          shape,
        ),
      },
      /an id twice/,
    )
    await torn(
      {
        logits,
        ids: int32(
          numbers.map((i) => 63 + i),
          shape,
        ),
      },
      /none of 64/,
    )
    await torn(
      {
        logits,
        ids: int32(
          numbers.map((i) => -i),
          shape,
        ),
      },
      /none of 64/,
    )
    await torn(
      {
        logits: f32(
          numbers.map(() => Number.NaN),
          shape,
        ),
        ids,
      },
      /Row \d+ of .* finite/,
    )
    await torn(
      {
        probabilities: f32(
          numbers.map((i) => i - 1),
          shape,
        ),
        ids,
      },
      /negative/,
    )
    await torn(
      {
        probabilities: f32(
          numbers.map(() => 0),
          shape,
        ),
        ids,
      },
      /finite/,
    )
  })
})

test('the command says what it has written, and leaves nothing where it is refused', async () => {
  const out = `${fresh('teacher')}.safetensors`
  const options = ['teach', teacher, '--data', data, '--top', '3', '--json']
  const forecast = JSON.parse((await cli(...options, '--dry-run')).stdout) as { forecast: { bytesWritten: number } }
  const done = JSON.parse((await cli(...options, '--out', out)).stdout) as object
  expect(done).toMatchObject({ out, top: 3, examples: 12, bytesWritten: readFileSync(out).length })
  // Metadata, which names the model, is not counted before.
  expect(forecast.forecast.bytesWritten).toBeGreaterThan(0.9 * readFileSync(out).length - 400)
  await expect(written({ out })).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_OUTPUT_EXISTS' })
  const stop = new AbortController()
  const aborted = `${fresh('aborted')}.safetensors`
  const onProgress = () => stop.abort()
  await expect(written({ out: aborted, tokens: 16, signal: stop.signal, onProgress })).rejects.toMatchObject({
    code: 'ERR_WEIGHTSMITH_ABORTED',
  })
  for (const path of [aborted, `${aborted}.partial`]) expect(existsSync(path)).toBe(false)
  for (const wrong of [{ top: 65 }, { top: 0 }, { mask: 'both' as never }, { out: fresh('teacher.bin') }]) {
    await expect(written(wrong)).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_ARGUMENT' })
  }
})

test('a model that has no room beside its teacher is told of it, and a teacher that has none by itself', async () => {
  const needs = async (memory: string) => {
    await using little = await Engine.open({ memory })
    return await train(little, student, { out: fresh('out'), data, teacher, dryRun: true }).then(
      () => undefined,
      (error: Error) => error.message,
    )
  }
  const alone = (await train(engine, student, { out: fresh('out'), data, dryRun: true })).forecast.deviceBytes
  expect(await needs(`${alone}`)).toMatch(/^Training .*student.* beside the teacher .*teacher.*, which takes \d+;/)
  expect(await needs('100000')).toMatch(/^Running the teacher .*teacher/)
})
