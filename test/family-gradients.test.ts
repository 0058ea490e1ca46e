/** Tiny models of every family have the gradients that autograd has in float64, of all tensors and of adapters. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine } from 'weightsmith'
import type { TrainableModel, TrainableOptions } from '../lib/runtime/gradients/trainable_model.js'
import { f32, fill, readSafetensors, values, writeModel } from './checkpoint.js'
import { scratch } from './scratch.js'
import { meanLoss, near, norm, openTrainable, within } from './training.js'

const goldens = join(process.cwd(), 'test/goldens/training/families')
const { rank, alpha, sequences, targets, cases } = JSON.parse(readFileSync(join(goldens, 'families.json'), 'utf8')) as {
  rank: number
  alpha: number
  sequences: number[][]
  targets: number[][]
  cases: Record<
    string,
    { config: object; tensors: Record<string, number[]>; loss: Record<'full' | 'lora' | 'dora', number> }
  >
}
const gradients = readSafetensors(join(goldens, 'families.safetensors'))
const batch = sequences.map((ids, i) => ({ ids, targets: targets[i]! }))

/** Golden gradients of a family, by tensors. */
const wanted = (name: string, kind: string) => {
  const prefix = `${name}/${kind}/`
  return new Map(
    [...gradients]
      .filter(([key]) => key.startsWith(prefix))
      .map(([key, raw]) => [key.slice(prefix.length), values(raw)]),
  )
}

describe('a tiny model', () => {
  const { fresh } = scratch('family-gradients')
  let engine: Engine
  beforeAll(async () => {
    engine = await Engine.open()
  })
  afterAll(() => engine?.close())

  function open(name: string, options: Omit<TrainableOptions, 'tokens'>): Promise<TrainableModel> {
    const { config, tensors } = cases[name]!
    const raw = Object.entries(tensors).map(([tensor, shape]) => [tensor, f32(fill(tensor, shape), shape)])
    const folder = writeModel(fresh(name), Object.fromEntries(raw), config)
    return openTrainable(engine, folder, { tokens: sequences.flat().length + 3, ...options })
  }

  /** Some gradients are zero but for rounding, such as those of biases of keys where nothing is rotated. */
  async function compare(model: TrainableModel, name: string, kind: 'full' | 'lora' | 'dora'): Promise<void> {
    near(await meanLoss(model, batch), cases[name]!.loss[kind], 1e-6, 'loss')
    const want = wanted(name, kind)
    expect(model.learned.sort()).toEqual([...want.keys()].sort())
    const all = norm([...want.values()].flatMap((some) => [...some]))
    near(await model.gradientNorm(), all, 1e-5, 'norm')
    for (const [tensor, some] of want) {
      const got = await model.read(tensor, 'gradient')
      const off = some.map((value, i) => got[i]! - value)
      within(norm(off), 1e-5 * norm(some) + 1e-7 * all, tensor)
    }
    await model.close()
  }

  test.each(Object.keys(cases))('%s has the gradients of all tensors', async (name) => {
    await compare(await open(name, { tensors: [...wanted(name, 'full').keys()] }), name, 'full')
  })

  test.each(Object.keys(cases))('%s has the gradients of LoRA', async (name) => {
    const factors = [...wanted(name, 'lora').keys()]
    const adapters = factors
      .filter((factor) => factor.endsWith('.lora_A.weight'))
      .map((factor) => ({ weight: factor.replace('.lora_A', ''), rank, scale: alpha / rank }))
    const model = await open(name, { adapters })
    for (const factor of factors) await model.write(factor, fill(factor, model.shapeOf(factor)))
    await compare(model, name, 'lora')
  })

  test('is not trained where that would have no effect', async () => {
    const name = Object.keys(cases['llava-full']!.tensors).find(
      (tensor) => tensor.includes('vision_tower') && tensor.endsWith('q_proj.weight'),
    )!
    const refused = (options: Omit<TrainableOptions, 'tokens'>) =>
      expect(open('llava-full', options)).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_ARGUMENT' })
    await refused({ tensors: [name] })
    for (const weight of [name, 'lm_head.weight', 'model.language_model.norm.weight']) {
      await refused({ adapters: [{ weight, rank, scale: 1 }] })
    }
  })
})
