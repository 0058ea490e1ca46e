/**
 * A model that is larger than the memory says, to the bit, what it says where it fits: its weights pass by for every
 * token.
 */
import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, evaluate, generate, generateIds, openModel } from 'weightsmith'
import { scratch } from './scratch.js'

const base = join(process.cwd(), 'demo/models/base')
const { folder } = scratch('stream')
const prompts = ['s:graph=', 'r:xsoxbyaf=', '49+45=', '7+1=', 's:zebra=']

let engine: Engine
beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

describe('a model larger than the memory', () => {
  test('goes on as it does where it fits, drawn and copied sequences too, and says what each token reads', async () => {
    const options = { maxTokens: 6, samples: 3, temperature: 1, seed: 5 }
    const want = await generate(engine, base, prompts, options)
    expect(want).toMatchObject({ partitions: 1, bytesReadPerPass: 0 })
    let before = 0
    // Less room for tokens leaves the model on the device.
    await using close = await Engine.open({ memory: '4MiB' })
    const near = await generate(close, base, prompts, options)
    expect(near).toMatchObject({ partitions: 1, continuations: want.continuations })
    expect(near.deviceBytes).toBeLessThan(want.deviceBytes)
    for (const memory of ['3MiB', '1200KiB']) {
      await using small = await Engine.open({ memory })
      const got = await generate(small, base, prompts, options)
      expect(got.continuations).toEqual(want.continuations)
      expect(got.partitions).toBeGreaterThan(1)
      expect(got.deviceBytes).toBeLessThanOrEqual(small.memory)
      // The less fits, the more is read.
      expect(got.bytesReadPerPass).toBeGreaterThan(before)
      before = got.bytesReadPerPass
    }
  })

  test('reads each partition once for all sequences that the cache has room for, though they take several passes', async () => {
    const ids = Array.from({ length: 20 }, (_, i) => [1, 4 + i, 14, 4 + i, 15])
    const options = { maxTokens: 3, eosTokenIds: new Set([2]) }
    const say = async (own: Engine, tokens: number) => {
      const model = await openModel(own, base, { batchTokens: tokens, cache: 160 })
      const passes: number[] = []
      const said = await generateIds(model, ids, { ...options, onPass: (count) => passes.push(count) })
      await model.close()
      return { said, first: passes[0] }
    }
    const want = await say(engine, 100)
    await using small = await Engine.open({ memory: '1500KiB' })
    // All say their first id together: 5 passes of 16 rows fill the cache, and 2 passes ask.
    expect(await say(small, 16)).toEqual({ ...want, first: 20 })
  })

  test('gives the same logits and residual streams', async () => {
    const ids = [1, 7, 8, 9, 41, 5, 6, 10]
    const run = async (own: Engine) => {
      const model = await openModel(own, base, { batchTokens: 8 })
      const pass = await model.run(model.pack([ids]), { logits: true, hidden: true })
      await model.close()
      return pass
    }
    await using small = await Engine.open({ memory: '1200KiB' })
    expect(await run(small)).toEqual(await run(engine))
  })

  test('has a tied head that stays with the table of tokens', async () => {
    const tied = join(folder, 'tied')
    cpSync(base, tied, { recursive: true })
    const file = join(tied, 'config.json')
    const config = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>
    writeFileSync(file, JSON.stringify({ ...config, tie_word_embeddings: true }))
    await using small = await Engine.open({ memory: '2MiB' })
    const got = await generate(small, tied, prompts, { maxTokens: 4 })
    expect(got.continuations).toEqual((await generate(engine, tied, prompts, { maxTokens: 4 })).continuations)
  })

  test('is asked for exact answers and choices', async () => {
    const exact = join(folder, 'exact.jsonl')
    const choice = join(folder, 'choice.jsonl')
    writeFileSync(exact, '{"prompt": "s:graph=", "answer": "aghpr"}\n{"prompt": "s:zebra=", "answer": "abcde"}\n')
    writeFileSync(choice, '{"prompt": "s:graph=", "choices": ["aghrp", "aghpr"], "answer": 1}\n')
    await using small = await Engine.open({ memory: '2MiB' })
    for (const [metric, data] of [
      ['exact-match', exact],
      ['choice', choice],
    ] as const) {
      const {
        milliseconds: _,
        notes: none,
        sets,
        partitions,
        bytesReadPerPass,
        deviceBytes,
        ...want
      } = await evaluate(engine, base, { data, metric })
      const got = await evaluate(small, base, { data, metric })
      expect(got).toMatchObject({ ...want, sets: sets.map(({ milliseconds: _, ...set }) => set) })
      expect(got.partitions).toBeGreaterThan(partitions)
      expect(got.bytesReadPerPass).toBeGreaterThan(bytesReadPerPass)
      expect(got.deviceBytes).toBeLessThan(deviceBytes)
      expect(none).toEqual([])
      if (metric === 'exact-match') expect(got.notes[0]).toMatch(/larger than the memory.* MB of weights are read/)
    }
  })

  test('is refused where not even one layer fits', async () => {
    await using small = await Engine.open({ memory: '512KiB' })
    await expect(generate(small, base, prompts, { maxTokens: 1 })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_OUT_OF_MEMORY',
      message: expect.stringMatching(/takes \d+ bytes.*layers at a time fits the 524288 bytes/),
    })
  })
})
