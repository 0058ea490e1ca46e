/**
 * What a teacher says of data, in a file: safetensors with the logits of the likeliest ids, or of all, at every token
 * of the data that is taught. A student learns from it without the teacher at hand. Its metadata says of which data,
 * mask and vocabulary it is, so that rows are never taken for those of other tokens.
 */

import { createHash } from 'node:crypto'
import { type FileHandle, open, rename, rm, stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import type { InputFile } from '../checkpoint/resume/index.js'
import type { NativeAddon, NativeHeader } from '../native/border.js'
import { type KnownRows, lossRowsOf, type TeacherMask } from '../runtime/index.js'
import { messageOf, WeightsmithError, writeFailed } from '../util/errors.js'
import { safetensorsHeader } from '../util/safetensors.js'
import type { TrainingExample, TrainingSource } from './batches.js'

/** What the rows of a file are of. */
export interface TeacherSubject {
  /** Where the examples of each source are in the order of the rows. */
  sources: readonly Pick<TrainingSource, 'examples'>[]
  mask: TeacherMask
  /** Ids that are predicted. */
  vocabulary: number
}

const version = '1'

/** A logit of which nothing is left beside that of the likeliest id, which is 0. */
const nothing = -1e4

/**
 * SHA-256 of examples in the order of their files: of each its number of ids and the ids, as little-endian u32, and a
 * byte for every id, 1 where it is to be predicted.
 */
export function dataHash(sources: TeacherSubject['sources']): string {
  const hash = createHash('sha256')
  for (const { ids, targets } of sources.flatMap(({ examples }) => examples)) {
    hash.update(Uint32Array.from([ids.length, ...ids])).update(targets)
  }
  return hash.digest('hex')
}

const taughtOf = (example: TrainingExample, mask: TeacherMask) =>
  lossRowsOf(example, mask).filter(({ taught }) => taught).length

/** How many tokens of examples are taught. */
export function taughtRows({ sources, mask }: Pick<TeacherSubject, 'sources' | 'mask'>): number {
  return sources.flatMap(({ examples }) => examples).reduce((sum, example) => sum + taughtOf(example, mask), 0)
}

/** The likeliest ids of a row and their logits, largest first; of equal ones the smaller id comes first. */
export function likeliest(logits: Float32Array, top: number): { ids: Int32Array; logits: Float32Array } {
  const at = (id: number) => logits[id] ?? 0
  let best: number[] = []
  let least = Number.NEGATIVE_INFINITY
  const cut = () => {
    best = best.sort((a, b) => at(b) - at(a) || a - b).slice(0, top)
    if (best.length === top) least = at(best.at(-1) ?? 0)
  }
  for (let id = 0; id < logits.length; id++) {
    // What is as large as the least one comes behind it.
    if (!(at(id) > least)) continue
    best.push(id)
    if (best.length >= 2 * top) cut()
  }
  cut()
  return { ids: Int32Array.from(best), logits: Float32Array.from(best, at) }
}

/** The tensors of a file of so many rows. */
function tensorsOf(rows: number, top: number, vocabulary: number) {
  const common = { shape: [rows, top], bytes: 4 * rows * top }
  const logits = { name: 'logits', dtype: 'F32', ...common }
  return top < vocabulary ? [logits, { name: 'ids', dtype: 'I32', ...common }] : [logits]
}

export function teacherFileBytes(rows: number, top: number, vocabulary: number): number {
  return safetensorsHeader(tensorsOf(rows, top, vocabulary)).size
}

/** Writes a file, row after row; it gets its name when it is finished. */
export class TeacherWriter {
  private done = 0

  private constructor(
    private readonly path: string,
    private readonly file: FileHandle,
    private readonly top: number,
    private readonly logits: number,
    private readonly ids: number | undefined,
    readonly size: number,
  ) {}

  /** `top`: logits that are kept of a row. `model`: the name of the teacher. */
  static async open(
    path: string,
    subject: TeacherSubject,
    { top, model }: { top: number; model: string },
  ): Promise<TeacherWriter> {
    const { vocabulary, mask, sources } = subject
    const metadata = { weightsmith_teacher: version, model, mask, vocabulary: `${vocabulary}`, data: dataHash(sources) }
    const { header, begins, size } = safetensorsHeader(tensorsOf(taughtRows(subject), top, vocabulary), metadata)
    const partial = `${resolve(path)}.partial`
    const file = await open(partial, 'w').catch((cause) => {
      throw writeFailed(partial, cause)
    })
    const writer = new TeacherWriter(resolve(path), file, top, begins[0] ?? 0, begins[1], size)
    await writer.put(header, 0)
    return writer
  }

  /** The logits of all ids at the next token that is taught. */
  async write(logits: Float32Array<ArrayBuffer>): Promise<void> {
    const best = this.ids === undefined ? undefined : likeliest(logits, this.top)
    const at = 4 * this.done * this.top
    await this.put(bytesOf(best?.logits ?? logits), this.logits + at)
    if (this.ids !== undefined && best !== undefined) await this.put(bytesOf(best.ids), this.ids + at)
    this.done++
  }

  async finish(): Promise<void> {
    await this.guard(this.file.sync())
    await this.file.close()
    await this.guard(rename(`${this.path}.partial`, this.path))
  }

  async discard(): Promise<void> {
    await this.file.close().catch(() => undefined)
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

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array | Int32Array) =>
  new Uint8Array(buffer, byteOffset, byteLength)

type HeaderTensor = NativeHeader['tensors'][number]

/** How a file may store values, as numbers. */
const readers: Record<string, { size: number; at: (bytes: DataView, offset: number) => number }> = {
  F32: { size: 4, at: (bytes, offset) => bytes.getFloat32(offset, true) },
  BF16: { size: 2, at: (bytes, offset) => wide(bytes.getUint16(offset, true)) },
  F16: { size: 2, at: (bytes, offset) => half(bytes.getUint16(offset, true)) },
  I32: { size: 4, at: (bytes, offset) => bytes.getInt32(offset, true) },
  I64: { size: 8, at: (bytes, offset) => Number(bytes.getBigInt64(offset, true)) },
}

const word = new DataView(new ArrayBuffer(4))
function wide(bits: number): number {
  word.setUint32(0, bits * 65536)
  return word.getFloat32(0)
}

function half(bits: number): number {
  const [sign, exponent, mantissa] = [bits >> 15 === 0 ? 1 : -1, (bits >> 10) & 31, bits & 1023]
  if (exponent === 31) return mantissa === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  return sign * (exponent === 0 ? mantissa * 2 ** -24 : (1 + mantissa / 1024) * 2 ** (exponent - 15))
}

/** A file that was opened, whose rows are read when they are asked for. */
export class TeacherFile {
  private constructor(
    readonly path: string,
    /** What tells the file from one that was written anew. */
    readonly input: InputFile,
    /** Logits that are known of a row. */
    readonly top: number,
    private readonly values: HeaderTensor,
    private readonly ids: HeaderTensor | undefined,
    private readonly subject: TeacherSubject,
    /** The first row of each example. */
    private readonly begins: ReadonlyMap<TrainingExample, number>,
  ) {}

  /**
   * Opens a file. Throws ERR_WEIGHTSMITH_FORMAT for one that is not of this form, and _ARGUMENT for one of other data,
   * ids or mask.
   */
  static async open(
    addon: Pick<NativeAddon, 'readHeader'>,
    path: string,
    subject: TeacherSubject,
  ): Promise<TeacherFile> {
    const { metadata, tensors, headerHash } = await addon.readHeader(path)
    const { sources, mask, vocabulary } = subject
    const wrong = (code: 'FORMAT' | 'ARGUMENT', why: string) =>
      new WeightsmithError(`ERR_WEIGHTSMITH_${code}`, `${path} ${why}.`, { file: path })
    if (metadata.weightsmith_teacher !== version) {
      throw wrong('FORMAT', "is no teacher's file of version 1: its metadata has no weightsmith_teacher")
    }
    if (metadata.vocabulary !== `${vocabulary}`) {
      throw wrong('ARGUMENT', `predicts ${metadata.vocabulary} ids, but the model ${vocabulary}`)
    }
    if (metadata.mask !== mask) {
      throw wrong('ARGUMENT', `is for the mask ${metadata.mask}, but ${mask} is asked for`)
    }
    if (metadata.data !== dataHash(sources)) {
      throw wrong(
        'ARGUMENT',
        'is of other data, of another tokenizer, or of examples that were cut otherwise (loss, maxLength); ' +
          'write it again with teach',
      )
    }
    const [values, ...more] = tensors.filter(({ name }) => name === 'logits' || name === 'probabilities')
    const ids = tensors.find(({ name }) => name === 'ids')
    const rows = taughtRows(subject)
    const [count, top = 0] = values?.shape ?? []
    if (values === undefined || more.length > 0 || !['F32', 'F16', 'BF16'].includes(values.dtype)) {
      throw wrong('FORMAT', 'should have either logits or probabilities, in float32, float16 or bfloat16')
    }
    const whole = ids === undefined ? top === vocabulary : ['I32', 'I64'].includes(ids.dtype) && top <= vocabulary
    if (
      values.shape.length !== 2 ||
      count !== rows ||
      top < 1 ||
      !whole ||
      (ids && `${ids.shape}` !== `${values.shape}`)
    ) {
      throw wrong(
        'FORMAT',
        `should have ${rows} rows of ${vocabulary} ${values.name}, or of fewer with as many ids in int32 or int64, but ` +
          `has ${values.name} [${values.shape}]${ids === undefined ? '' : ` and ids [${ids.shape}] in ${ids.dtype}`}`,
      )
    }
    const begins = new Map<TrainingExample, number>()
    let row = 0
    for (const example of sources.flatMap(({ examples }) => examples)) {
      begins.set(example, row)
      row += taughtOf(example, mask)
    }
    const { size, mtimeMs } = await stat(path)
    const input = { path: resolve(path), size, mtimeMs, headerHash }
    return new TeacherFile(path, input, top, values, ids, subject, begins)
  }

  /** What it says at the loss rows of a batch, `count` of them from row `from` on. */
  reader(batch: readonly TrainingExample[]): (from: number, count: number) => Promise<KnownRows> {
    const rows = batch.flatMap((example) => {
      let next = this.begins.get(example) ?? 0
      return lossRowsOf(example, this.subject.mask).map(({ taught }) => (taught ? next++ : undefined))
    })
    return async (from, count) => {
      const logits = new Float32Array(count * this.top)
      const ids = this.ids && new Uint32Array(count * this.top)
      const file = await open(this.path, 'r').catch((cause) => {
        throw this.unreadable(messageOf(cause), cause)
      })
      try {
        for (let i = 0; i < count; ) {
          const first = rows[from + i]
          // Rows of an example lie behind each other.
          let last = i + 1
          while (last < count && first !== undefined && rows[from + last] === first + last - i) last++
          if (first !== undefined) {
            const [begin, end] = [i * this.top, last * this.top]
            await this.read(file, first, logits.subarray(begin, end), ids?.subarray(begin, end))
          }
          i = last
        }
      } finally {
        await file.close()
      }
      return { logits, ids }
    }
  }

  private unreadable(why: string, cause?: unknown): WeightsmithError {
    const message = `${this.path} cannot be read: ${why}.`
    return new WeightsmithError('ERR_WEIGHTSMITH_IO_READ', message, { cause, file: this.path })
  }

  /** Rows from `first` on, as logits whose largest is 0. */
  private async read(
    file: FileHandle,
    first: number,
    logits: Float32Array,
    ids: Uint32Array | undefined,
  ): Promise<void> {
    const { top, subject } = this
    await this.fill(file, this.values, first, logits)
    if (ids !== undefined && this.ids !== undefined) await this.fill(file, this.ids, first, ids)
    for (let at = 0; at < logits.length; at += top) {
      const wrong = (why: string) => {
        const message = `Row ${first + at / top} of ${this.path} ${why}.`
        return new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', message, { file: this.path })
      }
      const row = logits.subarray(at, at + top)
      if (this.values.name === 'probabilities') {
        if (!row.every((value) => value >= 0)) throw wrong('has a probability that is negative or NaN')
        for (const [i, value] of row.entries()) row[i] = Math.log(value)
      }
      const most = row.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)
      // A NaN makes the largest one too.
      if (!Number.isFinite(most)) throw wrong('has no largest value that is finite')
      for (const [i, value] of row.entries()) row[i] = Math.max(nothing, value - most)
      const own = ids?.subarray(at, at + top)
      if (own === undefined) continue
      if (!own.every((id) => id < subject.vocabulary)) throw wrong(`has an id that is none of ${subject.vocabulary}`)
      if (new Set(own).size < top) throw wrong('has an id twice')
    }
  }

  private async fill(
    file: FileHandle,
    tensor: HeaderTensor,
    first: number,
    to: Float32Array | Uint32Array,
  ): Promise<void> {
    const { size, at } = readers[tensor.dtype] ?? { size: 4, at: () => 0 }
    const bytes = new DataView(new ArrayBuffer(size * to.length))
    const begin = tensor.begin + size * first * this.top
    for (let done = 0; done < bytes.byteLength; ) {
      const { bytesRead } = await file.read(bytes, done, bytes.byteLength - done, begin + done).catch((cause) => {
        throw this.unreadable(messageOf(cause), cause)
      })
      if (bytesRead === 0) throw this.unreadable('it ends too early')
      done += bytesRead
    }
    // An id below 0 becomes one that no vocabulary has.
    for (let i = 0; i < to.length; i++) to[i] = at(bytes, size * i)
  }
}
