/**
 * Files as other programs leave them: buffers that some versions store and others do not, links, indexes, configs and texts
 * with what JSON does not know. Values are compared with plain arithmetic, refusals by code and what they name.
 */
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, type MergeOptions, type MergeReport, merge, type RecipeInput } from 'weightsmith'
import { f32, type Raw, readFolder, values, writeModel } from './checkpoint.js'
import { scratch } from './scratch.js'

let engine: Engine
const { fresh } = scratch('peer-files')

beforeAll(async () => {
  engine = await Engine.open()
})
afterAll(() => engine?.close())

async function run(recipe: RecipeInput, options: Partial<MergeOptions> = {}) {
  const out = fresh('out')
  const report: MergeReport = await merge(engine, recipe, { out, sync: false, ...options })
  return { out, report, tensors: readFolder(out) }
}

const refusal = (recipe: RecipeInput, options: Partial<MergeOptions> = {}) =>
  merge(engine, recipe, { out: fresh('out'), sync: false, ...options }).then(
    () => 'no error',
    (error: Error & { code?: string }) => `${error.code}: ${error.message}`,
  )

const at = (tensors: Map<string, Raw>, name: string) => [...values(tensors.get(name)!)]
const bytes = (dtype: string, shape: number[], numbers: number[]): Raw => ({
  dtype,
  shape,
  bytes: Buffer.from(numbers),
})
const i64 = (...numbers: number[]) =>
  bytes(
    'I64',
    [1, numbers.length],
    numbers.flatMap((n) => [n, 0, 0, 0, 0, 0, 0, 0]),
  )
const soup = (...models: string[]): RecipeInput => ({
  merge_method: 'linear',
  models: models.map((model) => ({ model })),
  parameters: { weight: 1 },
})

describe('buffers', () => {
  const weights = (start: number): Record<string, Raw> => ({
    'wte.weight': f32([start, start], [2, 1]),
    'h.0.attn.c_attn.bias': f32([start + 1]),
    'h.1.attn.c_attn.bias': f32([start + 2]),
  })
  /** As GPT-2 and BERT of different versions store them. */
  const masks: Record<string, Raw> = {
    'h.0.attn.bias': f32([1, 0, 1, 1], [1, 1, 2, 2]),
    'h.1.attn.bias': bytes('U8', [1, 1, 2, 2], [1, 0, 1, 1]),
    'h.0.attn.masked_bias': f32([-10000], []),
    'h.0.attention.rotary_emb.inv_freq': f32([1, 0.5]),
    'embeddings.position_ids': i64(0, 1, 2),
    'bn.num_batches_tracked': i64(7),
  }
  const gpt2 = (start: number, more: Record<string, Raw> = {}) =>
    writeModel(fresh('model'), { ...weights(start), ...more }, { model_type: 'gpt2', n_layer: 2 })

  test('of one model only are copied where it is the first, and left out where it is not', async () => {
    const [older, newer] = [gpt2(0, masks), gpt2(10)]
    const kept = await run(soup(older, newer))
    for (const [name, raw] of Object.entries(masks)) expect(kept.tensors.get(name)).toEqual(raw)
    expect(at(kept.tensors, 'h.1.attn.c_attn.bias')).toEqual([7])
    expect(kept.report.notes).toEqual([
      `6 tensors, such as bn.num_batches_tracked, are no weights and not in every model: copied from ${older}.`,
    ])
    const left = await run(soup(newer, older))
    expect([...left.tensors.keys()].sort()).toEqual(Object.keys(weights(0)).sort())
    expect(at(left.tensors, 'h.0.attn.c_attn.bias')).toEqual([6])
    expect(left.report.notes).toEqual([
      `6 tensors, such as embeddings.position_ids, are no weights and not in every model: left out, because ${newer} has none.`,
    ])
    const one = await run(soup(gpt2(0, { 'embeddings.position_ids': i64(0, 1) }), newer))
    expect(one.report.notes[0]).toMatch(
      /^Tensor embeddings\.position_ids is no weight and not in every model: copied from /,
    )
  })

  test('that models compute may differ in length and type; the first one is taken as it is', async () => {
    const first = gpt2(0, masks)
    const longer: Record<string, Raw> = {
      ...masks,
      'h.0.attn.bias': bytes('BOOL', [1, 1, 3, 3], [1, 0, 0, 1, 1, 0, 1, 1, 1]),
      'h.1.attn.bias': f32([1, 0, 1, 1], [1, 1, 2, 2]),
      'h.0.attn.masked_bias': f32([Number.NEGATIVE_INFINITY], []),
      'embeddings.position_ids': i64(0, 1, 2, 3),
    }
    const { tensors, report } = await run({
      merge_method: 'task_arithmetic',
      base_model: first,
      models: [{ model: gpt2(10, longer), parameters: { weight: 0.5 } }],
      dtype: 'bfloat16',
    })
    for (const [name, raw] of Object.entries(masks)) expect(tensors.get(name)).toEqual(raw)
    expect(at(tensors, 'wte.weight')).toEqual([5, 5])
    expect(report.notes).toEqual([])
  })

  test('may be infinite, which masks are and weights are not', async () => {
    const never = { attn_mask: f32([0, Number.NEGATIVE_INFINITY, 0, 0], [2, 2]) }
    const [a, b] = [gpt2(0, never), gpt2(10, never)]
    const model = { model: b, parameters: { weight: 0.5 } }
    const recipe: RecipeInput = { merge_method: 'task_arithmetic', base_model: a, models: [model] }
    const { tensors } = await run(recipe, { checkFinite: true })
    expect(tensors.get('attn_mask')).toEqual(never.attn_mask)
    const broken = gpt2(0, { ...never, 'h.0.attn.c_attn.bias': f32([Number.POSITIVE_INFINITY]) })
    expect(await refusal({ ...recipe, base_model: broken }, { checkFinite: true })).toBe(
      'ERR_WEIGHTSMITH_NON_FINITE: The result holds 1 NaN or infinite values in 1 tensor; the first is h.0.attn.c_attn.bias ' +
        'with 1 of them.',
    )
  })

  test('are told from weights: a bias of attention that is in one model only is refused', async () => {
    const bias = { 'h.0.attn.bias': f32([1, 2]) }
    const [a, b] = [gpt2(0, bias), gpt2(1)]
    for (const models of [
      [a, b],
      [b, a],
    ] as const) {
      expect(await refusal(soup(...models))).toMatch(/MISSING_TENSOR: Tensor h\.0\.attn\.bias is in .*, but not in /)
    }
    expect(
      await refusal(soup(gpt2(0, { 'bn.num_batches_tracked': i64(7) }), gpt2(0, { 'bn.num_batches_tracked': i64(8) }))),
    ).toContain('ERR_WEIGHTSMITH_DTYPE: Tensor bn.num_batches_tracked holds no floats')
  })
})
