/** Adapters folded into models: sums, tables of tokens, DoRA, ties, and the command line. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { describe, expect, test } from '@jest/globals'
import { Engine, evaluate, foldMixture, merge, mixAdapters } from 'weightsmith'
import { bf16, f32, readFolder, values } from './checkpoint.js'
import { cli } from './child.js'
import { golden } from './goldens.js'
import { adapted, columns, factors, fixtures, head, layer, near, q, rank, rows, table, up, wave } from './lora.js'
import { math } from './math.js'
import * as reference from './reference/merge.js'

const { fresh, opened, model, adapter, fold, failure } = fixtures('lora-fold')

const configOf = (out: string) => JSON.parse(readFileSync(join(out, 'config.json'), 'utf8')) as Record<string, unknown>

describe('fold', () => {
  test('adds several adapters in order, each with its weight, as a recipe does', async () => {
    const base = model()
    const [a, b] = [
      adapter(factors(q, 5)),
      adapter({ ...factors(q, 7, rows, columns, 2), ...factors(up, 8, rows, columns, 2) }, { r: 2 }),
    ]
    const { tensors, report } = await fold(base, [a, { adapter: b, weight: -0.5 }])
    near(tensors.get(`${q}.weight`), adapted(adapted(wave(rows * columns, 1), 5, 1.5), 7, -1.5, rows, columns, 2))
    near(tensors.get(`${up}.weight`), adapted(wave(rows * columns, 3), 8, -1.5, rows, columns, 2))
    expect(report.adapters).toEqual([
      { adapter: a, weight: 1 },
      { adapter: b, weight: -0.5 },
    ])
    expect(report.notes).toEqual([])

    const both = await fold(base, [a, b])
    const out = fresh('merged')
    await merge(
      opened(),
      { merge_method: 'passthrough', models: [{ model: `${base}+${a}+${b}` }] },
      { out, sync: false },
    )
    for (const [name, { bytes }] of readFolder(out)) expect(both.tensors.get(name)!.bytes.equals(bytes)).toBe(true)
  })

  test('takes back what it has added', async () => {
    const base = model(bf16)
    const a = adapter(factors(q, 5), { lora_alpha: 1 })
    const there = await fold(base, [a], { dtype: 'float32' })
    const back = await fold(there.out, [{ adapter: a, weight: -1 }], { dtype: 'bfloat16' })
    for (const [name, { bytes }] of readFolder(base)) expect(back.tensors.get(name)!.bytes.equals(bytes)).toBe(true)
  })

  test('gives the same bytes whatever tiles cut rows into, and in columns that strips share', async () => {
    const [long, r] = [1416, 8]
    const weight = wave(130 * long, 4)
    const base = model(bf16, { [`${layer}.mlp.down_proj.weight`]: bf16(weight, [130, long]) })
    const path = adapter(factors(`${layer}.mlp.down_proj`, 5, 130, long, r), { r })
    const [whole, cut] = [await fold(base, [path]), await fold(base, [path], { memory: '400KiB' })]
    const stored = values(readFolder(base).get(`${layer}.mlp.down_proj.weight`)!)
    const want = adapted(stored, 5, 0.75, 130, long, r)
    const raw = whole.tensors.get(`${layer}.mlp.down_proj.weight`)!
    near(raw, want, 0.06)
    const exact = bf16(want.map(math.fround), [130, long])
    const rounded = values(exact)
    const apart = values(raw).filter((value, i) => value !== rounded[i]).length
    expect(apart).toBeLessThan(want.length * 1e-4)
    expect(cut.tensors.get(`${layer}.mlp.down_proj.weight`)!.bytes.equals(raw.bytes)).toBe(true)
    expect(cut.report.folded).toEqual(whole.report.folded)
  })

  test('adds more adapters than one kernel takes', async () => {
    const base = model()
    const all = Array.from({ length: 19 }, (_, i) =>
      adapter(factors(q, 5 + i, rows, columns, 1), { r: 1, lora_alpha: 0.1 }),
    )
    const { tensors, report } = await fold(base, all)
    let want: ArrayLike<number> = wave(rows * columns, 1)
    for (const [i] of all.entries()) want = adapted(want, 5 + i, 0.1, rows, columns, 1)
    near(tensors.get(`${q}.weight`), want)
    expect(report.notes.join()).toMatch(/1 tensor is made before the merge/)
  })

  test('says how many elements changed, and of how many the rounding swallowed the change', async () => {
    const base = model(bf16)
    for (const lora_alpha of [6, 0.002]) {
      const { tensors, report } = await fold(base, [adapter(factors(q, 5), { lora_alpha })], { checksum: 'none' })
      const [was, is] = [values(readFolder(base).get(`${q}.weight`)!), values(tensors.get(`${q}.weight`)!)]
      const changed = is.filter((value, i) => value !== was[i]).length
      expect(report.folded).toEqual({ elements: rows * columns, changed, swallowed: rows * columns - changed })
      expect(report.adapted).toEqual([{ tensor: `${q}.weight`, ...report.folded }])
    }
    const still = adapter({
      ...factors(q, 5),
      [`${q}.lora_B.weight`]: f32(new Float32Array(rows * rank), [rows, rank]),
    })
    expect((await fold(base, [still])).report.folded).toEqual({ elements: rows * columns, changed: 0, swallowed: 0 })
  })

  test('counts DoRA, experts, rows of tokens and what is replaced as a whole too', async () => {
    const [m, experts] = [wave(rows, 3).map((x) => math.abs(x) + 0.5), `${layer}.mlp.experts`]
    const base = model(bf16, { [`${experts}.down_proj`]: bf16(wave(96, 4), [2, 6, 8]) })
    const stack = {
      [`${experts}.lora_A.weight`]: f32(wave(2 * rank * 8, 5), [2 * rank, 8]),
      [`${experts}.lora_B.weight`]: f32(wave(6 * 2 * rank, 6), [6, 2 * rank]),
    }
    const whole = f32(wave(10 * columns, 2), [10, columns])
    const kinds: [string, string, number, number][] = [
      // what differs after the rounding alone is swallowed: 0.3 of the table lies between two values of bfloat16
      [adapter({ [`${table}.weight`]: whole }, { modules_to_save: ['embed_tokens'] }), `${table}.weight`, 400, 400],
      [
        adapter({ ...factors(q, 5), [`${q}.lora_magnitude_vector`]: f32(m) }, { use_dora: true }),
        ...([`${q}.weight`, rows * columns, rows * columns] as const),
      ],
      [
        adapter(stack, { lora_alpha: 0.02, target_parameters: ['experts.down_proj'] }),
        ...([`${experts}.down_proj`, 96, 96] as const),
      ],
      [
        adapter(
          { [`${table}.trainable_tokens_delta`]: f32(wave(2 * columns, 8), [2, columns]) },
          { trainable_token_indices: [1, 4] },
        ),
        ...([`${table}.weight`, 400, 2 * columns] as const),
      ],
    ]
    for (const [path, tensor, elements, asked] of kinds) {
      const { tensors, report } = await fold(base, [path], { checksum: 'none', dtype: 'bfloat16' })
      const [was, is] = [values(readFolder(base).get(tensor)!), values(tensors.get(tensor)!)]
      const changed = is.filter((value, i) => value !== was[i]).length
      expect(report.adapted).toEqual([{ tensor, elements, changed, swallowed: asked - changed }])
      expect(changed).toBeGreaterThan(tensor === `${table}.weight` && asked === 400 ? -1 : 0)
    }
    const { report } = await fold(base, [kinds[0]![0]], { checksum: 'none' })
    expect(report.adapted).toEqual([{ tensor: `${table}.weight`, elements: 400, changed: 400, swallowed: 0 }])
  })

  test.each(['factor', 'output'] as const)('takes a mixture (%s) as it takes the adapter of it', async (mix) => {
    const base = model(bf16, { 'norm.weight': bf16(wave(columns, 2)) })
    const saved = { 'norm.weight': f32(wave(columns, 9)) }
    const experts = [5, 7].map((seed) => adapter({ ...factors(q, seed), ...saved }, { modules_to_save: ['norm'] }))
    const gates = [0.75, 0.25]
    const [between, out] = [fresh('mixed'), fresh('out')]
    await mixAdapters(opened(), experts, { out: between, gates, mix, sync: false })
    const { tensors } = await fold(base, [between])
    expect(tensors.get(`${q}.weight`)).not.toEqual(readFolder(base).get(`${q}.weight`))
    const { forecast } = await foldMixture(opened(), base, experts, { out, gates, mix, dryRun: true })
    const report = await foldMixture(opened(), base, experts, { out, gates, mix, sync: false, dryRun: false })
    expect(readFolder(out)).toEqual(tensors)
    expect(forecast.tensors).toEqual(report.tensors)
    expect(report.adapters).toEqual(experts.map((path, i) => ({ adapter: path, weight: gates[i] })))
    const manifest = JSON.parse(readFileSync(join(out, 'weightsmith.json'), 'utf8')) as object
    expect(manifest).toMatchObject({
      recipe: { models: [{ model: `${base}+${mix}(${experts[0]}=0.75 ${experts[1]}=0.25)` }] },
    })
    await expect(foldMixture(opened(), base, experts, { out, gates: [1], overwrite: true })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_ARGUMENT',
    })
  })

  test('refuses weights other than 1 where there is no sum to scale', async () => {
    const base = model()
    const m = { [`${q}.lora_magnitude_vector`]: f32(wave(rows, 3)) }
    const dora = adapter({ ...factors(q, 5), ...m }, { use_dora: true })
    const whole = adapter({ ...factors(q, 5), [`${up}.weight`]: f32(wave(rows * columns, 9), [rows, columns]) })
    expect(await failure(base, [{ adapter: dora, weight: -1 }])).toMatch(
      /FORMAT: .*weight is -1, but it is a DoRA adapter/,
    )
    expect(await failure(base, [{ adapter: whole, weight: 0.5 }])).toMatch(
      /FORMAT: .*weight is 0.5, but it replaces .*up_proj/,
    )
    expect(await failure(base, [{ adapter: whole, weight: Number.NaN }])).toMatch(/ARGUMENT: .*weight to be a number/)
    expect(await failure('constructor', [whole])).toMatch(/NOT_FOUND: Model constructor not found/)
    expect(await failure(base, [])).toMatch(/ARGUMENT: .*at least one adapter/)
  })

  test('gives the rows of a DoRA adapter their lengths, and leaves a row without a direction at 0', async () => {
    const weight = wave(rows * columns, 1)
    const m = wave(rows, 3)
    const b = wave(rows * rank, 6)
    for (let j = 0; j < columns; j++) weight[j] = 0
    for (let k = 0; k < rank; k++) b[k] = 0
    const base = model(f32, { [`${q}.weight`]: f32(weight, [rows, columns]) })
    const { tensors } = await fold(base, [
      adapter(
        {
          ...factors(q, 5),
          [`${q}.lora_B.weight`]: f32(b, [rows, rank]),
          [`${q}.lora_magnitude_vector.weight`]: f32(m),
        },
        { use_dora: true },
      ),
    ])
    const sum = reference.lora(weight, b, wave(rank * columns, 5), { columns, rank, scale: 1.5, transposed: false })
    const want = sum.map((value, i) => {
      const row = math.floor(i / columns)
      const length = math.hypot(...sum.subarray(row * columns, (row + 1) * columns))
      return row === 0 ? 0 : (value * m[row]!) / length
    })
    near(tensors.get(`${q}.weight`), want, 1e-6)
  })

  test('splits a table for both ends only where it is asked to', async () => {
    const base = model(f32, {}, { tie_word_embeddings: true })
    const words = adapter({
      [`${table}.lora_embedding_A`]: f32(wave(rank * 10, 5), [rank, 10]),
      [`${table}.lora_embedding_B`]: f32(wave(columns * rank, 7), [columns, rank]),
    })
    expect(await failure(base, [words])).toMatch(/FORMAT: .*one table for both; fold it with --untie/)
    const { out, tensors } = await fold(base, [words], { untie: true })
    const options = { columns, rank, scale: 1.5, transposed: true }
    near(
      tensors.get(`${table}.weight`),
      reference.lora(wave(10 * columns, 2), wave(columns * rank, 7), wave(rank * 10, 5), options),
    )
    near(tensors.get(`${head}.weight`), wave(10 * columns, 2), 0)
    expect(configOf(out).tie_word_embeddings).toBe(false)
  })

  test('lets the vocabulary grow only where it is asked to', async () => {
    const base = model(f32, { [`${head}.weight`]: f32(wave(10 * columns, 4), [10, columns]) })
    const grown = adapter({
      [`${table}.weight`]: f32(wave(12 * columns, 5), [12, columns]),
      [`${head}.weight`]: f32(wave(12 * columns, 6), [12, columns]),
    })
    expect(await failure(base, [grown])).toMatch(
      /FORMAT: .*it has 12 rows in its tables of tokens; fold it with --resize/,
    )
    const { out, tensors } = await fold(base, [grown], { resize: true })
    expect(tensors.get(`${head}.weight`)!.shape).toEqual([12, columns])
    expect(configOf(out).vocab_size).toBe(12)
  })

  test('replaces rows of tokens by their ids, of one table or several', async () => {
    const base = model(f32, { [`${head}.weight`]: f32(wave(10 * columns, 4), [10, columns]) })
    const delta = (module: string, seed: number) => ({
      [`${module}.token_adapter.trainable_tokens_delta`]: f32(wave(2 * columns, seed), [2, columns]),
    })
    const indices = { embed_tokens: [7, 2], lm_head: [0, 9] }
    const tokens = adapter({ ...delta(table, 5), ...delta(head, 6) }, { trainable_token_indices: indices })
    const { tensors } = await fold(base, [tokens])
    for (const [module, ids, seed, own] of [
      [table, indices.embed_tokens, 5, 2],
      [head, indices.lm_head, 6, 4],
    ] as const) {
      const want = wave(10 * columns, own)
      for (const [row, id] of ids.entries()) {
        for (let j = 0; j < columns; j++) want[id * columns + j] = wave(2 * columns, seed)[row * columns + j]!
      }
      near(tensors.get(`${module}.weight`), want, 0)
    }
    const beyond = adapter(delta(table, 5), { trainable_token_indices: [3, 10] })
    expect(await failure(base, [beyond])).toMatch(
      /SHAPE_MISMATCH: .*row for token 10, but .*embed_tokens.weight has 10 rows/,
    )
    const less = adapter(delta(table, 5), { trainable_token_indices: [3] })
    expect(await failure(base, [less])).toMatch(/FORMAT: .*\[2, 40\], but its config names 1 tokens/)
  })

  test('finds the text model of a larger one, and the reverse', async () => {
    const larger = model(f32, { 'model.language_model.layers.0.self_attn.k_proj.weight': f32(wave(80, 4), [2, 40]) })
    const k = (name: string) => adapter(factors(name, 5, 2))
    const want = adapted(wave(80, 4), 5, 1.5, 2)
    for (const name of ['model.layers.0.self_attn.k_proj', 'language_model.model.layers.0.self_attn.k_proj']) {
      const { tensors } = await fold(larger, [k(name)])
      near(tensors.get('model.language_model.layers.0.self_attn.k_proj.weight'), want)
    }
    const { tensors } = await fold(model(), [adapter(factors('layers.0.self_attn.q_proj', 5))])
    near(tensors.get(`${q}.weight`), adapted(wave(rows * columns, 1), 5, 1.5))
  })
})

test('the same bytes and counts come out on the bundled driver', async () => {
  await using bundled = await Engine.open({ device: 'swiftshader' })
  const [wide, r] = [200, 8]
  const down = `${layer}.mlp.down_proj`
  const weight = wave(37 * wide, 4)
  // Values that overflow, that are NaN, and that no change moves.
  const odd = Object.assign([...weight], { 5: 3.3e38, 300: Number.NaN, 411: Number.POSITIVE_INFINITY, 900: 1e-40 })
  const kinds: [string, string[]][] = [
    [model(bf16, { [`${down}.weight`]: bf16(odd, [37, wide]) }), [adapter(factors(down, 5, 37, wide, r), { r })]],
    [golden('reasoner/base'), [golden('lora/adapters/rslora'), golden('lora/adapters/plain')]],
    [golden('reasoner/base'), [golden('lora/adapters/dora')]],
  ]
  for (const [base, adapters] of kinds) {
    const own = await fold(base, adapters)
    const other = await fold(base, adapters, {}, bundled)
    expect(other.report.nonFinite).toEqual(own.report.nonFinite)
    expect(other.report.folded).toEqual(own.report.folded)
    for (const [name, { bytes }] of own.tensors) {
      expect([name, other.tensors.get(name)!.bytes.equals(bytes)]).toEqual([name, true])
    }
  }
  const { report } = await fold(...kinds[0]!)
  expect(report.nonFinite).toEqual([{ tensor: `${down}.weight`, count: 2 }])
})

describe('the command line', () => {
  test('folds and inspects', async () => {
    const [base, path, out] = [model(), adapter(factors(q, 5)), fresh('out')]
    const forecast = await cli('lora', 'fold', base, out, '--adapter', `${path}=0.5`, '--dry-run', '--json')
    expect(JSON.parse(forecast.stdout)).toMatchObject({
      forecast: { model: base, adapters: [{ adapter: path, weight: 0.5 }] },
    })
    const done = await cli('lora', 'fold', base, out, '--adapter', `${path}=0.5`, path)
    expect(done).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/Of 1,920 adapted elements 100.00 % changed/),
    })
    near(readFolder(out).get(`${q}.weight`), adapted(wave(rows * columns, 1), 5, 2.25))
    const shown = await cli('lora', 'inspect', path, '--base', base)
    expect(shown.stdout).toMatch(/q_proj\.weight +48x40 +4 +6 +1\.5 +F32/)
    const [tuned, extracted] = [golden('reasoner/improved-1'), fresh('extracted')]
    const data = join(fresh('data'), 'lines.jsonl')
    mkdirSync(dirname(data))
    const lines = readFileSync(golden('reasoner/tasks/calibration.jsonl'), 'utf8').split('\n')
    writeFileSync(data, lines.slice(0, 4).join('\n'))
    const args = [golden('reasoner/base'), tuned, extracted, '--rank', '8', '--data', data, '--json']
    const { loss } = JSON.parse((await cli('lora', 'extract', ...args)).stdout) as { loss: Record<string, number> }
    const lossOf = async (path: string) => (await evaluate(opened(), path, { data })).sets[0]!.value
    expect(loss).toEqual({
      tuned: await lossOf(tuned),
      adapted: await lossOf(`${golden('reasoner/base')}+${extracted}`),
    })
    expect((await cli('lora', 'fold', '--help')).stdout).toMatch(/Example:\n {2}weightsmith lora fold/)
  })
})
