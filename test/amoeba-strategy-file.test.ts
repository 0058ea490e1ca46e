/** A strategy file gives back what was written, says what it is of, and is refused where it cannot be that. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from '@jest/globals'
import { modelSpec } from '../lib/architectures/index.js'
import { type Checkpoint, openCheckpoint } from '../lib/checkpoint/index.js'
import { loadAddon } from '../lib/native/load.js'
import { fingerprint } from '../lib/score/index.js'
import { readStrategy, type Strategy, shapeOf, writeStrategy } from '../lib/subnets/index.js'
import { scratch } from './scratch.js'

const { fresh } = scratch('strategy-file')
const addon = loadAddon()
const open = (name: string) => openCheckpoint(addon, join(process.cwd(), 'demo/models', name), name)

let model: Checkpoint
let strategy: Strategy
let path: string

const mask = (...gone: number[]) => Array.from({ length: 8 }, (_, block) => !gone.includes(block))

beforeAll(async () => {
  model = await open('base')
  const spec = modelSpec(model.config, model.tensors, model.name)
  const data = { file: 'lines.jsonl', sha256: 'ab', examples: 4, tokens: 40 }
  const units = (ratio: number) =>
    spec.language.layers.flatMap(({ units }, layer) =>
      units.map(({ kind, count }) => {
        const kept = Array.from({ length: count }, (_, i) => ratio === 1 || layer > 0 || i === 0)
        return { layer, kind, kept }
      }),
    )
  const bias = (first: number) => Float32Array.from({ length: 128 }, (_, i) => first + i)
  strategy = {
    model: { name: 'base', fingerprint: await fingerprint(model) },
    layers: 8,
    depth: {
      ...{ order: 'deepest', metric: 'nll', keepLast: 6 },
      masks: [mask(), mask(1), mask(0, 1)],
      values: [0.5, 0.75, 1.5],
      table: {
        values: [[0.5], [0.5, 0.75], [0.5, 0.75, 1.5]],
        masks: [[mask()], [mask(), mask(1)], [mask(), mask(1), mask(0, 1)]],
        tried: [[Number.NaN], [Number.NaN, 0.75], [Number.NaN, 0.8, 1.5]],
      },
    },
    widths: [
      { ratio: 1, units: units(1), biases: new Map() },
      {
        ratio: 0.875,
        units: units(0.875),
        biases: new Map([
          ['model.layers.0.mlp.down_proj.weight', bias(-3)],
          ['model.layers.0.self_attn.o_proj.weight', bias(7)],
        ]),
      },
    ],
    origin: { weightsmith: '0', device: 'none', data, calibration: data, seed: 0 },
  }
  path = fresh('s.strategy')
  await writeStrategy(path, strategy, spec)
})

describe('a strategy file', () => {
  test('gives back what was written, with the model and without', async () => {
    expect(await readStrategy(addon, path, model)).toEqual(strategy)
    expect(await readStrategy(addon, path)).toEqual(strategy)
  })

  test('is not of a model with other weights', async () => {
    await expect(readStrategy(addon, path, await open('improved-1'))).rejects.toMatchObject({
      code: 'ERR_WEIGHTSMITH_INPUT_CHANGED',
      message: expect.stringContaining('is of the model base') as unknown,
    })
  })

  /** The file with its header or its tensors changed; a text in the header keeps its length. */
  function changed(change: { from: string; to: string } | { tensor: string; values: number[] }): string {
    const bytes = Buffer.from(readFileSync(path))
    const start = 8 + Number(bytes.readBigUInt64LE(0))
    const header = bytes.toString('utf8', 8, start)
    if ('from' in change) {
      expect(header).toContain(change.from)
      bytes.write(header.replace(change.from, change.to.padEnd(change.from.length)), 8)
    } else {
      const {
        data_offsets: [begin],
      } = JSON.parse(header)[change.tensor] as { data_offsets: [number] }
      bytes.set(change.values, start + begin)
    }
    const copy = fresh('changed.strategy')
    writeFileSync(copy, bytes)
    return copy
  }

  test.each([
    ['another format', { from: '\\"format\\":1', to: '\\"format\\":2' }, /does not describe one/],
    ['an order that there is not', { from: 'deepest', to: 'largest' }, /does not describe one/],
    ['widths that rise', { from: '[1,0.875]', to: '[1,1.875]' }, /does not describe one/],
    ['a width without tensors', { from: '[1,0.875]', to: '[1,0.874]' }, /it has no kept.0.874/],
    ['more blocks than masks have', { from: '\\"layers\\":8', to: '\\"layers\\":9' }, /not those of base/],
    ['more blocks kept than there are', { from: '\\"keepLast\\":6', to: '\\"keepLast\\":9' }, /out of range/],
    [
      'numbers of another type',
      { from: '"F64","shape":[3]', to: '"I64","shape":[3]' },
      /should be F64 \[3\], but is I64/,
    ],
    ['a mask that is no mask', { tensor: 'depth/masks', values: [2] }, /neither 0 nor 1/],
    ['a mask that leaves out too many', { tensor: 'depth/masks', values: [0] }, /for 8 blocks leaves out others/],
    ['a layer without neurons', { tensor: 'kept/0.875/0/neuron', values: [0] }, /leaves nothing of a layer/],
    ['a whole width that is not', { tensor: 'kept/1/3/group', values: [0] }, /at the whole width/],
    ['units that lose inputs, without a bias', { tensor: 'kept/0.875/3/group', values: [0] }, /it has no bias.0.875/],
  ])('with %s is refused', async (_, change, message) => {
    const failed = readStrategy(addon, changed(change), model)
    await expect(failed).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_FORMAT' })
    await expect(failed).rejects.toThrow(message)
  })

  test('is not any safetensors file', async () => {
    const weights = join(process.cwd(), 'demo/models/base/model.safetensors')
    await expect(readStrategy(addon, weights)).rejects.toMatchObject({ code: 'ERR_WEIGHTSMITH_FORMAT' })
  })
})

describe('a shape', () => {
  test('is one of the depths with one of the widths, by default the whole model', () => {
    const widths = strategy.widths.map(({ ratio }) => ratio)
    const whole = { blocks: mask(), width: 1, widths, units: strategy.widths[0]!.units, biases: new Map() }
    expect(shapeOf(strategy)).toEqual(whole)
    const shape = shapeOf(strategy, { depth: 6, width: 7 / 8 })
    const { units, biases } = strategy.widths[1]!
    expect(shape).toEqual({ blocks: mask(0, 1), width: 7 / 8, widths, units, biases })
  })

  test('of another width is refused with the nearest one', () => {
    expect(() => shapeOf(strategy, { width: 0.8 })).toThrow(
      'The widths of the strategy are 1, 0.875, but 0.8 was asked for; the nearest is 0.875.',
    )
    expect(() => shapeOf(strategy, { width: Number.NaN })).toThrow('the nearest is 1.')
  })

  test.each([5, 9, 6.5])('of %d blocks is refused with the depths there are', (depth) => {
    expect(() => shapeOf(strategy, { depth })).toThrow(/depths of the strategy are 6 to 8 blocks/)
  })
})
