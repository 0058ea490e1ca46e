/** Strategies are what PyTorch found in float64 (`test/goldens/training`), on every driver. */
import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { amoebaStrategy, Engine, evaluate, openStrategy, type Strategy } from 'weightsmith'
import { checkpointOf, modelOf } from '../lib/runtime/open_model.js'
import { searchDepths } from '../lib/workflows/amoeba/depth.js'
import { type Answers, readAsked } from '../lib/workflows/amoeba/lines.js'
import { MaskedModel } from '../lib/workflows/amoeba/masked_model.js'
import { readSafetensors, values } from './checkpoint.js'
import { golden } from './goldens.js'
import { scratch } from './scratch.js'
import { lines } from './training-model.js'

interface Golden {
  model: string
  calibration: string
  lines: number
  width: { ratios: Record<string, { ratio: number; groups_kept: number[]; neurons_kept: number[] }> }
  depth: { dense: { nll: number; token_hits: number; line_hits: number; tokens: number } } & Record<
    'nll' | 'token_hits' | 'line_hits',
    {
      keep_last: number
      min_num_layer: number
      d: (number | null)[][]
      s: (number[] | null)[][]
      strategy: Record<string, number[]>
    }
  >
}
const stage1 = JSON.parse(readFileSync(golden('reasoner/training/stage1.json'), 'utf8')) as Golden
const tensors = readSafetensors(golden('reasoner/training/stage1.safetensors'))
const numbers = (name: string) => [...values(tensors.get(name)!)]
const model = golden(`reasoner/${stage1.model}`)
const data = golden(`reasoner/${stage1.calibration}`)
const layers = Math.max(...Object.keys(stage1.depth.nll.strategy).map(Number))

const { fresh } = scratch('strategy')
let engine: Engine
beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

describe('depths', () => {
  test('are the golden ones by every metric, with their tables', async () => {
    // The bundled driver takes ten times as long; the first rows of a table do not depend on the others.
    const rows = engine.device.driver === 'bundled' ? 3 : layers - 1
    const checkpoint = await checkpointOf(engine, model)
    const on = modelOf(engine, checkpoint, { batchTokens: 1024 })
    const options = { file: data, metric: 'accuracy', limit: undefined, seed: 0, images: undefined } as const
    const asked = await readAsked(engine, { model: on, checkpoint }, options)
    const masked = new MaskedModel(on, asked, {
      ...{ decided: layers - 1, memory: 2 ** 20, check: () => undefined, onBlocks: () => undefined },
    })
    const known = new Map<string, Answers>()
    const whole = await masked.measureWhole()
    const { dense } = stage1.depth
    expect(whole.value('nll') / dense.nll).toBeCloseTo(1, 5)
    for (const [metric, name, of] of [
      ['nll', 'nll', 1],
      ['token-accuracy', 'token_hits', dense.tokens],
      ['accuracy', 'line_hits', stage1.lines],
    ] as const) {
      const want = stage1.depth[name]
      const [keepLast, most] = [want.keep_last, layers - want.min_num_layer]
      const search = { layers, keepLast, most, order: 'deepest', metric } as const
      const near = (got: number, wanted: number) =>
        name === 'nll' ? expect(got / wanted).toBeCloseTo(1, 5) : expect(got).toBe(wanted / of)
      near(whole.value(metric), dense[name])
      const table = await searchDepths(search, whole.value(metric), async (cells) => {
        if (cells.some(({ n }) => n > rows)) return cells.map(() => Number.NaN)
        const fresh = cells.filter(({ mask }) => !known.has(String(mask)))
        const answers = await masked.measure(fresh.map(({ mask }) => mask))
        for (const [i, { mask }] of fresh.entries()) known.set(String(mask), answers[i]!)
        return cells.map(({ mask }) => known.get(String(mask))!.value(metric))
      })
      for (const [n, row] of table.values.slice(0, rows + 1).entries()) {
        expect(row).toHaveLength(Math.min(n, most) + 1)
        for (let m = 1; m < row.length; m++) {
          near(row[m]!, want.d[n]![m]!)
          expect(table.masks[n]![m]!.map(Number)).toEqual([...want.s[n]![m]!, 1])
        }
      }
      for (const [m, mask] of rows < layers - 1 ? [] : table.masks.at(-1)!.entries()) {
        expect(mask.map(Number)).toEqual(want.strategy[layers - m])
      }
    }
    await masked.close()
    await on.close()
  })

  test('by choices count as eval does', async () => {
    const questions = [
      { prompt: '12+34=', choices: ['46', '64'], answer: '46' },
      { prompt: 'r:abcde=', choices: ['abcde', 'edcba', 'ebcda'], answer: 1 },
      { prompt: 'm:5,71,60,22=', choices: ['5', '60'], answer: 0 },
      { prompt: '500+499=', choices: ['999', '899'], answer: '999' },
    ]
    const file = lines(fresh('choices.jsonl'), questions)
    const { sets } = await evaluate(engine, model, { data: file, metric: 'choice' })
    const out = fresh('s.strategy')
    const { depths, examples, tokens } = await amoebaStrategy(engine, model, { data: file, out, minDepth: layers })
    expect(depths).toEqual([{ depth: layers, removed: [], value: sets[0]!.value }])
    expect(sets[0]!.value).toBe(0.75)
    // Heads and neurons are measured on the right options alone.
    const { origin } = await openStrategy(engine, out)
    expect([examples, origin.data.tokens, origin.calibration.examples]).toEqual([4, tokens, 4])
    expect(origin.calibration.tokens).toBeLessThan(tokens / 2)
  })
})

describe('widths', () => {
  let strategy: Strategy
  const keys = Object.keys(stage1.width.ratios)
  beforeAll(async () => {
    const out = fresh('s.strategy')
    const widths = keys.map((key) => stage1.width.ratios[key]!.ratio)
    await amoebaStrategy(engine, model, { data, out, minDepth: layers, widths: widths.reverse() })
    strategy = await openStrategy(engine, out, model)
  })

  /** A row a layer. */
  const masks = ({ units }: Strategy['widths'][number], kind: string) =>
    units.filter((own) => own.kind === kind).flatMap(({ kept }) => kept.map(Number))

  test('are the golden ones, though the next score is 1.4e-6 away', () => {
    expect(strategy.widths.map(({ ratio }) => ratio)).toEqual(keys.map((key) => stage1.width.ratios[key]!.ratio))
    for (const [i, key] of keys.entries()) {
      const name = key.replace('/', '_')
      expect(masks(strategy.widths[i]!, 'group')).toEqual(numbers(`groups/${name}`))
      expect(masks(strategy.widths[i]!, 'neuron')).toEqual(numbers(`neurons/${name}`))
    }
  })

  test('have the golden biases, and none where nothing is pruned', () => {
    for (const [i, key] of keys.entries()) {
      const { units, biases } = strategy.widths[i]!
      const pruned = units.filter(({ kept }) => kept.includes(false))
      expect(biases.size).toBe(pruned.length)
      for (const [kind, weight] of [
        ['o', 'self_attn.o_proj'],
        ['down', 'mlp.down_proj'],
      ]) {
        const want = numbers(`bias_${kind}/${key.replace('/', '_')}`)
        const most = want.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
        const none = new Float32Array(want.length / layers)
        const got = Array.from({ length: layers }, (_, layer) => {
          return [...(biases.get(`model.layers.${layer}.${weight}.weight`) ?? none)]
        }).flat()
        expect(got).toHaveLength(want.length)
        const apart = got.reduce((most, value, j) => Math.max(most, Math.abs(value - want[j]!)), 0)
        expect(apart).toBeLessThanOrEqual(2e-6 * most)
      }
    }
  })

  test('are nested, and leave a unit of each kind in every layer', async () => {
    const out = fresh('s.strategy')
    const widths = Array.from({ length: 24 }, (_, i) => (i + 1) / 100).concat([0.3, 1 / 3, 0.99])
    await amoebaStrategy(engine, model, { data, out, limit: 8, seed: 3, minDepth: layers, widths })
    const { widths: found } = await openStrategy(engine, out)
    expect(found).toHaveLength(28)
    for (const [i, { units }] of found.entries()) {
      for (const [u, { kept }] of units.entries()) {
        expect(kept).toContain(true)
        const wider = i === 0 ? kept : found[i - 1]!.units[u]!.kept
        expect(kept.every((stays, j) => !stays || wider[j])).toBe(true)
      }
    }
  })
})
