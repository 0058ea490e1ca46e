/**
 * The complete byte layout of an output, fixed before anything is written: which tensor goes to which shard and where.
 * Order and padding are those of the reference writer, so that its files and ours can be compared byte by byte.
 */

import { safetensorsHeader } from '../util/safetensors.js'
import { writerRank } from './dtypes.js'

export interface OutputTensor {
  name: string
  dtype: string
  shape: number[]
  bytes: number
}

export interface OutputFile {
  name: string
  size: number
  header: Uint8Array
}

export interface OutputLayout {
  files: OutputFile[]
  /** Where each tensor starts: file and byte offset from the start of that file. */
  places: Map<string, { file: number; offset: number }>
  /** model.safetensors.index.json, where there is more than one file. */
  index?: string
  /** Bytes of all files together. */
  bytes: number
}

/**
 * Tensors fill shards in the order given; one larger than a shard gets a file to itself. Within a file they are in the
 * order of the reference writer, or in that in which they are `given`.
 */
export function layOut(tensors: OutputTensor[], shardSize: number, order: 'writer' | 'given' = 'writer'): OutputLayout {
  const shards: OutputTensor[][] = []
  let room = 0
  for (const tensor of tensors) {
    const last = shards.at(-1)
    if (last === undefined || tensor.bytes > room) {
      shards.push([tensor])
      room = shardSize - tensor.bytes
    } else {
      last.push(tensor)
      room -= tensor.bytes
    }
  }
  if (shards.length === 0) shards.push([])
  const places: OutputLayout['places'] = new Map()
  const files = shards.map((shard, file) => {
    const { header, begins, sorted, size } = layOutFile(shard, order)
    for (const [i, { name }] of sorted.entries()) places.set(name, { file, offset: begins[i] ?? 0 })
    return { name: shardName(file, shards.length), size, header }
  })
  const index = files.length > 1 ? indexText(tensors, files, places) : undefined
  const bytes = files.reduce((sum, file) => sum + file.size, 0)
  return { files, places, ...(index === undefined ? {} : { index }), bytes }
}

/** The header of a file, and its tensors in the order in which they follow it. */
function layOutFile(tensors: OutputTensor[], order: 'writer' | 'given') {
  const asWriter = () => byBytes(tensors, ({ name }) => name).sort((a, b) => writerRank(b.dtype) - writerRank(a.dtype))
  const sorted = order === 'given' ? tensors : asWriter()
  return { ...safetensorsHeader(sorted), sorted }
}

function shardName(index: number, count: number): string {
  const digits = (n: number) => String(n).padStart(5, '0')
  return count === 1 ? 'model.safetensors' : `model-${digits(index + 1)}-of-${digits(count)}.safetensors`
}

function indexText(tensors: OutputTensor[], files: OutputFile[], places: OutputLayout['places']): string {
  const names = byBytes(
    tensors.map(({ name }) => name),
    (name) => name,
  )
  const weightMap = Object.fromEntries(names.map((name) => [name, files[places.get(name)?.file ?? 0]?.name]))
  const total = tensors.reduce((sum, tensor) => sum + tensor.bytes, 0)
  return `${JSON.stringify({ metadata: { total_size: total }, weight_map: weightMap }, null, 2)}\n`
}

/** In the order of the UTF-8 bytes of the keys: as Latin-1 text, bytes compare as text does. */
function byBytes<T>(values: T[], keyOf: (value: T) => string): T[] {
  return values
    .map((value) => ({ value, key: Buffer.from(keyOf(value)).toString('latin1') }))
    .sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0))
    .map(({ value }) => value)
}
