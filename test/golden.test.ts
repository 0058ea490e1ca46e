/** Merges of trained weights equal numbers computed in float64 outside this project. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, merge, type RecipeInput } from 'weightsmith'
import { readFolder, readSafetensors, values } from './checkpoint.js'

const models = join(process.cwd(), 'demo/models')
const goldens = join(process.cwd(), 'test/goldens')
const golden = JSON.parse(readFileSync(join(goldens, 'merge.json'), 'utf8')) as {
  full_tensors: string[]
  configs: Record<string, { tensors: Record<string, { sum: number; l2: number; boundary_ties?: number }> }>
}
const full = readSafetensors(join(goldens, 'merge.safetensors'))
const model = (name: string) => join(models, name)

const recipes: Record<string, { recipe: RecipeInput; tolerance: number }> = {
  linear_b50_m1_50: {
    tolerance: 1e-6,
    recipe: {
      merge_method: 'linear',
      models: ['base', 'improved-1'].map((name) => ({ model: model(name), parameters: { weight: 0.5 } })),
    },
  },
  linear_b30_m2_70: {
    tolerance: 1e-6,
    recipe: {
      merge_method: 'linear',
      models: [
        { model: model('base'), parameters: { weight: 0.3 } },
        { model: model('improved-2'), parameters: { weight: 0.7 } },
      ],
    },
  },
  slerp_b_m1_t25: { tolerance: 5e-5, recipe: slerp('improved-1', 0.25) },
  slerp_b_m2_t50: { tolerance: 5e-5, recipe: slerp('improved-2', 0.5) },
  task_arithmetic_m1_60_m2_40: {
    tolerance: 1e-6,
    recipe: {
      merge_method: 'task_arithmetic',
      base_model: model('base'),
      models: [
        { model: model('improved-1'), parameters: { weight: 0.6 } },
        { model: model('improved-2'), parameters: { weight: 0.4 } },
      ],
    },
  },
  ties_m1_m2_d50: {
    tolerance: 1e-6,
    recipe: {
      merge_method: 'ties',
      base_model: model('base'),
      models: ['improved-1', 'improved-2'].map((name) => ({
        model: model(name),
        parameters: { weight: 1, density: 0.5 },
      })),
    },
  },
}

function slerp(other: string, t: number): RecipeInput {
  return {
    merge_method: 'slerp',
    base_model: model('base'),
    models: [{ model: model('base') }, { model: model(other) }],
    parameters: { t },
  }
}

describe('merges of the trained reasoner', () => {
  let engine: Engine
  const folder = mkdtempSync(join(tmpdir(), 'weightsmith-golden-'))

  beforeAll(async () => {
    engine = await Engine.open()
  })
  afterAll(async () => {
    await engine?.close()
    rmSync(folder, { recursive: true, force: true })
  })

  for (const [name, { recipe, tolerance }] of Object.entries(recipes)) {
    test(`${name} in f32 equals the golden values`, async () => {
      const out = join(folder, `${name}-f32`)
      await merge(engine, recipe, { out, dtype: 'float32' })
      const result = readFolder(out)
      for (const tensor of golden.full_tensors) {
        const got = values(result.get(tensor)!)
        const want = values(full.get(`${name}/f32/${tensor}`)!)
        expect(got.length).toBe(want.length)
        const scale = want.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
        let different = 0
        for (let i = 0; i < want.length; i++) {
          const bound = tolerance * (Math.abs(want[i]!) + scale)
          if (!(Math.abs(got[i]! - want[i]!) <= bound)) different++
        }
        expect({ tensor, different }).toEqual({ tensor, different: 0 })
      }
      // Every tensor, not only the ones stored in full.
      for (const [tensor, { l2 }] of Object.entries(golden.configs[name]!.tensors)) {
        const norm = Math.sqrt(values(result.get(tensor)!).reduce((sum, value) => sum + value * value, 0))
        expect(Math.abs(norm - l2) / l2).toBeLessThan(1e-5)
      }
    })

    test(`${name} in bf16 is at most one step off, on fewer than one element in a thousand`, async () => {
      const out = join(folder, `${name}-bf16`)
      await merge(engine, recipe, { out, dtype: 'bfloat16' })
      const result = readFolder(out)
      for (const tensor of golden.full_tensors) {
        const got = result.get(tensor)!.bytes
        const want = full.get(`${name}/bf16/${tensor}`)!.bytes
        expect(got.length).toBe(want.length)
        let off = 0
        let far = 0
        for (let i = 0; i < want.length; i += 2) {
          const distance = Math.abs(got.readUInt16LE(i) - want.readUInt16LE(i))
          if (distance === 1) off++
          if (distance > 1) far++
        }
        expect({ tensor, far }).toEqual({ tensor, far: 0 })
        expect(off).toBeLessThanOrEqual((want.length / 2) * 1e-3)
      }
    })
  }
})
