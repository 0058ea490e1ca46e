/**
 * A trainer small enough to read: the model's head (`lm_head`) learns, by Adam in float64, to say the answers of the
 * data; all other weights stay as they are. What the head is applied to comes from the engine, once. It shows what a
 * trainer has to do for `weightsmith imm run`, and it does train; a real one would train all of the model.
 *
 *   node train.mjs MODEL DATA OUT [epochs] [rate]
 */
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Tokenizer } from '@huggingface/tokenizers'
import { Engine, openModel } from '../../dist/esm/index.js'

const [model, data, out, epochs = '3', rate = '0.01'] = process.argv.slice(2)
const json = (name) => JSON.parse(readFileSync(join(model, name), 'utf8'))
const tokenizer = new Tokenizer(json('tokenizer.json'), json('tokenizer_config.json'))
const lines = readFileSync(data, 'utf8')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line))
const end = json('config.json').eos_token_id

/** Rows that the head sees before each token of an answer, and those tokens. */
async function examples() {
  const engine = await Engine.open()
  const opened = await openModel(engine, model, { batchTokens: 2048 })
  const rows = []
  const targets = []
  for (let first = 0; first < lines.length; first += 64) {
    const batch = lines.slice(first, first + 64).map(({ prompt, answer }) => {
      const asked = tokenizer.encode(prompt).ids
      return { asked, ids: [...asked, ...tokenizer.encode(answer, { add_special_tokens: false }).ids, end] }
    })
    const { normed } = await opened.run(opened.pack(batch.map(({ ids }) => ids)), { hidden: true })
    const width = opened.spec.language.activations.x
    let at = 0
    for (const { asked, ids } of batch) {
      for (let t = asked.length; t < ids.length; t++) {
        rows.push(Float64Array.from(normed.subarray((at + t - 1) * width, (at + t) * width)))
        targets.push(ids[t])
      }
      at += ids.length
    }
  }
  await opened.close()
  await engine.close()
  return { rows, targets }
}

/** A safetensors file of one piece. */
function readWeights(file) {
  const bytes = readFileSync(file)
  const length = Number(bytes.readBigUInt64LE(0))
  return { header: JSON.parse(bytes.subarray(8, 8 + length).toString()), body: bytes.subarray(8 + length) }
}

function values(body, { dtype, data_offsets: [begin, end] }) {
  const part = Uint8Array.from(body.subarray(begin, end)).buffer
  if (dtype === 'F32') return Float64Array.from(new Float32Array(part))
  if (dtype !== 'BF16') throw new Error(`This trainer reads F32 and BF16, not ${dtype}.`)
  return Float64Array.from(new Float32Array(Uint32Array.from(new Uint16Array(part), (half) => half << 16).buffer))
}

/** The same weights, but for one tensor, which is stored as F32. */
function writeWeights(file, { header, body }, name, weights) {
  const { __metadata__, ...tensors } = header
  const pieces = []
  let size = 0
  for (const [key, tensor] of Object.entries(tensors)) {
    const own = key === name
    const piece = own ? Buffer.from(Float32Array.from(weights).buffer) : body.subarray(...tensor.data_offsets)
    tensors[key] = { ...tensor, dtype: own ? 'F32' : tensor.dtype, data_offsets: [size, size + piece.length] }
    pieces.push(piece)
    size += piece.length
  }
  const text = JSON.stringify({ __metadata__, ...tensors })
  const head = Buffer.from(text.padEnd(8 * Math.ceil(text.length / 8)))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(head.length))
  writeFileSync(file, Buffer.concat([length, head, ...pieces]))
}

/** Adds the gradient of -log p(target) for one row, and gives the loss. */
function backward(weights, gradient, row, target) {
  const width = row.length
  const logits = Array.from({ length: weights.length / width }, (_, id) => {
    let sum = 0
    for (let i = 0; i < width; i++) sum += weights[id * width + i] * row[i]
    return sum
  })
  const most = Math.max(...logits)
  const total = logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0)
  for (const [id, logit] of logits.entries()) {
    const slope = Math.exp(logit - most) / total - (id === target ? 1 : 0)
    for (let i = 0; i < width; i++) gradient[id * width + i] += slope * row[i]
  }
  return Math.log(total) - (logits[target] - most)
}

const { rows, targets } = await examples()
const stored = readWeights(join(model, 'model.safetensors'))
const weights = values(stored.body, stored.header['lm_head.weight'])
const [mean, square] = [new Float64Array(weights.length), new Float64Array(weights.length)]
const batch = 64
let step = 0
for (let epoch = 1; epoch <= Number(epochs); epoch++) {
  let loss = 0
  for (let first = 0; first < rows.length; first += batch) {
    const gradient = new Float64Array(weights.length)
    const count = Math.min(batch, rows.length - first)
    for (let i = first; i < first + count; i++) loss += backward(weights, gradient, rows[i], targets[i])
    step++
    for (let i = 0; i < weights.length; i++) {
      const slope = gradient[i] / count
      mean[i] = 0.9 * mean[i] + 0.1 * slope
      square[i] = 0.999 * square[i] + 0.001 * slope * slope
      const size = Math.sqrt(square[i] / (1 - 0.999 ** step)) + 1e-8
      weights[i] -= (Number(rate) * (mean[i] / (1 - 0.9 ** step))) / size
    }
  }
  console.log(`epoch ${epoch}: loss ${(loss / rows.length).toFixed(4)} over ${rows.length} tokens`)
}
mkdirSync(out, { recursive: true })
for (const name of ['config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json']) {
  cpSync(join(model, name), join(out, name))
}
writeWeights(join(out, 'model.safetensors'), stored, 'lm_head.weight', weights)
