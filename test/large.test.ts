/**
 * Tensors over 4 GiB, where 32-bit sizes and indices would wrap, within a small memory budget. It writes 4.5 GiB, so it
 * runs only with WEIGHTSMITH_LARGE=1.
 */
import { rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { describe, expect, test } from '@jest/globals'
import type { RecipeInput } from 'weightsmith'
import { script, start } from './child.js'
import { scratch } from './scratch.js'
import { sparseBits, sparseLlama, sparseModel } from './sparse.js'

const large = process.env.WEIGHTSMITH_LARGE === '1' ? test : test.skip
const { folder } = scratch('large')

const MiB = 2 ** 20
const budget = 256 * MiB
const elements = 2.25 * 2 ** 30 + 3

const bf16 = { zero: 0, one: 0x3f80, two: 0x4000, three: 0x4040 } as const

/** Around the ends, 4 GiB and the largest signed 32-bit index. */
const places = [0, 1, 2047, 2048, 2 ** 31 - 1, 2 ** 31, 2 ** 31 + 1, elements - 2, elements - 1]
const marked = (bits: number) => new Map(places.map((place) => [place, bits]))

describe('a tensor of more than 4 GiB is merged within 256 MiB of memory', () => {
  const run = async (name: string, recipe: RecipeInput) => {
    const out = join(folder, name)
    const body = `
      import { readFileSync } from 'node:fs'
      const status = (key) => 1024 * Number(new RegExp(key + ':\\\\s+(\\\\d+)').exec(readFileSync('/proc/self/status', 'utf8'))[1])
      const engine = await Engine.open({ memory: ${budget} })
      const opened = status('VmRSS')
      const { nonFinite } = await merge(engine, ${JSON.stringify(recipe)}, { out: process.argv[2], checksum: 'none', sync: false })
      console.log(JSON.stringify({ opened, peak: status('VmHWM'), nonFinite }))
      await engine.close()`
    const ended = await start([script(folder, name, body), out], { patienceMilliseconds: 550_000 }).ended
    expect(ended).toMatchObject({ code: 0, signal: null })
    const { opened, peak, nonFinite } = JSON.parse(ended.stdout) as {
      opened: number
      peak: number
      nonFinite: unknown[]
    }
    expect(nonFinite).toEqual([])
    const found = sparseBits(out, [...places, 5, 2 ** 31 + 5])
    rmSync(out, { recursive: true })
    expect(peak - opened).toBeLessThanOrEqual(budget + 64 * MiB)
    return found
  }

  large(
    'by a weighted mean',
    async () => {
      const models = [bf16.one, bf16.three].map((bits, i) =>
        sparseModel(join(folder, `linear-${i}`), elements, marked(bits)),
      )
      const found = await run('linear', {
        merge_method: 'linear',
        models: models.map((model) => ({ model, parameters: { weight: 0.5 } })),
      })
      for (const place of places) expect([place, found.get(place)]).toEqual([place, bf16.two])
      expect([found.get(5), found.get(2 ** 31 + 5)]).toEqual([bf16.zero, bf16.zero])
    },
    600_000,
  )

  large(
    'by TIES, whose trim counts entries over the whole tensor',
    async () => {
      const base = sparseModel(join(folder, 'base'), elements)
      const model = sparseModel(join(folder, 'model'), elements, marked(bf16.two))
      // Ties at the cut, which is between zeros, go to lower indices; all that is marked is kept.
      const found = await run('ties', {
        merge_method: 'ties',
        base_model: base,
        models: [{ model, parameters: { weight: 1, density: 0.5 } }],
      })
      for (const place of places) expect([place, found.get(place)]).toEqual([place, bf16.two])
      expect([found.get(5), found.get(2 ** 31 + 5)]).toEqual([bf16.zero, bf16.zero])
    },
    600_000,
  )
})

large(
  'a model of 3 GB is scored within 1 GiB of memory',
  async () => {
    const model = sparseLlama(
      join(folder, 'llama'),
      { hidden: 2048, inner: 5632, layers: 29 },
      resolve('demo/models/base'),
    )
    const options = {
      methods: ['wanda', 'flap', 'bi'],
      data: resolve('test/goldens/tasks/calibration.jsonl'),
      out: join(folder, 'scores'),
      limit: 16,
      batchTokens: 64,
    }
    const body = `
      import { readFileSync } from 'node:fs'
      const status = (key) => 1024 * Number(new RegExp(key + ':\\\\s+(\\\\d+)').exec(readFileSync('/proc/self/status', 'utf8'))[1])
      const engine = await Engine.open({ memory: ${2 ** 30} })
      const opened = status('VmRSS')
      const { partitions } = await score(engine, ${JSON.stringify(model)}, ${JSON.stringify(options)})
      console.log(JSON.stringify({ opened, peak: status('VmHWM'), partitions }))
      await engine.close()`
    const ended = await start([script(folder, 'score', body)], { patienceMilliseconds: 550_000 }).ended
    expect(ended).toMatchObject({ code: 0, signal: null })
    const { opened, peak, partitions } = JSON.parse(ended.stdout) as {
      opened: number
      peak: number
      partitions: number
    }
    expect(partitions).toBeGreaterThan(2)
    expect(peak - opened).toBeLessThanOrEqual(2 ** 30 + 64 * MiB)
  },
  600_000,
)
