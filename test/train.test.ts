/** `train`: what it teaches, what it writes, and what it refuses. */
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import {
  Engine,
  evaluate,
  foldAdapters,
  inspectAdapter,
  type TrainingLogLine,
  type TrainOptions,
  type TrainReport,
  train,
} from 'weightsmith'
import { bf16, f32, fill, type Raw, readFolder, values, writeSafetensors } from './checkpoint.js'
import { cli } from './child.js'
import { scratch } from './scratch.js'
import { demo, layers, lines, shapes, smallModel, sums } from './training-model.js'

const { fresh } = scratch('train')
const tasks = join(process.cwd(), 'demo/tasks')
let engine: Engine
let model: string
let data: string

beforeAll(async () => {
  engine = await Engine.open()
  model = smallModel(fresh('model'))
  data = lines(fresh('sums.jsonl'), sums(24))
})
afterAll(() => engine?.close())

/** Lines of a log. */
const readLog = (file: string) =>
  readFileSync(file, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as TrainingLogLine)

type Some = Partial<Omit<TrainOptions, 'dryRun'>>
type Ran = TrainReport & { lines: TrainingLogLine[]; losses: number[] }

/** Trains the small model for some steps, with a rate at which it moves. */
async function run(options: Some = {}, subject = model): Promise<Ran> {
  const heard: TrainingLogLine[] = []
  const onLine = (line: TrainingLogLine) => heard.push(line)
  const common = { out: fresh('out'), data, steps: 4, batch: 6, rank: 4, rate: 0.01, onLine }
  const adapted = options.method === 'full' || options.adapter ? { ...common, rank: undefined } : common
  const report = await train(engine, subject, { ...adapted, ...options })
  return { ...report, lines: heard, losses: heard.flatMap((line) => ('loss' in line ? [line.loss] : [])) }
}

const adapterOf = (out: string) => readFileSync(join(out, 'adapter_model.safetensors'))
const configOf = (out: string) => JSON.parse(readFileSync(join(out, 'adapter_config.json'), 'utf8'))
const modulesOf = (out: string) =>
  [...readFolder(out).keys()]
    .flatMap((name) => /base_model\.model\.(.*)\.lora_A\.weight/.exec(name)?.slice(1) ?? [])
    .sort()

/** Tensors of `out` with other bytes than in `from`. */
function changedIn(out: string, from: string): string[] {
  const before = readFolder(from)
  const after = readFolder(out)
  expect([...after.keys()].sort()).toEqual([...before.keys()].sort())
  return [...after].filter(([name, { bytes }]) => !bytes.equals(before.get(name)!.bytes)).map(([name]) => name)
}

describe('an adapter', () => {
  test('lowers the loss of data held out, and does folded in what it does beside the model', async () => {
    const [out, fold] = [fresh('out'), fresh('fold')]
    // The demo has turned letters around, but never digits.
    const turned = (count: number, from = 0) =>
      Array.from({ length: count }, (_, i) => `${(7919 * (from + i + 1)) % 100_000}`).map((digits) => {
        return { prompt: `r:${digits}=`, answer: [...digits].reverse().join('') }
      })
    const heldOut = lines(fresh('held-out.jsonl'), turned(6, 48))
    const questions = lines(fresh('turned.jsonl'), turned(16))
    const options = { out, fold, data: questions, heldOut, steps: 4, batch: 4, rank: 4, rate: 5e-3, heldOutEvery: 4 }
    const report = await train(engine, demo, options)
    expect(report.heldOut!.last).toBeLessThan(0.7 * report.heldOut!.first)
    expect(report).toMatchObject({ out, folded: fold, trained: 56, steps: 4, endedEarly: false })
    const of = async (name: string) => {
      const { sets } = await evaluate(engine, name, { data: heldOut, metric: 'nll' })
      return sets[0]!.value
    }
    const [beside, folded] = [await of(`${demo}+${out}`), await of(fold)]
    expect(folded).toEqual(beside)
  })

  test('is what PEFT expects, and the verbs of LoRA take it', async () => {
    const { out } = await run({ rank: 3, alpha: 12, rslora: true, targets: ['q_proj', 'down_proj'] })
    expect(readdirSync(out).sort()).toEqual(
      ['README.md', 'adapter_config.json', 'adapter_model.safetensors', 'weightsmith.json'].sort(),
    )
    expect(configOf(out)).toMatchObject({
      ...{ peft_type: 'LORA', task_type: 'CAUSAL_LM', r: 3, lora_alpha: 12, use_rslora: true, use_dora: false },
      ...{ bias: 'none', rank_pattern: {}, alpha_pattern: {}, base_model_name_or_path: model },
    })
    const tensors = readFolder(out)
    expect(tensors.size).toBe(4 * layers)
    for (const layer of [0, 1, 2]) {
      for (const [module, outputs, inputs] of [
        ['self_attn.q_proj', 16, 16],
        ['mlp.down_proj', 16, 24],
      ] as const) {
        const name = `base_model.model.model.layers.${layer}.${module}`
        expect(tensors.get(`${name}.lora_A.weight`)).toMatchObject({ dtype: 'F32', shape: [3, inputs] })
        const b = tensors.get(`${name}.lora_B.weight`)!
        expect(b).toMatchObject({ dtype: 'F32', shape: [outputs, 3] })
        expect(values(b).some((value) => value !== 0)).toBe(true)
      }
    }
    const { modules } = await inspectAdapter(out, { base: model, engine })
    expect(modules).toHaveLength(2 * layers)
    for (const { scale } of modules) expect(scale).toBeCloseTo(12 / Math.sqrt(3), 6)
    const folded = fresh('folded')
    await foldAdapters(engine, model, { adapters: [out], out: folded, dtype: 'float32' })
    const target = 'model.layers.1.self_attn.q_proj'
    const [w, a, b] = [readFolder(model).get(`${target}.weight`)!, factor(target, 'A'), factor(target, 'B')].map(values)
    const got = values(readFolder(folded).get(`${target}.weight`)!)
    for (const [row, column] of [
      [0, 0],
      [7, 3],
      [15, 15],
    ] as const) {
      const change = [0, 1, 2].reduce((sum, k) => sum + b![row * 3 + k]! * a![k * 16 + column]!, 0)
      expect(got[row * 16 + column]).toBeCloseTo(w![row * 16 + column]! + (12 / Math.sqrt(3)) * change, 5)
    }
    function factor(module: string, which: 'A' | 'B'): Raw {
      return readFolder(out).get(`base_model.model.${module}.lora_${which}.weight`)!
    }
  })

  test.each<[string, Pick<Some, 'targets' | 'layers'>, RegExp]>([
    ['ends of names', { targets: ['v_proj', 'mlp.up_proj'] }, /v_proj$|up_proj$/],
    ['a regular expression for whole names', { targets: 'model\\.layers\\.[02]\\..*_proj' }, /layers\.[02]\./],
    ['all-linear, which is the default', { targets: 'all-linear' }, /_proj$/],
    ['some layers', { layers: [1] }, /layers\.1\./],
    ['ends of names in some layers', { targets: ['q_proj'], layers: [0, 2] }, /layers\.[02]\.self_attn\.q_proj/],
  ])('changes modules by %s', async (_, options, expected) => {
    const { out } = await run({ ...options, steps: 1 })
    const all = [...shapes().keys()].flatMap((name) => /^(.*_proj)\.weight$/.exec(name)?.slice(1) ?? [])
    expect(modulesOf(out)).toEqual(all.filter((name) => expected.test(name)).sort())
  })

  test('is gone on from with its own rank, scale and modules', async () => {
    const first = await run({ rank: 2, alpha: 6, targets: ['o_proj'], rate: 0.05 })
    const then = await run({ adapter: first.out, steps: 1 })
    // It begins where the first has ended, and not where that began.
    const [before, ends] = [await lossOf(first.out), await lossOf()]
    expect(then.losses[0]).toBeCloseTo(before, 5)
    expect(Math.abs(before - ends)).toBeGreaterThan(1e-3)
    expect(configOf(then.out)).toMatchObject({ r: 2, lora_alpha: 6 })
    expect(modulesOf(then.out)).toEqual(modulesOf(first.out))
    /** The loss of the first batch of any run. */
    async function lossOf(adapter?: string): Promise<number> {
      const options = adapter === undefined ? {} : { adapter }
      return (await run({ ...options, steps: 1, rate: 1e-6 })).losses[0]!
    }
  })

  test('of DoRA has lengths that were trained too, and does folded in what it does beside the model', async () => {
    const [out, fold] = [fresh('out'), fresh('fold')]
    const wide = smallModel(fresh('wide'), { 'lm_head.weight': f32(fill('lm_head.weight', [64, 16]), [64, 16]) })
    const { losses } = await run({ dora: true, targets: ['o_proj'], rate: 0.05, out, fold }, wide)
    expect(configOf(out)).toMatchObject({ use_dora: true, r: 4 })
    const name = 'model.layers.1.self_attn.o_proj'
    const lengths = values(readFolder(out).get(`base_model.model.${name}.lora_magnitude_vector`)!)
    const weight = values(readFolder(wide).get(`${name}.weight`)!)
    const moved = [...lengths].map((m, row) => m / Math.hypot(...weight.subarray(16 * row, 16 * row + 16)))
    expect(moved.every((share) => share > 0.5 && share < 1.5)).toBe(true)
    expect(Math.max(...moved.map((share) => Math.abs(share - 1)))).toBeGreaterThan(0.01)
    expect(losses.at(-1)).toBeLessThan(losses[0]!)
  })

  test('of DoRA is gone on from with its lengths, and may lose elements', async () => {
    // All examples in every step, so that no batch differs from another.
    const dora = { dora: true, targets: ['o_proj', 'up_proj'], batch: 24, schedule: 'constant', rate: 0.05 } as const
    const whole = await run({ ...dora, steps: 4 })
    const part = await run({ ...dora, steps: 3 })
    const then = await run({ adapter: part.out, batch: 24, steps: 1, rate: 0.05 })
    expect(then.losses[0]).toBeCloseTo(whole.losses[3]!, 5)
    expect(Math.abs(then.losses[0]! - whole.losses[0]!)).toBeGreaterThan(1e-3)
    expect(configOf(then.out)).toMatchObject({ use_dora: true, r: 4, lora_alpha: 8 })
    expect(then.parameters).toBe(part.parameters)
    const lengths = ({ out }: Ran) => [...readFolder(out)].filter(([key]) => key.endsWith('magnitude_vector'))
    expect(lengths(then)).not.toEqual(lengths(part))
    const dropped = await run({ ...dora, steps: 4, dropout: 0.1 })
    expect(dropped.losses.at(-1)).toBeLessThan(dropped.losses[0]!)
    expect(dropped.losses[3]).not.toBe(whole.losses[3])
  })

  test('of dropout loses something else in every step, by the seed', async () => {
    const steps = { rate: 1e-6, batch: 24, schedule: 'constant', dropout: 0.5 } as const
    // B is 0 at first: only an adapter that does something can lose some of it.
    const { out } = await run({ rate: 0.2 })
    const of = async (options: Some) => (await run({ ...steps, adapter: out, ...options })).losses
    const [first, again, other] = [await of({}), await of({}), await of({ seed: 1 })]
    expect(again).toEqual(first)
    const spread = (losses: number[]) => Math.max(...losses) - Math.min(...losses)
    expect(spread(first)).toBeGreaterThan(0.02)
    expect(Math.abs(other[0]! - first[0]!)).toBeGreaterThan(0.02)
    expect(spread(await of({ dropout: 0 }))).toBeLessThan(0.002)
  })

  test('learns nothing from a teacher that says what the model says, and of another one beside the targets', async () => {
    const normsOf = ({ lines }: Ran) => lines.flatMap((line) => ('loss' in line ? [line.gradientNorm] : []))
    const own = await run({ teacher: model, teacherShare: 1 })
    for (const norm of normsOf(own)) expect(norm).toBeLessThan(1e-4)
    const before = await run({ steps: 1 })
    // Half of both losses, where the teacher's is the entropy of what the model says itself.
    const half = await run({ teacher: model, steps: 1 })
    expect(half.losses[0]).toBeCloseTo((before.losses[0]! + own.losses[0]!) / 2, 5)
    expect(normsOf(half)[0]! / normsOf(before)[0]!).toBeCloseTo(0.5, 3)
    expect(half.deviceBytes).toBeGreaterThan(before.deviceBytes)
    await expect(run({ teacherShare: 0.5 })).rejects.toThrow(/teacherShare 0.5 needs a teacher/)
    await expect(run({ teacher: model, teacherShare: 2 })).rejects.toThrow(
      /the teacher's share to be above 0 and up to 1/,
    )
    await expect(run({ teacher: fresh('none') })).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_NOT_FOUND')
  })

  test('can be stored as bfloat16', async () => {
    const { out } = await run({ dtype: 'bfloat16', steps: 1 })
    expect(new Set([...readFolder(out).values()].map(({ dtype }) => dtype))).toEqual(new Set(['BF16']))
  })
})

/** The first records of a task of the demo. */
function readTask(name: string, count: number): object[] {
  const text = readFileSync(join(tasks, `${name}.jsonl`), 'utf8')
  return text
    .split('\n')
    .slice(0, count)
    .map((line) => JSON.parse(line) as object)
}

describe('full training', () => {
  test('writes a checkpoint in the types of the model, whose masters were float32', async () => {
    // Steps of a tenth of what bfloat16 can tell apart at 0.2: only added up do they show.
    const options = { method: 'full', rate: 5e-5, schedule: 'constant', clip: 0 } as const
    const one = await run({ ...options, steps: 1 })
    const many = await run({ ...options, steps: 40 })
    const name = 'model.layers.1.mlp.up_proj.weight'
    const share = ({ out }: Ran) => {
      const [from, to] = [model, out].map((folder) => values(readFolder(folder).get(name)!))
      return from!.filter((value, i) => value !== to![i]).length / from!.length
    }
    expect(new Set([...readFolder(many.out).values()].map(({ dtype }) => dtype))).toEqual(new Set(['BF16']))
    expect(share(one)).toBeLessThan(0.25)
    expect(share(many)).toBeGreaterThan(0.6)
    expect(many).toMatchObject({ trained: shapes().size, method: 'full' })
    expect(existsSync(join(many.out, 'tokenizer.json'))).toBe(true)
    expect(many.losses.at(-1)).toBeLessThan(many.losses[0]!)
  })

  test('of some layers changes nothing else', async () => {
    const { out, parameters } = await run({ method: 'full', layers: [1], rate: 0.05 })
    const own = [...shapes()].filter(([name]) => name.includes('layers.1.'))
    expect(changedIn(out, model).sort()).toEqual(own.map(([name]) => name).sort())
    expect(parameters).toBe(own.reduce((sum, [, shape]) => sum + shape.reduce((a, b) => a * b), 0))
  })
})

describe('a step', () => {
  test('has the same loss and the same gradient however it is cut', async () => {
    const whole = await run()
    const cut = await run({ tokens: 16, maxLength: 16 })
    for (const [i, loss] of whole.losses.entries()) expect(cut.losses[i]).toBeCloseTo(loss, 5)
    const [a, b] = [whole, cut].map(({ lines }) => lines.map((line) => ('loss' in line ? line.gradientNorm : 0)))
    for (const [i, norm] of a!.entries()) expect(b![i]! / norm).toBeCloseTo(1, 4)
  })

  test('can weigh micro-batches alike instead of targets', async () => {
    const uneven = lines(fresh('uneven.jsonl'), [
      { prompt: '1+1=', answer: '2' },
      { prompt: 'r:abcdefgh=', answer: 'hgfedcba' },
    ])
    const options = { data: uneven, batch: 2, steps: 1, tokens: 22, maxLength: 22 }
    const each = await Promise.all(
      [0, 1].map(async (i) => {
        const [line] = readFileSync(uneven, 'utf8').split('\n').slice(i)
        return JSON.parse(line!) as object
      }),
    )
    const alone = []
    for (const record of each)
      alone.push((await run({ ...options, data: lines(fresh('one.jsonl'), [record]) })).losses[0]!)
    const [byTargets, byBatches] = [await run(options), await run({ ...options, normalise: 'micro-batches' })]
    expect(byBatches.losses[0]).toBeCloseTo((alone[0]! + alone[1]!) / 2, 5)
    // Two targets and nine, each with the end of the text.
    expect(byTargets.losses[0]).toBeCloseTo((2 * alone[0]! + 9 * alone[1]!) / 11, 5)
  })

  test('draws its examples by the shares of files', async () => {
    const [few, many] = [
      lines(fresh('few.jsonl'), sums(4)),
      lines(fresh('many.jsonl'), readTask('ood_reverse_test', 40)),
    ]
    const tokensOf = async (share: number) => {
      const shares = [
        { file: few, share },
        { file: many, share: 1 },
      ]
      return (await run({ data: shares, steps: 4, batch: 8 })).tokens
    }
    // Reversals are longer than sums.
    const [rare, often] = [await tokensOf(0.1), await tokensOf(10)]
    expect(often).toBeLessThan(0.75 * rare)
  })
})

describe('data held out', () => {
  // Every second answer is no number: at this rate the first step helps, and those after it do not.
  const odd = () =>
    lines(
      fresh('odd.jsonl'),
      sums(6, 100).map((record, i) => (i % 2 === 0 ? { ...record, answer: 'zz' } : record)),
    )
  const options = { rate: 1, clip: 0, schedule: 'constant', heldOutEvery: 1 } as const

  test('is measured before and on the way; the best state is kept, or the last', async () => {
    const best = await run({ ...options, heldOut: odd(), steps: 3 })
    const measured = best.lines.flatMap((line) => ('heldOutLoss' in line ? [line] : []))
    expect(measured.map(({ step }) => step)).toEqual([0, 1, 2, 3])
    const [first, least, , last] = measured.map(({ heldOutLoss }) => heldOutLoss)
    expect(best.heldOut).toMatchObject({ first, best: least, bestStep: 1, last })
    expect(best).toMatchObject({ kept: 1, endedEarly: false })
    const short = await run({ ...options, heldOutEvery: undefined, steps: 1 })
    expect(adapterOf(best.out).equals(adapterOf(short.out))).toBe(true)
    const kept = await run({ ...options, heldOut: odd(), steps: 3, keep: 'last' })
    expect(kept.kept).toBe(3)
    const without = await run({ ...options, heldOutEvery: undefined, steps: 3 })
    expect(adapterOf(kept.out).equals(adapterOf(without.out))).toBe(true)
  })

  test('ends a run that gets no better', async () => {
    const report = await run({ ...options, heldOut: odd(), steps: 50, patience: 2 })
    expect(report).toMatchObject({ endedEarly: true, kept: 1, heldOut: { bestStep: 1 } })
    expect(report.losses).toHaveLength(3)
  })
})

describe('a run', () => {
  test('gives the same bytes every time, with another memory too, and says what it reads', async () => {
    const options = { log: fresh('log.jsonl'), steps: 3, tokens: 64 }
    const first = await run(options)
    const again = await run({ ...options, log: fresh('log.jsonl') })
    expect(adapterOf(again.out).equals(adapterOf(first.out))).toBe(true)
    expect(first.bytesReadPerPass).toBe(0)
    const { bytes, device } = await leastMemory(64)
    try {
      const log = fresh('log.jsonl')
      const out = fresh('out')
      const streamed = await train(device, model, { ...options, out, data, batch: 6, rank: 4, rate: 0.01, log })
      // Its layers forward, and all but the last one backward.
      const layer = [...shapes()].flatMap(([name, shape]) =>
        name.includes('layers.0.') ? shape.reduce((a, b) => a * b) : 0,
      )
      expect(streamed.bytesReadPerPass).toBe((2 * layers - 1) * 2 * layer.reduce((a, b) => a + b))
      expect(streamed.deviceBytes).toBe(bytes)
      expect(streamed.deviceBytes).toBeLessThan(first.deviceBytes)
      expect(adapterOf(out).equals(adapterOf(first.out))).toBe(true)
      expect(readLog(log)).toEqual(first.lines)
    } finally {
      await device.close()
    }
  })

  /** An engine with no more memory than training of an adapter needs, by what it says itself. */
  async function leastMemory(tokens: number): Promise<{ bytes: number; device: Engine }> {
    const tiny = await Engine.open({ memory: '64KiB' })
    const options = { out: fresh('out'), data, tokens, rank: 4 }
    const message = String(await train(tiny, model, options).catch((error: Error) => error.message))
    await tiny.close()
    const bytes = Number(/takes (\d+) bytes with \d+ tokens a micro-batch, one layer at a time/.exec(message)![1])
    return { bytes, device: await Engine.open({ memory: bytes }) }
  }

  test('says before what it takes, and writes nothing then', async () => {
    const parent = fresh('none')
    const options = { out: join(parent, 'out'), data, steps: 3, batch: 5, log: fresh('log.jsonl') }
    const { forecast } = await train(engine, model, { ...options, dryRun: true })
    expect(existsSync(parent)).toBe(false)
    expect(existsSync(options.log)).toBe(false)
    const report = await train(engine, model, options)
    const { milliseconds, hostBytes, ...known } = forecast
    expect(milliseconds).toBeGreaterThan(0)
    expect(hostBytes).toBeLessThan(2 ** 30)
    const { deviceBytes, parameters, steps, epochs, examples, bytesReadPerPass, data: read } = report
    expect({ deviceBytes, parameters, steps, epochs, examples, bytesReadPerPass, data: read }).toMatchObject({
      ...{ deviceBytes: known.deviceBytes, parameters: known.parameters, steps: 3, epochs: 0.6, examples: 24 },
      ...{ bytesReadPerPass: 0, data: known.data },
    })
    const epoch = await run({ steps: undefined, epochs: 2, batch: 7 })
    const told = await train(engine, model, { out: fresh('out'), data, epochs: 2, batch: 7, dryRun: true })
    expect(told.forecast.tokens).toBe(epoch.tokens)
  })

  test('writes a line of its log for every step, and a page with curves', async () => {
    const [out, log, page] = [join(fresh('new'), 'out'), fresh('log.jsonl'), fresh('page.html')]
    const words = ['--data', `${data}=1`, '--steps', '3', '--batch', '6', '--rank', '4', '--rate', '0.01']
    const more = ['--warmup', '1', '--schedule', 'cosine', '--log', log, '--report', page, '--held-out', data]
    const { code, stdout, stderr } = await cli('train', model, out, ...words, ...more, '--held-out-every', '2')
    expect({ code, stderr }).toMatchObject({ code: 0 })
    expect(stdout).toMatch(/an adapter of 21 modules[\s\S]*Loss \d\.\d+ at the first step[\s\S]*Held out/)
    const written = readLog(log)
    expect(written.map((line) => [line.step, 'loss' in line])).toEqual([
      ...[
        [0, false],
        [1, true],
        [2, true],
        [2, false],
        [3, true],
        [3, false],
      ],
    ])
    const [rate, next] = written.flatMap((line) => ('rate' in line ? [line.rate] : []))
    expect([rate, next]).toEqual([0, 0.01])
    const html = readFileSync(page, 'utf8')
    for (const title of ['Loss', 'Gradient norm and learning rate', 'Data']) expect(html).toContain(title)
    expect(readdirSync(join(out, '..'))).toEqual(['out'])
  })

  test('of a LLaVA trains what it says and leaves what it sees', async () => {
    const llava = join(process.cwd(), 'test/goldens/tiny-llava')
    const texts = lines(fresh('texts.jsonl'), [{ text: 'What is it? It is a face.' }, { text: 'Who is that?' }])
    const options = { data: texts, steps: 2, batch: 2, tokens: 64, rate: 1e-3 }
    const { losses, out } = await run({ ...options, rank: 2 }, llava)
    expect(losses[1]).toBeLessThan(losses[0]!)
    expect(modulesOf(out).every((name) => name.includes('language_model'))).toBe(true)
    const full = await run({ ...options, method: 'full' }, llava)
    expect(changedIn(full.out, llava).filter((name) => /vision|projector/.test(name))).toEqual([])
    const asked = lines(fresh('asked.jsonl'), [{ prompt: '<image>\nWho is it?', answer: 'Ann' }])
    await expect(run({ ...options, data: asked }, llava)).rejects.toThrow(/Line 1 of .* image/)
    const seen = lines(fresh('seen.jsonl'), [{ image: 'a.png', prompt: 'Who is it?', answer: 'Ann' }])
    await expect(run({ ...options, data: seen }, llava)).rejects.toThrow(/Line 1 of .* has an image/)
  })
})

describe('what is wrong is refused by name, and nothing is written:', () => {
  const refused = async (
    options: Some,
    code: string,
    message: RegExp,
    { subject = model, device = engine }: { subject?: string; device?: Engine } = {},
  ) => {
    const parent = fresh('never')
    const out = join(parent, 'out')
    const given = { out, data, batch: 6, log: join(parent, 'log.jsonl'), ...options }
    const failed = train(device, subject, given)
    await expect(failed).rejects.toMatchObject({
      code: `ERR_WEIGHTSMITH_${code}`,
      message: expect.stringMatching(message),
    })
    expect(existsSync(parent)).toBe(false)
  }
  const wrong = (options: Some, message: RegExp) => refused(options, 'ARGUMENT', message)

  test('options out of their range', async () => {
    await wrong({ rate: 0 }, /learning rate.*above 0 and up to 1/)
    await wrong({ rate: 1.5 }, /1\.5/)
    await wrong({ schedule: 'step' as never }, /schedule.*constant, linear, cosine.*step/)
    await wrong({ steps: 4, warmup: 4 }, /warm-up takes 4 steps, but the run has only 4/)
    await wrong({ warmup: 1.5 }, /warm-up.*1\.5/)
    await wrong({ schedule: 'constant', lowest: 0.1 }, /constant learning rate has no lowest/)
    await wrong({ rank: 0 }, /rank.*0/)
    await wrong({ alpha: -1 }, /alpha.*-1/)
    await wrong({ batch: 0 }, /batch.*0/)
    await wrong({ steps: 0 }, /steps.*0/)
    await wrong({ epochs: -1 }, /epochs.*-1/)
    await wrong({ epochs: 1e300 }, /steps of all epochs/)
    await wrong({ beta2: 1 }, /beta2.*1/)
    await wrong({ clip: -1 }, /clipping.*-1/)
    await wrong({ decay: 1 }, /decay.*1/)
    await wrong({ seed: -1 }, /seed.*-1/)
    await wrong({ dtype: 'int8' }, /dtype.*int8/)
    await wrong({ method: 'qlora' as never }, /lora or full.*qlora/)
    await wrong({ maxLength: 1 }, /length of examples.*2 to the context.*64.*1/)
  })

  test('options that contradict each other', async () => {
    await wrong({ steps: 3, epochs: 1 }, /Both 3 steps and 1 epochs/)
    await wrong({ method: 'full', rank: 4 }, /Full training has no adapter, so rank/)
    await wrong({ method: 'full', fold: fresh('fold') }, /fold/)
    await wrong({ adapter: 'a', rank: 4 }, /says its own rank/)
    await wrong({ patience: 2 }, /patience needs data held out/)
    await wrong({ keep: 'best' }, /best.*data held out/)
    await wrong({ log: data, overwrite: true }, /log .* is a file that is read/)
    expect(readFileSync(data, 'utf8')).toContain('prompt')
    const out = join(fresh('never'), 'out')
    await wrong({ out, log: join(out, 'log.jsonl') }, /log .* lies in the output/)
    await wrong({ out, fold: join(out, 'fold') }, /overlap/)
  })

  test('modules and layers that are not there', async () => {
    await wrong({ targets: ['q_proj', 'c_attn'] }, /c_attn; there are q_proj, k_proj/)
    await wrong({ targets: 'layers\\.0' }, /No linear layer of .*layers/)
    await wrong({ targets: '(' }, /regular expression.*\(/)
    await wrong({ targets: [] }, /give at least one/)
    await wrong({ layers: [0, 7] }, /0 to 2.*7/)
    await wrong({ targets: 'model\\.layers\\.1\\..*', layers: [0] }, /target in the layers 0/)
  })

  test('data without anything to learn, or for another model', async () => {
    const file = (...records: object[]) => lines(fresh('data.jsonl'), records)
    await wrong({ data: [] }, /no data/)
    await wrong({ data: file({ prompt: '1+1=', answer: '' }) }, /nothing to predict \(first: Line 1/)
    await wrong({ data: file({ question: 'a' }) }, /Line 1 of .*should be an object/)
    await wrong({ data: file({ words: 'a' }) }, /Line 1 of .*should have "messages"/)
    const message = { messages: ['user', 'assistant'].map((role) => ({ role, content: 'a' })) }
    await wrong({ data: file(message) }, /Line 1 of .*has no chat template/)
    await refused({ data: fresh('none.jsonl') }, 'NOT_FOUND', /none/)
    // A vocabulary that ends before the ids of the tokenizer.
    const rows = (name: string) => ({ [name]: bf16(fill(name, [20, 16]), [20, 16]) })
    const tensors = { ...rows('model.embed_tokens.weight'), ...rows('lm_head.weight') }
    const less = smallModel(fresh('less'), tensors, { vocab_size: 20 })
    await refused({ data: file({ text: 'xyz' }) }, 'ARGUMENT', /Line 1 of .* has the id \d+, but .* knows 0 to 19/, {
      subject: less,
    })
    const long = file({ prompt: '1+1=', answer: '2' }, { text: 'abc'.repeat(20) })
    await wrong({ data, heldOut: long, maxLength: 40, tokens: 30 }, /Line 2 of .*40 tokens, but .* room for 30/)
  })

  test('an adapter that does not fit, or is more than factors', async () => {
    const { out } = await run({ targets: ['q_proj'], steps: 1 })
    const altered = (change: (tensors: Map<string, Raw>, config: Record<string, unknown>) => void) => {
      const folder = fresh('altered')
      cpSync(out, folder, { recursive: true })
      const [tensors, config] = [readFolder(out), configOf(out)]
      change(tensors, config)
      writeSafetensors(join(folder, 'adapter_model.safetensors'), Object.fromEntries(tensors))
      writeFileSync(join(folder, 'adapter_config.json'), JSON.stringify(config))
      return folder
    }
    const first = 'base_model.model.model.layers.0.self_attn.q_proj'
    const wide = altered((tensors) => tensors.set(`${first}.lora_A.weight`, f32(fill('a', [4, 20]), [4, 20])))
    await refused({ adapter: wide }, 'SHAPE_MISMATCH', /layers\.0\.self_attn\.q_proj/)
    const dora = altered((tensors, config) => {
      config.use_dora = true
      for (const layer of [0, 1, 2]) {
        const name = `base_model.model.model.layers.${layer}.self_attn.q_proj.lora_magnitude_vector`
        tensors.set(name, f32(fill('m', [15])))
      }
    })
    await refused({ adapter: dora }, 'SHAPE_MISMATCH', /layers\.0\.self_attn\.q_proj/)
    const more = altered((tensors, config) => {
      config.modules_to_save = ['norm']
      tensors.set('base_model.model.model.norm.weight', f32(fill('norm', [16])))
    })
    await refused({ adapter: more }, 'ARGUMENT', /more than factors of linear layers.*modules_to_save/i)
    const other = altered((tensors) => {
      for (const [name, raw] of [...tensors]) {
        tensors.delete(name)
        tensors.set(name.replace('layers.2', 'layers.9'), raw)
      }
    })
    await refused({ adapter: other }, 'MISSING_TENSOR', /layers\.9/)
    await refused({ adapter: fresh('none') }, 'NOT_FOUND', /none/)
    await refused({ adapter: out, out, overwrite: true }, 'OUTPUT_INSIDE_INPUT', /overlap/)
  })

  test('places that are taken, before and not after the work', async () => {
    const taken = fresh('taken')
    mkdirSync(taken)
    writeFileSync(join(taken, 'file'), '')
    await refused({ out: taken }, 'OUTPUT_EXISTS', /taken.*overwrite/)
    await refused({ fold: taken }, 'OUTPUT_EXISTS', /taken.*overwrite/)
    await refused({ out: join(model, 'out') }, 'OUTPUT_INSIDE_INPUT', /overlap/)
    await refused({ fold: join(model, 'out') }, 'OUTPUT_INSIDE_INPUT', /overlap/)
    const dry = train(engine, model, { out: taken, data, dryRun: true })
    await expect(dry).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_OUTPUT_EXISTS')
    expect(readdirSync(taken)).toEqual(['file'])
  })

  test('quantised models', async () => {
    const packed = { dtype: 'I32', shape: [4], bytes: Buffer.alloc(16) }
    const config = { quantization_config: { quant_method: 'gptq', bits: 4 } }
    const quantized = smallModel(fresh('gptq'), { 'model.layers.0.mlp.up_proj.qweight': packed }, config)
    await refused({}, 'DTYPE', /gptq/i, { subject: quantized })
  })

  test('a memory that is too small, with the tokens that would fit', async () => {
    const small = await Engine.open({ memory: '1MiB' })
    try {
      await refused({ tokens: 2048 }, 'OUT_OF_MEMORY', /2048 tokens.*memory allows 1048576.*, or (\d+) tokens/, {
        device: small,
      })
      const message = await train(small, model, { out: fresh('out'), data, tokens: 2048 }).catch(String)
      const tokens = Number(/or (\d+) tokens/.exec(String(message))![1])
      await train(small, model, { out: fresh('out'), data, tokens, steps: 1 })
      await refused({ method: 'full', tokens: 2048 }, 'OUT_OF_MEMORY', /2048 tokens.*train an adapter/, {
        device: small,
      })
    } finally {
      await small.close()
    }
  })

  test.each<[string, number, (values: Float32Array, shape: number[]) => Raw]>([
    ['bfloat16', Number.NaN, bf16],
    ['float32', Number.NEGATIVE_INFINITY, f32],
    ['float16', Number.NaN, f16],
  ])('weights in %s that are not finite (%d), with step and tensor', async (_, value, store) => {
    const name = 'model.layers.1.mlp.up_proj.weight'
    const values = fill(name, [24, 16])
    values[77] = value
    const broken = smallModel(fresh('nan'), { [name]: store(values, [24, 16]) })
    for (const options of [{}, { heldOut: data }]) {
      const out = fresh('out')
      await expect(train(engine, broken, { out, data, ...options })).rejects.toMatchObject({
        code: 'ERR_WEIGHTSMITH_NON_FINITE',
        message: expect.stringMatching(/step [01]: .*loss.* is NaN, as the model's model\.layers\.1\.mlp\.up_proj/),
        tensor: name,
      })
      expect(existsSync(out)).toBe(false)
    }
  })
})

/** In float16, by truncation: numbers from 2^-14 on, zeros for smaller ones, and NaN. */
function f16(numbers: Float32Array, shape: number[]): Raw {
  const halves = Uint16Array.from(new Uint32Array(numbers.buffer.slice(0)), (bits) => {
    const exponent = ((bits >>> 23) & 0xff) - 112
    const sign = (bits >>> 16) & 0x8000
    if (exponent > 30) return sign | 0x7e00
    return exponent <= 0 ? sign : sign | (exponent << 10) | ((bits >>> 13) & 0x3ff)
  })
  return { dtype: 'F16', shape, bytes: Buffer.from(halves.buffer) }
}
