/** The strategy file of AmoebaLLM's release becomes one of this project, or is refused for what is wrong with it. */
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from '@jest/globals'
import { amoebaImport } from 'weightsmith'
import { openCheckpoint } from '../lib/checkpoint/index.js'
import { loadAddon } from '../lib/native/load.js'
import { readStrategy, shapeOf } from '../lib/workflows/amoeba/index.js'
import { readSafetensors, values } from './checkpoint.js'
import { cli } from './child.js'
import { golden } from './goldens.js'
import { scratch } from './scratch.js'

const { fresh } = scratch('amoeba-import')
const model = golden('reasoner/base')
const npy = join(process.cwd(), 'test/peers/npy')
const file = join(npy, 'dp_selection_strategy.npy')
const stage1 = readSafetensors(golden('reasoner/training/stage1.safetensors'))

test('masks of blocks and units and the biases are those of the file', async () => {
  const out = fresh('s.strategy')
  const report = await amoebaImport(file, model, { out })
  expect(report).toMatchObject({ layers: 8, least: 5 })
  expect(report.widths[1]).toEqual({ ratio: 0.875, groups: 15, neurons: 2399 })
  const addon = loadAddon()
  const strategy = await readStrategy(addon, out, await openCheckpoint(addon, model))
  expect(strategy.widths.map(({ ratio }) => ratio)).toEqual([1, 0.875, 0.75, 0.625])
  expect(strategy.depth.values).toEqual([Number.NaN, 0.4, 0.3, 0.2])
  const { blocks, units, biases } = shapeOf(strategy, { depth: 6, width: 0.75 })
  expect(blocks.map(Number)).toEqual([1, 1, 1, 1, 1, 0, 0, 1])
  for (const { layer, kind, kept } of units) {
    const mask = values(stage1.get(`${kind}s/3_4`)!)
    expect(kept.map(Number)).toEqual([...mask.slice(layer * kept.length, (layer + 1) * kept.length)])
  }
  const down = values(stage1.get('bias_down/3_4')!)
  expect([...biases.get('model.layers.5.mlp.down_proj.weight')!]).toEqual([...down.slice(5 * 128, 6 * 128)])
  // Layer 1 loses no head at this width, and has no bias for it.
  expect(biases.has('model.layers.1.self_attn.o_proj.weight')).toBe(false)
})

test('the command says what it has read', async () => {
  const out = fresh('s.strategy')
  const { stdout, code } = await cli('amoeba', 'import', file, model, '--out', out)
  expect(code).toBe(0)
  expect(stdout).toMatch(/depths of 5 to 8 blocks/)
  expect(existsSync(out)).toBe(true)
})

describe('refused', () => {
  const refusal = async (path: string, of = model) => {
    const out = fresh('s.strategy')
    await expect(amoebaImport(path, of, { out })).rejects.toThrow()
    expect(existsSync(out)).toBe(false)
    return amoebaImport(path, of, { out }).catch((error: { code: string; message: string }) => error)
  }

  test('a strategy that calls os.system, by name', async () => {
    expect(await refusal(join(npy, 'hostile-4.npy'))).toMatchObject({
      code: 'ERR_WEIGHTSMITH_FORMAT',
      message: expect.stringMatching(/posix\.system/) as unknown,
    })
  })

  test('arrays that are no strategy', async () => {
    const found = await refusal(join(npy, 'everything-4.npy'))
    expect(found).toMatchObject({
      code: 'ERR_WEIGHTSMITH_FORMAT',
      message: expect.stringMatching(/no dict/) as unknown,
    })
    expect(await refusal(join(npy, 'plain-bool.npy'))).toMatchObject({ code: 'ERR_WEIGHTSMITH_FORMAT' })
  })

  test('a strategy of a model with other heads and neurons', async () => {
    const bytes = readFileSync(join(model, 'config.json'), 'utf8')
    expect(bytes).toContain('LlamaForCausalLM')
    const other = join(process.cwd(), 'test/goldens/tiny-llava')
    expect(await refusal(file, other)).toMatchObject({ code: 'ERR_WEIGHTSMITH_SHAPE_MISMATCH' })
  })
})
