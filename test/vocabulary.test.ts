/** Merges of models whose vocabularies differ, checked against tables that are put in order here. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, type MergeOptions, merge, type RecipeInput } from 'weightsmith'
import { bf16, f32, type Raw, readFolder, values, writeModel } from './checkpoint.js'
import { scratch } from './scratch.js'

let engine: Engine
const { fresh } = scratch('vocabulary')

beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

async function run(recipe: RecipeInput, options: Partial<Omit<MergeOptions, 'dryRun'>> = {}) {
  const out = fresh('out')
  const report = await merge(engine, recipe, { out, sync: false, ...options })
  const json = (name: string) => JSON.parse(readFileSync(join(out, name), 'utf8')) as Record<string, unknown>
  return { out, report, tensors: readFolder(out), json }
}

const failure = (recipe: RecipeInput) =>
  merge(engine, recipe, { out: fresh('out') }).then(
    () => 'no error',
    (error: Error & { code?: string }) => `${error.code}: ${error.message}`,
  )

const embedding = 'model.embed_tokens.weight'
const head = 'lm_head.weight'
const at = (tensors: Map<string, Raw>, name: string) => [...values(tensors.get(name)!)]

/** `added` tokens come after those of the model itself. */
function tokenizer(tokens: string[], added: string[] = []): object {
  return {
    version: '1.0',
    added_tokens: added.map((content, i) => ({ id: tokens.length + i, content, special: true, normalized: false })),
    model: { type: 'BPE', vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges: [] },
  }
}

/** A model with one row a token, and `start + id` in it, and `- (start + id)` in its head. */
function model(tokens: string[], start: number, { added = [] as string[], rows = 0, columns = 1 } = {}): string {
  const size = Math.max(rows, tokens.length + added.length)
  const numbers = Array.from({ length: size * columns }, (_, i) => start + Math.floor(i / columns) + (i % columns) / 64)
  const path = writeModel(
    fresh('model'),
    {
      [embedding]: f32(numbers, [size, columns]),
      'model.layers.0.mlp.weight': f32([start]),
      [head]: f32(
        numbers.map((n) => -n),
        [size, columns],
      ),
    },
    { num_hidden_layers: 1, vocab_size: size },
  )
  writeFileSync(join(path, 'tokenizer.json'), JSON.stringify(tokenizer(tokens, added)))
  writeFileSync(join(path, 'tokenizer_config.json'), JSON.stringify({ added_tokens_decoder: {} }))
  return path
}

const soup = (models: string[], more: Partial<RecipeInput> = {}): RecipeInput => ({
  merge_method: 'linear',
  models: models.map((path, i) => ({ model: path, parameters: { weight: i === 0 ? 0.75 : 0.25 } })),
  ...more,
})

describe('models of different vocabularies', () => {
  test('are refused without a policy, with both sizes and the option', async () => {
    const recipe = soup([model(['a', 'b'], 0), model(['a', 'b', 'c'], 0)])
    expect(await failure(recipe)).toMatch(
      /SHAPE_MISMATCH: Tensor model\.embed_tokens\.weight has 2 rows in .*, but 3 in .*tokenizer_source: base, union/,
    )
    expect(await failure({ ...recipe, tokenizer_source: 'none' })).toMatch(/SHAPE_MISMATCH/)
  })

  const a = () => model(['a', 'b', 'c'], 0)
  const b = () => model(['c', 'b', 'd'], 100, { added: ['<x>'] })

  test('take the vocabulary of the base: rows are matched by token, what a model lacks comes from the other', async () => {
    const { tensors, json, report } = await run(soup([a(), b()], { tokenizer_source: 'base' }))
    // a is in the first alone; b and c are at 101 and 100 of the second
    expect(at(tensors, embedding)).toEqual([0, 0.75 * 1 + 0.25 * 101, 0.75 * 2 + 0.25 * 100])
    expect(at(tensors, head)).toEqual([-0, -26, -26.5])
    expect(json('config.json').vocab_size).toBe(3)
    expect(Object.keys((json('tokenizer.json').model as { vocab: object }).vocab)).toEqual(['a', 'b', 'c'])
    expect(report.notes.join()).toMatch(/3 tokens in 3 rows; the models have 3 and 4 rows/)
  })

  test('take the vocabulary of a model that is named', async () => {
    const second = b()
    const { tensors, json } = await run(soup([a(), second], { tokenizer_source: second }))
    expect(at(tensors, embedding)).toEqual([0.75 * 2 + 25, 0.75 * 1 + 0.25 * 101, 102, 103])
    expect(json('config.json').vocab_size).toBe(4)
    expect(json('tokenizer.json').added_tokens).toMatchObject([{ id: 3, content: '<x>' }])
  })

  test('form a union, whose tokenizer keeps the ids of the first and adds what it lacks', async () => {
    const { tensors, json } = await run(soup([a(), b()], { tokenizer_source: 'union' }))
    expect(at(tensors, embedding)).toEqual([0, 26, 26.5, 102, 103])
    expect(json('config.json').vocab_size).toBe(5)
    expect(json('tokenizer.json').added_tokens).toMatchObject([
      { id: 3, content: 'd', special: false, normalized: true },
      { id: 4, content: '<x>', special: true, normalized: false },
    ])
    expect(json('tokenizer_config.json').added_tokens_decoder).toMatchObject({
      3: { content: 'd' },
      4: { content: '<x>' },
    })
  })

  test('prefer the base for a token that several of them have, else average', async () => {
    const models = [model(['a'], 0), model(['a', 'z'], 10), model(['a', 'z'], 20)]
    const averaged = await run({ ...soup(models), tokenizer_source: 'union' })
    // weights 3 : 1 : 1, rows 15 (mean), 11 and 21
    expect(at(averaged.tensors, embedding)[1]).toBeCloseTo((0.75 * 16 + 0.25 * 11 + 0.25 * 21) / 1.25, 5)
    const based = await run({
      merge_method: 'task_arithmetic',
      base_model: models[1]!,
      models: [models[0]!, models[2]!].map((path) => ({ model: path, parameters: { weight: 0.5 } })),
      tokenizer_source: 'base',
    })
    // z: 11 in the base and so in the first model, 21 in the last
    expect(at(based.tensors, embedding)).toEqual([0.5 * (0 - 10) + 0.5 * (20 - 10) + 10, 11 + 0.5 * 10])
  })

  test('follow rules for single tokens, and are padded with the mean of all rows', async () => {
    const [first, second] = [a(), b()]
    const { tensors, json, report } = await run(
      soup([first, second], {
        tokenizer: {
          source: 'base',
          tokens: {
            a: { source: { kind: 'zero' } },
            b: { source: second, force: true },
            c: { source: { kind: 'model_token', model: second, token: '<x>' }, force: true },
            new: { source: { kind: 'model_token', model: first, token_id: 2 } },
            nowhere: {},
          },
          pad_to_multiple_of: 8,
        },
      }),
    )
    // a: 0.75 · 0 + 0.25 · zeros; nowhere: zeros; padding: each model's own mean, merged
    const rows = [0, 101, 103, 2, 0]
    expect(at(tensors, embedding).slice(0, 5)).toEqual(rows)
    const mean = rows.reduce((sum, row) => sum + row, 0) / 5
    for (const row of at(tensors, embedding).slice(5)) expect(row).toBeCloseTo(mean, 4)
    expect(tensors.get(embedding)!.shape).toEqual([8, 1])
    expect(json('config.json').vocab_size).toBe(8)
    expect(report.notes.join()).toMatch(/The token nowhere is in no model and gets a row of zeros/)
  })

  test('are left alone where they are the same', async () => {
    const models = [model(['a', 'b'], 0, { rows: 5 }), model(['a', 'b'], 100, { rows: 5 })]
    const { tensors, report } = await run(soup(models, { tokenizer_source: 'union' }))
    expect(at(tensors, embedding)).toEqual([25, 26, 27, 28, 29])
    expect(report.notes).toEqual([])
  })

  test('of which one is the start of the other need no table of their own', async () => {
    const models = [model(['a', 'b'], 0, { rows: 5 }), model(['a', 'b'], 100, { rows: 2 })]
    const { tensors, report } = await run(soup(models, { tokenizer_source: 'base' }))
    expect(at(tensors, embedding)).toEqual([25, 26])
    expect(report.notes.join()).not.toMatch(/made before/)
  })

  test('give the bytes that tables in order give, in any method and type', async () => {
    const columns = 96
    const size = 700
    const names = Array.from({ length: size }, (_, i) => `t${i}`)
    // a fixed shuffle with runs of seven
    const shuffled = names.map((_, i) => names[(Math.floor(i / 7) * 7 * 11 + (i % 7)) % size]!)
    const value = (token: string, seed: number, k: number) => Math.sin(Number(token.slice(1)) * seed + k)
    const table = (tokens: string[], seed: number) =>
      bf16(
        tokens.flatMap((token) => Array.from({ length: columns }, (_, k) => value(token, seed, k))),
        [tokens.length, columns],
      )
    const write = (tokens: string[], ids: string[], seed: number) => {
      const path = writeModel(fresh('model'), { [embedding]: table(tokens, seed) }, { vocab_size: tokens.length })
      writeFileSync(join(path, 'tokenizer.json'), JSON.stringify(tokenizer(ids)))
      return path
    }
    expect(new Set(shuffled).size).toBe(size)
    const base = write(names, names, 1)
    const recipe = (other: string, method: Partial<RecipeInput>): RecipeInput => ({
      merge_method: 'slerp',
      base_model: base,
      models: [{ model: base }, { model: other }],
      ...method,
    })
    const methods: Partial<RecipeInput>[] = [
      { parameters: { t: 0.4 } },
      { merge_method: 'ties', parameters: { weight: 1, density: 0.3 } },
      { merge_method: 'dare_linear', parameters: { weight: 0.7, density: 0.5 } },
    ]
    for (const method of methods) {
      for (const memory of ['1GiB', '300KiB']) {
        const moved = await run(
          { ...recipe(write(shuffled, shuffled, 2), method), tokenizer_source: 'base' },
          { memory },
        )
        const ordered = await run(recipe(write(names, names, 2), method), { memory })
        expect(moved.tensors.get(embedding)!.bytes.equals(ordered.tensors.get(embedding)!.bytes)).toBe(true)
        expect(moved.report.notes.join()).toMatch(/1 tensor is made before/)
      }
    }
  })

  test('pad tables of many rows with their mean', async () => {
    const tokens = Array.from({ length: 1000 }, (_, i) => `t${i}`)
    const path = model(tokens, 0, { columns: 3 })
    const { tensors } = await run({
      merge_method: 'passthrough',
      models: [{ model: path }],
      tokenizer: { source: 'base', pad_to_multiple_of: 1001 },
    })
    const rows = at(tensors, embedding)
    expect(rows.slice(0, 3000)).toEqual(at(readFolder(path), embedding))
    for (const [k, mean] of [499.5, 499.5 + 1 / 64, 499.5 + 2 / 64].entries())
      expect(rows[3000 + k]).toBeCloseTo(mean, 3)
  })

  test('are read from Unigram tokenizers, and passed on by stages', async () => {
    const first = a()
    const second = b()
    const unigram = {
      model: {
        type: 'Unigram',
        vocab: [
          ['c', -1],
          ['b', -2],
          ['d', -3],
          ['<x>', 0],
        ],
      },
      added_tokens: [],
    }
    writeFileSync(join(second, 'tokenizer.json'), JSON.stringify(unigram))
    const { tensors, json } = await run({
      merge_method: 'passthrough',
      models: [{ model: 'mixed' }],
      stages: [soup([first, second], { name: 'mixed', tokenizer_source: 'union' })],
    })
    expect(at(tensors, embedding)).toEqual([0, 26, 26.5, 102, 103])
    expect(json('config.json').vocab_size).toBe(5)
    expect(json('tokenizer.json').added_tokens).toMatchObject([{ content: 'd' }, { content: '<x>' }])
  })

  test.each([
    ['{', /FORMAT: The tokenizer .* is not valid/],
    ['{"model":{}}', /it has no model\.vocab/],
    ['{"model":{"vocab":{"a":-1}}}', /"a" has the id -1/],
    ['{"model":{"vocab":{"a":1e99}}}', /"a" has the id/],
    ['{"model":{"vocab":{}},"added_tokens":[7]}', /an entry of added_tokens is not an object/],
  ])('are refused as %s', async (text, message) => {
    const first = a()
    writeFileSync(join(first, 'tokenizer.json'), text)
    expect(await failure(soup([first, b()], { tokenizer_source: 'union' }))).toMatch(message)
  })

  test('are refused where a rule names what is not there', async () => {
    const [first, second] = [a(), b()]
    const rule = (source: unknown) =>
      soup([first, second], { tokenizer: { tokens: { a: { source, force: true } } } as never })
    expect(await failure(rule('other'))).toMatch(
      /tokenizer\.tokens\.a\.source of the recipe should be one of the models/,
    )
    expect(await failure(rule({ kind: 'model_token', model: first, token: 'q' }))).toMatch(/has no row for q/)
    expect(await failure(rule({ kind: 'model_token', model: first }))).toMatch(/either token or token_id/)
    expect(await failure(rule({ kind: 'one' }))).toMatch(
      /source\.kind of the recipe should be zero, mean or model_token/,
    )
    expect(await failure(soup([first, second], { tokenizer: { pad_to_multiple_of: 0 } }))).toMatch(/pad_to_multiple_of/)
    rmSync(join(first, 'tokenizer.json'))
    expect(await failure(soup([first, second], { tokenizer_source: 'union' }))).toMatch(
      /NOT_FOUND: .* has no tokenizer\.json/,
    )
  })
})
