/** The tensors beside a note, in a safetensors file that any tool can read. */

import { open } from 'node:fs/promises'
import type { NativeAddon } from '../../native/border.js'
import { WeightsmithError, writeFailed } from '../../util/errors.js'
import { safetensorsHeader } from '../../util/safetensors.js'

/** Values of a tensor that can be had when its turn comes, so that one at a time has to be in memory. */
export interface SavedTensor {
  dtype: 'F32' | 'F64'
  shape: readonly number[]
  values(): Promise<Float32Array<ArrayBuffer> | Float64Array<ArrayBuffer>>
}

export type SavedTensors = ReadonlyMap<string, SavedTensor>

const arrays = { F32: Float32Array, F64: Float64Array } as const

/** Returns when all of them are on disk. */
export async function writeTensors(path: string, tensors: SavedTensors): Promise<void> {
  const described = [...tensors].map(([name, { dtype, shape }]) => {
    return { name, dtype, shape, bytes: arrays[dtype].BYTES_PER_ELEMENT * shape.reduce((a, b) => a * b, 1) }
  })
  const { header, begins, size } = safetensorsHeader(described)
  const file = await open(path, 'w').catch((cause) => {
    throw writeFailed(path, cause)
  })
  const put = async (bytes: Uint8Array, position: number) => {
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await file.write(bytes, done, bytes.length - done, position + done).catch((cause) => {
        throw writeFailed(path, cause)
      })
      done += bytesWritten
    }
    return position + bytes.length
  }
  try {
    let end = await put(header, 0)
    for (const [i, { values }] of [...tensors.values()].entries()) {
      const { buffer, byteOffset, byteLength } = await values()
      if (end === begins[i]) end = await put(new Uint8Array(buffer, byteOffset, byteLength), end)
    }
    if (end !== size) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `${path} has ${end} bytes, not ${size}.`)
    await file.sync().catch((cause) => {
      throw writeFailed(path, cause)
    })
  } finally {
    await file.close()
  }
}

/** What a file has; values are read when they are asked for. Throws ERR_WEIGHTSMITH_FORMAT for one that is torn. */
export async function readTensors(addon: Pick<NativeAddon, 'readHeader'>, path: string): Promise<SavedTensors> {
  const { tensors } = await addon.readHeader(path)
  return new Map(
    tensors.map(({ name, dtype, shape, begin, end }): [string, SavedTensor] => {
      if (dtype !== 'F32' && dtype !== 'F64') {
        throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `${path} has ${name} as ${dtype}.`, { file: path })
      }
      const values = async () => new arrays[dtype]((await read(path, begin, end)).buffer)
      return [name, { dtype, shape, values }]
    }),
  )
}

async function read(path: string, begin: number, end: number): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(end - begin)
  const file = await open(path, 'r')
  try {
    for (let done = 0; done < bytes.length; ) {
      const { bytesRead } = await file.read(bytes, done, bytes.length - done, begin + done)
      if (bytesRead === 0) throw new WeightsmithError('ERR_WEIGHTSMITH_IO_READ', `${path} ends too early.`)
      done += bytesRead
    }
  } finally {
    await file.close()
  }
  return bytes
}
