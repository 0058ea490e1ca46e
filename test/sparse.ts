/** Checkpoints that are large to read and small on disk: one tensor of zeros in a sparse file, with a few values set. */
import { closeSync, ftruncateSync, mkdirSync, openSync, readSync, writeFileSync, writeSync } from 'node:fs'
import { join } from 'node:path'

/** A model of one BF16 tensor named `weight`; `marks` maps element indices to the bits stored there. */
export function sparseModel(folder: string, elements: number, marks: ReadonlyMap<number, number> = new Map()): string {
  mkdirSync(folder, { recursive: true })
  const entry = { dtype: 'BF16', shape: [elements], data_offsets: [0, 2 * elements] }
  const header = Buffer.from(JSON.stringify({ weight: entry }))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(header.length))
  const file = openSync(join(folder, 'model.safetensors'), 'w')
  writeSync(file, Buffer.concat([length, header]))
  ftruncateSync(file, 8 + header.length + 2 * elements)
  for (const [index, bits] of marks) writeSync(file, Uint16Array.of(bits), 0, 2, 8 + header.length + 2 * index)
  closeSync(file)
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ model_type: 'llama' }))
  return folder
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
