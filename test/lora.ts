/** Small models and adapters for the tests of LoRA, and what folding them gives. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect } from '@jest/globals'
import { Engine, type FoldOptions, foldAdapters } from 'weightsmith'
import { f32, type Raw, readFolder, values, writeModel, writeSafetensors } from './checkpoint.js'
import { math } from './math.js'
import * as reference from './reference/merge.js'
import { scratch } from './scratch.js'

export const wave = (length: number, seed: number) =>
  Array.from({ length }, (_, i) => math.fround(math.sin(i * seed + seed)))
export const layer = 'model.layers.0'
export const [q, up, table, head] = [
  `${layer}.self_attn.q_proj`,
  `${layer}.mlp.up_proj`,
  'model.embed_tokens',
  'lm_head',
]
export const [rows, columns, rank] = [48, 40, 4]
export const factors = (module: string, seed: number, outputs = rows, inputs = columns, r = rank) => ({
  [`${module}.lora_A.weight`]: f32(wave(r * inputs, seed), [r, inputs]),
  [`${module}.lora_B.weight`]: f32(wave(outputs * r, seed + 1), [outputs, r]),
})

/** W + s (B A) of the factors above. */
export const adapted = (
  weight: ArrayLike<number>,
  seed: number,
  scale: number,
  outputs = rows,
  inputs = columns,
  r = rank,
) =>
  reference.lora(Array.from(weight), wave(outputs * r, seed + 1), wave(r * inputs, seed), {
    columns: inputs,
    rank: r,
    scale,
    transposed: false,
  })
export function near(raw: Raw | undefined, want: ArrayLike<number>, bound = 4e-6): void {
  const got = values(raw!)
  expect(got.length).toBe(want.length)
  for (let i = 0; i < got.length; i++) {
    if (!(math.abs(got[i]! - want[i]!) <= bound)) expect({ i, got: got[i], want: want[i] }).toBe(`within ${bound}`)
  }
}
/** What the tests of a file share: a folder of their own, an engine, and models and adapters in the folder. */
export function fixtures(name: string) {
  let engine: Engine
  const { fresh } = scratch(name)
  beforeAll(async () => {
    engine = await Engine.open()
  })
  afterAll(() => engine?.close())

  function model(store = f32, more: Record<string, Raw> = {}, config: object = {}): string {
    return writeModel(
      fresh('model'),
      {
        [`${table}.weight`]: store(wave(10 * columns, 2), [10, columns]),
        [`${q}.weight`]: store(wave(rows * columns, 1), [rows, columns]),
        [`${up}.weight`]: store(wave(rows * columns, 3), [rows, columns]),
        ...more,
      },
      { num_hidden_layers: 1, vocab_size: 10, model_type: 'llama', tie_word_embeddings: false, ...config },
    )
  }

  function adapter(tensors: Record<string, Raw>, config: object = {}, mlx = false): string {
    const path = fresh('adapter')
    mkdirSync(path)
    const peft = { peft_type: 'LORA', r: rank, lora_alpha: 6, bias: 'none', ...config }
    writeFileSync(join(path, 'adapter_config.json'), JSON.stringify(mlx ? config : peft))
    const named = Object.entries(tensors).map(([name, raw]) => [mlx ? name : `base_model.model.${name}`, raw])
    writeSafetensors(
      join(path, mlx ? 'adapters.safetensors' : 'adapter_model.safetensors'),
      Object.fromEntries(named) as Record<string, Raw>,
    )
    return path
  }

  async function fold(
    base: string,
    adapters: FoldOptions['adapters'],
    options: Partial<FoldOptions> = {},
    on = engine,
  ) {
    const out = fresh('out')
    const report = await foldAdapters(on, base, { adapters, out, sync: false, ...options, dryRun: false })
    return { out, report, tensors: readFolder(out) }
  }

  const failure = (base: string, adapters: FoldOptions['adapters'], options: Partial<FoldOptions> = {}) =>
    fold(base, adapters, options).then(
      () => 'no error',
      (error: Error & { code?: string }) => `${error.code}: ${error.message}`,
    )

  return { fresh, opened: () => engine, model, adapter, fold, failure }
}
