/** Shapes of a model that is not cut: `amoeba eval`, `eval` and `generate` with a strategy, and adapters beside it. */
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { type AmoebaEvalOptions, type AmoebaEvalReport, amoebaEval, Engine, evaluate, generate } from 'weightsmith'
import { modelSpec } from '../lib/architectures/index.js'
import { openCheckpoint } from '../lib/checkpoint/index.js'
import { fingerprint } from '../lib/score/index.js'
import { readMixture, type Strategy, writeStrategy } from '../lib/subnets/index.js'
import { f32, fill, type Raw, readFolder, readSafetensors, values, writeSafetensors } from './checkpoint.js'
import { cli } from './child.js'
import { golden } from './goldens.js'
import { math } from './math.js'
import { scratch } from './scratch.js'
import { near } from './training.js'
import { lines } from './training-model.js'

interface Smol {
  model: string
  E: number
  rank: number
  alpha: number
  topk: number
  widths: string[]
  shapes: { depth: number; ratio: string; noise: boolean; loss: number; loss_output_mix: number }[]
  grad_batch: { prompt: string; answer: string }[]
}

const { fresh } = scratch('amoeba-shapes')
const json = <T>(name: string): T => JSON.parse(readFileSync(golden(`reasoner/training/${name}.json`), 'utf8')) as T
const settings = json<Smol>('smol')
const smol = readSafetensors(golden('reasoner/training/smol.safetensors'))
const masks = json<{ strategy: Record<string, number[]> }>('one-for-all').strategy
const depth = 8
const base = golden(`reasoner/${settings.model}`)
const numberOf = (ratio: string) =>
  ratio
    .split('/')
    .map(Number)
    .reduce((over, under) => over / under)
const ratios = settings.widths.map(numberOf)

let engine: Engine
let strategy: string
let data: string

/** The golden blocks, heads and neurons as the strategy of a model. */
async function strategyOf(folder: string): Promise<string> {
  const stage1 = readSafetensors(golden('reasoner/training/stage1.safetensors'))
  const checkpoint = await engine.use(({ addon }) => openCheckpoint(addon, folder))
  const spec = modelSpec(checkpoint.config, checkpoint.tensors, checkpoint.name)
  const rows = (name: string, ratio: string, layer: number) => {
    const every = values(stage1.get(`${name}/${ratio.replace('/', '_')}`)!)
    const width = every.length / depth
    return every.slice(layer * width, (layer + 1) * width)
  }
  const depths = Object.keys(masks)
    .map(Number)
    .sort((a, b) => b - a)
  const blocks = depths.map((own) => masks[own]!.map((stays) => stays === 1))
  const row = <T>(n: number, value: T) => Array.from({ length: math.min(n + 1, depths.length) }, () => value)
  const lines = { file: 'lines.jsonl', sha256: 'ab', examples: 64, tokens: 991 }
  const made: Strategy = {
    model: { name: checkpoint.name, fingerprint: await fingerprint(checkpoint) },
    layers: depth,
    depth: {
      ...{ order: 'deepest', metric: 'nll', keepLast: 1, masks: blocks, values: blocks.map(() => 0) },
      table: {
        values: Array.from({ length: depth }, (_, n) => row(n, Number.NaN)),
        masks: Array.from({ length: depth }, (_, n) => row(n, blocks[0]!)),
        tried: Array.from({ length: depth }, (_, n) => row(n, Number.NaN)),
      },
    },
    widths: settings.widths.map((ratio) => {
      const units = spec.language.layers.flatMap(({ units }, layer) =>
        units.map(({ kind }) => {
          const kept = rows(kind === 'group' ? 'groups' : 'neurons', ratio, layer)
          return { layer, kind, kept: Array.from(kept, (stays) => stays === 1) }
        }),
      )
      const biases = units.flatMap(({ layer, kind, kept }): [string, Float32Array<ArrayBuffer>][] => {
        if (!kept.includes(false)) return []
        const [name, bias] = kind === 'group' ? ['self_attn.o_proj', 'bias_o'] : ['mlp.down_proj', 'bias_down']
        return [[`model.layers.${layer}.${name}.weight`, Float32Array.from(rows(bias, ratio, layer))]]
      })
      return { ratio: numberOf(ratio), units, biases: new Map(biases) }
    }),
    origin: { weightsmith: '0', device: 'none', data: lines, calibration: lines, seed: 0 },
  }
  const path = fresh('s.strategy')
  await writeStrategy(path, made, spec)
  return path
}

const gateNames: Record<string, string> = { l1: 'topkroute_linear.0', l2: 'topkroute_linear.1', noise: 'noise_linear' }

/** The tensors of the golden mixture, with the names of AmoebaLLM's code. */
function mixtureTensors(): Record<string, Raw> {
  const tensors: Record<string, Raw> = {}
  for (const [key, raw] of smol) {
    const [, gate, kind] = /^init\/gate\.(\w+)\.(\w+)$/.exec(key) ?? []
    const [, module, side] = /^init\/(.+)\.([AB])$/.exec(key) ?? []
    if (gate) tensors[`base_model.lora_sparsemoe.router.${gateNames[gate]}.${kind}`] = raw
    if (module === undefined) continue
    const { dtype, shape, bytes } = raw
    const size = bytes.length / settings.E
    for (let e = 0; e < settings.E; e++) {
      const part = { dtype, shape: shape.slice(1), bytes: bytes.subarray(e * size, (e + 1) * size) }
      tensors[`base_model.model.${module}.lora_${side}.${e}.weight`] = part
    }
  }
  return tensors
}

const mixtureConfig = {
  ...{ peft_type: 'LORA', r: settings.rank, lora_alpha: settings.alpha, use_moe_lora: true, num_experts: settings.E },
  ...{ top_k: settings.topk, width_choice: `[${settings.widths.join(', ')}]`, bias: 'none' },
}

function adapter(tensors: Record<string, Raw>, config: object): string {
  const folder = fresh('adapter')
  mkdirSync(folder)
  writeSafetensors(join(folder, 'adapter_model.safetensors'), tensors)
  writeFileSync(join(folder, 'adapter_config.json'), JSON.stringify(config))
  return folder
}

const mixture = (config: object = {}, change: (tensors: Record<string, Raw>) => void = () => undefined) => {
  const tensors = mixtureTensors()
  change(tensors)
  return adapter(tensors, { ...mixtureConfig, ...config })
}

const measure = (options: Partial<Omit<AmoebaEvalOptions, 'dryRun'>> = {}): Promise<AmoebaEvalReport> =>
  amoebaEval(engine, base, { strategy, data, metric: 'nll', ...options })

/** Results by shape. */
const figures = ({ shapes }: AmoebaEvalReport) =>
  shapes.map(({ depth, width, accuracy, loss }) => [depth, width, accuracy, loss])

beforeAll(async () => {
  engine = await Engine.open()
  strategy = await strategyOf(base)
  data = lines(fresh('lines.jsonl'), settings.grad_batch)
})
afterAll(() => engine?.close())

describe('the shapes of a model', () => {
  test('have the accuracy and loss that evaluate finds for each', async () => {
    const report = await measure({ metric: 'exact-match', depths: [7, 8], widths: [5 / 8, 1], bias: false })
    expect(report.shapes.map(({ depth, width }) => [depth, width])).toEqual([
      [8, 1],
      [8, 5 / 8],
      [7, 1],
      [7, 5 / 8],
    ])
    for (const { depth, width, accuracy, loss } of report.shapes) {
      const shape = depth === 8 && width === 1 ? undefined : { strategy, depth, width, bias: false }
      const exact = await evaluate(engine, base, { data, metric: 'exact-match', shape })
      const nll = await evaluate(engine, base, { data, shape })
      expect(accuracy).toBe(exact.sets[0]!.value)
      near(loss, nll.sets[0]!.answers!, 1e-12, `loss of ${depth} and ${width}`)
    }
    const [whole, , , smallest] = report.shapes
    expect(smallest!.loss).toBeGreaterThan(2 * whole!.loss)
    const biased = await measure({ depths: [8], widths: [5 / 8, 1] })
    expect(biased.shapes[0]!.loss).toBe(whole!.loss)
    expect(biased.shapes[1]!.loss).not.toBe(report.shapes[1]!.loss)
  })

  test('are foretold, with the parameters that their blocks, heads and neurons have', async () => {
    const { forecast } = await amoebaEval(engine, base, { strategy, data, dryRun: true })
    expect(forecast).toMatchObject({ metric: 'exact-match', bias: true, examples: settings.grad_batch.length })
    expect(forecast.shapes).toHaveLength(20)
    expect(forecast.milliseconds).toBeGreaterThan(0)
    const tensors = readFolder(base)
    const stage1 = readSafetensors(golden('reasoner/training/stage1.safetensors'))
    for (const { depth: own, width, parameters, bytes } of forecast.shapes) {
      const key = settings.widths[ratios.indexOf(width)]!.replace('/', '_')
      const [groups, neurons] = [values(stage1.get(`groups/${key}`)!), values(stage1.get(`neurons/${key}`)!)]
      const countOf = (all: Float64Array, layer: number) => {
        const each = all.length / depth
        return all.slice(layer * each, (layer + 1) * each).reduce((sum, kept) => sum + kept, 0)
      }
      let want = 0
      for (const [name, { shape }] of tensors) {
        const layer = Number(/layers\.(\d+)/.exec(name)?.[1] ?? -1)
        if (layer >= 0 && masks[own]![layer] === 0) continue
        const elements = shape.reduce((a, b) => a * b, 1)
        const [heads, inner] = [countOf(groups, layer) / (groups.length / depth), countOf(neurons, layer) / 352]
        want += elements * (/[qkvo]_proj/.test(name) ? heads : /(gate|up|down)_proj/.test(name) ? inner : 1)
      }
      expect([own, width, parameters, bytes]).toEqual([own, width, want, 2 * want])
    }
  })

  test('are the same where the model is larger than the memory', async () => {
    const options = {
      metric: 'exact-match',
      depths: [6],
      widths: [3 / 4],
      adapter: mixture(),
      strategy,
      data,
    } as const
    const whole = await measure(options)
    const small = await Engine.open({ memory: '3MiB' })
    const parts = await amoebaEval(small, base, options)
    await small.close()
    expect(parts.partitions).toBeGreaterThan(1)
    for (const [i, [, , accuracy, loss]] of figures(parts).entries()) {
      expect(accuracy).toBe(whole.shapes[i]!.accuracy)
      near(loss!, whole.shapes[i]!.loss, 1e-6, `loss of ${i}`)
    }
  })

  test.each<[string, Partial<AmoebaEvalOptions>, string, string]>([
    ['a depth that there is not', { depths: [3] }, 'ERR_WEIGHTSMITH_ARGUMENT', '4 to 8'],
    ['a width that there is not', { widths: [0.9] }, 'ERR_WEIGHTSMITH_ARGUMENT', 'the nearest is 0.875'],
    ['no shape', { depths: [] }, 'ERR_WEIGHTSMITH_ARGUMENT', 'at least one depth'],
    ['another metric', { metric: 'ppl' as 'nll' }, 'ERR_WEIGHTSMITH_ARGUMENT', 'metric'],
    ['resuming without a file', { resume: true }, 'ERR_WEIGHTSMITH_ARGUMENT', 'out'],
    ['an adapter that is not there', { adapter: 'nowhere' }, 'ERR_WEIGHTSMITH_NOT_FOUND', 'nowhere'],
  ])('are not measured with %s', async (_, options, code, words) => {
    const failed = measure(options as Parameters<typeof measure>[0])
    await expect(failed).rejects.toMatchObject({ code, message: expect.stringContaining(words) as unknown })
  })

  test('are measured on where a run was aborted', async () => {
    const out = fresh('shapes.jsonl')
    const options = { depths: [8, 7, 6], widths: [1] }
    const whole = await measure(options)
    const stop = new AbortController()
    const seen: (string | undefined)[] = []
    const onProgress: AmoebaEvalOptions['onProgress'] = ({ done, total, item }) => {
      seen.push(item)
      if (done > total / 3) stop.abort()
    }
    const failed = measure({ ...options, out, signal: stop.signal, onProgress })
    await expect(failed).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_ABORTED', partial: `${out}.resume` })
    expect(existsSync(out)).toBe(false)
    await expect(measure({ ...options, out, resume: true, bias: false })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_RESUME',
    })
    seen.length = 0
    const report = await measure({ ...options, out, resume: true, onProgress: ({ item }) => void seen.push(item) })
    expect(seen).not.toContain('8 blocks, width 1')
    expect(seen).toContain('6 blocks, width 1')
    expect(figures(report)).toEqual(figures(whole))
    const written = readFileSync(out, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as unknown)
    expect(written).toEqual(report.shapes)
    expect(existsSync(`${out}.resume`)).toBe(false)
  })
})

describe('a mixture of experts beside a model', () => {
  test.each([
    ['factor', undefined],
    ['output', 'output'],
  ] as const)('has the losses of PyTorch for every shape, mixed by %s', async (mix, moe_mix) => {
    const report = await measure({ adapter: mixture({ moe_mix }), depths: [8, 6, 5], widths: [1, 3 / 4, 5 / 8] })
    for (const { depth, ratio, noise, loss, loss_output_mix } of settings.shapes) {
      if (noise) continue
      const own = report.shapes.find((shape) => shape.depth === depth && shape.width === numberOf(ratio))
      near(own!.loss, mix === 'output' ? loss_output_mix : loss, 1e-5, `${depth} blocks, width ${ratio}`)
    }
  })

  test('says with a cache what it says without, in eval and generate', async () => {
    const path = mixture()
    const shape = { strategy, depth: 6, width: 3 / 4 }
    const { continuations } = await generate(
      engine,
      `${base}+${path}`,
      settings.grad_batch.map(({ prompt }) => prompt),
      { shape, maxTokens: 12 },
    )
    const exact = settings.grad_batch.filter(({ answer }, i) => continuations[i]!.text === answer).length
    const found = await evaluate(engine, `${base}+${path}`, { data, shape, metric: 'exact-match' })
    const report = await measure({ adapter: path, depths: [6], widths: [3 / 4], metric: 'exact-match' })
    expect(found.sets[0]!.value).toBe(exact / settings.grad_batch.length)
    expect(report.shapes[0]!.accuracy).toBe(found.sets[0]!.value)
    const teacherForced = await evaluate(engine, `${base}+${path}`, { data, shape })
    near(teacherForced.sets[0]!.answers!, report.shapes[0]!.loss, 1e-12, 'loss')
  })

  test('has no gates without a shape, and none for a width that its router does not know', async () => {
    const path = mixture()
    await expect(evaluate(engine, `${base}+${path}`, { data })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_FORMAT',
      message: expect.stringContaining('gates depend on the shape') as unknown,
    })
    const other = mixture({ width_choice: '[1,0.9,0.8,0.7]' })
    await expect(measure({ adapter: other, widths: [3 / 4] })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_ARGUMENT',
      message: expect.stringContaining('1, 0.9, 0.8, 0.7') as unknown,
    })
  })

  const q = 'base_model.model.model.layers.2.self_attn.q_proj.lora_'
  const gate = 'base_model.lora_sparsemoe.router.'
  const without = (name: string) => (tensors: Record<string, Raw>) => void delete tensors[name]
  const put = (name: string, raw: Raw) => (tensors: Record<string, Raw>) => {
    tensors[name] = raw
  }
  test.each<[string, object, (tensors: Record<string, Raw>) => void, string, string]>([
    ['lacks an expert', {}, without(`${q}B.3.weight`), 'FORMAT', 'lora_B of expert 3'],
    ['has an expert too many', {}, put(`${q}A.5.weight`, f32(new Float32Array(512), [4, 128])), 'FORMAT', 'A.5'],
    ['has another rank', {}, put(`${q}A.1.weight`, f32(new Float32Array(256), [2, 128])), 'FORMAT', '[2, 128]'],
    ['is of another model', {}, put(`${q}A.1.weight`, f32(new Float32Array(256), [4, 64])), 'SHAPE_MISMATCH', 'q_proj'],
    [
      'has what is no number',
      {},
      put(`${q}A.1.weight`, f32(Array(512).fill(Number.NaN), [4, 128])),
      'NON_FINITE',
      'A.1',
    ],
    [
      'has integers',
      {},
      put(`${q}A.1.weight`, { dtype: 'I32', shape: [4, 128], bytes: Buffer.alloc(2048) }),
      'DTYPE',
      'I32',
    ],
    ['lacks a part of its router', {}, without(`${gate}topkroute_linear.1.bias`), 'FORMAT', 'topkroute_linear.1.bias'],
    ['has a router of another form', {}, put(`${gate}topkroute_linear.1.bias`, f32([1, 2])), 'FORMAT', '[2]'],
    ['has a router with more', {}, put(`${gate}extra.weight`, f32([1])), 'FORMAT', 'extra'],
    ['has other tensors', {}, put('lm_head.weight', f32([1])), 'FORMAT', 'lm_head.weight'],
    ['has no widths', { width_choice: undefined }, () => undefined, 'FORMAT', 'width_choice'],
    ['has strange widths', { width_choice: '[1, __import__("os")]' }, () => undefined, 'FORMAT', 'width_choice'],
    ['has fewer widths than its router', { width_choice: '[1, 7/8]' }, () => undefined, 'SHAPE_MISMATCH', 'router'],
    ['chooses more experts than it has', { top_k: 6 }, () => undefined, 'FORMAT', 'top_k is 6'],
    ['has no experts', { num_experts: 0 }, () => undefined, 'FORMAT', 'num_experts is 0'],
    ['is mixed in another way', { moe_mix: 'sum' }, () => undefined, 'FORMAT', 'moe_mix is "sum"'],
    ['is a DoRA', { use_dora: true }, () => undefined, 'FORMAT', 'use_dora'],
    ['says what is not known', { moe_lora_v2: true }, () => undefined, 'FORMAT', 'moe_lora_v2'],
  ])('is refused where it %s', async (_, config, change, code, words) => {
    const failed = measure({ adapter: mixture(config, change), depths: [8], widths: [1] })
    await expect(failed).rejects.toMatchObject({
      code: `ERR_WEIGHTSMITH_${code}`,
      message: expect.stringContaining(words) as unknown,
    })
  })

  test('is no mixture without use_moe_lora', async () => {
    const path = mixture({ use_moe_lora: false })
    const failed = engine.use((host) => readMixture(host, path))
    await expect(failed).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_FORMAT' })
    // Then its tensors are those of no adapter.
    await expect(measure({ adapter: path })).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_FORMAT' })
  })
})

test('a LoRA adapter beside a model is what it is when it is folded', async () => {
  const model = fresh('base-f32')
  cpSync(golden('reasoner/base-f32'), model, { recursive: true })
  for (const name of ['tokenizer.json', 'tokenizer_config.json']) cpSync(join(base, name), join(model, name))
  const own = await strategyOf(model)
  const tensors: Record<string, Raw> = {}
  for (const [name, { shape }] of readFolder(model)) {
    if (!/_proj\.weight$/.test(name)) continue
    const module = `base_model.model.${name.replace(/\.weight$/, '')}`
    const [rows = 0, columns = 0] = shape
    tensors[`${module}.lora_A.weight`] = f32(fill(`${name} A`, [3, columns]), [3, columns])
    tensors[`${module}.lora_B.weight`] = f32(fill(`${name} B`, [rows, 3]), [rows, 3])
  }
  const path = adapter(tensors, { peft_type: 'LORA', r: 3, lora_alpha: 1.5, bias: 'none' })
  const options = { data, metric: 'nll', depths: [8, 5], widths: [5 / 8] } as const
  const beside = await amoebaEval(engine, model, { ...options, strategy: own, adapter: path })
  const without = await amoebaEval(engine, model, { ...options, strategy: own })
  for (const [i, { depth, width, loss }] of beside.shapes.entries()) {
    const shape = { strategy: own, depth, width }
    const folded = await evaluate(engine, `${model}+${path}`, { data, shape })
    near(loss, folded.sets[0]!.answers!, 1e-5, `${depth} blocks, width ${width}`)
    expect(math.abs(loss / without.shapes[i]!.loss - 1)).toBeGreaterThan(1e-2)
  }
})

test('the command measures shapes, draws them, and runs others', async () => {
  const report = fresh('report.html')
  const shapes = ['--strategy', strategy, '--data', data, '--depths', '6-7', '--widths', '1', '7/8']
  const done = await cli('amoeba', 'eval', base, ...shapes, '--adapter', mixture(), '--report', report, '--json')
  expect(done).toMatchObject({ code: 0 })
  const found = JSON.parse(done.stdout) as AmoebaEvalReport
  expect(found.shapes.map(({ depth, width }) => [depth, width])).toEqual([
    [7, 1],
    [7, 0.875],
    [6, 1],
    [6, 0.875],
  ])
  const page = readFileSync(report, 'utf8')
  for (const words of ['Accuracy by size', '6 blocks', 'million parameters', 'width 0.875'])
    expect(page).toContain(words)
  const one = ['generate', base, settings.grad_batch[1]!.prompt, '--strategy', strategy, '--width', '7/8', '--no-bias']
  expect(await cli(...one, '--depth', '7')).toMatchObject({ code: 0 })
  expect(await cli('eval', base, '--data', data, '--depth', '7')).toMatchObject({
    code: 2,
    stderr: expect.stringContaining('--strategy') as unknown,
  })
})
