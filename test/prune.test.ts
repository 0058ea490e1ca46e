/**
 * What pruning leaves out is what numbers computed in float64 outside this project say, and pruned models run as they
 * should.
 */
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import { Engine, evaluate, openScores, type PruneOptions, type PruneReport, prune, score, verify } from 'weightsmith'
import { productsOf, sparseGptTensor } from '../lib/prune/index.js'
import { checkpointOf } from '../lib/runtime/open_model.js'
import { readFolder, readSafetensors, values } from './checkpoint.js'
import { cli, script, start } from './child.js'
import { forward } from './forward.js'
import * as reference from './reference/prune.js'
import { scratch } from './scratch.js'

const goldens = join(process.cwd(), 'test/goldens')
const data = join(goldens, 'tasks/calibration.jsonl')
const base = join(process.cwd(), 'demo/models/base')
const golden = JSON.parse(readFileSync(join(goldens, 'importance-base.json'), 'utf8')) as {
  ablation_nll: { all: number; answer: number }[]
  ablation_importance: { all: number[] }
  block_influence: number[]
  angular_distance_last_token: Record<string, number[]>
  width: { ratios: Record<string, { groups_kept: number[]; neurons_kept: number[]; forced: unknown[] }> }
  grid: { depth: number; ratio: string; bias_compensation: boolean; all: number; answer: number }[]
}
const tensors = readSafetensors(join(goldens, 'importance-base.safetensors'))
const stored = readFolder(base)
const layers = [0, 1, 2, 3, 4, 5, 6, 7]
const ratios = { '7/8': 7 / 8, '3/4': 3 / 4, '5/8': 5 / 8, '1/2': 1 / 2 }
const ids = [1, 7, 8, 9, 41, 5, 6, 10, 44, 8]

const { folder } = scratch('prune')
const scores = join(folder, 'scores')
let engine: Engine
beforeAll(async () => {
  engine = await Engine.open()
  await score(engine, base, { methods: ['flap', 'wanda', 'bi', 'angular'], data, out: scores })
})

afterAll(() => engine?.close())

let outputs = 0
type Choice = Partial<Omit<PruneOptions, 'dryRun'>> & Pick<PruneOptions, 'method'>

async function run(options: Choice) {
  const out = join(folder, `out-${outputs++}`)
  const report = await prune(engine, base, { scores, out, ...options })
  return { out, report, tensors: readFolder(out) }
}

/** What would be removed. */
async function foretold(options: Choice) {
  const { forecast } = await prune(engine, base, { scores, out: join(folder, 'never'), ...options, dryRun: true })
  return forecast
}

const logits = async (model: string) => (await forward(engine, model, ids)).logits!
const nll = async (model: string) => (await evaluate(engine, model, { data })).sets[0]!.value

/** The largest distance of two lists of numbers. */
function distance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length)
  return Array.from(a).reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0)
}

describe('FLAP', () => {
  test.each(Object.entries(ratios))('keeps the golden heads and neurons for a share of %s', async (name, keep) => {
    const { units } = await foretold({ method: 'flap', keepRatio: keep })
    const key = name.replace('/', '_')
    for (const [kind, mask] of [
      ['group', values(tensors.get(`alam_groups/${key}`) ?? never(key))],
      ['neuron', values(tensors.get(`alam_neurons/${key}`) ?? never(key))],
    ] as const) {
      const width = mask.length / layers.length
      const want = layers.map((layer) =>
        [...mask.subarray(layer * width, (layer + 1) * width)].flatMap((bit, unit) => (bit === 0 ? [unit] : [])),
      )
      const got = layers.map((layer) => units!.find((own) => own.layer === layer && own.kind === kind)!.dropped)
      expect(got).toEqual(want)
    }
  })

  test('has the golden loss without compensation, and with the golden biases', async () => {
    const want = (bias: boolean) =>
      golden.grid.find((row) => row.depth === 8 && row.ratio === '1/2' && row.bias_compensation === bias)!.all
    const plain = await run({ method: 'flap', keepRatio: 1 / 2, bias: false })
    expect(Math.abs((await nll(plain.out)) / want(false) - 1)).toBeLessThan(1e-5)
    const { out, tensors: pruned } = await run({ method: 'flap', keepRatio: 1 / 2 })
    for (const [name, key] of [
      ['self_attn.o_proj', 'o'],
      ['mlp.down_proj', 'down'],
    ]) {
      const biases = values(tensors.get(`alam_bias_${key}/1_2`)!)
      for (const layer of layers) {
        const got = values(pruned.get(`model.layers.${layer}.${name}.bias`)!)
        // Stored as bf16.
        for (let i = 0; i < 128; i++) {
          const expected = biases[layer * 128 + i]!
          expect(Math.abs(got[i]! - expected)).toBeLessThanOrEqual(2 ** -8 * Math.abs(expected) + 1e-6)
        }
      }
    }
    expect(Math.abs((await nll(out)) / want(true) - 1)).toBeLessThan(1e-3)
    expect((await verify(out)).files.length).toBeGreaterThan(3)
  })

  test.each([
    { keepRatio: 1 / 2, allocation: 'global', bias: true },
    { keepRatio: 5 / 8, allocation: 'uniform', bias: true },
    { keepRatio: 5 / 8, allocation: 'uniform', bias: false },
  ] as const)('says the same masked and compact, with %j', async (options) => {
    const masked = await run({ method: 'flap', ...options })
    const compact = await run({ method: 'flap', ...options, layout: 'compact' })
    expect(distance(await logits(compact.out), await logits(masked.out))).toBeLessThan(2e-4)
    const size = (all: Map<string, { bytes: Buffer }>) =>
      [...all.values()].reduce((sum, { bytes }) => sum + bytes.length, 0)
    expect(size(compact.tensors)).toBeLessThan(0.9 * size(masked.tensors))
    expect(compact.report.bytesWritten).toBe(statSync(join(compact.out, 'model.safetensors')).size)
    const config = JSON.parse(readFileSync(join(compact.out, 'config.json'), 'utf8')) as Record<string, unknown>
    const note = compact.report.notes.join()
    if (options.allocation === 'uniform') {
      expect(config).toMatchObject({
        head_dim: 32,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        // (1 - 5/8) of two groups is less than one, and worth 48 of 352 neurons
        intermediate_size: 352 - 132 - 48,
      })
      expect(config).not.toHaveProperty('per_layer_config')
      expect(note).toMatch(/transformers, vLLM and others load it/)
    } else {
      expect(Object.keys(config.per_layer_config as object).length).toBeGreaterThan(1)
      expect(note).toMatch(/not for this family, and refuses it.* do not load it/)
    }
    // Scoring a compact model works on its own widths.
    if (options.bias) {
      const out = join(folder, 'of-compact')
      await score(engine, compact.out, { methods: ['wanda'], data, limit: 4, out, overwrite: true })
    }
  })

  test('keeps all for a share of 1', async () => {
    const report = await foretold({ method: 'flap', keepRatio: 1 })
    expect(report.units!.every(({ dropped }) => dropped.length === 0)).toBe(true)
    expect(report.parameters.after).toBe(report.parameters.before)
  })
})

describe('Wanda-sp', () => {
  test('takes from neurons what groups are too coarse for, and says so', async () => {
    const forecast = await foretold({ method: 'wanda-sp', keepRatio: 0.8 })
    const [groups, neurons] = [49152, 3 * 128 * 352]
    const least = 3 * 128
    for (const layer of layers) {
      const kept = (kind: string) => forecast.units!.find((own) => own.layer === layer && own.kind === kind)!.kept
      expect(kept('group')).toBe(2)
      const stays = groups + (neurons * kept('neuron')) / 352
      expect(stays).toBeGreaterThanOrEqual(0.8 * (groups + neurons))
      expect(stays).toBeLessThan(0.8 * (groups + neurons) + least)
    }
    expect(forecast.notes).toEqual([
      'Of 2 KV groups 2 stay, because part of one cannot go for a share of 0.8; as many parameters of neurons go instead.',
    ])
    expect((await foretold({ method: 'wanda-sp', keepRatio: 1 / 2 })).notes).toEqual([])
  })

  test('drops as many in every layer, and what it drops is zero on both sides', async () => {
    const { report, tensors: pruned } = await run({ method: 'wanda-sp', keepRatio: 1 / 2 })
    for (const { layer, kind, kept, dropped } of report.units!) {
      expect([kind, kept]).toEqual([kind, kind === 'group' ? 1 : 176])
      if (kind === 'group') continue
      const gate = values(pruned.get(`model.layers.${layer}.mlp.gate_proj.weight`)!)
      const down = values(pruned.get(`model.layers.${layer}.mlp.down_proj.weight`)!)
      const zeros = Array.from({ length: 352 }, (_, unit) => unit).filter((unit) =>
        gate.subarray(unit * 128, (unit + 1) * 128).every((value) => value === 0),
      )
      expect(zeros).toEqual(dropped)
      expect(down.filter((_, i) => dropped.includes(i % 352)).every((value) => value === 0)).toBe(true)
    }
  })
})

describe('single weights', () => {
  test('of each row go as the golden masks of Wanda say', async () => {
    const { tensors: pruned, report } = await run({ method: 'wanda', sparsity: 0.5 })
    for (const layer of [0, 5]) {
      for (const name of ['self_attn.q_proj', 'mlp.down_proj']) {
        const key = `model.layers.${layer}.${name}.weight`
        const mask = values(tensors.get(`wanda_mask50/${key}`)!)
        const before = values(stored.get(key)!)
        const after = values(pruned.get(key)!)
        expect(after.findIndex((value, i) => value !== (mask[i] === 1 ? before[i] : 0))).toBe(-1)
      }
    }
    expect(report.parameters.before - report.parameters.after).toBe((8 * (49152 + 3 * 128 * 352)) / 2)
    expect(pruned.get('lm_head.weight')!.bytes.equals(stored.get('lm_head.weight')!.bytes)).toBe(true)
  })

  test('of each four neighbours two stay, the largest of them', async () => {
    const { tensors: pruned } = await run({ method: 'magnitude', pattern: '2:4' })
    const key = 'model.layers.3.mlp.up_proj.weight'
    const [before, after] = [values(stored.get(key)!), values(pruned.get(key)!)]
    for (let i = 0; i < before.length; i += 4) {
      const group = [0, 1, 2, 3].map((k) => i + k)
      const least = [...group].sort((a, b) => Math.abs(before[a]!) - Math.abs(before[b]!) || a - b).slice(0, 2)
      const wrong = group.filter((k) => after[k] !== (least.includes(k) ? 0 : before[k]))
      if (wrong.length > 0) expect({ i, wrong }).toBe('as it should be')
    }
  })

  test('by magnitude go over a whole tensor, and exactly as many as asked for', async () => {
    const { tensors: pruned } = await run({ method: 'magnitude', sparsity: 0.3 })
    const key = 'model.layers.3.mlp.up_proj.weight'
    const [before, after] = [values(stored.get(key)!), values(pruned.get(key)!)]
    const order = [...before.keys()].sort((a, b) => Math.abs(before[b]!) - Math.abs(before[a]!) || a - b)
    const keep = Math.floor(0.7 * before.length)
    expect(order.findIndex((i, rank) => after[i] !== (rank < keep ? before[i] : 0))).toBe(-1)
  })
})

describe('SparseGPT', () => {
  const gram = join(folder, 'gram')
  beforeAll(() =>
    score(engine, base, { methods: ['gram'], data, limit: 32, layers: [1], out: gram }).then(() => undefined),
  )

  test.each([{ sparsity: 0.5 }, { pattern: '2:4' }])('is what float64 gives, with %j', async (options) => {
    const own = await openScores(engine, gram)
    const refusal = await prune(engine, base, {
      method: 'sparsegpt',
      scores: gram,
      out: join(folder, 'never'),
      dryRun: true,
      ...options,
    }).then(
      () => 'all',
      (error: Error) => error.message,
    )
    // Only layer 1 was measured, and the others are named.
    expect(refusal).toMatch(/no gram\/model\.layers\.0/)
    for (const [name, input, inputs] of [
      ['self_attn.k_proj', 'self_attn.q_proj', 128],
      ['mlp.down_proj', 'mlp.down_proj', 352],
    ] as const) {
      const tensor = `model.layers.1.${name}.weight`
      const gramMatrix = await own.read(`gram/model.layers.1.${input}.weight`)
      const checkpoint = await checkpointOf(engine, base)
      const sparsity = {
        share: options.sparsity ?? 0,
        pattern: options.pattern === undefined ? undefined : { stay: 2, of: 4 },
      }
      const chunks: Uint8Array[] = []
      await engine.use(async (host) => {
        const content = sparseGptTensor(host, checkpoint, checkpoint.tensors.get(tensor)!, sparsity, () =>
          productsOf(host.addon, gramMatrix),
        )
        for await (const chunk of content.bytes()) chunks.push(chunk)
      })
      const raw = stored.get(tensor)!
      const got = values({ ...raw, bytes: Buffer.concat(chunks) })
      const before = values(raw)
      const want = reference.sparseGpt(before, gramMatrix, inputs, {
        share: sparsity.share,
        ...(sparsity.pattern === undefined ? {} : { pattern: sparsity.pattern }),
      })
      // f32 may decide otherwise between scores that are almost equal, which the rest of that row then makes up for.
      const differ = want.reduce((count, value, i) => count + Number((value === 0) !== (got[i] === 0)), 0)
      expect(differ).toBeLessThanOrEqual(0.002 * want.length)
      const scale = Math.sqrt(want.reduce((sum, value) => sum + value ** 2, 0) / want.length)
      const off = want.reduce(
        (count, value, i) => count + Number(Math.abs(got[i]! - value) > 0.01 * scale + 2 ** -8 * Math.abs(value)),
        0,
      )
      expect(off).toBeLessThanOrEqual(0.01 * want.length)
      // What it is for: the outputs are closer to those before than without the update.
      const plain = before.map((value, i) => (got[i] === 0 ? 0 : value))
      const loss = (after: Float64Array) => squaredError(before, after, gramMatrix, inputs)
      expect(loss(got)).toBeLessThan(0.8 * loss(plain))
      expect(Math.abs(loss(got) / loss(want) - 1)).toBeLessThan(0.02)
    }
  })

  test('has the same bytes where a matrix takes several buffers', async () => {
    const own = await openScores(engine, gram)
    const checkpoint = await checkpointOf(engine, base)
    const tensor = checkpoint.tensors.get('model.layers.1.mlp.gate_proj.weight')!
    const gramMatrix = await own.read(`gram/${tensor.name}`)
    await using small = await Engine.open({ maxBufferBytes: 2 ** 17 })
    for (const sparsity of [{ share: 0.4 }, { share: 0, pattern: { stay: 1, of: 4 } }]) {
      const bytes = await Promise.all(
        [engine, small].map((one) =>
          one.use(async (host) => {
            const content = sparseGptTensor(host, checkpoint, tensor, sparsity, () =>
              productsOf(host.addon, gramMatrix),
            )
            for await (const chunk of content.bytes()) return Buffer.from(chunk)
            return Buffer.alloc(0)
          }),
        ),
      )
      const zeros = values({ ...stored.get(tensor.name)!, bytes: bytes[0]! }).filter((value) => value === 0).length
      expect(zeros / (352 * 128)).toBeCloseTo(sparsity.pattern === undefined ? 0.4 : 0.75, 3)
      expect(bytes[1]!.equals(bytes[0]!)).toBe(true)
    }
  })
})

/** ‖(W - V) X‖², by the Gram matrix of X. */
function squaredError(w: Float64Array, v: Float64Array, gram: ArrayLike<number>, inputs: number): number {
  let sum = 0
  for (let r = 0; r < w.length; r += inputs) {
    for (let i = 0; i < inputs; i++) {
      const d = w[r + i]! - v[r + i]!
      if (d === 0) continue
      for (let j = 0; j < inputs; j++) sum += d * gram[i * inputs + j]! * (w[r + j]! - v[r + j]!)
    }
  }
  return sum
}

describe('blocks', () => {
  test('go by influence, and masked as well as left out the golden loss stays', async () => {
    const [least] = layers.toSorted((a, b) => golden.block_influence[a]! - golden.block_influence[b]!)
    const masked = await run({ method: 'bi' })
    const compact = await run({ method: 'bi', layout: 'compact' })
    expect(masked.report.blocks).toEqual([least])
    expect(compact.tensors.size).toBe(stored.size - 9)
    expect(JSON.parse(readFileSync(join(compact.out, 'config.json'), 'utf8'))).toHaveProperty('num_hidden_layers', 7)
    expect(Math.abs((await nll(compact.out)) / golden.ablation_nll[least!]!.all - 1)).toBeLessThan(1e-5)
    expect([...(await logits(masked.out))]).toEqual([...(await logits(compact.out))])
  })

  test('go in a row by the least angle, and one by one by the loss without them', async () => {
    const angles = golden.angular_distance_last_token['3']!
    const first = angles.indexOf(Math.min(...angles))
    const { blocks } = await foretold({ method: 'angular', remove: 3 })
    expect(blocks).toEqual([first, first + 1, first + 2])
    const ablation = join(folder, 'ablation')
    await score(engine, base, { methods: ['ablation'], data, limit: 4, out: ablation })
    const by = await foretold({ method: 'ablation', remove: 7, scores: ablation })
    expect(by.blocks).toHaveLength(7)
  })
})

describe('prune', () => {
  test('names what it cannot do', async () => {
    const refused = (
      options: Partial<PruneOptions> & Pick<PruneOptions, 'method'>,
      message: RegExp,
      code = 'ARGUMENT',
    ) =>
      expect(run(options)).rejects.toMatchObject({
        code: `ERR_WEIGHTSMITH_${code}`,
        message: expect.stringMatching(message),
      })
    await refused({ method: 'wanda', sparsity: 1 }, /would empty model\.layers\.0/)
    await refused({ method: 'wanda', sparsity: 0.5, pattern: '4:2' }, /"4:2"/)
    await refused({ method: 'magnitude', pattern: '2:3' }, /128 weights.*multiple of 3/)
    await refused({ method: 'wanda-sp', keepRatio: 1e-12 }, /would leave none/)
    await refused({ method: 'flap', keepRatio: 0 }, /keepRatio to be above 0 .* received 0/)
    await refused({ method: 'bi', remove: 8 }, /1 to 7 can be removed, but 8/)
    await refused({ method: 'magnitude', layout: 'compact' }, /only heads, neurons and blocks/)
    await refused({ method: 'flap', scores: undefined }, /needs a score file/)
    await refused({ method: 'wanda', keepRatio: 0.5 }, /keepRatio is not one of wanda; it belongs to flap, wanda-sp/)
    await refused({ method: 'bi', positions: 'all' }, /positions is not one of bi; it belongs to ablation/)
    await refused({ method: 'taylor' as 'bi' }, /"taylor" was found/)
    await refused({ method: 'ablation' }, /no importance\/all; they were made with flap, wanda/, 'MISSING_TENSOR')
    const mistral = join(folder, 'mistral')
    cpSync(base, mistral, { recursive: true })
    const config = JSON.parse(readFileSync(join(base, 'config.json'), 'utf8')) as object
    writeFileSync(join(mistral, 'config.json'), JSON.stringify({ ...config, architectures: ['MistralForCausalLM'] }))
    await expect(prune(engine, mistral, { method: 'flap', scores, out: join(folder, 'y') })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_ARGUMENT',
      message: expect.stringMatching(/MistralForCausalLM, which has no bias beside .*o_proj.*--no-bias/),
    })
    const other = prune(engine, join(process.cwd(), 'demo/models/improved-1'), {
      method: 'bi',
      scores,
      out: join(folder, 'x'),
    })
    await expect(other).rejects.toHaveProperty('code', 'ERR_WEIGHTSMITH_INPUT_CHANGED')
  })

  test('that is killed goes on where it was, with the same bytes, and leaves nothing half-written', async () => {
    const options = { method: 'wanda', scores, journalEvery: 2 ** 18 } as const
    const out = join(folder, 'killed')
    const body = `const engine = await Engine.open()
      await prune(engine, process.argv[2], { ...JSON.parse(process.argv[3]), onProgress: ({ done, total }) => {
        if (done > 0.7 * total) process.kill(process.pid, 'SIGKILL')
      } })`
    const killed = start([script(folder, 'kill', body), base, JSON.stringify({ ...options, out })])
    expect((await killed.ended).signal).toBe('SIGKILL')
    expect(existsSync(out)).toBe(false)
    await expect(prune(engine, base, { ...options, out })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_OUTPUT_EXISTS',
      message: expect.stringMatching(/unfinished output .*--resume/),
    })
    await expect(prune(engine, base, { ...options, out, sparsity: 0.6, resume: true })).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_RESUME',
      message: expect.stringMatching(/another recipe/),
    })
    const report = await prune(engine, base, { ...options, out, resume: true })
    const all = [...stored.keys()].length
    expect(report.resumed).toBeGreaterThan(all / 4)
    expect(report.resumed).toBeLessThan(all)
    const whole = await run({ method: 'wanda' })
    expect(report.files!.filter(({ name }) => name.endsWith('.safetensors'))).toEqual(
      whole.report.files!.filter(({ name }) => name.endsWith('.safetensors')),
    )
    expect((await verify(out)).tensors).toBe(all)
    expect(readdirSync(out).filter((name) => name.startsWith('.'))).toEqual([])
  })

  test('is a verb of the command line', async () => {
    const out = join(folder, 'cli')
    const flags = [
      '--method',
      'flap',
      '--keep-ratio',
      '0.5',
      '--scores',
      scores,
      '--layout',
      'compact',
      '--no-bias',
      '--json',
    ]
    const dry = await cli('prune', base, out, ...flags, '--dry-run')
    expect(existsSync(out)).toBe(false)
    const { code, stdout } = await cli('prune', base, out, ...flags)
    expect(code).toBe(0)
    const { units, bytesWritten } = JSON.parse(stdout) as PruneReport
    expect(JSON.parse(dry.stdout)).toEqual({ forecast: expect.objectContaining({ out, units, bytesWritten }) })
    expect(JSON.parse(stdout)).toMatchObject({ method: 'flap', layout: 'compact', milliseconds: expect.any(Number) })
    const manifest = JSON.parse(readFileSync(join(out, 'weightsmith.json'), 'utf8')) as { recipe: unknown }
    expect(manifest.recipe).toMatchObject({ prune: { method: 'flap', keepRatio: 0.5, bias: false } })
    expect(readFileSync(join(out, 'README.md'), 'utf8')).toMatch(/flap/)
    rmSync(out, { recursive: true })
  })
})

function never(what: string): never {
  throw new Error(`There is no golden ${what}.`)
}
