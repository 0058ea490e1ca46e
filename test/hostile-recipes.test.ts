/** Recipes nobody meant to write: whatever they hold, they are refused by code and by a sentence, or they are sound. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from '@jest/globals'
import fc from 'fast-check'
import { Engine, merge, methods, type RecipeInput } from 'weightsmith'
import { f32, writeModel } from './checkpoint.js'
import { scratch } from './scratch.js'

let engine: Engine
const { folder } = scratch('recipes')
const models = ['a', 'b', 'c'].map((name) => writeModel(join(folder, name), { 'model.layers.0.x': f32([1, 2, 3]) }))

beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

/** Plans by the recipe. What is refused has one of our codes and says why. */
async function soundOrRefused(recipe: unknown): Promise<void> {
  try {
    await merge(engine, recipe as RecipeInput, { out: join(folder, 'out'), dryRun: true, folder })
  } catch (error) {
    const { name, code, message } = error as { name: string; code: string; message: string }
    expect({ name, code, message }).toEqual({
      name: 'WeightsmithError',
      code: expect.stringMatching(/^ERR_WEIGHTSMITH_(RECIPE|NOT_FOUND|ARGUMENT|IO_READ|DTYPE|MISSING_TENSOR)$/),
      message: expect.stringMatching(/\S.*\.$/s),
    })
  }
}

const keys = [
  'merge_method',
  'base_model',
  'models',
  'slices',
  'sources',
  'model',
  'parameters',
  'layer_range',
  'weight',
]
const words = [...keys, 'density', 't', 'filter', 'value', 'dtype', 'out_dtype', 'tokenizer_source', 'modules', 'name']
const wild = fc.anything({ withBigInt: true, withDate: true, withMap: true, withSet: true, withNullPrototype: true })

/** Trees whose keys are those of recipes, so that checks behind the first are reached. */
const { tree } = fc.letrec<{ tree: unknown }>((tie) => ({
  tree: fc.oneof(
    { maxDepth: 4 },
    fc.constantFrom<unknown>(...models, ...methods.keys(), 'base', 'bfloat16', 'a', 'org/name', '', '*'),
    fc.oneof(fc.double(), fc.integer({ min: -2, max: 3 }), fc.boolean(), fc.constant(null), wild),
    fc.array(tie('tree'), { maxLength: 3 }),
    fc.dictionary(fc.constantFrom(...words), tie('tree'), { maxKeys: 5 }),
  ),
}))

const value = fc.oneof(
  { weight: 3, arbitrary: fc.double({ min: 0, max: 1, noNaN: true }) },
  { weight: 1, arbitrary: tree },
)
const parameters = fc.dictionary(fc.constantFrom('weight', 'density', 't', 'lambda', 'alpha', 'p', 'rescale'), value, {
  maxKeys: 4,
})

/** Recipes that are nearly right. */
const nearly = fc.record(
  {
    merge_method: fc.oneof(fc.constantFrom(...methods.keys()), tree),
    base_model: fc.oneof(fc.constantFrom(...models), tree),
    models: fc.oneof(
      fc.array(fc.record({ model: fc.constantFrom<unknown>(...models), parameters }, { requiredKeys: ['model'] }), {
        maxLength: 4,
      }),
      tree,
    ),
    parameters: fc.oneof(parameters, tree),
    dtype: fc.oneof(fc.constantFrom<unknown>('float32', 'bf16'), tree),
    tokenizer_source: fc.oneof(fc.constantFrom<unknown>('base', 'none', ...models), tree),
  },
  { requiredKeys: ['merge_method', 'models'] },
)

test('anything at all', async () => {
  await fc.assert(fc.asyncProperty(wild, soundOrRefused), { numRuns: 300 })
})

test('trees of the words of recipes', async () => {
  await fc.assert(fc.asyncProperty(fc.dictionary(fc.constantFrom(...words), tree), soundOrRefused), { numRuns: 500 })
})

test('recipes that are nearly right', async () => {
  await fc.assert(fc.asyncProperty(nearly, soundOrRefused), { numRuns: 1000 })
})

test('YAML of any text', async () => {
  const path = join(folder, 'recipe.yml')
  const token = fc.constantFrom(
    ...words,
    ...'[]{}:,-&*!|>?%@`"\'#\n\t ',
    '  ',
    ': ',
    '- ',
    '&a ',
    '*a',
    '<<',
    '---',
    '!!js',
  )
  const text = fc.oneof(
    fc.string(),
    fc.array(token, { maxLength: 60 }).map((tokens) => tokens.join('')),
  )
  await fc.assert(
    fc.asyncProperty(text, async (yaml) => {
      writeFileSync(path, yaml)
      await soundOrRefused(path)
    }),
    { numRuns: 500 },
  )
})

test('what holds itself, nests without end or grows by aliases', async () => {
  const cycle: Record<string, unknown> = { merge_method: 'linear' }
  cycle.name = cycle
  let deep: unknown = 1
  for (let i = 0; i < 100_000; i++) deep = [deep]
  const good = { merge_method: 'linear', models: [{ model: models[0]! }] }
  for (const bad of [
    cycle,
    { ...good, name: deep },
    { ...good, name: 1n },
    { ...good, parameters: { weight: deep } },
  ]) {
    await expect(merge(engine, bad as never, { out: join(folder, 'out'), dryRun: true })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_RECIPE',
    })
  }
  const path = join(folder, 'bomb.yml')
  const levels = Array.from({ length: 30 }, (_, i) => `a${i + 1}: &a${i + 1} [${`*a${i},`.repeat(9)}*a${i}]`)
  writeFileSync(path, ['a0: &a0 [1]', ...levels].join('\n'))
  await soundOrRefused(path)
  writeFileSync(path, '['.repeat(100_000))
  await soundOrRefused(path)
})
