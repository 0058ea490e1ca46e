/** Evaluation equals golden figures, generation what a pass over the whole sequence would choose; bad data is named. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, evaluate, generate, openModel } from 'weightsmith'
import { cli } from './child.js'

const goldens = join(process.cwd(), 'test/goldens')
const calibration = join(goldens, 'tasks/calibration.jsonl')
const base = join(process.cwd(), 'demo/models/base')
const golden = JSON.parse(readFileSync(join(goldens, 'forward.json'), 'utf8')) as {
  prompts: { ids: number[]; greedy: string | null }[]
  calibration: { tokens_predicted: number; nll: Record<string, { all: number; answer: number }> }
}

let engine: Engine
const folder = mkdtempSync(join(tmpdir(), 'weightsmith-eval-'))
beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(async () => {
  await engine?.close()
  rmSync(folder, { recursive: true, force: true })
})

function dataset(...lines: unknown[]): string {
  const file = join(folder, 'data.jsonl')
  writeFileSync(file, lines.map((line) => (typeof line === 'string' ? line : JSON.stringify(line))).join('\n'))
  return file
}

describe('evaluate', () => {
  test('gives the golden loss over all tokens, and over answers alone', async () => {
    const report = await evaluate(engine, base, { data: calibration })
    const want = golden.calibration.nll.base!
    expect(report).toMatchObject({ metric: 'nll', examples: 64, tokens: golden.calibration.tokens_predicted })
    expect(Math.abs(report.value / want.all - 1)).toBeLessThan(1e-5)
    expect(Math.abs(report.answers! / want.answer - 1)).toBeLessThan(1e-5)
    const { value } = await evaluate(engine, base, { data: calibration, metric: 'ppl' })
    expect(value).toBe(Math.exp(report.value))
  })

  test('counts exact answers, and an answer that does not end in time as wrong', async () => {
    const data = dataset(
      { prompt: 's:graph=', answer: 'aghpr' },
      { prompt: 's:graph=', answer: 'aghrp' },
      { prompt: 's:graph=', answer: 'aghp' },
      '',
    )
    const report = await evaluate(engine, base, { data, metric: 'exact-match' })
    expect(report).toMatchObject({ metric: 'exact-match', examples: 3, value: 1 / 3 })
    expect(report).not.toHaveProperty('answers')
    const short = await evaluate(engine, base, { data, metric: 'exact-match', maxTokens: 5 })
    expect(short.value).toBe(0)
  })

  test('names file and line of data that it cannot use', async () => {
    const refused = (data: string, message: RegExp, code = 'ERR_WEIGHTSMITH_ARGUMENT') =>
      expect(evaluate(engine, base, { data })).rejects.toMatchObject({ code, message: expect.stringMatching(message) })
    const good = { prompt: '1+1=', answer: '2' }
    await refused(dataset(good, '{"prompt": '), /Line 2 of .*data\.jsonl is not JSON/)
    await refused(dataset(good, good, { prompt: 'x' }), /Line 3 of .* "prompt" and "answer"/)
    await refused(dataset('null'), /Line 1/)
    await refused(dataset(''), /has no examples/)
    await refused(join(folder, 'none.jsonl'), /There is no .*none\.jsonl/, 'ERR_WEIGHTSMITH_NOT_FOUND')
    await refused(dataset({ prompt: 'a'.repeat(256), answer: 'b' }), /Sequence 0 has 259 tokens.*256/)
    const stop = AbortSignal.abort()
    await expect(evaluate(engine, base, { data: calibration, signal: stop })).rejects.toMatchObject({
      name: 'AbortError',
      code: 'ERR_WEIGHTSMITH_ABORTED',
    })
    await expect(evaluate(engine, base, { data: calibration, metric: 'bleu' as 'nll' })).rejects.toHaveProperty(
      'code',
      'ERR_WEIGHTSMITH_ARGUMENT',
    )
    await expect(evaluate(engine, base, { data: calibration, maxTokens: 0 })).rejects.toHaveProperty(
      'code',
      'ERR_WEIGHTSMITH_ARGUMENT',
    )
  })

  test('wants a tokenizer that can be read', async () => {
    const model = join(folder, 'model')
    cpSync(base, model, { recursive: true })
    writeFileSync(join(model, 'tokenizer.json'), '{')
    await expect(evaluate(engine, model, { data: calibration })).rejects.toHaveProperty(
      'code',
      'ERR_WEIGHTSMITH_FORMAT',
    )
    rmSync(join(model, 'tokenizer.json'))
    await expect(evaluate(engine, model, { data: calibration })).rejects.toHaveProperty(
      'code',
      'ERR_WEIGHTSMITH_NOT_FOUND',
    )
  })

  test('is a verb of the command line', async () => {
    const { code, stdout } = await cli('eval', base, '--data', calibration, '--metric', 'ppl', '--json')
    expect(code).toBe(0)
    const report = JSON.parse(stdout) as { metric: string; value: number }
    expect(report.metric).toBe('ppl')
    expect(Math.abs(Math.log(report.value) / golden.calibration.nll.base!.all - 1)).toBeLessThan(1e-5)
  })
})

describe('generate', () => {
  test('continues every prompt of a batch as it would alone, whatever the batches', async () => {
    const prompts = golden.prompts.filter(({ greedy }) => greedy !== null)
    const ids = [...prompts, ...prompts].map((prompt) => prompt.ids)
    const options = { most: 8, ends: new Set([2]) }
    const wide = await openModel(engine, join(goldens, 'base-f32'), { tokens: 128, cache: 128 })
    const together = await generate(wide, ids, options)
    await wide.close()
    const narrow = await openModel(engine, join(goldens, 'base-f32'), { tokens: 24, cache: 24 })
    expect(await generate(narrow, ids, options)).toEqual(together)
    await narrow.close()
    const digits = '0123456789abcdefghijklmnopqrstuvwxyz'
    const texts = together.map(({ ids: said }) => said.map((id) => digits[id - 4]).join(''))
    expect(texts).toEqual([...prompts, ...prompts].map(({ greedy }) => greedy))
    expect(together.every(({ ended }) => ended)).toBe(true)
  })

  test('stops at the most a continuation may have', async () => {
    const model = await openModel(engine, base, { tokens: 32, cache: 32 })
    const [one] = await generate(model, [golden.prompts[2]!.ids], { most: 3, ends: new Set([2]) })
    await model.close()
    expect(one).toMatchObject({ ended: false })
    expect(one!.ids).toHaveLength(3)
  })
})
