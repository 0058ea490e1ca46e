/** The same recipe and seed give the same bytes, whatever the slots, the tile size or the shards. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from '@jest/globals'
import { Engine, merge, type RecipeInput } from 'weightsmith'
import { readFolder } from './checkpoint.js'

const model = (name: string) => join(process.cwd(), 'demo/models', name)
const folder = mkdtempSync(join(tmpdir(), 'weightsmith-same-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const withBase = (merge_method: string, parameters: Record<string, unknown> = {}): RecipeInput =>
  ({
    merge_method,
    base_model: model('base'),
    models: ['improved-1', 'improved-2'].map((name) => ({
      model: model(name),
      parameters: { weight: 0.4, density: 0.6 },
    })),
    parameters,
  }) as RecipeInput

const recipes: Record<string, RecipeInput> = {
  linear: {
    merge_method: 'linear',
    models: ['base', 'improved-1', 'improved-3'].map((name, i) => ({
      model: model(name),
      parameters: { weight: 1 + i },
    })),
  },
  task_arithmetic: {
    merge_method: 'task_arithmetic',
    base_model: model('base'),
    models: [{ model: model('improved-1'), parameters: { weight: 0.3 } }],
  },
  ties: withBase('ties'),
  dare_linear: withBase('dare_linear'),
  dare_ties: withBase('dare_ties'),
  breadcrumbs: withBase('breadcrumbs'),
  breadcrumbs_ties: withBase('breadcrumbs_ties', { rescale: true }),
  ramplus_tl: withBase('ramplus_tl'),
  sce: withBase('sce', { select_topk: 0.4 }),
  'ties (peft)': withBase('ties', { consensus: 'peft', majority_sign_method: 'frequency' }),
  'ties (whole model)': withBase('ties', { consensus: 'reference', scope: 'model' }),
  della: withBase('della'),
  della_linear: withBase('della_linear'),
  'ties (reference)': withBase('ties', { consensus: 'reference' }),
}

const adapters: Record<string, string> = {}

async function bytes(name: string, options: Parameters<typeof Engine.open>[0], more: object = {}): Promise<Buffer> {
  const engine = await Engine.open(options)
  adapters[options?.adapter ?? 'default'] = engine.adapter.info.device
  const out = join(folder, `${name}-${Math.random().toString(36).slice(2)}`)
  try {
    await merge(engine, recipes[name]!, { out, seed: 7, checksum: 'none', sync: false, ...more })
  } finally {
    await engine.close()
  }
  const tensors = readFolder(out)
  return Buffer.concat([...tensors.keys()].sort().map((key) => tensors.get(key)!.bytes))
}

describe.each(Object.keys(recipes))('%s gives the same bytes', (name) => {
  test('with staging slots, tiny tiles and many shards', async () => {
    const plain = await bytes(name, {})
    expect((await bytes(name, { slots: 'staging' })).equals(plain)).toBe(true)
    expect((await bytes(name, { maxBufferBytes: 65_536 })).equals(plain)).toBe(true)
    expect((await bytes(name, {}, { shardSize: 500_000 })).equals(plain)).toBe(true)
  })

  test('on the bundled SwiftShader as on the default adapter', async () => {
    const other = await bytes(name, { adapter: 'swiftshader' })
    expect((await bytes(name, {})).equals(other)).toBe(true)
    expect(adapters.swiftshader).toMatch(/swiftshader/i)
    // Where the default is another driver, the two were really compared.
    if (!process.env.WEIGHTSMITH_ADAPTER && /llvmpipe/.test(adapters.default ?? ''))
      expect(adapters.default).not.toBe(adapters.swiftshader)
  })
})

test('another seed gives other random drops', async () => {
  const first = await bytes('dare_linear', {}, { seed: 1 })
  expect((await bytes('dare_linear', {}, { seed: 2 })).equals(first)).toBe(false)
})
