/**
 * Scoring of a model that is larger than the memory: its peak against the budget, and the time against that of one
 * read.
 */
import { closeSync, copyFileSync, ftruncateSync, mkdirSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { child } from './processes.mjs'
import { atMost, column, leftOut, targetColumn } from './results.mjs'

const MiB = 2 ** 20
const root = fileURLToPath(new URL('..', import.meta.url))
const size = { hidden: 2048, inner: 5632, layers: 29 }

export async function scoreTables(options) {
  const title = 'Scoring a model larger than the memory'
  if (process.platform !== 'linux') {
    return [leftOut(title, new Error('only Linux tells the peak of a process.'))]
  }
  const folder = join(options.folder, 'larger')
  const bytes = writeModel(folder)
  options.say('score: a model of 3 GB within 1 GiB')
  const budget = 1024 * MiB
  const scored = {
    methods: ['wanda', 'flap', 'bi'],
    data: join(root, 'test/goldens/tasks/calibration.jsonl'),
    out: join(folder, 'scores'),
    limit: 16,
    batchTokens: 64,
  }
  const row = child('score', { device: options.deviceName, model: folder, budget, scored })
  rmSync(folder, { recursive: true })
  return [
    {
      title,
      about: [
        `A LLaMA of ${(bytes / 1e9).toFixed(2)} GB (zeros in a sparse file), ${row.tokens} tokens, methods ${scored.methods.join(', ')}.`,
        'The target is the budget, what the process held right after Engine.open, and 64 MiB; peak is the largest resident set.',
      ],
      columns: [
        column('partitions'),
        column('milliseconds', 'time', 'ms'),
        column('budget', 'budget', 'bytes'),
        column('afterOpen', 'after open', 'bytes'),
        column('peak', 'peak', 'bytes'),
        targetColumn('peak', 'bytes'),
      ],
      rows: [{ ...row, partitions: String(row.partitions), budget, target: atMost(budget + row.afterOpen + 64 * MiB) }],
    },
  ]
}

/** Bytes of weights. */
function writeModel(folder) {
  mkdirSync(folder, { recursive: true })
  const { hidden, inner, layers } = size
  const shapes = {
    'model.embed_tokens.weight': [64, hidden],
    'model.norm.weight': [hidden],
    'lm_head.weight': [64, hidden],
  }
  for (let i = 0; i < layers; i++) {
    const add = (name, ...shape) => {
      shapes[`model.layers.${i}.${name}.weight`] = shape
    }
    for (const name of ['q', 'k', 'v', 'o']) add(`self_attn.${name}_proj`, hidden, hidden)
    for (const name of ['gate', 'up']) add(`mlp.${name}_proj`, inner, hidden)
    add('mlp.down_proj', hidden, inner)
    for (const name of ['input', 'post_attention']) add(`${name}_layernorm`, hidden)
  }
  let end = 0
  const header = {}
  for (const [name, shape] of Object.entries(shapes)) {
    const begin = end
    end += 2 * shape.reduce((product, length) => product * length)
    header[name] = { dtype: 'BF16', shape, data_offsets: [begin, end] }
  }
  const json = Buffer.from(JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.length))
  const file = openSync(join(folder, 'model.safetensors'), 'w')
  writeSync(file, Buffer.concat([length, json]))
  ftruncateSync(file, 8 + json.length + end)
  closeSync(file)
  const config = {
    architectures: ['LlamaForCausalLM'],
    hidden_size: hidden,
    intermediate_size: inner,
    num_hidden_layers: layers,
    num_attention_heads: 16,
    vocab_size: 64,
    max_position_embeddings: 256,
    rms_norm_eps: 1e-5,
    eos_token_id: 2,
  }
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config))
  for (const name of ['tokenizer.json', 'tokenizer_config.json']) {
    copyFileSync(join(root, 'demo/models/base', name), join(folder, name))
  }
  return end
}
