/**
 * `imm analyze` gives the numbers that were computed in float64 outside this project, in its data, its text and its
 * page.
 */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { type AnalyzeReport, analyze, Engine, score } from 'weightsmith'
import { spearman } from '../lib/compare/analyze.js'
import { Browser } from './browser.js'
import { cli } from './child.js'

interface Change {
  meanabs: number
  rel: number
  frac: number
}
interface Golden {
  layers: Change[]
  modules: Record<string, Change>
  against: Record<string, { top_layers: number[]; mass_topk: number; uniform: number } & Record<string, number>>
}
const goldens = JSON.parse(readFileSync('test/goldens/concentration.json', 'utf8')) as {
  importance: Record<string, number[]>
} & Record<string, Golden>
/** Names there. */
const importances = {
  ablation: 'ablation_answer',
  'ablation all': 'ablation_all',
  'block influence': 'block_influence',
}
const data = 'test/goldens/tasks/calibration.jsonl'
const model = (name: string) => `demo/models/${name}`

function near(got: number | null | undefined, want: number, relative: number): void {
  if (!(Math.abs(Number(got) - want) <= relative * Math.abs(want))) expect(got).toBe(want)
}

const folder = mkdtempSync(join(tmpdir(), 'weightsmith-analyze-'))
let engine: Engine
let analysis: AnalyzeReport
beforeAll(async () => {
  engine = await Engine.open()
  analysis = await analyze(engine, model('base'), [model('improved-1'), model('improved-2')], { data })
})
afterAll(async () => {
  await engine?.close()
  rmSync(folder, { recursive: true, force: true })
})

describe('imm analyze', () => {
  test('measures the golden importance of the layers of base', () => {
    expect(analysis.importance.map(({ name }) => name)).toEqual(Object.keys(importances))
    for (const { name, values } of analysis.importance) {
      const golden = goldens.importance[importances[name]]!
      expect(values).toHaveLength(golden.length)
      for (const [layer, value] of values.entries()) near(value, golden[layer]!, 1e-4)
    }
  })

  for (const [i, name] of ['improved-1', 'improved-2'].entries()) {
    test(`has the golden change of ${name}, a layer and a module`, () => {
      const { layers, diff } = analysis.models[i]!
      const golden = goldens[name]!
      expect(layers.map(({ layer }) => layer)).toEqual([...golden.layers.keys()])
      for (const { layer, meanAbs, relative, changed } of layers) {
        near(meanAbs, golden.layers[layer]!.meanabs, 1e-6)
        near(relative, golden.layers[layer]!.rel, 1e-6)
        near(changed, golden.layers[layer]!.frac, 1e-9)
      }
      for (const module of ['q', 'k', 'v', 'o', 'gate', 'up', 'down']) {
        const want = golden.modules[`${module}_proj`]!
        const found = diff.modules.find((row) => row.module === module)
        near(found?.meanAbs, want.meanabs, 1e-6)
        near(found?.relative, want.rel, 1e-6)
        near(found?.changed, want.frac, 1e-9)
      }
    })

    test(`finds the golden correlations and shares of ${name}`, () => {
      for (const one of analysis.models[i]!.against) {
        const golden = goldens[name]!.against[importances[one.importance]]!
        near(one.spearman.meanAbs, golden.spearman_meanabs!, 1e-12)
        near(one.spearman.relative, golden.spearman_rel!, 1e-12)
        near(one.spearman.changed, golden.spearman_frac!, 1e-12)
        expect(one.top).toEqual(golden.top_layers)
        near(one.mass, golden.mass_topk, 1e-6)
        expect(one.uniform).toBe(golden.uniform)
      }
    })
  }

  test('takes a score file instead of data, prints tables and draws both curves', async () => {
    const scores = join(folder, 'base.scores')
    const page = join(folder, 'analysis.html')
    await score(engine, model('base'), { methods: ['bi'], data, out: scores })
    const flags = ['--scores', scores, '--report', page]
    const { code, stdout } = await cli('imm', 'analyze', model('base'), model('improved-2'), ...flags)
    expect(code).toBe(0)
    expect(stdout).toMatch(/improved-2 +block influence +-0\.643 +-0\.619 +-0\.619 +0, 1 +20\.23 % +25\.00 %/)
    const browser = await Browser.open()
    try {
      await browser.show(page)
      expect(browser.complaints).toEqual([])
      const labels = await browser.value<string[]>(
        `[...document.querySelectorAll('svg')].map((svg) => svg.getAttribute('aria-label'))`,
      )
      expect(labels).toEqual([
        'Change and importance over the layers: mean |Δ|',
        'Change and importance over the layers: block influence',
        'improved-2: layers and modules',
      ])
    } finally {
      await browser.close()
    }
  })

  test('says in a dry run what it would take, and does none of it', async () => {
    const done: string[] = []
    const dry = await analyze(engine, model('base'), [model('improved-1'), model('improved-2')], {
      data,
      dryRun: true,
      onProgress: ({ phase }) => done.push(phase),
    })
    expect(done).toEqual([])
    expect(Object.keys(dry)).toEqual(['forecast'])
    const { tensors, bytesRead, deviceBytes, tokens, partitions, milliseconds } = dry.forecast
    expect(partitions).toBe(1)
    expect(tensors).toBe(2 * analysis.models[0]!.diff.tensors.length)
    // Two files of bfloat16 a comparison.
    expect(bytesRead).toBe(2 * 2 * 2 * analysis.models[0]!.diff.total.parameters)
    expect(deviceBytes).toBeGreaterThan(0)
    expect(tokens).toBeGreaterThan(0)
    expect(milliseconds).toBeGreaterThan(0)
    const page = join(folder, 'dry.html')
    const compared = ['diff', model('base'), model('improved-1'), '--dry-run']
    const { code, stdout } = await cli(...compared, '--report', page)
    expect(code).toBe(0)
    expect(stdout).toMatch(new RegExp(`^Would compare ${tensors / 2} tensors, .* about .* of .*\\.\\n$`))
    expect(existsSync(page)).toBe(false)
    const json = await cli(...compared, '--json')
    expect(JSON.parse(json.stdout)).toEqual({
      forecast: expect.objectContaining({ tensors: tensors / 2, bytesRead: bytesRead / 2 }),
    })
  })

  test('refuses scores of another model, and no model at all', async () => {
    const scores = join(folder, 'other.scores')
    await score(engine, model('improved-1'), { methods: ['bi'], data, out: scores })
    await expect(analyze(engine, model('base'), [model('improved-2')], { scores })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_INPUT_CHANGED',
    })
    await expect(analyze(engine, model('base'), [])).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_ARGUMENT' })
  })
})

describe("Spearman's correlation", () => {
  test('gives equal values the mean of their ranks', () => {
    // Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4.
    expect(spearman([1, 2, 2, 3], [1, 2, 3, 4])).toBeCloseTo(4.5 / Math.sqrt(4.5 * 5), 12)
    expect(spearman([1, 2, 3], [9, 5, 1])).toBe(-1)
    expect(spearman([1, 1, 1], [1, 2, 3])).toBeNull()
  })
})
