/**
 * Synthetic checkpoints: names and shapes of a LLaMA of about the wanted size, weights that look like trained ones
 * (normal, in bf16), and fine-tuned siblings whose differences are small, so that many entries tie at a cut as they do
 * in real models. All siblings take each tensor from the same place of a pool, one pool a sibling.
 */
import { mkdir, open, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

const poolElements = 2 ** 24
const chunkBytes = 2 ** 24
const weightDeviation = 0.02
const tuningDeviation = 0.002

/** A small generator of uniform 32-bit numbers (xorshift). */
function generator(seed) {
  let state = (seed * 2654435761) >>> 0 || 1
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return state >>> 0
  }
}

/** Normal numbers, taken at random from a table of 2^16 quantiles' worth of them. */
export function normal(elements, deviation, seed) {
  const next = generator(seed)
  const table = Float32Array.from({ length: 2 ** 16 }, () => {
    const radius = Math.sqrt(-2 * Math.log((next() + 1) / 2 ** 32))
    return deviation * radius * Math.cos((2 * Math.PI * next()) / 2 ** 32)
  })
  const out = new Float32Array(elements)
  for (let i = 0; i < elements; i++) out[i] = table[next() >>> 16]
  return out
}

/** Rounded to nearest even. */
export function toBf16(values) {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const out = new Uint16Array(values.length)
  for (let i = 0; i < out.length; i++) out[i] = (bits[i] + 0x7fff + ((bits[i] >>> 16) & 1)) >>> 16
  return out
}

/** Width, vocabulary and layers of a LLaMA of `bytes` in bf16, in the proportions of TinyLlama-1.1B. */
function shapeFor(bytes) {
  const of = (width) => {
    const inner = 2.75 * width
    const heads = Math.max(1, width / 64)
    const kvHeads = Math.max(1, heads / 8)
    const vocabulary = Math.min(32000, 16 * width)
    const layer = 2 * (2 * width * width + 2 * width * 64 * kvHeads + 3 * width * inner + 2 * width)
    const layers = Math.max(1, Math.round((bytes - 4 * vocabulary * width) / layer))
    return { width, inner, heads, kvHeads, vocabulary, layers, layer }
  }
  const shapes = [2048, 1024, 512, 256, 128, 64].map(of)
  return shapes.find(({ layers, layer }) => layers >= 4 && layers * layer <= bytes) ?? shapes.at(-1)
}

function tensorsOf({ width, inner, kvHeads, vocabulary, layers }) {
  const tensors = [['model.embed_tokens.weight', [vocabulary, width]]]
  for (let i = 0; i < layers; i++) {
    const add = (name, ...shape) => tensors.push([`model.layers.${i}.${name}.weight`, shape])
    add('self_attn.q_proj', width, width)
    add('self_attn.k_proj', 64 * kvHeads, width)
    add('self_attn.v_proj', 64 * kvHeads, width)
    add('self_attn.o_proj', width, width)
    add('mlp.gate_proj', inner, width)
    add('mlp.up_proj', inner, width)
    add('mlp.down_proj', width, inner)
    add('input_layernorm', width)
    add('post_attention_layernorm', width)
  }
  tensors.push(['model.norm.weight', [width]], ['lm_head.weight', [vocabulary, width]])
  return tensors
}

function configOf({ width, inner, heads, kvHeads, vocabulary, layers }) {
  return {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_size: width,
    intermediate_size: inner,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    num_hidden_layers: layers,
    vocab_size: vocabulary,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-5,
    tie_word_embeddings: false,
    torch_dtype: 'bfloat16',
  }
}

/**
 * Writes `count` checkpoints of about `bytes` each into `folder`: the first is the base of the others. They are in the
 * page cache afterwards. Gives their paths and the size of one.
 */
export async function writeCheckpoints(folder, bytes, count) {
  const shape = shapeFor(bytes)
  const tensors = tensorsOf(shape)
  const weights = normal(Math.min(poolElements, Math.max(2 ** 16, bytes / 2)), weightDeviation, 1)
  const paths = []
  let size = 0
  for (let i = 0; i < count; i++) {
    const path = join(folder, i === 0 ? 'base' : `model-${i}`)
    await mkdir(path, { recursive: true })
    await writeFile(join(path, 'config.json'), JSON.stringify(configOf(shape), null, 2))
    const tuning = i === 0 ? undefined : normal(weights.length, tuningDeviation, 1 + i)
    size = await writeTensors(
      join(path, 'model.safetensors'),
      tensors,
      toBf16(tuning ? weights.map((w, k) => w + tuning[k]) : weights),
    )
    paths.push(path)
  }
  return { paths, size }
}

async function writeTensors(path, tensors, pool) {
  let end = 0
  const header = { __metadata__: { format: 'pt' } }
  for (const [name, shape] of tensors) {
    const begin = end
    end += 2 * shape.reduce((a, b) => a * b)
    header[name] = { dtype: 'BF16', shape, data_offsets: [begin, end] }
  }
  const text = JSON.stringify(header)
  const head = Buffer.from(text.padEnd(8 * Math.ceil(text.length / 8)))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(head.length))
  const file = await open(path, 'w')
  try {
    await file.writeFile(Buffer.concat([length, head]))
    const bytes = Buffer.from(pool.buffer)
    const place = generator(7)
    for (const [, shape] of tensors) {
      let left = 2 * shape.reduce((a, b) => a * b)
      let at = 2 * (place() % pool.length)
      while (left > 0) {
        const piece = bytes.subarray(at, at + Math.min(left, chunkBytes, bytes.length - at))
        await file.write(piece)
        left -= piece.length
        at = (at + piece.length) % bytes.length
      }
    }
    await file.sync()
  } finally {
    await file.close()
  }
  return 8 + head.length + end
}
