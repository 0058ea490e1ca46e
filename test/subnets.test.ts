/** Subnets and mixtures of experts are those of PyTorch in float64. */
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, openModel } from 'weightsmith'
import type { TrainingSequence } from '../lib/runtime/gradients/teaching.js'
import type { TrainableModel } from '../lib/runtime/gradients/trainable_model.js'
import type { Subnet } from '../lib/runtime/index.js'
import { readSafetensors, values } from './checkpoint.js'
import { golden } from './goldens.js'
import { math } from './math.js'
import { apart, near, norm, openTrainable, targetsOf, within } from './training.js'

interface Line {
  ids: number[]
  first_answer_index: number
}
interface Shape {
  shape: string
  depth: number
  keep: number[]
  ratio: string
  noise: boolean
  u: number[]
  topk: number[]
  g: number[]
  loss: number
  loss_output_mix?: number
  grad_norm: number
  grad: Record<string, { sum: number; l2: number; absmax: number }>
}
interface Smol {
  model: string
  E: number
  rank: number
  topk: number
  scale: number
  widths: string[]
  shapes: Shape[]
  grad_batch: Line[]
}

const json = <T>(name: string): T => JSON.parse(readFileSync(golden(`reasoner/training/${name}.json`), 'utf8')) as T
const tensorsIn = (name: string) =>
  new Map([...readSafetensors(golden(`reasoner/training/${name}.safetensors`))].map(([key, raw]) => [key, values(raw)]))

const stage1 = tensorsIn('stage1')
const depth = 8

const kinds = ['q', 'k', 'v', 'o'].map((name) => `self_attn.${name}_proj`)
const modules = [...kinds, ...['gate', 'up', 'down'].map((name) => `mlp.${name}_proj`)]
const all = Array.from({ length: depth }, (_, layer) => modules.map((name) => `model.layers.${layer}.${name}`)).flat()

/** The subnet of a mask of blocks and a ratio of the golden. */
function subnetOf(keep: readonly number[], ratio: string, compensated = true, u?: readonly number[]): Subnet {
  const key = ratio.replace('/', '_')
  const rows = (name: string, layer: number) => {
    const every = stage1.get(`${name}/${key}`)!
    const width = every.length / depth
    return [...every.slice(layer * width, (layer + 1) * width)]
  }
  const masks = new Map<string, Float32Array<ArrayBuffer>>()
  const offsets = new Map<string, Float32Array<ArrayBuffer>>()
  for (let layer = 0; layer < depth; layer++) {
    const [o, down] = [`model.layers.${layer}.self_attn.o_proj.weight`, `model.layers.${layer}.mlp.down_proj.weight`]
    const groups = rows('groups', layer)
    masks.set(
      o,
      Float32Array.from({ length: 128 }, (_, i) => groups[math.floor(i / (128 / groups.length))]!),
    )
    masks.set(down, Float32Array.from(rows('neurons', layer)))
    if (!compensated) continue
    offsets.set(o, Float32Array.from(rows('bias_o', layer)))
    offsets.set(down, Float32Array.from(rows('bias_down', layer)))
  }
  const description = u && { description: Float32Array.from(u) }
  return { blocks: keep.map((stays) => stays === 1), masks, offsets, ...description }
}

let engine: Engine
beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

describe('a model on the device', () => {
  const golden1 = json<{
    model: string
    logits: { cases: { key: string; keep: number[]; ratio: string; bias_compensation: boolean }[] }
  }>('stage1')

  test('runs as any of its subnets, and as a whole again', async () => {
    const { cases } = golden1.logits
    const shapes = cases.map(({ keep, ratio, bias_compensation: with_ }) => subnetOf(keep, ratio, with_))
    const model = await openModel(engine, golden(`reasoner/${golden1.model}`), { subnet: shapes[0]! })
    const whole = await openModel(engine, golden(`reasoner/${golden1.model}`))
    const ids = [0, 1].map((i) => [...stage1.get(`ids/${i}`)!])
    const logitsOf = async (of: typeof model) => (await of.run(of.pack(ids), { logits: true })).logits!
    const before = await logitsOf(whole)
    await whole.close()
    for (const [i, { key }] of cases.entries()) {
      model.subnet = shapes[i]!
      const want = [0, 1].flatMap((line) => [...stage1.get(`logits/${key}/${line}`)!])
      const most = want.reduce((sum, value) => math.max(sum, math.abs(value)), 0)
      const got = await logitsOf(model)
      const off = want.reduce((sum, value, at) => math.max(sum, math.abs(value - got[at]!)), 0)
      within(off / most, 1e-5, key)
    }
    model.subnet = undefined
    expect(await logitsOf(model)).toEqual(before)
    await model.close()
  })
})

/** From the names of the golden to ours, [experts, ...] to one of each. */
const gateNames: Record<string, string> = { l1: 'topkroute_linear.0', l2: 'topkroute_linear.1', noise: 'noise_linear' }

async function load(model: TrainableModel, smol: Map<string, Float64Array>, experts: number, zeroB = false) {
  for (const [key, tensor] of smol) {
    if (!key.startsWith('init/')) continue
    for (const [name, part] of ours(key.slice(5), tensor, experts)) {
      await model.write(
        name,
        Float32Array.from(part, (value) => (zeroB && key.endsWith('.B') ? 0 : value)),
      )
    }
  }
}

function ours(name: string, tensor: ArrayLike<number>, experts: number): [string, number[]][] {
  const gate = /^gate\.(\w+)\.(\w+)$/.exec(name)
  if (gate) return [[`router.${gateNames[gate[1]!]}.${gate[2]}`, Array.from(tensor)]]
  const [, module, factor] = /^(.*)\.([AB])$/.exec(name)!
  const size = tensor.length / experts
  return Array.from({ length: experts }, (_, e) => [
    `${module}.lora_${factor}.${e}.weight`,
    Array.from(tensor).slice(e * size, (e + 1) * size),
  ])
}

const sequencesOf = (lines: Line[]): TrainingSequence[] =>
  lines.map(({ ids, first_answer_index: first }) => ({ ids, targets: ids.map((_, i) => i >= first) }))

/**
 * How far off a gradient of this norm may be: a gate's is a difference of sums that may cancel, so there is a floor
 * that goes by the norm of the whole gradient.
 */
const allowed = (own: number, whole: number) => 2e-5 * own + 5e-7 * whole

describe('a mixture of experts', () => {
  const settings = json<Smol>('smol')
  const smol = tensorsIn('smol')
  const { E: experts, rank, scale, topk: top, widths } = settings
  const sequences = sequencesOf(settings.grad_batch)
  const options = (mix: 'factor' | 'output' = 'factor') => ({
    tokens: sequences.reduce((sum, { ids }) => sum + ids.length, 0),
    adapters: all.map((module) => ({ weight: `${module}.weight`, rank, scale, experts })),
    ...{ subnets: true, mix, router: { inputs: depth + widths.length, hidden: 16, experts, top } },
  })
  const count = targetsOf(sequences)
  const open = async (mix?: 'factor' | 'output', zeroB?: boolean) => {
    const model = await openTrainable(engine, golden(`reasoner/${settings.model}`), options(mix))
    await load(model, smol, experts, zeroB)
    return model
  }
  const passOf = ({ keep, ratio, u, noise }: Shape) => ({
    subnet: subnetOf(keep, ratio, true, u),
    ...(noise && { noise: Float32Array.from(smol.get('noise_vector')!) }),
  })

  test('has the gates, losses and gradients of PyTorch for every shape, with noise and without', async () => {
    const model = await open()
    for (const shape of settings.shapes) {
      const pass = await model.forward(sequences, { ...passOf(shape), learns: true })
      for (const [e, gate] of shape.g.entries()) near(pass.gates![e]!, gate, 1e-5, `gate ${e} of ${shape.shape}`)
      near(pass.losses.reduce((a, b) => a + b, 0) / count, shape.loss, 1e-5, `loss of ${shape.shape}`)
      await pass.backward(1 / count)
      near(await model.gradientNorm(), shape.grad_norm, 1e-5, `norm of ${shape.shape}`)
      const tag = `grad/${shape.shape}/${shape.noise ? 'noise' : 'clean'}/`
      for (const [key, tensor] of smol) {
        if (!key.startsWith(tag) || tensor.every((value) => value === 0)) continue
        const parts = ours(key.slice(tag.length), tensor, experts)
        const got: number[] = []
        for (const [name, part] of parts) {
          // An expert that does not count has no gradient.
          const other = part.every((value) => value === 0)
          got.push(...(other ? part : await model.read(name, 'gradient')))
        }
        const off = norm(Array.from(tensor, (value, i) => got[i]! - value))
        within(off, allowed(norm(tensor), shape.grad_norm), key)
      }
      for (const [name, stats] of Object.entries(shape.grad)) {
        let sum = 0
        for (const [own, part] of ours(name, new Float64Array(experts), experts)) {
          if (part.length === 1 && !shape.topk.includes(Number(/\.(\d+)\.weight$/.exec(own)?.[1]))) continue
          if (stats.l2 > 0) sum += norm(await model.read(own, 'gradient')) ** 2
        }
        const off = math.abs(math.sqrt(sum) - stats.l2)
        within(off, allowed(stats.l2, shape.grad_norm), `l2 of ${name} of ${shape.shape}`)
      }
      await model.step({ rate: 0, beta1: 0, beta2: 0, eps: 1, decay: () => 0, clip: 1 })
    }
    await model.close()
  })

  test.each([
    ['in the memory', undefined],
    ['read from its files', '3MiB'],
  ])('runs in a model that is not trained, %s', async (_, memory) => {
    const values = new Map<string, Float32Array>()
    for (const [key, tensor] of smol) {
      if (!key.startsWith('init/')) continue
      for (const [name, part] of ours(key.slice(5), tensor, experts)) values.set(name, Float32Array.from(part))
    }
    const { adapters: specs, router } = options()
    const described = ({ keep, ratio, u }: Shape): Subnet => {
      return { ...subnetOf(keep, ratio), description: Float32Array.from(u) }
    }
    const clean = settings.shapes.filter(({ noise }) => !noise)
    const small = memory === undefined ? engine : await Engine.open({ memory })
    const model = await openModel(small, golden(`reasoner/${settings.model}`), {
      ...{ subnet: described(clean[0]!), batchTokens: 77, adapters: { specs, values, router } },
    })
    expect((await model.forecast()).partitions > 1).toBe(memory !== undefined)
    for (const shape of [...clean, clean[0]!]) {
      model.subnet = described(shape)
      const { logits } = await model.run(model.pack(sequences.map(({ ids }) => ids)), { logits: true })
      const want = smol.get(`forward/${shape.shape}/clean`)!
      const most = want.reduce((sum, value) => math.max(sum, math.abs(value)), 0)
      const off = want.reduce((sum, value, i) => math.max(sum, math.abs(value - logits![i]!)), 0)
      within(off / most, 1e-5, shape.shape)
    }
    await model.close()
    const mixed = await openModel(small, golden(`reasoner/${settings.model}`), {
      ...{ subnet: described(clean[0]!), batchTokens: 77, adapters: { specs, values, router, mix: 'output' } },
    })
    const tokens = mixed.pack(sequences.map(({ ids }) => ids))
    const learned = sequences.flatMap(({ targets }) => [...Array.from(targets).slice(1), false])
    for (const shape of clean) {
      mixed.subnet = described(shape)
      let loss = 0
      const losses = (_: number, nll: Float32Array) => {
        for (const [i, own] of nll.entries()) loss += learned[i] ? own : 0
      }
      await mixed.layerwisePass([tokens], { losses })
      near(loss / count, shape.loss_output_mix!, 1e-5, shape.shape)
    }
    await mixed.close()
    if (small !== engine) await small.close()
  })

  test('asks for what its router is told, and for all that it is made of', async () => {
    const { adapters: specs, router } = options()
    const values = new Map(
      [...smol].flatMap(([key, tensor]) => (key.startsWith('init/') ? ours(key.slice(5), tensor, experts) : [])),
    )
    const some = new Map([...values].map(([name, own]) => [name, Float32Array.from(own)]))
    const path = golden(`reasoner/${settings.model}`)
    const open = (adapters: object, subnet = subnetOf(settings.shapes[0]!.keep, '1')) =>
      openModel(engine, path, { subnet, adapters: { specs, values: some, router, ...adapters } })
    const model = await open({})
    await expect(model.run(model.pack([[1, 2]]))).rejects.toThrow('there is no description')
    await model.close()
    const lacking = new Map(some)
    lacking.delete('model.layers.3.mlp.up_proj.lora_B.4.weight')
    await expect(open({ values: lacking })).rejects.toThrow('model.layers.3.mlp.up_proj.lora_B.4.weight')
    await expect(open({ router: undefined })).rejects.toThrow('the router is missing')
    await expect(open({ specs: [{ weight: 'lm_head.weight', rank, scale }] })).rejects.toThrow('lm_head.weight')
  })

  test('mixes outputs as PyTorch does', async () => {
    const model = await open('output')
    for (const shape of settings.shapes) {
      if (shape.loss_output_mix === undefined) continue
      const { losses } = await model.forward(sequences, passOf(shape))
      near(losses.reduce((a, b) => a + b, 0) / count, shape.loss_output_mix, 1e-5, shape.shape)
    }
    await model.close()
  })

  test('moves only B in its first step from zeros', async () => {
    const model = await open('factor', true)
    const [shape] = settings.shapes
    const pass = await model.forward(sequences, { ...passOf(shape!), learns: true })
    await pass.backward(1 / count)
    await model.gradientNorm()
    for (const name of model.learned) {
      const zero = (await model.read(name, 'gradient')).every((value) => value === 0)
      if (!name.includes('lora_B')) expect({ name, zero }).toEqual({ name, zero: true })
    }
    await model.close()
  })
})

interface Run {
  options: { lr: number; kd: number; kd_shift: boolean; balance: boolean; dense: boolean; mix?: 'factor' | 'output' }
  noise: boolean
  steps: {
    shapes: [number, string][]
    loss: number[]
    weight: number[]
    grad_norm_total: number
    g: number[][]
  }[]
  final_minus_start: Record<string, { l2: number }>
}

describe('one-for-all steps', () => {
  const settings = json<
    Smol & {
      clip: number
      strategy: Record<string, number[]>
      batches: Line[][]
      noise: number[][][]
      runs: Record<string, Run>
    }
  >('one-for-all')
  const smol = tensorsIn('smol')
  const finals = tensorsIn('one-for-all')
  const { E: experts, rank, scale, topk: top, widths, clip } = settings

  // These take every way through the code; all of them run where the goldens are others than the copies.
  const few = ['shifted_kd', 'with_noise', 'output_mix']
  const names = process.env.WEIGHTSMITH_GOLDENS ? Object.keys(settings.runs) : few

  test.each(names)('have the losses and the end of PyTorch, %s', async (name) => {
    const run = settings.runs[name]!
    const { lr: rate, kd, kd_shift, balance, dense, mix = 'factor' } = run.options
    const batches = settings.batches.map(sequencesOf)
    const tokens = math.max(...batches.map((batch) => batch.reduce((sum, { ids }) => sum + ids.length, 0)))
    const model = await openTrainable(engine, golden(`reasoner/${settings.model}`), {
      ...{ tokens, subnets: true, teacher: 'self' as const, mix },
      adapters: all.map((module) => ({ weight: `${module}.weight`, rank, scale, experts })),
      router: { inputs: depth + widths.length, hidden: 16, experts, top },
    })
    await load(model, smol, experts, name === 'from_zero_B')
    const start = new Map<string, Float32Array>()
    for (const tensor of model.learned) start.set(tensor, await model.read(tensor))
    for (const [i, step] of run.steps.entries()) {
      const batch = batches[i]!
      const count = targetsOf(batch)
      let first = 0
      for (const [s, [depth, ratio]] of step.shapes.entries()) {
        const keep = settings.strategy[depth]!
        const told = [...keep, ...widths.map((width) => Number(width === ratio))]
        const noise = run.noise ? Float32Array.from(settings.noise[i]![s]!) : undefined
        const pass = await model.forward(batch, {
          ...{ subnet: subnetOf(keep, ratio, true, told), noise, learns: true },
          ...{
            teaches: s === 0,
            share: s === 0 ? 0 : kd,
            mask: kd_shift ? ('shifted' as const) : ('own-label' as const),
          },
        })
        const loss = pass.losses.reduce((a, b) => a + b, 0) / count
        near(loss, step.loss[s]!, 1e-4, `loss of ${s} in step ${i}`)
        if (s === 0) first = loss
        const weight = s > 0 && balance ? first / loss : 1
        near(weight, step.weight[s]!, 1e-4, `weight of ${s} in step ${i}`)
        for (const [e, gate] of step.g[s]!.entries()) within(math.abs(pass.gates![e]! - gate), 1e-4, `gate ${e}`)
        await pass.backward(weight / count)
      }
      const total = await model.gradientNorm()
      near(total, step.grad_norm_total, i === 0 ? 1e-5 : 1e-3, `norm of step ${i}`)
      const clipped = math.min(1, clip / (total + 1e-6))
      await model.step({ rate, beta1: 0.9, beta2: 0.999, eps: 1e-8, decay: () => 0, clip: clipped, dense })
    }
    let [off, all_] = [0, 0]
    for (const [tensor, { l2 }] of Object.entries(run.final_minus_start)) {
      let sum = 0
      for (const [own] of ours(tensor, new Float64Array(experts), experts)) {
        const now = await model.read(own)
        sum += norm(Float64Array.from(now, (value, i) => value - start.get(own)![i]!)) ** 2
      }
      off += (math.sqrt(sum) - l2) ** 2
      all_ += l2 ** 2
      const want = finals.get(`${name}/final/${tensor}`)
      if (want === undefined) continue
      const parts = ours(tensor, want, experts)
      const [got, wanted] = [[] as number[], [] as number[]]
      for (const [own, part] of parts) {
        const before = start.get(own)!
        got.push(...Float64Array.from(await model.read(own), (value, i) => value - before[i]!))
        wanted.push(...part.map((value, i) => value - before[i]!))
      }
      within(apart(got, wanted), 2e-3, tensor)
    }
    within(math.sqrt(off / all_), 2e-3, 'changes')
    await model.close()
  })
})
