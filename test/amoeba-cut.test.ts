/** Shapes that are cut say what the whole model says under masks, and hold the rows and columns of the strategy. */
import { cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals'
import {
  type AmoebaCutOptions,
  amoebaCut,
  amoebaImport,
  Engine,
  evaluate,
  foldAdapters,
  merge,
  score,
  verify,
} from 'weightsmith'
import { modelSpec } from '../lib/architectures/index.js'
import { openCheckpoint } from '../lib/checkpoint/index.js'
import { loadAddon } from '../lib/native/load.js'
import { fingerprint } from '../lib/score/index.js'
import { readStrategy, type Strategy, shapeOf, writeStrategy } from '../lib/workflows/amoeba/index.js'
import { fill, readFolder, readSafetensors, values, writeModel } from './checkpoint.js'
import { cli } from './child.js'
import { forward } from './forward.js'
import { golden } from './goldens.js'
import { scratch } from './scratch.js'

const { fresh } = scratch('amoeba-cut')
const base = golden('reasoner/base')
const npy = join(process.cwd(), 'test/peers/npy/dp_selection_strategy.npy')
const lines = readFileSync(join(process.cwd(), 'test/goldens/tasks/calibration.jsonl'), 'utf8').split('\n')
const few = fresh('few.jsonl')
const stage1 = readSafetensors(golden('reasoner/training/stage1.safetensors'))
const addon = loadAddon()

let engine: Engine
let strategy: string
beforeAll(async () => {
  writeFileSync(few, lines.slice(0, 6).join('\n'))
  engine = await Engine.open()
  strategy = fresh('s.strategy')
  await amoebaImport(npy, base, { out: strategy })
})
afterAll(() => engine?.close())

type Choice = Partial<Omit<AmoebaCutOptions, 'dryRun'>>
async function cut(options: Choice = {}, model = base) {
  const out = options.out ?? fresh('out')
  const report = await amoebaCut(engine, model, { strategy, ...options, out })
  return { out, report, tensors: readFolder(out) }
}

const weights = (out: string) => readFileSync(join(out, 'model.safetensors'))
const json = (out: string, name: string) => JSON.parse(readFileSync(join(out, name), 'utf8')) as Record<string, unknown>

describe('logits', () => {
  let single: string
  let own: string
  beforeAll(async () => {
    // In float32 biases are not rounded, and the numbers are those of the golden file.
    single = fresh('single')
    own = fresh('single.strategy')
    await merge(engine, { merge_method: 'passthrough', models: [{ model: base }] }, { out: single, dtype: 'float32' })
    await amoebaImport(npy, single, { out: own })
  })

  test.each([
    [7, 0.875, '7_7_8'],
    [6, 0.75, '6_3_4'],
    [5, 0.625, '5_5_8'],
  ])(
    'of %i blocks at %d are those of the masked model in PyTorch, compensated and plain',
    async (depth, width, key) => {
      for (const bias of [true, false]) {
        for (const layout of bias ? (['compact', 'masked'] as const) : (['compact'] as const)) {
          const { out } = await cut({ strategy: own, depth, width, bias, layout }, single)
          for (const line of [0, 1]) {
            const { bytes } = stage1.get(`ids/${line}`)!
            const ids = Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readInt32LE(4 * i))
            const want = values(stage1.get(`logits/${key}_${bias ? 'comp' : 'plain'}/${line}`)!)
            const { logits } = await forward(engine, out, ids)
            const largest = want.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
            const off = want.reduce((most, value, i) => Math.max(most, Math.abs(value - logits![i]!)), 0)
            expect(off / largest).toBeLessThan(1e-5)
          }
        }
      }
    },
  )

  test('and losses of data are measured with compensation and without, against masks', async () => {
    const loss = async (model: string) => (await evaluate(engine, model, { data: few })).sets[0]!.answers!
    const { out, report } = await cut({ depth: 6, width: 0.75, data: few })
    const [shape] = report.shapes
    expect(shape!.loss).toBeCloseTo(await loss(out), 6)
    const plain = await cut({ depth: 6, width: 0.75, layout: 'masked', bias: false })
    expect(shape!.uncompensatedLoss).toBeCloseTo(await loss(plain.out), 5)
    expect(Math.abs(shape!.loss! - shape!.maskedLoss!)).toBeLessThan(1e-5)
    expect(Math.abs(shape!.loss! - shape!.uncompensatedLoss!)).toBeGreaterThan(1e-3)
    expect(shape!.logitsDifference).toBeLessThan(1e-5)
  })
})

describe('a compact shape', () => {
  test('has the rows and columns of its units, blocks with new numbers, and says so in its config', async () => {
    const { out, report, tensors } = await cut({ depth: 6, width: 0.75 })
    const { blocks, units } = shapeOf(await readStrategy(addon, strategy), { depth: 6, width: 0.75 })
    expect(blocks.map(Number)).toEqual([1, 1, 1, 1, 1, 0, 0, 1])
    const model = readFolder(base)
    const kept = units.find(({ layer, kind }) => layer === 7 && kind === 'group')!.kept.map(Number)
    expect(kept.filter((stays) => stays)).toHaveLength(1)
    const group = kept.indexOf(1)
    const q = tensors.get('model.layers.5.self_attn.q_proj.weight')!
    expect(q.shape).toEqual([64, 128])
    const rows = model.get('model.layers.7.self_attn.q_proj.weight')!.bytes
    expect(q.bytes.equals(rows.subarray(group * 64 * 256, (group + 1) * 64 * 256))).toBe(true)
    const neurons = units.find(({ layer, kind }) => layer === 3 && kind === 'neuron')!.kept
    const down = values(tensors.get('model.layers.3.mlp.down_proj.weight')!)
    const whole = values(model.get('model.layers.3.mlp.down_proj.weight')!)
    const columns = neurons.flatMap((stays, i) => (stays ? [i] : []))
    expect(columns).toHaveLength(293)
    expect([...down]).toEqual([...whole].filter((_, i) => neurons[i % 352]))
    expect(tensors.has('model.layers.6.mlp.down_proj.weight')).toBe(false)
    expect(json(out, 'config.json')).toMatchObject({
      num_hidden_layers: 6,
      intermediate_size: 352,
      attention_bias: true,
      mlp_bias: true,
      per_layer_config: { 3: { intermediate_size: 293 } },
    })
    expect(json(out, 'amoeba.json')).toMatchObject({ depth: 6, width: 0.75, blocks: [0, 1, 2, 3, 4, 7] })
    expect(report.shapes[0]!.notes.join(' ')).toMatch(/per_layer_config/)
    await verify(out)
  })

  test('of the whole width and without blocks has the keys of the model alone', async () => {
    const { out } = await cut({ depth: 6 })
    const { num_hidden_layers: _, ...config } = json(base, 'config.json')
    expect(json(out, 'config.json')).toEqual({ ...config, num_hidden_layers: 6 })
  })

  test('takes the licence and what the card says of it along', async () => {
    const model = fresh('licensed')
    cpSync(base, model, { recursive: true })
    writeFileSync(join(model, 'LICENSE.txt'), 'Do what you want.\n')
    writeFileSync(join(model, 'README.md'), '---\nlicense: mit\nbase_model: secret\n---\n# A model\n')
    const own = fresh('s.strategy')
    await amoebaImport(npy, model, { out: own })
    const { out } = await cut({ strategy: own, depth: 7 }, model)
    expect(readFileSync(join(out, 'LICENSE.txt'), 'utf8')).toBe('Do what you want.\n')
    expect(readFileSync(join(out, 'README.md'), 'utf8')).toMatch(
      /^---\n(.*\n)*license: mit\n---\n(.*\n)*.*7 of 8 blocks/,
    )
  })

  test('of uniform widths is one that the usual keys describe', async () => {
    const scores = fresh('flap.scores')
    await score(engine, base, { methods: ['flap'], data: few, out: scores })
    const { out, report } = await cut({ depth: 6, width: 0.625, uniform: true, scores, data: few })
    const config = json(out, 'config.json')
    expect(config).toMatchObject({ num_attention_heads: 4, intermediate_size: 172, num_hidden_layers: 6 })
    expect(config).not.toHaveProperty('per_layer_config')
    expect(report.shapes[0]!.logitsDifference).toBeLessThan(1e-5)
  })
})

test('a masked shape without compensation has the shapes and the config of the model, and zeros', async () => {
  const { out, tensors } = await cut({ depth: 5, width: 0.75, layout: 'masked', bias: false })
  const model = readFolder(base)
  expect(json(out, 'config.json')).toEqual(json(base, 'config.json'))
  expect([...tensors.keys()].sort()).toEqual([...model.keys()].sort())
  const gate = tensors.get('model.layers.3.mlp.gate_proj.weight')!
  const { units } = shapeOf(await readStrategy(addon, strategy), { width: 0.75 })
  const { kept } = units.find(({ layer, kind }) => layer === 3 && kind === 'neuron')!
  const rows = kept.map((_, i) => gate.bytes.subarray(256 * i, 256 * (i + 1)))
  expect(rows.map((row) => row.some((byte) => byte !== 0))).toEqual(kept)
  expect(tensors.get('model.layers.5.self_attn.o_proj.weight')!.bytes.every((byte) => byte === 0)).toBe(true)
})

describe('a grid', () => {
  const choice = { depths: [8, 6], widths: [1, 0.625] }

  test('has the bytes of each shape cut alone, from one read of the model', async () => {
    const { out, report } = await cut(choice)
    expect(readdirSync(out).sort()).toEqual(['6x0.625', '6x1', '8x0.625', '8x1'])
    const { size } = [...readFolder(base).values()].reduce((sum, { bytes }) => ({ size: sum.size + bytes.length }), {
      size: 0,
    })
    expect(report.bytesRead).toBe(size)
    for (const [depth, width] of [
      [8, 1],
      [6, 0.625],
    ] as const) {
      const alone = await cut({ depth, width })
      expect(weights(join(out, `${depth}x${width}`)).equals(weights(alone.out))).toBe(true)
    }
  })

  test('that was ended goes on where it was, and gives the same bytes', async () => {
    const whole = await cut(choice)
    const out = fresh('ended')
    for (const [i, most] of [1e6, 3e6].entries()) {
      const abort = new AbortController()
      const onProgress = ({ done }: { done: number }) => done > most && abort.abort()
      const options = { ...choice, out, resume: i > 0, journalEvery: 1e5, signal: abort.signal, onProgress }
      await expect(cut(options)).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_ABORTED' })
      expect(readdirSync(out).every((name) => name.endsWith('.partial'))).toBe(true)
    }
    await expect(cut({ ...choice, out, journalEvery: 1e5 })).rejects.toHaveProperty(
      'code',
      'ERR_WEIGHTSMITH_OUTPUT_EXISTS',
    )
    const { report } = await cut({ ...choice, out, resume: true, journalEvery: 1e5 })
    expect(report.shapes.every(({ resumed }) => resumed > 20)).toBe(true)
    for (const name of readdirSync(whole.out)) {
      expect(weights(join(out, name)).equals(weights(join(whole.out, name)))).toBe(true)
      await verify(join(out, name))
    }
  })
})

test('an adapter is folded in as lora fold does it, before rows and columns go', async () => {
  const adapter = golden('lora/combine/a')
  const folded = fresh('folded')
  await foldAdapters(engine, base, { adapters: [adapter], out: folded })
  const { out, report } = await cut({ adapter, depth: 7, width: 0.75, layout: 'masked', bias: false, data: few })
  const [has, want] = [readFolder(out), readFolder(folded)]
  const plain = readFolder(base).get('model.layers.0.self_attn.q_proj.weight')!.bytes
  const [q, all] = [has, want].map((folder) => folder.get('model.layers.0.self_attn.q_proj.weight')!.bytes)
  const rows = Array.from({ length: 128 }, (_, row) => q!.subarray(256 * row, 256 * (row + 1)))
  const kept = rows.flatMap((row, i) => (row.some((byte) => byte !== 0) ? [i] : []))
  expect(kept).toHaveLength(64)
  for (const row of kept) expect(rows[row]!.equals(all!.subarray(256 * row, 256 * (row + 1)))).toBe(true)
  expect(all!.equals(plain)).toBe(false)
  expect(report.shapes[0]!.logitsDifference).toBeLessThan(1e-5)
})

describe('refused', () => {
  const refusal = async (options: Choice, model = base) => {
    const out = fresh('refused')
    const error = await cut({ ...options, out }, model).catch((reason: { code: string; message: string }) => reason)
    expect(existsSync(out)).toBe(false)
    expect(existsSync(`${out}.partial`)).toBe(false)
    return error
  }
  const argument = (message: RegExp) => ({
    code: 'ERR_WEIGHTSMITH_ARGUMENT',
    message: expect.stringMatching(message) as unknown,
  })

  test('a strategy of another model', async () => {
    const other = golden('reasoner/improved-1')
    expect(await refusal({ depth: 7 }, other)).toHaveProperty('code', 'ERR_WEIGHTSMITH_INPUT_CHANGED')
  })

  test.each([
    [{ width: 0.9 }, /nearest is 0\.875/],
    [{ depth: 3 }, /depths of the strategy are 5 to 8/],
    [{ depths: [9] }, /depths of the strategy are 5 to 8/],
    [{ depths: [8, 8] }, /wanted twice/],
    [{ depths: [] }, /at least one/],
    [{ depth: 7, widths: [1] }, /not both/],
    [{ uniform: true }, /--scores/],
    [{ scores: 'x' }, /--uniform/],
    [{ layout: 'flat' as 'masked' }, /compact or masked/],
  ])('%j', async (options, message) => {
    expect(await refusal(options)).toMatchObject(argument(message))
  })

  test('a dry run writes nothing and says what would be written', async () => {
    const out = fresh('dry')
    const { forecast } = await amoebaCut(engine, base, { strategy, out, all: true, dryRun: true })
    expect(forecast.shapes).toHaveLength(16)
    expect(existsSync(out)).toBe(false)
    const { report } = await cut({ depth: 6, width: 0.75 })
    const found = forecast.shapes.find(({ depth, width }) => depth === 6 && width === 0.75)
    expect(found).toMatchObject({ parameters: report.shapes[0]!.parameters, bytesWritten: report.bytesWritten })
  })

  describe('families', () => {
    const { cases } = json(join(process.cwd(), 'test/peers/forward'), 'forward.json') as {
      cases: Record<string, { config: object; tensors: Record<string, number[]>; ids: number[] }>
    }

    /** A tiny model, and a strategy that leaves out a block and the first unit of each kind. */
    async function tiny(name: string) {
      const { config, tensors } = cases[name]!
      const raw = Object.entries(tensors).map(([tensor, shape]) => {
        return [tensor, { dtype: 'F32', shape, bytes: Buffer.from(fill(tensor, shape).buffer) }] as const
      })
      const model = writeModel(fresh(name), Object.fromEntries(raw), config)
      const checkpoint = await openCheckpoint(addon, model)
      const spec = modelSpec(checkpoint.config, checkpoint.tensors, name)
      const layers = spec.language.layers.length
      const all = Array.from({ length: layers }, () => true)
      const widths = [1, 0.5].map((ratio) => {
        const biases = new Map<string, Float32Array<ArrayBuffer>>()
        const units = spec.language.layers.flatMap(({ units }, layer) =>
          units.map(({ kind, count, columns }) => {
            const kept = Array.from({ length: count }, (_, i) => ratio === 1 || count === 1 || i > 0)
            for (const { tensor } of kept.includes(false) ? columns : []) {
              biases.set(
                tensor,
                Float32Array.from({ length: checkpoint.tensors.get(tensor)!.shape[0]! }, (_, i) => i / 9),
              )
            }
            return { layer, kind, kept }
          }),
        )
        return { ratio, units, biases }
      })
      const masks = [all, [false, ...all.slice(1)]]
      const row = [Number.NaN, Number.NaN]
      const rows = Array.from({ length: layers }, (_, n) => row.slice(0, n + 1))
      const table = { values: rows, tried: rows, masks: rows.map((cells) => cells.map(() => all)) }
      const none = { file: '', sha256: '', examples: 0, tokens: 0 }
      const made: Strategy = {
        model: { name, fingerprint: await fingerprint(checkpoint) },
        layers,
        depth: { order: 'deepest', metric: 'nll', keepLast: 1, masks, values: row, table },
        widths,
        origin: { weightsmith: '0', device: '', data: none, calibration: none, seed: 0 },
      }
      const own = fresh('tiny.strategy')
      await writeStrategy(own, made, spec)
      return { model, own, layers, ids: cases[name]!.ids }
    }

    test('without a place for widths or biases are named, with what can be cut instead', async () => {
      const opt = await tiny('opt')
      expect(await refusal({ strategy: opt.own, width: 0.5 }, opt.model)).toMatchObject(
        argument(/OPTForCausalLM.*--layout masked/),
      )
      const mistral = await tiny('mistral')
      expect(await refusal({ strategy: mistral.own, width: 0.5 }, mistral.model)).toMatchObject(
        argument(/MistralForCausalLM.*--no-bias/),
      )
    })

    test.each(['opt', 'qwen2-layer-types', 'llama-biases-linear'])(
      'compact and masked %s say the same',
      async (name) => {
        const { model, own, layers, ids } = await tiny(name)
        const shape = { strategy: own, depth: layers - 1, bias: name !== 'qwen2-layer-types' }
        const width = name === 'opt' ? {} : { width: 0.5 }
        const small = await cut({ ...shape, ...width }, model)
        const masked = await cut({ ...shape, ...width, layout: 'masked' }, model)
        const [one, other] = [await forward(engine, small.out, ids), await forward(engine, masked.out, ids)]
        expect(Math.max(...one.logits!.map((value, i) => Math.abs(value - other.logits![i]!)))).toBeLessThan(1e-5)
      },
    )
  })
})

test('the command cuts a grid and shows its shapes, and what is wrong with its options', async () => {
  const out = fresh('grid')
  const flags = ['--strategy', strategy, '--grid', '--depths', '6..5', '--widths', '1,7/8']
  const { stdout, code } = await cli('amoeba', 'cut', base, out, ...flags)
  expect(code).toBe(0)
  expect(stdout).toMatch(/Cut 4 shapes/)
  expect(readdirSync(out).sort()).toEqual(['5x0.875', '5x1', '6x0.875', '6x1'])
  const wrong = await cli('amoeba', 'cut', base, fresh('x'), '--strategy', strategy, '--depths', '6')
  expect(wrong).toMatchObject({ code: 2, stderr: expect.stringMatching(/--grid/) as unknown })
})
