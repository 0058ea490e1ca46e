/** What an adapter says of itself. */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from '@jest/globals'
import { inspectAdapter } from 'weightsmith'
import { bf16, f32, readFolder, values, writeSafetensors } from './checkpoint.js'
import { golden } from './goldens.js'
import { adapted, columns, factors, fixtures, q, rank, rows, up, wave } from './lora.js'
import { math } from './math.js'

const { fresh, opened, model, adapter } = fixtures('lora-inspect')

describe('inspect', () => {
  test('gives norms and effective ranks of the product, without and with a base', async () => {
    const base = model(bf16)
    const path = adapter({ ...factors(q, 5), ...factors(up, 8, rows, columns, 2) }, { rank_pattern: { up_proj: 2 } })
    const report = await inspectAdapter(path, { base, engine: opened() })
    const product = adapted(new Float64Array(rows * columns), 5, 1.5)
    const weight = values(readFolder(base).get(`${q}.weight`)!)
    const [first, second] = report.modules
    expect(first).toMatchObject({
      weight: `${q}.weight`,
      outputs: rows,
      inputs: columns,
      rank: 4,
      alpha: 6,
      scale: 1.5,
    })
    expect(first!.norm / math.hypot(...product)).toBeCloseTo(1, 10)
    expect(first!.relative! / (math.hypot(...product) / math.hypot(...weight))).toBeCloseTo(1, 6)
    expect(second).toMatchObject({ rank: 2, alpha: 6, scale: 3 })
    expect(second!.effectiveRank).toBeGreaterThan(1)
    expect(second!.effectiveRank).toBeLessThanOrEqual(2)
    expect(report.features).toEqual(['rank_pattern'])
    expect(report.hazards.join()).toMatch(/rank_pattern, which some servers ignore/)
    expect((await inspectAdapter(path)).modules[0]).not.toHaveProperty('relative')
  })

  test('finds the weights of a base as fold does, and names those that it lacks', async () => {
    const path = adapter({
      ...factors('layers.0.self_attn.q_proj', 5),
      ...factors('model.layers.9.self_attn.q_proj', 6),
    })
    const { modules, hazards } = await inspectAdapter(path, { base: model(), engine: opened() })
    expect(modules.map((module) => 'relative' in module)).toEqual([true, false])
    expect(hazards.join()).toMatch(/has no tensor model\.layers\.9\.self_attn\.q_proj\.weight\./)
  })

  test('has an effective rank of one for one direction, however large the rank is', async () => {
    const one = wave(columns, 5)
    const a = Array.from({ length: rank }, (_, k) => one.map((value) => value * (k + 1))).flat()
    const report = await inspectAdapter(
      adapter(
        { ...factors(q, 5), [`${q}.lora_A.weight`]: f32(a, [rank, columns]) },
        { target_modules: ['q_proj', 'k_proj'] },
      ),
    )
    expect(report.modules[0]!.effectiveRank).toBeCloseTo(1, 6)
    expect(report.unmatched).toEqual({ named: ['k_proj'], held: [] })
  })

  test.each([
    ['pissa', {}, /began as a part of the base \(pissa\)/],
    ['rslora', {}, /use_rslora/],
    ['tied-embedding', { base: 'tied' }, /one table for embedding and head, and it changes model.embed_tokens/],
  ])('warns of what may go wrong with %s', async (name, { base }: { base?: string }, message) => {
    const options = base === undefined ? {} : { base: golden(`lora/${base}`), engine: opened() }
    const report = await inspectAdapter(golden(`lora/adapters/${name}`), options)
    expect(report.obstacles).toEqual([])
    expect(report.hazards.join(' ')).toMatch(message)
  })

  test('shows what cannot be folded, and NaN', async () => {
    const other = await inspectAdapter(adapter({ 'x.hada_w1_a': f32([1]) }, { peft_type: 'LOHA' }))
    expect(other).toMatchObject({ modules: [], obstacles: [expect.stringMatching(/"LOHA", a product of products/)] })
    const active = await inspectAdapter(
      adapter(factors(q, 5), { alora_invocation_tokens: [1], layer_replication: [[0, 2]] }),
    )
    expect(active.obstacles).toHaveLength(2)
    expect(active.modules).toHaveLength(1)
    const broken = adapter({
      ...factors(q, 5),
      [`${q}.lora_B.weight`]: f32(new Float32Array(rows * rank).fill(Number.NaN), [rows, rank]),
    })
    expect((await inspectAdapter(broken)).nonFinite).toEqual([`base_model.model.${q}.lora_B.weight`])
  })

  test('names adapters of other programs', async () => {
    const folder = fresh('kohya')
    mkdirSync(folder)
    writeSafetensors(join(folder, 'last.safetensors'), {
      'lora_te_text_model_layers_0.lora_down.weight': f32([1], [1, 1]),
    })
    for (const path of [folder, join(folder, 'last.safetensors')]) {
      await expect(inspectAdapter(path)).rejects.toMatchObject({
        code: 'ERR_WEIGHTSMITH_FORMAT',
        message: expect.stringMatching(/kohya/),
      })
    }
  })
})
