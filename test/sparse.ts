/**
 * Checkpoints that are large to read and small on disk: one tensor of zeros in a sparse file, with a few values set.
 */
import {
  closeSync,
  copyFileSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'

/** A model of one BF16 tensor named `weight`; `marks` maps element indices to the bits stored there. */
export function sparseModel(folder: string, elements: number, marks: ReadonlyMap<number, number> = new Map()): string {
  const { file, start } = sparseFile(folder, { weight: [elements] })
  for (const [index, bits] of marks) writeSync(file, Uint16Array.of(bits), 0, 2, start + 2 * index)
  closeSync(file)
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ model_type: 'llama' }))
  return folder
}

/** A LLaMA of BF16 zeros that has the tokenizer of another model. */
export function sparseLlama(
  folder: string,
  size: { hidden: number; inner: number; layers: number },
  tokenizer: string,
) {
  const { hidden, inner, layers } = size
  const vocabulary = 64
  const square = [hidden, hidden]
  const layer = {
    ...Object.fromEntries(['q', 'k', 'v', 'o'].map((name) => [`self_attn.${name}_proj`, square])),
    ...Object.fromEntries(['gate', 'up'].map((name) => [`mlp.${name}_proj`, [inner, hidden]])),
    'mlp.down_proj': [hidden, inner],
    input_layernorm: [hidden],
    post_attention_layernorm: [hidden],
  }
  const shapes: Record<string, number[]> = {
    'model.embed_tokens.weight': [vocabulary, hidden],
    'model.norm.weight': [hidden],
    'lm_head.weight': [vocabulary, hidden],
  }
  for (let i = 0; i < layers; i++) {
    for (const [name, shape] of Object.entries(layer)) shapes[`model.layers.${i}.${name}.weight`] = shape
  }
  closeSync(sparseFile(folder, shapes).file)
  const config = {
    architectures: ['LlamaForCausalLM'],
    hidden_size: hidden,
    intermediate_size: inner,
    num_hidden_layers: layers,
    num_attention_heads: hidden / 128,
    vocab_size: vocabulary,
    max_position_embeddings: 256,
    rms_norm_eps: 1e-5,
    eos_token_id: 2,
  }
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config))
  for (const name of ['tokenizer.json', 'tokenizer_config.json'])
    copyFileSync(join(tokenizer, name), join(folder, name))
  return folder
}

function sparseFile(folder: string, shapes: Record<string, number[]>): { file: number; start: number } {
  mkdirSync(folder, { recursive: true })
  let end = 0
  const entries = Object.entries(shapes).map(([name, shape]) => {
    const begin = end
    end += 2 * shape.reduce((a, b) => a * b)
    return [name, { dtype: 'BF16', shape, data_offsets: [begin, end] }]
  })
  const header = Buffer.from(JSON.stringify(Object.fromEntries(entries)))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(header.length))
  const file = openSync(join(folder, 'model.safetensors'), 'w')
  const start = 8 + header.length
  writeSync(file, Buffer.concat([length, header]))
  ftruncateSync(file, start + end)
  return { file, start }
}

/** The bits of single elements of the one tensor of `folder`. */
export function sparseBits(folder: string, indices: Iterable<number>): Map<number, number> {
  const file = openSync(join(folder, 'model.safetensors'), 'r')
  const length = Buffer.alloc(8)
  readSync(file, length, 0, 8, 0)
  const start = 8 + Number(length.readBigUInt64LE())
  const bits = new Map<number, number>()
  for (const index of indices) {
    const element = new Uint16Array(1)
    readSync(file, element, 0, 2, start + 2 * index)
    bits.set(index, element[0]!)
  }
  closeSync(file)
  return bits
}
