/** Tiny models of every family have the gradients that autograd has in float64, of all tensors and of adapters. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine } from 'weightsmith'
import type { TrainableModel, TrainableOptions } from '../lib/runtime/gradients/trainable_model.js'
import { f32, fill, readSafetensors, values, writeModel } from './checkpoint.js'
import { scratch } from './scratch.js'
import { apart, meanLoss, near, norm, openTrainable, targetsOf, within } from './training.js'

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

/** Gradients of adapters that lose elements, by PEFT with the masks that are drawn here: test/peers/make_dropout.py. */
const lost = JSON.parse(readFileSync(join(goldens, 'dropout.json'), 'utf8')) as {
  share: number
  seed: number
  step: number
  microBatch: number
  cases: Record<string, Record<'lora' | 'dora', { loss: number; modules: string[] }>>
}
const lostGradients = readSafetensors(join(goldens, 'dropout.safetensors'))

describe('a tiny model', () => {
  const { fresh } = scratch('family-gradients')
  let engine: Engine
  beforeAll(async () => {
    engine = await Engine.open()
  })
  afterAll(() => engine?.close())

  function open(name: string, options: Omit<TrainableOptions, 'tokens'>, on = engine): Promise<TrainableModel> {
    const { config, tensors } = cases[name]!
    const raw = Object.entries(tensors).map(([tensor, shape]) => [tensor, f32(fill(tensor, shape), shape)])
    const folder = writeModel(fresh(name), Object.fromEntries(raw), config)
    return openTrainable(on, folder, { tokens: sequences.flat().length + 3, ...options })
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

  const kinds = (['lora', 'dora'] as const).flatMap((kind) => Object.keys(cases).map((name) => [name, kind] as const))

  test.each(kinds)('%s has the gradients of %s', async (name, kind) => {
    const parts = [...wanted(name, kind).keys()]
    const adapters = parts
      .filter((part) => part.endsWith('.lora_A.weight'))
      .map((part) => ({ weight: part.replace('.lora_A', ''), rank, scale: alpha / rank, dora: kind === 'dora' }))
    const model = await open(name, { adapters })
    for (const part of parts) {
      const value = fill(part, model.shapeOf(part))
      // Magnitudes are moved from where they begin.
      const start = part.endsWith('magnitude_vector') ? await model.read(part) : undefined
      await model.write(part, start?.map((length, i) => length * (1 + value[i]!)) ?? value)
    }
    await compare(model, name, kind)
  })

  const dropouts = Object.keys(lost.cases).flatMap((name) =>
    (['lora', 'dora'] as const).map((kind) => [name, kind] as const),
  )

  test.each(dropouts)('%s has the gradients of %s with dropout that PEFT has', async (name, kind) => {
    const { loss, modules } = lost.cases[name]![kind]
    const adapters = modules.map((module) => {
      return { weight: `${module}.weight`, rank, scale: alpha / rank, dora: kind === 'dora' }
    })
    const model = await open(name, { adapters, dropout: lost })
    for (const part of model.learned) {
      const value = fill(part, model.shapeOf(part))
      const start = part.endsWith('magnitude_vector') ? await model.read(part) : undefined
      await model.write(part, start?.map((length, i) => length * (1 + value[i]!)) ?? value)
    }
    const count = targetsOf(batch)
    const losses = await model.run(batch, 1 / count, lost)
    near(losses.reduce((sum, value) => sum + value, 0) / count, loss, 1e-6, 'loss')
    const want = new Map(model.learned.map((part) => [part, values(lostGradients.get(`${name}/${kind}/${part}`)!)]))
    const all = norm([...want.values()].flatMap((some) => [...some]))
    for (const [part, some] of want) {
      const got = await model.read(part, 'gradient')
      within(norm(some.map((value, i) => got[i]! - value)), 1e-5 * norm(some) + 1e-7 * all, part)
    }
    // Without a draw nothing is lost, and a second one is another.
    const plain = await model.run(batch)
    expect(await model.run(batch, undefined, { ...lost, step: lost.step + 1 })).not.toEqual(losses)
    expect(plain).not.toEqual(losses)
    await model.close()
  })

  test('has magnitudes of the lengths of its rows, also where layers take turns in memory', async () => {
    const { tensors } = cases.mistral!
    const weights = Object.keys(tensors).filter((name) => name.endsWith('proj.weight'))
    const options = { adapters: weights.map((weight) => ({ weight, rank, scale: 1, dora: true })) }
    await using none = await Engine.open({ memory: 1 })
    const message = await open('mistral', options, none).catch((error: Error) => error.message)
    await using small = await Engine.open({ memory: Number(/takes (\d+) bytes/.exec(String(message))?.[1]) })
    const [whole, turns] = [await open('mistral', options), await open('mistral', options, small)]
    expect(turns.bytes).toBeLessThan(whole.bytes)
    for (const model of [whole, turns]) {
      for (const weight of weights) {
        const [rows, columns] = tensors[weight] as [number, number]
        const stored = fill(weight, [rows, columns])
        const lengths = Array.from({ length: rows }, (_, n) => norm(stored.subarray(n * columns, (n + 1) * columns)))
        within(apart(await model.read(weight.replace('weight', 'lora_magnitude_vector')), lengths), 1e-6, weight)
      }
      near(await meanLoss(model, batch), cases.mistral!.loss.full, 1e-6, 'the loss of the base')
      await model.close()
    }
  })

  test('is not trained where that would have no effect, or by a teacher with other ids', async () => {
    const name = Object.keys(cases['llava-full']!.tensors).find(
      (tensor) => tensor.includes('vision_tower') && tensor.endsWith('q_proj.weight'),
    )!
    const refused = (options: Omit<TrainableOptions, 'tokens'>) =>
      expect(open('llava-full', options)).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_ARGUMENT' })
    await refused({ tensors: [name] })
    const teacher = await open('opt-odd', {})
    await refused({ teacher: teacher.checkpoint })
    await teacher.close()
    for (const weight of [name, 'lm_head.weight', 'model.language_model.norm.weight']) {
      await refused({ adapters: [{ weight, rank, scale: 1 }] })
    }
  })
})
