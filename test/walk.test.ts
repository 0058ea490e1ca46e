/**
 * Batches that walk through a model: what is seen of them, and that a model in partitions gives the same bits as a
 * whole one.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { ColumnStatistics, Engine, type LayerwiseObservers, type Model, openModel, rowGroups } from 'weightsmith'

const goldens = join(process.cwd(), 'test/goldens')
const full = join(goldens, 'base-f32')
const golden = JSON.parse(readFileSync(join(goldens, 'forward.json'), 'utf8')) as {
  calibration: { line_token_ids: number[][]; line_nll_sum: number[] }
}
const lines = golden.calibration.line_token_ids

const weight = (layer: number, name: string) => `model.layers.${layer}.${name}.weight`

/** All that can be seen, as plain numbers. */
async function see(model: Model, skips: Set<number>[] = []) {
  const batches = [lines.slice(0, 5), lines.slice(5, 9), lines.slice(9, 10)].map((batch) => model.pack(batch))
  const hooks = [
    { weight: weight(1, 'self_attn.q_proj'), side: 'input' },
    { weight: weight(5, 'mlp.gate_proj'), side: 'output' },
    { weight: weight(7, 'mlp.down_proj'), side: 'input' },
  ] as const
  const columns = [128, 352, 352].map((width) => new ColumnStatistics(width))
  const seen = {
    losses: [] as number[][],
    residualDelta: [] as number[][],
    residualStream: [] as [number, number, number[]][],
    sums: [] as number[][],
    grams: [] as number[][],
    steps: [] as number[],
    columns: [] as Float64Array[][],
  }
  const observers: LayerwiseObservers = {
    statistics: (batch) => {
      const groups = rowGroups([...batches[batch]!.keys()])
      return hooks.map((hook, i) => ({
        hook,
        groups,
        add: (group, words) => columns[i]!.add(words, groups[group]!.length),
      }))
    },
    residualDelta: (batch, layer, words) => void seen.residualDelta.push([layer, batch, ...words]),
    residualStream: (batch, boundary, x) => void seen.residualStream.push([boundary, batch, [...x]]),
    weights: { names: new Set([hooks[2].weight]), add: (_, sums) => void seen.sums.push([...sums]) },
    grams: { hooks: [hooks[0]], add: async (_, first, rows) => void seen.grams.push([first, ...rows]) },
  }
  await model.layerwisePass(batches, {
    observers: [observers],
    skips,
    losses: (batch, nll, skip = -1) => void seen.losses.push([skip, batch, ...nll]),
    onStep: (done, total) => void seen.steps.push(done / total),
  })
  const order = (a: ArrayLike<unknown>, b: ArrayLike<unknown>) =>
    Number(a[0]) - Number(b[0]) || Number(a[1]) - Number(b[1])
  seen.columns = columns.map(({ mean, spread, absolute, squares, above }) => [mean, spread, absolute, squares, above])
  seen.losses.sort(order)
  seen.residualDelta.sort(order)
  seen.residualStream.sort(order)
  return seen
}

describe('a layerwise pass', () => {
  let engine: Engine
  let model: Model
  beforeAll(async () => {
    engine = await Engine.open()
    model = await openModel(engine, full, { batchTokens: 128 })
  })
  afterAll(() => engine?.close())

  test('sees what passes and kernels give', async () => {
    const seen = await see(model)
    const batch = model.pack(lines.slice(0, 5))
    const pass = await model.run(batch, { hidden: true })
    expect(seen.losses[0]!.slice(2)).toEqual([...pass.nll])
    expect(seen.residualStream.filter(([, number]) => number === 0).map(([, , x]) => x)).toEqual(
      pass.hidden!.map((x) => [...x]),
    )
    expect(seen.steps.at(-1)).toBe(1)
    // The input of the first linear of a block is what its norm makes of the residual stream: unit mean square by
    // weights.
    const rows = lines.slice(0, 10).flat().length
    expect(seen.grams).toHaveLength(1)
    const diagonal = Array.from({ length: 128 }, (_, i) => seen.grams[0]![1 + i * 129]!)
    for (const [i, squares] of seen.columns[0]![3]!.entries()) expect(squares / diagonal[i]! - 1).toBeCloseTo(0, 5)
    for (const [i, spread] of seen.columns[2]![1]!.entries()) {
      const [mean, , , squares] = seen.columns[2]!.map((values) => values[i]!)
      expect(Math.abs(squares! - rows * mean! ** 2 - spread)).toBeLessThan(1e-5 * squares!)
    }
  })

  test('gives the same bits where the model goes through the device in partitions', async () => {
    const skips = [new Set([3]), new Set([0, 7]), new Set([6, 7]), new Set<number>()]
    const want = await see(model, skips)
    for (const memory of ['2300KiB', '3MiB', '6MiB']) {
      await using small = await Engine.open({ memory })
      const parted = await openModel(small, full, { batchTokens: 128 })
      expect((await parted.forecast()).partitions).toBeGreaterThan(1)
      expect(await see(parted, skips)).toEqual({ ...want, steps: expect.anything() })
    }
  })

  test('goes as deep as it is asked to, and sees the same there', async () => {
    const batches = [lines.slice(0, 5), lines.slice(5, 10)].map((batch) => model.pack(batch))
    const streams = async (of: Model, depth: number) => {
      const seen: [number, number, number[]][] = []
      const totals = new Set<number>()
      const residualStream = (batch: number, boundary: number, x: Float32Array) =>
        void seen.push([batch, boundary, [...x]])
      await of.layerwisePass(batches, {
        depth,
        observers: [{ residualStream }],
        onStep: (_, total) => void totals.add(total),
      })
      expect([...totals]).toEqual([batches.length * depth])
      return seen.sort((a, b) => a[0] - b[0] || a[1] - b[1])
    }
    const whole = await streams(model, 8)
    expect(whole).toHaveLength(batches.length * 9)
    const above = whole.filter(([, boundary]) => boundary <= 3)
    expect(await streams(model, 3)).toEqual(above)
    await using small = await Engine.open({ memory: '2300KiB' })
    const parted = await openModel(small, full, { batchTokens: 128 })
    expect(await streams(parted, 3)).toEqual(above)
  })

  test('leaves out blocks as a model without them does', async () => {
    const { losses } = await see(model, [new Set([2]), new Set<number>()])
    const of = (skip: number) => losses.filter(([number]) => number === skip).map(([, , ...nll]) => nll)
    expect(of(1)).toEqual(of(-1))
    expect(of(0)).not.toEqual(of(-1))
  })

  test('leaves out several blocks with the golden losses, all of them from one pass of the whole model', async () => {
    const { depth_dp: search } = JSON.parse(readFileSync(join(goldens, 'importance-base.json'), 'utf8')) as {
      depth_dp: { all: { trace: { keep: number[]; nll: number }[] } }
    }
    const wanted = search.all.trace.filter((_, i) => i % 5 === 0)
    const base = await openModel(engine, join(process.cwd(), 'demo/models/base'), { batchTokens: 640 })
    const batches = [lines.slice(0, 30), lines.slice(30)].map((batch) => base.pack(batch))
    const sums = wanted.map(() => 0)
    await base.layerwisePass(batches, {
      skips: wanted.map(({ keep }) => new Set(keep.flatMap((bit, layer) => (bit === 0 ? [layer] : [])))),
      losses: (_, nll, skip) => {
        if (skip !== undefined) sums[skip] = nll.reduce((sum, loss) => sum + loss, sums[skip]!)
      },
    })
    await base.close()
    const predicted = lines.reduce((sum, { length }) => sum + length - 1, 0)
    for (const [i, { nll }] of wanted.entries()) expect(Math.abs(sums[i]! / predicted / nll - 1)).toBeLessThan(1e-5)
  })
})
