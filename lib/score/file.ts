/**
 * Score files: safetensors of float32 statistics whose metadata says what they are of (model, data, method,
 * parameters). They hold what scores are made from, so that another share or another metric needs no other run of the
 * model.
 */

import { createHash } from 'node:crypto'
import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import type { Checkpoint } from '../checkpoint/index.js'
import type { InputFile } from '../checkpoint/resume/index.js'
import type { NativeAddon } from '../native/border.js'
import { messageOf, WeightsmithError, writeFailed } from '../util/errors.js'
import { safetensorsHeader } from '../util/safetensors.js'

export interface ScoreInfo {
  format: 1
  weightsmith: string
  methods: string[]
  /** Of the model that was measured. */
  model: { name: string; fingerprint: string }
  data?: { file: string; sha256: string; examples: number; tokens: number }
  parameters: { layers: number[]; tau: number; seed: number }
  device: string
}

export interface ScoreTensor {
  name: string
  shape: number[]
}

const key = 'weightsmith'

/** Bytes at so many places of every file, beside its header: other weights of the same shapes differ there. */
const samples = 256
const sampleBytes = 4096

/** What tells a model from others: hash of headers, sizes, and samples of the weights. Names do not count. */
export async function fingerprint({ files }: Checkpoint): Promise<string> {
  const hash = createHash('sha256')
  const buffer = Buffer.alloc(sampleBytes)
  for (const { path, size, headerHash, memory } of files) {
    hash.update(`${headerHash} ${size}\n`)
    if (memory !== undefined) {
      hash.update(memory)
      continue
    }
    const file = await open(path, 'r').catch((cause) => {
      throw new WeightsmithError('ERR_WEIGHTSMITH_IO_READ', `${path} cannot be read: ${messageOf(cause)}.`, { cause })
    })
    try {
      for (let i = 0; i < samples; i++) {
        const position = Math.floor((Math.max(0, size - sampleBytes) * i) / (samples - 1))
        const { bytesRead } = await file.read(buffer, 0, sampleBytes, position)
        hash.update(buffer.subarray(0, bytesRead))
      }
    } finally {
      await file.close()
    }
  }
  return hash.digest('hex')
}

export class ScoreWriter {
  private constructor(
    private readonly path: string,
    private readonly file: FileHandle,
    private readonly places: ReadonlyMap<string, number>,
  ) {}

  /** Begins `path`.partial, or goes on with it; the file gets its name when it is finished. */
  static async open(
    path: string,
    info: ScoreInfo,
    tensors: readonly ScoreTensor[],
    resume = false,
  ): Promise<ScoreWriter> {
    const { header, begins, size } = safetensorsHeader(
      tensors.map(({ name, shape }) => ({ name, dtype: 'F32', shape, bytes: 4 * shape.reduce((a, b) => a * b, 1) })),
      { [key]: JSON.stringify(info) },
    )
    const partial = `${resolve(path)}.partial`
    const file = await open(partial, resume ? 'r+' : 'w').catch((cause) => {
      throw writeFailed(partial, cause)
    })
    const places = new Map(tensors.map(({ name }, i) => [name, begins[i] ?? 0]))
    const writer = new ScoreWriter(resolve(path), file, places)
    await writer.put(header, 0)
    await writer.guard(file.truncate(size))
    return writer
  }

  /** Writes values of a tensor from element `first` on. */
  async write(name: string, values: ArrayLike<number>, first = 0): Promise<void> {
    const place = this.places.get(name)
    if (place === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `There is no score ${name}.`)
    const { buffer, byteOffset, byteLength } = values instanceof Float32Array ? values : Float32Array.from(values)
    await this.put(new Uint8Array(buffer, byteOffset, byteLength), place + 4 * first)
  }

  /** Returns when what was written is on disk. */
  async sync(): Promise<void> {
    await this.guard(this.file.sync())
  }

  async finish(): Promise<void> {
    await this.sync()
    await this.file.close()
    await this.guard(rename(`${this.path}.partial`, this.path))
  }

  /** Leaves the file to be continued. */
  async leave(): Promise<void> {
    await this.file.close().catch(() => undefined)
  }

  async discard(): Promise<void> {
    await this.leave()
    await rm(`${this.path}.partial`, { force: true }).catch(() => undefined)
  }

  private async put(bytes: Uint8Array, position: number): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await this.guard(this.file.write(bytes, done, bytes.length - done, position + done))
      done += bytesWritten
    }
  }

  private guard<T>(work: Promise<T>): Promise<T> {
    return work.catch((cause) => {
      throw writeFailed(this.path, cause)
    })
  }
}

/** A score file that was opened; tensors are read when they are asked for. */
export interface Scores {
  path: string
  /** What tells the file from one that was written anew. */
  file: InputFile
  info: ScoreInfo
  tensors: ReadonlyMap<string, number[]>
  /** Values of a tensor. Throws ERR_WEIGHTSMITH_MISSING_TENSOR with what the file has. */
  read(name: string): Promise<Float32Array<ArrayBuffer>>
}

/**
 * Opens a score file. With `model`, throws ERR_WEIGHTSMITH_INPUT_CHANGED for scores of another one; throws
 * ERR_WEIGHTSMITH_FORMAT for a file that holds no scores.
 */
export async function readScores(
  addon: Pick<NativeAddon, 'readHeader'>,
  path: string,
  model?: Checkpoint,
): Promise<Scores> {
  const header = await addon.readHeader(path)
  const info = parseInfo(header.metadata[key])
  if (info === undefined) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_FORMAT',
      `${path} is no score file: its metadata does not say what of.`,
      {
        file: path,
      },
    )
  }
  if (model !== undefined && info.model.fingerprint !== (await fingerprint(model))) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_INPUT_CHANGED',
      `The scores in ${path} are of the model ${info.model.name} as it was then, but ${model.name} has other weights; ` +
        'score it again.',
      { file: path },
    )
  }
  const places = new Map(header.tensors.map((tensor) => [tensor.name, tensor]))
  const { size, mtimeMs } = await stat(path)
  return {
    path,
    file: { path: resolve(path), size, mtimeMs, headerHash: header.headerHash },
    info,
    tensors: new Map(header.tensors.map(({ name, shape }) => [name, shape])),
    read: async (name) => {
      const place = places.get(name)
      if (place === undefined || place.dtype !== 'F32') {
        throw new WeightsmithError(
          'ERR_WEIGHTSMITH_MISSING_TENSOR',
          `The scores in ${path} have no ${name}; they were made with ${info.methods.join(', ')}.`,
          { file: path, tensor: name },
        )
      }
      const bytes = new Uint8Array(place.end - place.begin)
      const file = await open(path, 'r')
      try {
        for (let done = 0; done < bytes.length; ) {
          const { bytesRead } = await file.read(bytes, done, bytes.length - done, place.begin + done)
          if (bytesRead === 0) throw new WeightsmithError('ERR_WEIGHTSMITH_IO_READ', `${path} ends too early.`)
          done += bytesRead
        }
      } finally {
        await file.close()
      }
      return new Float32Array(bytes.buffer)
    },
  }
}

function parseInfo(text: string | undefined): ScoreInfo | undefined {
  try {
    const info = JSON.parse(text ?? '') as Partial<ScoreInfo> | null
    const fits = info?.format === 1 && typeof info.model?.fingerprint === 'string' && Array.isArray(info.methods)
    return fits ? (info as ScoreInfo) : undefined
  } catch {
    return undefined
  }
}
