/**
 * Small merges in great number, and one merge of a great number of tensors: what is measured is everything around the
 * arithmetic.
 */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { batch, Engine, explain } from '../dist/esm/index.js'
import { atLeast, atMost, column, targetColumn } from './results.mjs'

/** A model of bf16 tensors of `elements` each, from a fixed pattern. */
function writeModel(folder, names, elements, value) {
  mkdirSync(folder, { recursive: true })
  const bytes = 2 * elements
  const entries = names.map((name, i) => [
    name,
    { dtype: 'BF16', shape: [elements], data_offsets: [i * bytes, (i + 1) * bytes] },
  ])
  const header = Buffer.from(JSON.stringify(Object.fromEntries(entries)))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(header.length))
  const data = Uint16Array.from({ length: names.length * elements }, (_, i) => 0x3f80 + ((7 * i + value) & 0x7f))
  writeFileSync(join(folder, 'model.safetensors'), Buffer.concat([length, header, Buffer.from(data.buffer)]))
  writeFileSync(join(folder, 'config.json'), '{ "model_type": "llama" }')
  return folder
}

/** 64 tensors, 1 MiB. */
const small = Array.from({ length: 64 }, (_, i) => `model.layers.${i >> 3}.module_${i & 7}.weight`)

/** 128 experts in each of 94 layers: 36,096 tensors. */
const experts = Array.from({ length: 94 * 128 }, (_, i) => `model.layers.${i >> 7}.mlp.experts.${i & 127}`).flatMap(
  (name) => ['down_proj', 'gate_proj', 'up_proj'].map((module) => `${name}.${module}.weight`),
)

const soup = (models, share) => ({
  merge_method: 'linear',
  models: models.map((model, i) => ({ model, parameters: { weight: i === 0 ? 1 - share : share } })),
})

/** Results on disk in the folder `out`, which is emptied again. */
async function perSecond(engine, jobs, out) {
  const report = await batch(engine, jobs, { out })
  rmSync(out, { recursive: true })
  if (report.merged !== jobs.length) throw new Error(report.jobs.find(({ error }) => error)?.error.message)
  return (report.merged / report.milliseconds) * 1e3
}

export async function batchTables({ deviceName, folder, say, size }) {
  const recipes = Math.min(1000, Math.ceil(size / 2 ** 20))
  const engine = await Engine.open({ device: deviceName })
  try {
    const at = (name) => join(folder, 'batch', name)
    const pair = [0, 1].map((i) => writeModel(at(`shared-${i}`), small, 8192, i))
    const shared = Array.from({ length: recipes }, (_, i) => ({ recipe: soup(pair, i / recipes) }))
    say('batch: shared inputs')
    await perSecond(engine, shared.slice(0, 8), at('out')) // compiles the kernel
    const sharing = await perSecond(engine, shared, at('out'))
    say('batch: inputs of their own')
    const own = Array.from({ length: Math.min(recipes, 200) }, (_, i) => ({
      recipe: soup([writeModel(at(`own-${i}`), small, 8192, i), pair[0]], 0.5),
    }))
    const owning = await perSecond(engine, own, at('out'))
    say('planning')
    const many = [0, 1].map((i) => writeModel(at(`experts-${i}`), experts, 64, i))
    const start = performance.now()
    await explain(soup(many, 0.5))
    const planning = performance.now() - start
    return [
      {
        title: 'Batches of tiny recipes',
        about: ['Models of 64 tensors and 1 MiB; outputs synced to disk.'],
        columns: [column('what', 'recipes'), column('rate', 'merges a second', 'ratio'), targetColumn('rate')],
        rows: [
          { what: `${recipes} of the same two models`, rate: sharing, target: atLeast(100) },
          { what: `${own.length}, each with a model of its own`, rate: owning, target: atLeast(100) },
        ],
      },
      {
        title: 'Planning',
        columns: [column('what', 'opening and planning'), column('ms', 'time', 'ms'), targetColumn('ms', 'ms')],
        rows: [{ what: `${experts.length} tensors of two models`, ms: planning, target: atMost(2000) }],
      },
    ]
  } finally {
    await engine.close()
    rmSync(join(folder, 'batch'), { recursive: true, force: true })
  }
}
