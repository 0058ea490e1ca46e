import { join } from 'node:path'
import { afterAll, describe, expect, test } from '@jest/globals'
import { Engine, type EngineOptions, type MergeMethod, merge, methods, type RecipeInput } from 'weightsmith'
import { readFolder } from './checkpoint.js'
import { scratch } from './scratch.js'

const model = (name: string) => join(process.cwd(), 'demo/models', name)
const { folder } = scratch('same')

/** Values for parameters without a default. */
const needed: Record<string, number> = { weight: 0.4, t: 0.02 }

/** A recipe of two or three models with the parameters a method needs, and densities that drop something. */
function recipeOf(method: MergeMethod): RecipeInput {
  const { name, needsBase, models, parameters } = method
  const used = ['improved-1', 'improved-2', 'improved-3'].slice(0, Math.max(models.min, Math.min(models.max, 2)))
  const given = parameters.flatMap(({ name, type, scope, default: byDefault }) => {
    // Any float tensors of the right shapes can stand for statistics.
    const statistics = type === 'model' && scope === 'model' ? model('base') : undefined
    const value = name === 'density' ? 0.6 : byDefault === undefined ? (statistics ?? needed[name]) : undefined
    return value === undefined ? [] : [{ scope, entry: [name, value] as const }]
  })
  const of = (scope: string) => Object.fromEntries(given.filter((p) => p.scope === scope).map((p) => p.entry))
  return {
    merge_method: name,
    ...(needsBase ? { base_model: model('base') } : {}),
    models: used.map((m, i) => ({
      model: model(m),
      parameters: Object.fromEntries(
        Object.entries(of('model')).map(([key, value]) => [key, typeof value === 'number' ? value + i / 10 : value]),
      ),
    })),
    parameters: of('global'),
  }
}

function withParameters(method: string, parameters: NonNullable<RecipeInput['parameters']>): RecipeInput {
  const recipe = recipeOf(methods.get(method)!)
  return { ...recipe, parameters: { ...recipe.parameters, ...parameters } }
}

const recipes: Record<string, RecipeInput> = {
  ...Object.fromEntries(
    [...methods.values()].filter((m) => m.determinism === 'exact').map((m) => [m.name, recipeOf(m)]),
  ),
  'nuslerp of rows': withParameters('nuslerp', { nuslerp_flatten: false }),
  'nuslerp of columns': withParameters('nuslerp', { nuslerp_flatten: false, nuslerp_row_wise: true }),
  'model_stock of rows': withParameters('model_stock', { filter_wise: true }),
  'breadcrumbs_ties (rescale)': withParameters('breadcrumbs_ties', { rescale: true }),
  'sce (topk)': withParameters('sce', { select_topk: 0.4 }),
  'sce (exact)': withParameters('sce', { exact_weights: true }),
  'ties (peft)': withParameters('ties', { consensus: 'peft', majority_sign_method: 'frequency' }),
  'ties (whole model)': withParameters('ties', { consensus: 'reference', scope: 'model' }),
  'ties (reference)': withParameters('ties', { consensus: 'reference' }),
}

/** One engine a set of options: what it has compiled serves all recipes. */
const engines = new Map<string, Promise<Engine>>()
afterAll(async () => {
  for (const engine of engines.values()) await (await engine).close()
})

async function open(options: EngineOptions): Promise<Engine> {
  const key = JSON.stringify(options)
  const engine = engines.get(key) ?? Engine.open(options)
  engines.set(key, engine)
  return engine
}

async function bytes(name: string, options: EngineOptions, more: object = {}): Promise<Buffer> {
  const out = join(folder, `${name}-${Math.random().toString(36).slice(2)}`)
  await merge(await open(options), recipes[name]!, { out, seed: 7, checksum: 'none', sync: false, ...more })
  const tensors = readFolder(out)
  return Buffer.concat([...tensors.keys()].sort().map((key) => tensors.get(key)!.bytes))
}

describe.each(Object.keys(recipes))('%s gives the same bytes', (name) => {
  test('with staging slots, tiny tiles and many shards', async () => {
    const elsewhere = await bytes(name, { slots: 'staging', maxBufferBytes: 65_536 }, { shardSize: 500_000 })
    expect(elsewhere.equals(await bytes(name, {}))).toBe(true)
  })

  test('on the bundled SwiftShader as on the default device', async () => {
    const bundled = { device: 'swiftshader' }
    // With one driver there is nothing to compare.
    if (/swiftshader/i.test((await open({})).device.name)) return
    expect((await bytes(name, {})).equals(await bytes(name, bundled))).toBe(true)
    expect((await open(bundled)).device.name).toMatch(/swiftshader/i)
  })
})

test('another seed gives other random drops', async () => {
  const first = await bytes('dare_linear', {}, { seed: 1 })
  expect((await bytes('dare_linear', {}, { seed: 2 })).equals(first)).toBe(false)
})
