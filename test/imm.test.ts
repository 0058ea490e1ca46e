/**
 * IMM runs its rounds, keeps what they make, goes on where it stopped, and says what is wrong with what others give it.
 */
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, type ImmConfig, imm } from 'weightsmith'
import { isRight } from '../lib/workflows/imm/check.js'
import { collapseOf } from '../lib/workflows/imm/collapse.js'
import { readSafetensors, values } from './checkpoint.js'
import { cli } from './child.js'

const base = join(process.cwd(), 'demo/models/base')
const improved = join(process.cwd(), 'demo/models/improved-1')
const example = join(process.cwd(), 'examples/imm')

let engine: Engine
const folder = mkdtempSync(join(tmpdir(), 'weightsmith-imm-'))
beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(async () => {
  await engine?.close()
  rmSync(folder, { recursive: true, force: true })
})

function lines(name: string, ...all: object[]): string {
  const file = join(folder, name)
  writeFileSync(file, all.map((line) => `${JSON.stringify(line)}\n`).join(''))
  return file
}

const questions = lines(
  'questions.jsonl',
  { prompt: '12+34=', answer: '46' },
  { prompt: '50+27=', answer: '77' },
  { prompt: '11+11=', answer: '22' },
)

const small: ImmConfig = {
  model: base,
  questions,
  rounds: 2,
  generate: { samples: 2, temperature: 0.5, max_tokens: 4 },
  train: async ({ out }) => cpSync(improved, out, { recursive: true }),
  merge: { alpha: 0.25, p: 0 },
  evaluate: { id: [questions], collapse: { samples: 2 } },
}

const weights = (model: string) => values(readSafetensors(join(model, 'model.safetensors')).get('lm_head.weight')!)

describe('imm', () => {
  test('runs rounds, each trained from the merged model before it and merged with the original', async () => {
    const out = join(folder, 'rounds')
    const models: string[] = []
    const train: ImmConfig['train'] = async ({ model, data, out: trained }) => {
      models.push(model)
      const kept = readFileSync(data, 'utf8').trim().split('\n')
      expect(new Set(kept).size).toBe(kept.length)
      for (const line of kept) expect(Object.keys(JSON.parse(line))).toEqual(['prompt', 'answer'])
      cpSync(improved, trained, { recursive: true })
    }
    const seen: number[] = []
    const report = await imm(engine, { ...small, train }, { out, onRound: ({ round }) => seen.push(round) })
    expect(seen).toEqual([0, 1, 2])
    expect(models).toEqual([base, join(out, 'round-1/merged')])
    expect(report).toMatchObject({ chosen: 2, model: join(out, 'round-2/merged'), policy: 'last' })
    const [original, , last] = report.rounds
    expect(original).toMatchObject({ round: 0, model: base, evaluation: { idMean: 1, oodMean: null } })
    expect(original).not.toHaveProperty('trained')
    expect(last).toMatchObject({ data: { generated: 6 }, trained: { model: join(out, 'round-2/trained') } })
    expect(last!.data!.kept).toBeLessThanOrEqual(last!.data!.right)
    expect(last!.evaluation.collapse!.id).toMatchObject({ questions: 3, samples: 2 })
    const [from, to, merged] = [base, improved, report.model].map(weights)
    for (const i of [0, 77, 8000]) expect(merged![i]).toBeCloseTo(0.75 * from![i]! + 0.25 * to![i]!, 6)
    const { dtype } = readSafetensors(join(report.model, 'model.safetensors')).get('lm_head.weight')!
    expect(dtype).toBe('F32')
    await expect(imm(engine, small, { out })).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_OUTPUT_EXISTS')
    const merge = { ...small.merge, history: 'all' as const }
    await expect(imm(engine, { ...small, seed: 1, merge }, { out, resume: true })).rejects.toThrow(
      /another config: merge, seed differ/,
    )
  })

  test('goes on after an abort, and merges the models of all rounds where it is told to', async () => {
    const out = join(folder, 'aborted')
    const stop = new AbortController()
    let runs = 0
    const train: ImmConfig['train'] = async ({ round, out: trained }) => {
      cpSync(round === 1 ? improved : base, trained, { recursive: true })
      if (++runs === 2) stop.abort()
    }
    const config = { ...small, train, merge: { alpha: 0.5, p: 0, history: 'all' as const }, evaluate: {} }
    await expect(imm(engine, config, { out, signal: stop.signal })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_ABORTED',
      partial: out,
    })
    const { model } = await imm(engine, config, { out, resume: true })
    expect(runs).toBe(3)
    const [from, to, merged] = [base, improved, model].map(weights)
    for (const i of [3, 4321]) expect(merged![i]).toBeCloseTo(0.75 * from![i]! + 0.25 * to![i]!, 6)
  })

  test('goes on after a failure before its first step was done, and discards no run that it is told to go on with', async () => {
    const out = join(folder, 'early')
    let fails = true
    const generate: ImmConfig['generate'] = async () => {
      throw new Error('not yet')
    }
    const evaluate: ImmConfig['evaluate'] = { id: [questions], valid: questions }
    const config = { ...small, rounds: 1, evaluate }
    const stop = new AbortController()
    const ended = imm(engine, config, { out, signal: stop.signal, onProgress: () => fails && stop.abort() })
    await expect(ended).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_ABORTED', partial: out })
    fails = false
    const failing = { ...config, generate }
    await expect(imm(engine, failing, { out, resume: true })).rejects.toThrow(/another config: generate differs/)
    await imm(engine, config, { out, resume: true })
    const { mtimeMs } = statSync(join(out, 'round-1/generated.jsonl'))
    // The command line appends --resume to what was given, which may have been --overwrite.
    await imm(engine, config, { out, resume: true, overwrite: true })
    expect(statSync(join(out, 'round-1/generated.jsonl')).mtimeMs).toBe(mtimeMs)
    expect((await imm(engine, failing, { out, overwrite: true }).catch(String)) as string).toMatch(/not yet/)
  })

  test('does not go on with another original', async () => {
    const model = join(folder, 'original')
    cpSync(base, model, { recursive: true })
    const out = join(folder, 'other-original')
    await imm(engine, { ...small, model, rounds: 1 }, { out })
    utimesSync(join(model, 'model.safetensors'), 1, 1)
    await expect(imm(engine, { ...small, model }, { out, resume: true })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_INPUT_CHANGED',
      message: expect.stringMatching(/original.*time of change/),
    })
  })

  test('shows the last lines of a trainer that fails, and goes on with it', async () => {
    const out = join(folder, 'failing')
    const script = join(folder, 'train.mjs')
    writeFileSync(
      script,
      `import { cpSync, existsSync } from 'node:fs'
       if (!existsSync('go')) { console.log('epoch 1'); console.error('CUDA is not there'); process.exit(3) }
       cpSync(${JSON.stringify(improved)}, process.argv[4], { recursive: true })`,
    )
    const train = { command: [process.execPath, script, '{model}', '{data}', '{out}'] }
    const config = join(folder, 'failing.yml')
    writeFileSync(config, JSON.stringify({ ...small, rounds: 1, train }))
    const failed = imm(engine, config, { out })
    await expect(failed).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_COMMAND', partial: out })
    await expect(failed).rejects.toThrow(/ended with code 3[\s\S]*epoch 1\nCUDA is not there$/)
    const generated = join(out, 'round-1/generated.jsonl')
    const { mtimeMs } = statSync(generated)
    writeFileSync(join(folder, 'go'), '')
    const report = await imm(engine, config, { out, resume: true })
    expect(report.rounds).toHaveLength(2)
    expect(statSync(generated).mtimeMs).toBe(mtimeMs)
    const more = await imm(engine, config, { out, resume: true, rounds: 2 })
    expect(more.rounds[1]).toEqual({ ...report.rounds[1], decision: 'goes on' })
    expect(more.chosen).toBe(2)
  })

  test('refuses a trained model that is another one, or none at all', async () => {
    const out = join(folder, 'other')
    const config = JSON.parse(readFileSync(join(base, 'config.json'), 'utf8')) as object
    const train: ImmConfig['train'] = async ({ out: trained }) => {
      cpSync(base, trained, { recursive: true })
      writeFileSync(join(trained, 'config.json'), JSON.stringify({ ...config, vocab_size: 60 }))
      const file = join(trained, 'model.safetensors')
      const text = readFileSync(file).toString('latin1').replace('"shape":[64,128]', '"shape":[128,64]')
      writeFileSync(file, Buffer.from(text, 'latin1'))
    }
    await expect(imm(engine, { ...small, train }, { out })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_SHAPE_MISMATCH',
      partial: out,
    })
    const nothing = { ...small, train: async () => undefined }
    await expect(imm(engine, nothing, { out, resume: true })).rejects.toThrow(/trainer of round 1 has left no model/)
  })

  test('keeps the best model on held-out questions, the original among them, and ends where nothing gets better', async () => {
    const out = join(folder, 'best')
    const merge = {
      recipe: {
        merge_method: 'linear',
        models: [{ model: '{improved}', parameters: { weight: 0.001 } }],
        parameters: { normalize: false },
      },
    }
    const evaluate = { valid: questions, collapse: { samples: 0 } }
    const config = {
      ...small,
      merge,
      evaluate,
      filter: () => true,
      policy: 'best',
      patience: 1,
      rounds: 3,
    } as ImmConfig
    const report = await imm(engine, config, { out })
    expect(report).toMatchObject({ chosen: 0, model: base })
    expect(report.rounds).toHaveLength(2)
    expect(report.rounds[1]!.decision).toMatch(/no better validation accuracy since round 0/)
  })

  test('names the key of a config that is not valid', async () => {
    const refused = async (change: object, message: RegExp) => {
      const run = imm(engine, { ...small, ...change } as ImmConfig, { out: join(folder, 'never') })
      await expect(run).rejects.toMatchObject({
        code: 'ERR_WEIGHTSMITH_RECIPE',
        message: expect.stringMatching(message),
      })
    }
    await refused({ rouns: 1 }, /^rouns of the config/)
    await refused({ rounds: 0 }, /^rounds of the config should be a whole number from 1/)
    await refused({ train: { command: ['t', '{model}', '{data}'] } }, /^train\.command .*\{out\}/)
    await refused({ train: { command: ['t', '{model}', '{data}', '{out}', '{lr}'] } }, /"\{lr\}" was found/)
    await refused({ filter: { check: 'regex', pattern: '(' } }, /^filter\.pattern/)
    await refused({ merge: { alpha: 2 } }, /^merge\.alpha/)
    await refused({ merge: { beta: 1 } }, /^merge\.beta/)
    await refused({ policy: 'best' }, /^evaluate\.valid/)
    expect(existsSync(join(folder, 'never'))).toBe(false)
  })

  test('gives layers shares of their own by their importance', async () => {
    const out = join(folder, 'importance')
    const merge = { alpha: 0.5, p: 0, importance: { beta: 0.5, data: questions } }
    await imm(engine, { ...small, rounds: 1, merge, evaluate: {} }, { out })
    const recipe = JSON.parse(readFileSync(join(out, 'round-1/recipe.json'), 'utf8'))
    const shares = recipe.models[0].parameters.weight.slice(0, -1).map(({ value }: { value: number }) => value)
    expect(shares).toHaveLength(8)
    const mean = shares.reduce((a: number, b: number) => a + b) / 8
    expect(mean).toBeGreaterThan(0.3)
    expect(new Set(shares).size).toBeGreaterThan(4)
    expect(recipe.models[0].parameters.weight.at(-1)).toEqual({ value: 0.5 })
  })

  test('the example runs', async () => {
    const out = join(folder, 'example')
    const dry = await cli('imm', 'run', join(example, 'config.yml'), out, '--dry-run', '--json')
    expect(JSON.parse(dry.stdout)).toEqual({
      forecast: expect.objectContaining({ out, rounds: 3, questions: 800, bytesPerRound: expect.any(Number) }),
    })
    expect(existsSync(out)).toBe(false)
    const text = readFileSync(join(example, 'config.yml'), 'utf8')
      .replaceAll('../../', `${process.cwd()}/`)
      .replace('questions.jsonl', `${example}/questions.jsonl\nlimit: 8`)
      .replace('valid.jsonl', `${example}/valid.jsonl`)
      .replace('limit: 200', 'limit: 4')
      .replace('limit: 25', 'limit: 2')
    const config = join(folder, 'example.yml')
    writeFileSync(config, text)
    const page = join(folder, 'imm.html')
    const { code, stdout, stderr } = await cli('imm', 'run', config, out, '--rounds', '1', '--report', page)
    expect({ code, stderr }).toMatchObject({ code: 0 })
    expect(stdout).toMatch(/^round +kept +trained ID[\s\S]*round +set +entropy[\s\S]*The best model is that of round/)
    const steps = readFileSync(join(out, 'round-1/train.jsonl'), 'utf8').trim().split('\n')
    expect(JSON.parse(steps.at(-1)!)).toMatchObject({ epoch: 2, loss: expect.any(Number) })
    expect(readFileSync(page, 'utf8')).toContain('Iterative model merging')
  })
})

describe('answers', () => {
  test('are compared as they are, by their last number, or by a pattern', () => {
    expect(isRight(' 46\n', '46')).toBe(true)
    expect(isRight('046', '46')).toBe(false)
    expect(isRight('First 3, so it makes 1,234.50.', 'It is 1234.5', 'numeric')).toBe(true)
    expect(isRight('none', '0', 'numeric')).toBe(false)
    expect(isRight('The answer is (B).', 'B', 'regex', 'answer is \\((\\w)\\)')).toBe(true)
    expect(isRight('B', 'B', 'regex', 'answer is \\((\\w)\\)')).toBe(false)
  })

  test('that become alike show as collapse', () => {
    const said = (...texts: string[]) => texts.map((text, sample) => ({ prompt: 'q', answer: 'aa', sample, text }))
    const varied = collapseOf(said('aa', 'ab', 'cd', 'ef'))
    expect(varied).toMatchObject({ samples: 4, distinct: 1, pass1: 0.25, passK: 1, gap: 0.75 })
    expect(varied.entropy).toBeCloseTo(Math.log(4), 12)
    expect(collapseOf(said('aa', 'aa', 'aa', 'aa'))).toMatchObject({ entropy: 0, distinct: 0.25, gap: 0 })
  })
})
