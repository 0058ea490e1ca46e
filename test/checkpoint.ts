/** Small helpers that read and write safetensors in tests, independent of the code under test. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { math } from './math.js'

export interface Raw {
  dtype: string
  shape: number[]
  bytes: Buffer
}

export function readSafetensors(path: string): Map<string, Raw> {
  const file = readFileSync(path)
  const length = Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.toString('utf8', 8, 8 + length)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >
  const tensors = new Map<string, Raw>()
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue
    const [begin, end] = entry.data_offsets
    tensors.set(name, {
      dtype: entry.dtype,
      shape: entry.shape,
      bytes: file.subarray(8 + length + begin, 8 + length + end),
    })
  }
  return tensors
}

/** All tensors of a checkpoint folder, whatever its shards. */
export function readFolder(folder: string): Map<string, Raw> {
  const tensors = new Map<string, Raw>()
  for (const file of readdirSync(folder).sort()) {
    if (!file.endsWith('.safetensors')) continue
    for (const [name, raw] of readSafetensors(join(folder, file))) tensors.set(name, raw)
  }
  return tensors
}

export function writeSafetensors(
  path: string,
  tensors: Record<string, Raw>,
  metadata: Record<string, string> = { format: 'pt' },
): void {
  let offset = 0
  const header: Record<string, unknown> = { __metadata__: metadata }
  for (const [name, { dtype, shape, bytes }] of Object.entries(tensors)) {
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes.length] }
    offset += bytes.length
  }
  const text = Buffer.from(JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(text.length))
  writeFileSync(path, Buffer.concat([length, text, ...Object.values(tensors).map((raw) => raw.bytes)]))
}

/** A folder with model.safetensors and a config. */
export function writeModel(folder: string, tensors: Record<string, Raw>, config: object = {}): string {
  mkdirSync(folder, { recursive: true })
  writeSafetensors(join(folder, 'model.safetensors'), tensors)
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ model_type: 'llama', ...config }))
  return folder
}

/** Values of a tensor as doubles. */
export function values(raw: Raw): Float64Array {
  const { dtype, bytes } = raw
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const scratch = new DataView(new ArrayBuffer(4))
  switch (dtype) {
    case 'F32':
      return Float64Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true))
    case 'F64':
      return Float64Array.from({ length: bytes.length / 8 }, (_, i) => view.getFloat64(8 * i, true))
    case 'I32':
      return Float64Array.from({ length: bytes.length / 4 }, (_, i) => view.getInt32(4 * i, true))
    case 'U8':
      return Float64Array.from(bytes)
    case 'BF16':
      return Float64Array.from({ length: bytes.length / 2 }, (_, i) => {
        scratch.setUint32(0, view.getUint16(2 * i, true) << 16)
        return scratch.getFloat32(0)
      })
    default:
      throw new Error(`values: no reader for ${dtype}`)
  }
}

export function f32(numbers: ArrayLike<number>, shape = [numbers.length]): Raw {
  return { dtype: 'F32', shape, bytes: Buffer.from(Float32Array.from(numbers).buffer) }
}

export function bf16(numbers: ArrayLike<number>, shape = [numbers.length]): Raw {
  const bits = new Uint32Array(Float32Array.from(numbers).buffer)
  const half = Uint16Array.from(bits, (u) => (u + 0x7fff + ((u >>> 16) & 1)) >>> 16)
  return { dtype: 'BF16', shape, bytes: Buffer.from(half.buffer) }
}

/**
 * The rule of make_forward.py: numbers in [-0.25, 0.25) from a hash of name and index; weights of norms lie around 1.
 */
export function fill(name: string, shape: number[]): Float32Array {
  let hashed = 2166136261
  for (const byte of Buffer.from(name)) hashed = math.imul(hashed ^ byte, 16777619) >>> 0
  const around = shape.length === 1 && name.includes('norm') && name.endsWith('weight') ? 1 : 0
  return Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => {
    let x = (math.imul(i, 0x9e3779b1) + hashed) >>> 0
    x = math.imul(x ^ (x >>> 16), 0x85ebca6b) >>> 0
    x = math.imul(x ^ (x >>> 13), 0xc2b2ae35) >>> 0
    return ((x ^ (x >>> 16)) >>> 0) / 2 ** 33 - 0.25 + around
  })
}
