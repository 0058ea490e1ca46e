/** Models with adapters where a model is expected: scored, compared and run as the folded one. */
import { copyFileSync, cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from '@jest/globals'
import { checkFold, diff, evaluate, generate, openScores, score } from 'weightsmith'
import { readSafetensors } from './checkpoint.js'
import { golden } from './goldens.js'
import { fixtures } from './lora.js'

const { fresh, opened, fold } = fixtures('lora-models')

test('a model with adapters is scored as the folded model is, and told from others', async () => {
  const [base, path] = [golden('reasoner/base'), golden('lora/adapters/plain')]
  const { out } = await fold(base, [path])
  const data = golden('reasoner/tasks/calibration.jsonl')
  const [mine, theirs] = [fresh('scores'), fresh('scores')]
  await score(opened(), `${base}+${path}`, { methods: ['wanda'], data, out: mine, limit: 4 })
  await score(opened(), out, { methods: ['wanda'], data, out: theirs, limit: 4 })
  const arrays = (file: string) => [...readSafetensors(file)].map(([name, { bytes }]) => [name, bytes.toString('hex')])
  expect(arrays(mine)).toEqual(arrays(theirs))
  await expect(openScores(opened(), mine, `${base}+${path}`)).resolves.toBeDefined()
  await expect(openScores(opened(), mine, base)).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_INPUT_CHANGED' })
})

describe('a model with adapters that is compared', () => {
  test.each(['plain', 'dora', 'modules-to-save'])(
    'differs from the base as the folded model does: %s',
    async (name) => {
      const [base, path] = [golden('reasoner/base'), golden(`lora/adapters/${name}`)]
      const { out } = await fold(base, [path])
      const [{ tensors }, folded] = [await diff(opened(), base, `${base}+${path}`), await diff(opened(), base, out)]
      expect(tensors).toEqual(folded.tensors)
      expect(folded.total.maxAbs).toBeGreaterThan(0)
    },
  )
})

describe('a model with adapters that is run', () => {
  test.each([
    ['plain', 'reasoner/base'],
    ['dora', 'reasoner/base'],
    ['trainable-tokens', 'reasoner/base'],
    ['tied-saved', 'lora/tied'],
  ])('says what the folded model says: %s', async (name, base) => {
    const path = golden(`lora/adapters/${name}`)
    const { out } = await fold(golden(base), [path])
    const data = golden('reasoner/tasks/calibration.jsonl')
    const run = async (model: string) => {
      const { sets } = await evaluate(opened(), model, { data, metric: 'nll', limit: 8 })
      const { continuations } = await generate(opened(), model, ['12+34='], { maxTokens: 4 })
      return { loss: sets[0]!.value, text: continuations[0]!.text }
    }
    for (const file of ['tokenizer.json', 'tokenizer_config.json']) {
      if (!existsSync(join(out, file))) copyFileSync(join(golden('reasoner/base'), file), join(out, file))
    }
    const bare = fresh('base')
    cpSync(golden(base), bare, { recursive: true })
    for (const file of ['tokenizer.json', 'tokenizer_config.json']) {
      if (!existsSync(join(bare, file))) copyFileSync(join(golden('reasoner/base'), file), join(bare, file))
    }
    expect(await run(`${bare}+${path}`)).toEqual(await run(out))
    expect(await run(bare)).not.toEqual(await run(out))
  })
})

test('a folded model is checked against its base with the adapters, and told from one that is not', async () => {
  const [base, path] = [golden('reasoner/base'), golden('lora/adapters/all-linear')]
  const { out } = await fold(base, [path])
  const { tokens, difference, limit, agreed } = await checkFold(opened(), base, out, {
    adapters: [path],
    text: '12+34=',
  })
  expect({ tokens, limit, agreed }).toEqual({ tokens: 7, limit: 0.05, agreed: 1 })
  expect(difference).toBeGreaterThan(0)
  expect(difference).toBeLessThan(0.01)
  await expect(checkFold(opened(), base, base, { adapters: [path] })).rejects.toMatchObject({
    code: 'ERR_WEIGHTSMITH_VERIFY',
    message: expect.stringMatching(/gives other logits than .* the rounding to bfloat16 explains 0.05/),
  })
})

describe('a dry run of a model with adapters', () => {
  const data = golden('reasoner/tasks/calibration.jsonl')
  const runs: [string, (model: string, options: { dryRun: true }) => Promise<object>][] = [
    ['eval', (model, options) => evaluate(opened(), model, { data, limit: 2, ...options })],
    ['generate', (model, options) => generate(opened(), model, ['1+1='], { maxTokens: 2, ...options })],
    ['score', (model, options) => score(opened(), model, { methods: ['wanda'], data, limit: 2, ...options })],
    ['diff', (model, options) => diff(opened(), golden('reasoner/base'), model, options)],
  ]

  test.each(runs)('of %s computes no weights', async (_, run) => {
    const base = fresh('base')
    cpSync(golden('reasoner/base'), base, { recursive: true })
    for (const name of readdirSync(base).filter((name) => name.endsWith('.safetensors'))) {
      const bytes = readFileSync(join(base, name))
      writeFileSync(join(base, name), bytes.fill(0xff, 8 + Number(bytes.readBigUInt64LE())))
    }
    const model = `${base}+${golden('lora/adapters/pissa')}`
    await expect(run(model, { dryRun: true })).resolves.toHaveProperty('forecast.milliseconds')
    // An SVD of the weights, which are all NaN, is what PiSSA starts from.
    await expect(evaluate(opened(), model, { data, limit: 2 })).rejects.toThrow(/NaN or infinite/)
  })
})
