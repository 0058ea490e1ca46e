/** A file that is hashed while it is written, from its beginning or from where an earlier run has left it. */

import { createHash } from 'node:crypto'
import { type FileHandle, open } from 'node:fs/promises'
import { WeightsmithError, writeFailed } from '../util/errors.js'

const chunkBytes = 4 * 2 ** 20

export class Sink {
  private readonly hash = createHash('sha256')
  private written = 0
  private closed = false

  private constructor(
    private readonly path: string,
    private readonly file: FileHandle,
  ) {}

  /** `kept`: bytes that are there and stay. */
  static async open(path: string, kept = 0): Promise<Sink> {
    try {
      const sink = new Sink(path, await open(path, kept > 0 ? 'r+' : 'w+'))
      await sink.keep(kept)
      return sink
    } catch (cause) {
      throw writeFailed(path, cause)
    }
  }

  async write(bytes: Uint8Array): Promise<void> {
    await this.writeAll([bytes])
  }

  /** Several pieces, one behind the other, in as few calls as the system allows. */
  async writeAll(pieces: readonly Uint8Array[]): Promise<void> {
    for (const bytes of pieces) this.hash.update(bytes)
    try {
      let left = pieces.filter(({ length }) => length > 0)
      while (left.length > 0) {
        let { bytesWritten } = await this.file.writev(left, this.written)
        this.written += bytesWritten
        // A write may be cut short anywhere.
        left = left.flatMap((bytes) => {
          const done = Math.min(bytesWritten, bytes.length)
          bytesWritten -= done
          return done < bytes.length ? [bytes.subarray(done)] : []
        })
      }
    } catch (cause) {
      throw writeFailed(this.path, cause)
    }
  }

  /** Returns when what was written is on disk. */
  async sync(): Promise<void> {
    try {
      await this.file.datasync()
    } catch (cause) {
      throw writeFailed(this.path, cause)
    }
  }

  /** The SHA-256 of what was written. */
  async finish(size: number, sync: boolean): Promise<string> {
    if (this.written !== size) {
      throw new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `${this.path} has ${this.written} bytes, not ${size}.`)
    }
    if (sync) await this.sync()
    await this.close()
    return this.hash.digest('hex')
  }

  async close(): Promise<void> {
    if (this.closed) return
    this.closed = true
    await this.file.close()
  }

  private async keep(bytes: number): Promise<void> {
    await this.file.truncate(bytes)
    const chunk = Buffer.alloc(Math.min(chunkBytes, bytes))
    while (this.written < bytes) {
      const count = Math.min(chunk.length, bytes - this.written)
      const { bytesRead } = await this.file.read(chunk, 0, count, this.written)
      this.hash.update(chunk.subarray(0, bytesRead))
      this.written += bytesRead
    }
  }
}
