/**
 * Residual streams that wait for the next partition of a model: in memory as far as a budget goes, and beyond it in a
 * temporary file without a name, which goes with the process.
 */

import { type FileHandle, open, unlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { codeOf, messageOf, WeightsmithError } from '../util/errors.js'

interface Spilled {
  offset: number
  bytes: number
}

/** `length`: of the values, which can be had one stream at a time. */
export interface WaitingRows {
  length: number
  values(): Promise<Float32Array<ArrayBuffer>>
}

export class ActivationStore {
  private readonly kept = new Map<number, Float32Array<ArrayBuffer>>()
  private readonly spilled = new Map<number, Spilled>()
  private file: FileHandle | undefined
  private used = 0
  private end = 0

  /** `memory`: bytes that are kept. */
  constructor(
    private readonly memory: number,
    private readonly folder = tmpdir(),
  ) {}

  /** Bytes in the file. */
  get written(): number {
    return this.end
  }

  /** Keeps rows under a number; those that were there before have the same size. */
  async put(key: number, rows: Float32Array<ArrayBuffer>): Promise<void> {
    if (this.kept.has(key) || (!this.spilled.has(key) && this.used + rows.byteLength <= this.memory)) {
      if (!this.kept.has(key)) this.used += rows.byteLength
      this.kept.set(key, rows)
      return
    }
    const place = this.spilled.get(key) ?? { offset: this.end, bytes: rows.byteLength }
    const file = await this.opened()
    const bytes = new Uint8Array(rows.buffer, rows.byteOffset, rows.byteLength)
    try {
      for (let done = 0; done < bytes.length; ) {
        done += (await file.write(bytes, done, bytes.length - done, place.offset + done)).bytesWritten
      }
    } catch (cause) {
      throw this.failed(cause)
    }
    this.spilled.set(key, place)
    this.end = Math.max(this.end, place.offset + place.bytes)
  }

  async get(key: number): Promise<Float32Array<ArrayBuffer>> {
    const rows = this.kept.get(key)
    if (rows !== undefined) return rows
    const place = this.spilled.get(key)
    if (place === undefined) throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `Nothing waits under ${key}.`)
    const bytes = new Uint8Array(place.bytes)
    const file = await this.opened()
    for (let done = 0; done < bytes.length; ) {
      const { bytesRead } = await file.read(bytes, done, bytes.length - done, place.offset + done)
      if (bytesRead === 0) throw this.failed(new Error('it ends too early'))
      done += bytesRead
    }
    return new Float32Array(bytes.buffer)
  }

  /** All that waits, by number; rows are read when they are asked for. */
  entries(): Map<number, WaitingRows> {
    const entry = (key: number, length: number) => [key, { length, values: () => this.get(key) }] as const
    return new Map([
      ...[...this.kept].map(([key, rows]) => entry(key, rows.length)),
      ...[...this.spilled].map(([key, { bytes }]) => entry(key, bytes / 4)),
    ])
  }

  async close(): Promise<void> {
    await this.file?.close()
    this.file = undefined
  }

  private async opened(): Promise<FileHandle> {
    if (this.file !== undefined) return this.file
    const path = join(this.folder, `.weightsmith-spill-${process.pid}-${spills++}`)
    try {
      this.file = await open(path, 'wx+', 0o600)
      await unlink(path)
    } catch (cause) {
      // Windows does not unlink what is open.
      if (this.file === undefined) throw this.failed(cause)
    }
    return this.file
  }

  private failed(cause: unknown): WeightsmithError {
    return new WeightsmithError(
      codeOf(cause) === 'ENOSPC' ? 'ERR_WEIGHTSMITH_DISK_FULL' : 'ERR_WEIGHTSMITH_IO_WRITE',
      `A temporary file in ${this.folder} cannot be used for ${this.end} bytes of activations: ${messageOf(cause)}.`,
      { cause, file: this.folder },
    )
  }
}

let spills = 0
