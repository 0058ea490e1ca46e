/** Adapters of experts, and adapters of mlx-lm. */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from '@jest/globals'
import { f32, type Raw, readFolder, readSafetensors, values } from './checkpoint.js'
import { columns, fixtures, layer, near, q, rank, rows, table, up, wave } from './lora.js'
import { math } from './math.js'
import * as reference from './reference/merge.js'

const { model, adapter, fold, failure } = fixtures('lora-experts')

describe('experts', () => {
  const experts = 3
  const owner = `${layer}.mlp.experts`
  const place = (parameter: string) => `${owner}.${parameter}`
  /** A [r E, in] and B [out, r E], where the expert is the fastest index of B. */
  const stacked = (path: string, seed: number, outputs: number, inputs: number) => ({
    [`${path}.lora_A.weight`]: f32(wave(rank * experts * inputs, seed), [rank * experts, inputs]),
    [`${path}.lora_B.weight`]: f32(wave(outputs * rank * experts, seed + 1), [outputs, rank * experts]),
  })
  function want(weight: number[], seed: number, outputs: number, inputs: number, transposed: boolean): number[] {
    const [a, b] = [wave(rank * experts * inputs, seed), wave(outputs * rank * experts, seed + 1)]
    return weight.map((value, at) => {
      const [e, rest] = [math.floor(at / (outputs * inputs)), at % (outputs * inputs)]
      const width = transposed ? outputs : inputs
      const [row, column] = [math.floor(rest / width), rest % width]
      const [o, i] = transposed ? [column, row] : [row, column]
      let sum = 0
      for (let k = 0; k < rank; k++) {
        sum += a[(e * rank + k) * inputs + i]! * b[o * rank * experts + k * experts + e]!
      }
      return value + 1.5 * sum
    })
  }

  test.each([
    ['as [out, in]', false],
    ['as [in, out]', true],
  ])('of one tensor fold whether they are stored %s', async (_, transposed) => {
    const [outputs, inputs] = [6, 8]
    const shape = transposed ? [experts, inputs, outputs] : [experts, outputs, inputs]
    const weight = wave(experts * outputs * inputs, 4)
    const base = model(f32, { [place('down_proj')]: f32(weight, shape) })
    const { tensors } = await fold(base, [
      adapter(stacked(owner, 5, outputs, inputs), { target_parameters: ['mlp.experts.down_proj'] }),
    ])
    near(tensors.get(place('down_proj')), want(weight, 5, outputs, inputs, transposed))
  })

  test('of two parameters are told apart by how deep they lie', async () => {
    const [hidden, inner] = [8, 5]
    const [first, second] = [wave(experts * 2 * inner * hidden, 4), wave(experts * hidden * inner, 6)]
    const base = model(f32, {
      [place('gate_up_proj')]: f32(first, [experts, 2 * inner, hidden]),
      [place('down_proj')]: f32(second, [experts, hidden, inner]),
    })
    const { tensors } = await fold(base, [
      adapter(
        { ...stacked(owner, 7, hidden, inner), ...stacked(`${owner}.base_layer`, 9, 2 * inner, hidden) },
        { target_parameters: ['experts.down_proj', 'experts.gate_up_proj'] },
      ),
    ])
    near(tensors.get(place('gate_up_proj')), want(first, 9, 2 * inner, hidden, false))
    near(tensors.get(place('down_proj')), want(second, 7, hidden, inner, false))
  })

  test.each([
    ['mlp.experts', ['gate_proj', 'up_proj']],
    ['block_sparse_moe.experts', ['w1', 'w3']],
  ])('that a base stores by themselves as %s get their rows of the change', async (folder, [gate = '', up = '']) => {
    const [hidden, inner] = [8, 5]
    const name = (e: number, part: string) => `${layer}.${folder}.${e}.${part}.weight`
    const each = [0, 1, 2].flatMap((e) =>
      [gate, up].map((part, i) => [name(e, part), f32(wave(inner * hidden, 4 + e + 3 * i), [inner, hidden])] as const),
    )
    const base = model(f32, Object.fromEntries(each))
    const { tensors } = await fold(base, [
      adapter(stacked(owner, 7, 2 * inner, hidden), { target_parameters: ['mlp.experts.gate_up_proj'] }),
    ])
    const joined = [0, 1, 2].flatMap((e) => [...wave(inner * hidden, 4 + e), ...wave(inner * hidden, 7 + e)])
    const all = want(joined, 7, 2 * inner, hidden, false)
    for (const e of [0, 1, 2]) {
      for (const [i, part] of [gate, up].entries()) {
        near(tensors.get(name(e, part)), all.slice((2 * e + i) * inner * hidden, (2 * e + i + 1) * inner * hidden))
      }
    }
  })

  test('that are square are refused where nothing says how they are stored', async () => {
    const weight = wave(experts * 64, 4)
    const tensors = { [place('down_proj')]: f32(weight, [experts, 8, 8]) }
    const square = adapter(stacked(owner, 5, 8, 8), { target_parameters: ['experts.down_proj'] })
    expect(await failure(model(f32, tensors), [square])).toMatch(/FORMAT: .*down_proj are square, and neither/)
    const { tensors: folded } = await fold(model(f32, tensors, { model_type: 'gpt_oss' }), [square])
    near(folded.get(place('down_proj')), want(weight, 5, 8, 8, true))
  })

  test('that are square are read as the version of PEFT that made A and B reads them', async () => {
    const old = { peft_version: '0.18.1', target_parameters: ['experts.down_proj'] }
    const weight = wave(experts * 64, 4)
    const base = model(f32, { [place('down_proj')]: f32(weight, [experts, 8, 8]) })
    const { tensors } = await fold(base, [adapter(stacked(owner, 5, 8, 8), old)])
    near(tensors.get(place('down_proj')), want(weight, 5, 8, 8, true))

    const name = (e: number) => `${owner}.${e}.down_proj.weight`
    const part = (e: number) => weight.slice(64 * e, 64 * (e + 1))
    const each = [0, 1, 2].map((e) => [name(e), f32(part(e), [8, 8])] as const)
    const single = model(f32, Object.fromEntries(each))
    const made = (peft_version: string | null) => adapter(stacked(owner, 5, 8, 8), { ...old, peft_version })
    expect(await failure(single, [made('0.18.1')])).toMatch(/FORMAT: .*only since PEFT 0.19.* an older peft_version/)
    expect(await failure(single, [made(null)])).toMatch(/FORMAT: .*are square.* no peft_version/)
    const { tensors: folded } = await fold(single, [made('0.19.0.dev0')])
    for (const e of [0, 1, 2]) {
      near(folded.get(name(e)), want(weight, 5, 8, 8, false).slice(64 * e, 64 * (e + 1)))
    }
  })

  test('of another shape, or too many of them, are refused', async () => {
    const base = model(f32, { [place('down_proj')]: f32(wave(experts * 48, 4), [experts, 6, 8]) })
    const parameters = { target_parameters: ['experts.down_proj'] }
    expect(await failure(base, [adapter(stacked(owner, 5, 6, 9), parameters)])).toMatch(/SHAPE_MISMATCH/)
    expect(await failure(base, [adapter(stacked(owner, 5, 6, 8), { r: 2, ...parameters })])).toMatch(/SHAPE_MISMATCH/)
    expect(await failure(base, [adapter(stacked(owner, 5, 6, 8), { r: 5, ...parameters })])).toMatch(/says rank 5/)
    const two = { target_parameters: ['experts.down_proj', 'experts.gate_up_proj'] }
    expect(await failure(base, [adapter(stacked(owner, 5, 6, 8), two)])).toMatch(/FORMAT: .*but it has 1 of them/)
  })
})

describe('experts that PEFT has trained', () => {
  const folder = join('test', 'peers', 'experts')
  const cases = readdirSync(folder).filter((name) => !name.endsWith('-adapter'))

  test.each(cases)('fold into %s as PEFT folds them', async (name) => {
    const about = JSON.parse(readFileSync(join(folder, name, 'case.json'), 'utf8')) as { adapter: string }
    const base = join(folder, name, 'base')
    const { tensors } = await fold(base, [join(folder, about.adapter)])
    const [before, merged] = [readFolder(base), readSafetensors(join(folder, name, 'merged.safetensors'))]
    expect([...tensors.keys()].sort()).toEqual([...before.keys()].sort())
    for (const [key, raw] of tensors) near(raw, values(merged.get(key) ?? before.get(key)!), 1e-6)
  })
})

describe('an adapter of mlx-lm', () => {
  const mlx = { fine_tune_type: 'lora', num_layers: 1, lora_parameters: { rank, scale: 2.5, dropout: 0 } }
  const turned = (module: string) => ({
    [`${module}.lora_a`]: f32(wave(columns * rank, 7), [columns, rank]),
    [`${module}.lora_b`]: f32(wave(rank * rows, 5), [rank, rows]),
  })
  const options = { columns, rank, scale: 2.5, transposed: true }

  test('is turned, and its scale is taken as it is', async () => {
    const { tensors } = await fold(model(), [adapter(turned(q), mlx, true)])
    near(
      tensors.get(`${q}.weight`),
      reference.lora(wave(rows * columns, 1), wave(columns * rank, 7), wave(rank * rows, 5), options),
    )
    const { tensors: usual } = await fold(model(), [adapter(turned(q), { fine_tune_type: 'lora' }, true)])
    near(
      usual.get(`${q}.weight`),
      reference.lora(wave(rows * columns, 1), wave(columns * rank, 7), wave(rank * rows, 5), { ...options, scale: 20 }),
      2e-5,
    )
  })

  test('changes tables of tokens, experts, lengths of rows, and whole weights', async () => {
    const words = {
      [`${table}.lora_a`]: f32(wave(10 * rank, 7), [10, rank]),
      [`${table}.lora_b`]: f32(wave(rank * columns, 5), [rank, columns]),
    }
    const { tensors } = await fold(model(), [adapter(words, mlx, true)])
    const plain = { columns, rank, scale: 2.5, transposed: false }
    near(
      tensors.get(`${table}.weight`),
      reference.lora(wave(10 * columns, 2), wave(10 * rank, 7), wave(rank * columns, 5), plain),
    )

    const many = `${layer}.mlp.switch_mlp.up_proj`
    const stack = {
      [`${many}.lora_a`]: f32(wave(2 * rank * 8, 5), [2, rank, 8]),
      [`${many}.lora_b`]: f32(wave(2 * 6 * rank, 7), [2, 6, rank]),
    }
    const base = model(f32, { [`${many}.weight`]: f32(wave(96, 4), [2, 6, 8]) })
    const { tensors: experts } = await fold(base, [adapter(stack, mlx, true)])
    const want = [0, 1].flatMap((e) => [
      ...reference.lora(
        wave(96, 4).slice(48 * e, 48 * (e + 1)),
        wave(2 * 6 * rank, 7).slice(24 * e, 24 * (e + 1)),
        wave(2 * rank * 8, 5).slice(32 * e, 32 * (e + 1)),
        { columns: 8, rank, scale: 2.5, transposed: false },
      ),
    ])
    near(experts.get(`${many}.weight`), want)

    const long = adapter({ ...turned(q), [`${q}.m`]: f32(wave(rows, 3)) }, { ...mlx, fine_tune_type: 'dora' }, true)
    const { tensors: dora } = await fold(model(), [long])
    const sum = reference.lora(wave(rows * columns, 1), wave(columns * rank, 7), wave(rank * rows, 5), options)
    const lengths = Array.from({ length: rows }, (_, i) => math.hypot(...sum.subarray(i * columns, (i + 1) * columns)))
    near(
      dora.get(`${q}.weight`),
      sum.map((value, i) => (value * wave(rows, 3)[math.floor(i / columns)]!) / lengths[math.floor(i / columns)]!),
      1e-6,
    )
    const full = adapter(
      { [`${up}.weight`]: f32(wave(rows * columns, 9), [rows, columns]) },
      { fine_tune_type: 'full' },
      true,
    )
    near((await fold(model(), [full])).tensors.get(`${up}.weight`), wave(rows * columns, 9), 0)
  })

  test.each([
    [{ ...turned(q), extra: f32([1]) }, {}, /FORMAT: .*it has the tensor extra/],
    [{ ...turned(q), [`${q}.m`]: f32(wave(rows, 3)) }, {}, /FORMAT: .*vectors m, but its fine_tune_type is lora/],
    [turned(q), { fine_tune_type: 'dora' }, /FORMAT: .*0 vectors m for 1 pairs/],
    [turned(q), { fine_tune_type: 'qlora' }, /FORMAT: .*fine_tune_type is "qlora"/],
    [turned(q), { lora_parameters: { scale: '2' } }, /FORMAT: .*scale is "2"/],
    [turned(q), { lora_parameters: { rank: 8 } }, /FORMAT: .*has rank 4, but its config says 8/],
    [{ [`${q}.lora_a`]: f32(wave(8, 7), [4, 2]) }, {}, /FORMAT: .*without lora_b/],
    [{}, {}, /FORMAT: .*no tensors/],
  ])('is refused where it contradicts itself (%#)', async (tensors, config, message) => {
    expect(await failure(model(), [adapter(tensors as Record<string, Raw>, { ...mlx, ...config }, true)])).toMatch(
      message,
    )
  })
})
