/** Unlearning by neurons has the golden statistics, scores, choices and logits of a trained model that sees. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, type ManuOptions, type ManuReport, manu, openModel, verify } from 'weightsmith'
import { Images } from '../lib/data/images/index.js'
import { loadAddon } from '../lib/native/load.js'
import { readSafetensors, values } from './checkpoint.js'
import { cli } from './child.js'
import { scratch } from './scratch.js'

const full = join(process.cwd(), 'test/goldens/tiny-llava')
const images = join(full, 'data')
const golden = JSON.parse(readFileSync(join(full, 'goldens/goldens.json'), 'utf8')) as {
  prompts: { index: number; image: number | null }[]
  streams: Record<string, { file: string; lines: number[] }>
  selected: Record<
    'stream' | 'batch',
    Record<'all' | 'last3', Record<'2' | '5', Record<'vision' | 'language', Golden>>>
  >
  accuracy: Record<string, Record<string, { correct: number; n: number; nll: number }>>
}
interface Golden {
  total: number
  k: number
  selected: number
  threshold: number
  next: number
  rows: Record<string, number[]>
}
const scores = readSafetensors(join(full, 'goldens/manu.safetensors'))
const logits = readSafetensors(join(full, 'goldens/forward.safetensors'))

const { folder, fresh } = scratch('manu')
let engine: Engine
beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

/** The lines of a golden stream, in their order, as a file. */
function stream(name: string): string {
  const { file, lines } = golden.streams[name]!
  const all = readFileSync(join(full, file), 'utf8').split('\n')
  const path = join(folder, `${name}.jsonl`)
  writeFileSync(path, lines.map((line) => all[line]).join('\n'))
  return path
}
/** Statistics by stream of the last layers, which two tests have in common. */
const kept = join(folder, 'last3.statistics')
const streams = () => ({
  forget: [stream('forget.multimodal'), stream('forget.text')],
  retain: [stream('retain.multimodal'), stream('retain.text')],
  images,
})
const run = (options: Partial<Omit<ManuOptions, 'dryRun'>>) =>
  manu(engine, full, { ...streams(), evaluate: false, out: fresh('out'), ...options })

/** Chosen neurons by module. */
function chosen({ neurons }: ManuReport['choices'][number]): Record<string, number[]> {
  const result: Record<string, number[]> = {}
  for (const { module, neuron } of neurons) {
    result[module] ??= []
    result[module].push(neuron)
  }
  for (const list of Object.values(result)) list.sort((a, b) => a - b)
  return result
}

async function hasGoldenLogits(out: string, layers: string): Promise<void> {
  await verify(out)
  const model = await openModel(engine, out)
  const sight = await Images.open(loadAddon(), model.checkpoint, 32, { root: images })
  for (const { index, image } of golden.prompts) {
    const raw = logits.get(`p${index}.input_ids`)!.bytes
    const ids = Array.from({ length: raw.length / 4 }, (_, i) => raw.readInt32LE(4 * i))
    const seen = image === null ? [] : [await sight.pixels(image)]
    const got = (await model.run(model.pack([{ ids, images: seen }]), { logits: true })).logits!
    const want = values(logits.get(`pruned.code.${layers}.alpha5.p${index}.logits`)!)
    expect(got.length).toBe(want.length)
    expect(want.reduce((most, value, i) => Math.max(most, Math.abs(got[i]! - value)), 0)).toBeLessThan(2e-4)
  }
  await model.close()
}

describe.each(['stream', 'batch'] as const)('with statistics by %s', (statistics) => {
  test.each(['all', 'last3'] as const)(
    'of the layers %s, the golden neurons are chosen by the golden scores',
    async (layers) => {
      const cache = statistics === 'stream' && layers === 'last3' ? kept : undefined
      const { choices } = await run({ statistics, layers, alpha: [2, 5], cache })
      for (const [i, alpha] of (['2', '5'] as const).entries()) {
        const want = golden.selected[statistics][layers][alpha]
        expect(choices[i]!.towers.map(({ tower }) => tower)).toEqual(['vision', 'language'])
        for (const { tower, total, wanted, selected, threshold, next } of choices[i]!.towers) {
          const { k, ...facts } = want[tower]
          expect({ total, wanted, selected }).toEqual({ total: facts.total, wanted: k, selected: facts.selected })
          expect(Math.abs(threshold / facts.threshold - 1)).toBeLessThan(1e-3)
          expect(Math.abs(next / facts.next - 1)).toBeLessThan(1e-3)
        }
        expect(chosen(choices[i]!)).toEqual({ ...want.vision.rows, ...want.language.rows })
        for (const { module, neuron, score, parts } of choices[i]!.neurons) {
          const all = values(scores.get(`score.${statistics}.${module}`)!)
          expect(Math.abs(score / all[neuron]! - 1)).toBeLessThan(1e-3)
          expect(parts.abs + parts.var + parts.rms + parts.freq).toBeCloseTo(score, 9)
        }
      }
      if (statistics === 'stream') await hasGoldenLogits(choices[1]!.out!, layers)
    },
  )
})

test("in paper mode scores are the paper's, from the golden statistics", async () => {
  const { choices } = await run({ mode: 'paper', layers: [0], alpha: 40 })
  const eps = 1e-5
  const of = (stream: string, module: string) => {
    const at = (name: string) => values(scores.get(`${stream}.${module}.${name}`)!)
    return { abs: at('mean_abs'), freq: at('freq'), std: at('std'), rms: at('rms') }
  }
  const importance = (set: string, module: string, n: number) => {
    const m = of(`${set}.multimodal`, module)
    if (module.includes('vision')) return m.abs[n]! + m.freq[n]! + m.std[n]! + m.rms[n]!
    const t = of(`${set}.text`, module)
    const contrast = (a: number, b: number) => Math.abs(a - b) / (a + b + eps)
    const square = (value: number) => value * value
    return (
      contrast(m.abs[n]!, t.abs[n]!) +
      contrast(m.freq[n]!, t.freq[n]!) +
      Math.sqrt(square(m.std[n]!) + square(t.std[n]!)) +
      Math.sqrt(contrast(square(m.rms[n]!), square(t.rms[n]!)))
    )
  }
  const modules = new Set(choices[0]!.neurons.map(({ module }) => module))
  expect(modules.size).toBe(5)
  for (const { module, neuron, score } of choices[0]!.neurons) {
    const want = importance('forget', module, neuron) / (importance('retain', module, neuron) + eps)
    expect(Math.abs(score / want - 1)).toBeLessThan(1e-3)
  }
})

test('the accuracies and losses before and after are the golden ones', async () => {
  const lines = readFileSync(join(images, 'forget_multimodal.jsonl'), 'utf8').split('\n')
  const asked = join(folder, 'asked.jsonl')
  writeFileSync(asked, lines.filter((line) => line.includes('"split": "test"')).join('\n'))
  const forget = [...streams().forget, asked]
  const { before, choices } = await run({ forget, alpha: 5, evaluate: true, cache: kept })
  for (const [answers, name] of [
    [before!, 'vanilla'],
    [choices[0]!.answers!, 'code_stream/last3/alpha5'],
  ] as const) {
    for (const { set, kind, lines, correct, nll } of answers) {
      if (set !== 'forget') continue
      const want = golden.accuracy[name]![`${set}_${kind}`]!
      expect({ correct, n: lines }).toEqual({ correct: want.correct, n: want.n })
      expect(Math.abs(nll - want.nll)).toBeLessThan(2e-6)
    }
  }
})

test('coupled neurons go with rows and columns, and are dead once their gates are', async () => {
  const own = { mode: 'coupled', alpha: 10, layers: [1], cache: fresh('coupled') } as const
  const { choices } = await run(own)
  const [{ out, neurons }] = choices as [(typeof choices)[number]]
  const of = (part: string) =>
    neurons
      .filter(({ module }) => module.includes(part))
      .map(({ neuron }) => neuron)
      .sort((a, b) => a - b)
  expect(of('language_model')).toHaveLength(35)
  expect(of('vision_tower')).toHaveLength(25)
  const tower = 'vision_tower.vision_model.encoder.layers.1.mlp'
  const zeros = new Map([
    ['language_model.model.layers.1.mlp.gate_proj.weight', { rows: of('language_model') }],
    [`${tower}.fc1.weight`, { rows: of('vision_tower') }],
    [`${tower}.fc1.bias`, { rows: of('vision_tower') }],
  ])
  const pixels = Float32Array.from({ length: 3072 }, (_, i) => Math.sin(i))
  const logitsOf = async (path: string, options: object) => {
    const model = await openModel(engine, path, options)
    const { logits: got } = await model.run(model.pack([{ ids: [1, 4, 20, 30, 40], images: [pixels] }]), {
      logits: true,
    })
    await model.close()
    return [...got!]
  }
  const masked = await logitsOf(out!, {})
  expect(masked).toEqual(await logitsOf(full, { zeros }))
  const compact = await run({ ...own, compact: true })
  const { tensors } = (await openModel(engine, compact.choices[0]!.out!)).checkpoint
  expect(tensors.get('language_model.model.layers.1.mlp.down_proj.weight')!.shape).toEqual([128, 352 - 35])
  const narrow = await logitsOf(compact.choices[0]!.out!, {})
  for (const [i, value] of masked.entries()) expect(Math.abs(narrow[i]! - value)).toBeLessThan(1e-4)
})

describe('of a model of text alone', () => {
  const base = join(process.cwd(), 'demo/models/base')
  const lines = (name: string, ...prompts: string[]) => {
    const path = join(folder, `${name}.jsonl`)
    writeFileSync(path, prompts.map((prompt) => JSON.stringify({ prompt: `${prompt}=`, answer: '7' })).join('\n'))
    return path
  }
  const sums = () => lines('sums', '1+6', '2+5', '3+4')
  const words = () => lines('words', 's:graph', 'r:cat', 's:tree', 'r:dog')
  const small = (options: Partial<Omit<ManuOptions, 'dryRun'>>) =>
    manu(engine, base, { forget: [sums()], retain: [words()], out: fresh('text'), ...options })

  test('only its half is scored, compared with random neurons and small weights, and limited by what retain loses', async () => {
    const report = await small({ alpha: [1, 90], compare: true, maxRetainDrop: 0, utility: [sums()], layers: 'all' })
    expect(report.streams.map(({ set, kind, lines: count }) => [set, kind, count])).toEqual([
      ['forget', 'text', 3],
      ['retain', 'text', 3],
    ])
    expect(report.before!.map(({ set }) => set)).toEqual(['forget', 'retain', 'utility'])
    const [one, most] = report.choices as [ManuReport['choices'][number], ManuReport['choices'][number]]
    expect(one.towers.map(({ tower }) => tower)).toEqual(['language'])
    for (const { answers, random, magnitude } of report.choices) {
      expect(new Set([answers, random, magnitude].map((rows) => rows!.map(({ nll }) => nll).join())).size).toBe(3)
    }
    const loss = ({ answers }: typeof one) => answers!.reduce((sum, { nll }) => sum + nll, 0)
    expect(loss(most)).toBeGreaterThan(loss(one))
    // Nothing was right before, so nothing is lost.
    expect(report.allowedAlpha).toBe(90)
    expect([one.out, most.out].map((out) => out === undefined)).toEqual([true, false])
  })

  test('layers that are pooled choose the same neurons, and rounds add up', async () => {
    const pooled = chosen((await small({ poolLayers: true, evaluate: false, alpha: 3 })).choices[0]!)
    const gates = [5, 6, 7].map((layer) => pooled[`model.layers.${layer}.mlp.gate_proj`] ?? [])
    expect(gates[0]!.length).toBeGreaterThan(0)
    expect(gates[1]).toEqual(gates[0])
    expect(gates[2]).toEqual(gates[0])
    const twice = (await small({ iterations: 2, evaluate: false, alpha: 1 })).choices[0]!
    expect(twice.neurons).toHaveLength(2 * twice.towers[0]!.wanted)
    expect(new Set(twice.neurons.map(({ module, neuron }) => `${module} ${neuron}`)).size).toBe(twice.neurons.length)
  })

  test('bad input is named', async () => {
    const refused = (options: Partial<ManuOptions>, message: RegExp) =>
      expect(small(options)).rejects.toMatchObject({
        code: 'ERR_WEIGHTSMITH_ARGUMENT',
        message: expect.stringMatching(message),
      })
    await refused(
      { retain: [lines('shared', '9+9', '1+6')] },
      /1 lines are both .* Line 1 of .*sums.* is Line 2 of .*shared/,
    )
    await refused({ forget: [] }, /The text stream of the lines to forget is empty/)
    await refused(
      { alpha: 100, evaluate: false },
      /alpha of 100 takes all .* neurons of model\.layers\.5\.mlp\.gate_proj/,
    )
    await refused({ layers: [9] }, /No neurons .* in the layers 9/)
    await refused({ alpha: 101 }, /alpha should be 0 to 100 per cent/)
    await refused({ iterations: 2, alpha: [1, 2] }, /a sweep over alpha has one iteration/)
    await refused({ compact: true }, /only coupled neurons can be left out/)
    await refused({ maxRetainDrop: 1, evaluate: false }, /maxRetainDrop needs/)
    await refused({ forget: [join(images, 'forget_multimodal.jsonl')] }, /has an image, but .* LlamaForCausalLM/)
    let steps = 0
    const inside = small({ out: join(base, 'unlearned'), onProgress: () => steps++ })
    await expect(inside).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_OUTPUT_INSIDE_INPUT')
    expect(steps).toBe(0)
    const stopped = small({ signal: AbortSignal.abort() })
    await expect(stopped).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_ABORTED')
  })

  test('what was measured is kept, and read where it fits', async () => {
    const kept = fresh('kept')
    const first = await small({ cache: kept, alpha: 2, evaluate: false })
    const again = await small({ cache: kept, alpha: [2, 4], evaluate: false })
    expect(again.choices[0]!.neurons).toEqual(first.choices[0]!.neurons)
    await expect(small({ cache: kept, evaluate: false, tau: 0.2 })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_INPUT_CHANGED',
      message: expect.stringMatching(/of other lines, layers or options/),
    })
    const other = manu(engine, join(process.cwd(), 'demo/models/improved-1'), {
      ...{ forget: [sums()], retain: [words()], cache: kept, out: fresh('text'), evaluate: false },
    })
    await expect(other).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_INPUT_CHANGED')
  })

  test('is a verb of the command line, with a report', async () => {
    const page = join(folder, 'report.html')
    const options = [
      '--forget',
      sums(),
      '--retain',
      words(),
      '--sweep',
      '1',
      '5',
      '--layers',
      '6-7',
      '--weights',
      'freq=1',
    ]
    const { code, stdout } = await cli('manu', base, fresh('cli'), ...options, '--report', page)
    expect(code).toBe(0)
    expect(stdout).toMatch(/7\s+model\.layers\.7\.mlp\.down_proj\s+128/)
    expect(stdout).toMatch(/chosen, 5 %/)
    expect(stdout).toMatch(/Wrote .*alpha=5, without 5 %/)
    expect(readFileSync(page, 'utf8')).toMatch(/Where the chosen 5 % are/)
    const wrong = await cli('manu', base, ...options, '--weights', 'size=1')
    expect(wrong).toMatchObject({ code: 2, stderr: expect.stringMatching(/Expected weights to be such as abs=2/) })
  })

  test('a dry run says what it would take, and writes nothing', async () => {
    const out = fresh('dry')
    const { forecast } = await manu(engine, base, { forget: [sums()], retain: [words()], out, dryRun: true, alpha: 2 })
    expect(forecast).toMatchObject({ mode: 'code', partitions: 1 })
    expect(forecast).not.toHaveProperty('choices')
    expect(forecast.deviceBytes).toBeGreaterThan(1e6)
    expect(forecast.milliseconds).toBe(forecast.timings.measure + forecast.timings.evaluate)
    expect(forecast.timings.measure).toBeGreaterThan(0)
    expect(existsSync(out)).toBe(false)
  })
})
