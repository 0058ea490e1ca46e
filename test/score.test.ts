/**
 * Scores equal numbers computed in float64 outside this project; their files say what they are of, and bad input is
 * named.
 */
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, openScores, type ProgressEvent, type Scores, score, scoreMethods } from 'weightsmith'
import { readSafetensors, values } from './checkpoint.js'
import { cli } from './child.js'

const goldens = join(process.cwd(), 'test/goldens')
const data = join(goldens, 'tasks/calibration.jsonl')
const base = join(process.cwd(), 'demo/models/base')
const golden = JSON.parse(readFileSync(join(goldens, 'importance-base.json'), 'utf8')) as {
  tokens: number
  nll: { all: number; answer: number }
  ablation_nll: { all: number; answer: number }[]
  ablation_importance: { all: number[]; answer: number[] }
  block_influence: number[]
  angular_distance_last_token: Record<string, number[]>
  wanda: Record<string, { score_sum: number; score_l2: number }>
}
const tensors = readSafetensors(join(goldens, 'importance-base.safetensors'))
const layers = [0, 1, 2, 3, 4, 5, 6, 7]
const names = {
  q: 'self_attn.q_proj',
  o: 'self_attn.o_proj',
  gate: 'mlp.gate_proj',
  up: 'mlp.up_proj',
  down: 'mlp.down_proj',
}
const weight = (layer: number, name: keyof typeof names) => `model.layers.${layer}.${names[name]}.weight`

let engine: Engine
let folder: string
let scores: Scores
const everything = [...scoreMethods.keys()]
/** All but what runs the model once more for every layer. */
const once = everything.filter((name) => name !== 'ablation')
beforeAll(async () => {
  engine = await Engine.open()
  folder = mkdtempSync(join(tmpdir(), 'weightsmith-score-'))
  const out = join(folder, 'scores.safetensors')
  const report = await score(engine, base, { methods: once, data, out })
  expect(report).toMatchObject({ examples: 64, tokens: golden.tokens, partitions: 1, layers })
  scores = await openScores(engine, out, base)
})
afterAll(async () => {
  await engine?.close()
  rmSync(folder, { recursive: true, force: true })
})

/** Within 1e-4 of the golden numbers, or of a scale where they are means that may be close to zero. */
function near(got: ArrayLike<number>, want: ArrayLike<number>, scale?: ArrayLike<number>): void {
  expect(got.length).toBe(want.length)
  for (let i = 0; i < want.length; i++) {
    if (!(Math.abs(got[i]! - want[i]!) <= 1e-4 * Math.abs((scale ?? want)[i]!))) {
      expect({ i, got: got[i], want: want[i] }).toBe('within 1e-4')
    }
  }
}

const goldenTensor = (name: string) => values(tensors.get(name)!)

describe('scores', () => {
  test('of Wanda are the golden norms, and sums of weights give the golden totals', async () => {
    for (const layer of layers) {
      for (const [name, input] of [
        ['q', 'attn_in'],
        ['o', 'o_proj'],
        ['gate', 'mlp_in'],
        ['up', 'mlp_in'],
        ['down', 'down_proj'],
      ] as const) {
        const norm = await scores.read(`norm/${weight(layer, name)}`)
        near(norm, goldenTensor(`wanda_norm/${layer}/${input}`))
        const { score_sum: sum, score_l2: length } = golden.wanda[weight(layer, name)]!
        const absolute = await scores.read(`absolute/${weight(layer, name)}`)
        const squares = await scores.read(`squares/${weight(layer, name)}`)
        near([norm.reduce((total, x, j) => total + x * absolute[j]!, 0)], [sum])
        near([Math.sqrt(norm.reduce((total, x, j) => total + x ** 2 * squares[j]!, 0))], [length])
      }
    }
  })

  test('of neurons are the golden statistics', async () => {
    for (const layer of layers) {
      for (const [side, name, key] of [
        ['output', 'gate', 'gate'],
        ['output', 'up', 'up'],
        ['input', 'down', 'down_proj'],
      ] as const) {
        const own = (statistic: string) => scores.read(`${statistic}/${side}/${weight(layer, name)}`)
        const want = (statistic: string) => goldenTensor(`neuron_${statistic}/${layer}/${key}`)
        near(await own('rms'), want('rms'))
        near(await own('mean'), want('mean'), want('rms'))
        near(await own('deviation'), want('std_ddof1'))
        near(await own('mean_absolute'), want('meanabs'))
        // A value that is tau up to rounding may count or not.
        const [frequency, expected] = [await own('frequency'), want('freq_abs_gt_0.1')]
        for (const [i, share] of expected.entries()) {
          expect(Math.abs(frequency[i]! - share) * golden.tokens).toBeLessThan(1.01)
        }
      }
    }
  })

  test('of FLAP are the golden means and fluctuations', async () => {
    for (const layer of layers) {
      for (const [name, key] of [
        ['o', 'o_proj'],
        ['down', 'down_proj'],
      ] as const) {
        const fluctuation = await scores.read(`fluctuation/${weight(layer, name)}`)
        near(fluctuation, goldenTensor(`flap_fluc/${layer}/${key}`))
        const scale = goldenTensor(`variance_ddof1/${layer}/${key}`).map(Math.sqrt)
        near(await scores.read(`mean/${weight(layer, name)}`), goldenTensor(`flap_mean/${layer}/${key}`), scale)
        const squares = await scores.read(`squares/${weight(layer, name)}`)
        near(
          fluctuation.map((value, j) => value * squares[j]!),
          goldenTensor(`flap_wifv/${layer}/${key}`),
        )
      }
    }
  })

  test('of blocks are the golden ones: influence and angles', async () => {
    near(await scores.read('block_influence'), golden.block_influence)
    for (const [n, distances] of Object.entries(golden.angular_distance_last_token)) {
      near(await scores.read(`angular/${n}`), distances)
    }
  })

  test('of blocks by their loss are the golden ones', async () => {
    const out = join(folder, 'ablation.safetensors')
    await score(engine, base, { methods: ['ablation'], data, layers: [2], out })
    const own = await openScores(engine, out)
    near(await own.read('nll'), [golden.nll.all, golden.nll.answer])
    for (const kind of ['all', 'answer'] as const) {
      near([(await own.read(`ablation/${kind}`))[2]!], [golden.ablation_nll[2]![kind]])
      near([(await own.read(`importance/${kind}`))[2]!], [golden.ablation_importance[kind][2]!])
    }
  })

  test('of Gram matrices have the golden norms on their diagonal, and are symmetric', async () => {
    const [gram, norm] = [await scores.read(`gram/${weight(5, 'down')}`), goldenTensor('wanda_norm/5/down_proj')]
    near(
      norm.map((_, j) => gram[j * 353]!),
      norm.map((value) => value ** 2),
    )
    expect(gram.findIndex((value, i) => value !== gram[(i % 352) * 352 + Math.floor(i / 352)])).toBe(-1)
    expect(scores.tensors.get(`gram/${weight(5, 'up')}`)).toBeUndefined()
  })
})

describe('a score file', () => {
  test('says what it is of', () => {
    expect(scores.info).toMatchObject({
      format: 1,
      methods: once,
      data: { file: data, examples: 64, tokens: golden.tokens },
      parameters: { layers, tau: 0.1, seed: 0 },
    })
  })

  test('has the same bytes where the model goes through the device in parts', async () => {
    const options = { methods: everything, data, batchTokens: 64, limit: 9 }
    const [whole, parted] = [join(folder, 'whole.safetensors'), join(folder, 'parted.safetensors')]
    await score(engine, base, { ...options, out: whole })
    await using small = await Engine.open({ memory: '2MiB' })
    const report = await score(small, base, { ...options, out: parted })
    expect(report.partitions).toBeGreaterThan(2)
    expect(readFileSync(parted).equals(readFileSync(whole))).toBe(true)
  })

  test('of some layers and lines has those alone', async () => {
    const out = join(folder, 'some.safetensors')
    const options = { methods: ['wanda', 'ablation'], data, layers: [5, 2], limit: 9, seed: 3 }
    const report = await score(engine, base, { ...options, out })
    expect(report).toMatchObject({ examples: 9, layers: [2, 5] })
    const some = await openScores(engine, out)
    const found = new Set([...some.tensors.keys()].flatMap((name) => /layers\.(\d+)/.exec(name)?.[1] ?? []))
    expect([...found]).toEqual(['2', '5'])
    const importance = await some.read('importance/all')
    expect(layers.filter((layer) => Number.isFinite(importance[layer]))).toEqual([2, 5])
    const again = join(folder, 'again.safetensors')
    await score(engine, base, { ...options, out: again, seed: 4 })
    expect(readFileSync(again).equals(readFileSync(out))).toBe(false)
  })

  test('of texts is that of prompts that say the same, and a text longer than the context is several lines', async () => {
    const file = join(folder, 'texts.jsonl')
    const text = '49+45=94'
    writeFileSync(file, [{ text }, { text: '1+1='.repeat(100) }].map((line) => JSON.stringify(line)).join('\n'))
    const out = join(folder, 'texts.safetensors')
    const report = await score(engine, base, { methods: ['wanda', 'angular'], data: file, out })
    // 9 ids, and 401 in a context of 256.
    expect(report).toMatchObject({ examples: 3, tokens: 410 })
    const alone = await score(engine, base, { methods: ['bi'], data: file, limit: 3, dryRun: true })
    expect(alone.forecast.examples).toBe(3)
  })

  test('of another model is refused', async () => {
    await expect(openScores(engine, scores.path, join(process.cwd(), 'demo/models/improved-1'))).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_INPUT_CHANGED',
      message: expect.stringMatching(/base.*improved-1/),
    })
    const plain = join(base, 'model.safetensors')
    await expect(openScores(engine, plain)).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_FORMAT')
    await expect(scores.read('norm/none')).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_MISSING_TENSOR')
  })
})

describe('score', () => {
  test('says what a run would take, and writes nothing', async () => {
    const out = join(folder, 'dry.safetensors')
    const { forecast } = await score(engine, base, { methods: ['wanda', 'ablation'], data, out, dryRun: true })
    expect(forecast).toMatchObject({ partitions: 1, examples: 64, tokens: golden.tokens })
    expect(forecast.milliseconds).toBeGreaterThan(0)
    expect(forecast.deviceBytes).toBeGreaterThan(3e6)
    expect(existsSync(out)).toBe(false)
  })

  test('leaves nothing behind when it is aborted, and replaces no file unasked', async () => {
    const out = join(folder, 'stopped.safetensors')
    const stop = new AbortController()
    const onProgress = ({ done }: ProgressEvent) => done > 8 && stop.abort()
    const options = { methods: ['ablation'], data, out, batchTokens: 128 }
    await expect(score(engine, base, { ...options, onProgress, signal: stop.signal })).rejects.toMatchObject({
      name: 'AbortError',
    })
    expect(existsSync(out) || existsSync(`${out}.partial`)).toBe(false)
    const before = readFileSync(scores.path)
    const refused = score(engine, base, { methods: ['magnitude'], out: scores.path })
    await expect(refused).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_OUTPUT_EXISTS')
    expect(readFileSync(scores.path).equals(before)).toBe(true)
  })

  test('goes on where it was interrupted, with the same bytes, whole or in partitions', async () => {
    const methods = ['wanda', 'flap', 'neuron', 'bi', 'angular']
    const options = { methods, data, batchTokens: 64, limit: 9, layers: [0, 6] }
    const whole = join(folder, 'uninterrupted.safetensors')
    await score(engine, base, { ...options, out: whole })
    await using small = await Engine.open({ memory: '2MiB' })
    for (const [own, name, after] of [
      [engine, 'at-once', 5],
      [small, 'in-partitions', 12],
    ] as const) {
      const out = join(folder, `${name}.safetensors`)
      const stop = new AbortController()
      const onProgress = ({ done }: ProgressEvent) => done > after && stop.abort()
      const stopped = score(own, base, {
        ...options,
        out,
        onProgress,
        signal: stop.signal,
      })
      await expect(stopped).rejects.toMatchObject({ name: 'AbortError', partial: `${out}.resume` })
      expect(existsSync(out)).toBe(false)
      const other = score(own, base, { ...options, methods: ['wanda'], out, resume: true })
      await expect(other).rejects.toMatchObject({
        code: 'ERR_WEIGHTSMITH_RESUME',
        message: expect.stringMatching(/another set of methods \(.*angular.* then, .*now\)/),
      })
      await expect(score(own, base, { ...options, out })).rejects.toMatchObject({
        code: 'ERR_WEIGHTSMITH_OUTPUT_EXISTS',
        message: expect.stringMatching(/unfinished output .*--resume/),
      })
      const standing = readFileSync(`${out}.resume`)
      for (const torn of [standing.subarray(0, -1), standing.subarray(1), Buffer.concat([standing, Buffer.alloc(8)])]) {
        writeFileSync(`${out}.resume`, torn)
        const refused = score(own, base, { ...options, out, resume: true })
        await expect(refused).rejects.toMatchObject({
          code: 'ERR_WEIGHTSMITH_RESUME',
          message: expect.stringMatching(/torn/),
        })
      }
      writeFileSync(`${out}.resume`, standing)
      const steps: number[] = []
      const again = { ...options, out, resume: true }
      await score(own, base, { ...again, onProgress: ({ done, total }) => steps.push(done / total) })
      expect(steps[0]).toBeGreaterThan(0.1)
      expect(steps.at(-1)).toBe(1)
      expect(readdirSync(folder).filter((file) => file.startsWith(name))).toEqual([`${name}.safetensors`])
      const [got, want] = [readSafetensors(out), readSafetensors(whole)]
      for (const [tensor, { bytes }] of got)
        expect([tensor, bytes.equals(want.get(tensor)!.bytes)]).toEqual([tensor, true])
    }
  })

  test('names what it cannot use', async () => {
    const file = join(folder, 'data.jsonl')
    const refused = async (lines: string[], message: RegExp, options: object = {}) => {
      writeFileSync(file, lines.join('\n'))
      const out = join(folder, 'refused.safetensors')
      await expect(score(engine, base, { methods: ['bi'], data: file, out, ...options })).rejects.toMatchObject({
        code: 'ERR_WEIGHTSMITH_ARGUMENT',
        message: expect.stringMatching(message),
      })
    }
    const good = '{"prompt":"1+1=","answer":"2"}'
    await refused([], /has no examples/)
    await refused([good, '{'], /Line 2 of .*data\.jsonl is not JSON/)
    await refused([good, '', `{"prompt":"${'1'.repeat(300)}","answer":""}`], /Line 3 of .* 302 tokens.*256/)
    await refused([good], /"entropy" was found/, { methods: ['entropy'] })
    await refused([good], /Layer 8 .* 0 to 7/, { layers: [8] })
    await refused([good], /bi needs data/, { data: undefined })
    await refused([good], /^Expected limit to be a whole number from 1, but received "0"/, { limit: 0 })
    await refused([good], /^Expected tau to be a number from 0/, { tau: Number.NaN })
    // A tokenizer that knows more tokens than the model.
    const model = join(folder, 'model')
    cpSync(base, model, { recursive: true })
    const tokenizer = JSON.parse(readFileSync(join(base, 'tokenizer.json'), 'utf8')) as {
      model: { vocab: Record<string, number> }
    }
    tokenizer.model.vocab['7'] = 70
    writeFileSync(join(model, 'tokenizer.json'), JSON.stringify(tokenizer))
    writeFileSync(file, [good, '{"prompt":"7+1=","answer":"8"}'].join('\n'))
    const other = score(engine, model, { methods: ['bi'], data: file, out: join(folder, 'other.safetensors') })
    await expect(other).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_ARGUMENT',
      message: expect.stringMatching(/Line 2 .* id 70, but .* 0 to 63/),
    })
  })

  test('is a verb of the command line', async () => {
    const out = join(folder, 'cli.safetensors')
    const { code, stdout } = await cli(
      'score',
      base,
      '--methods',
      'wanda',
      'bi',
      '--data',
      data,
      '--layers',
      '0-2',
      '7',
      '--out',
      out,
      '--json',
    )
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toMatchObject({ methods: ['wanda', 'bi'], layers: [0, 1, 2, 7], examples: 64, out })
    copyFileSync(out, join(folder, 'copy.safetensors'))
    expect((await openScores(engine, join(folder, 'copy.safetensors'), base)).info.methods).toEqual(['wanda', 'bi'])
  })
})
