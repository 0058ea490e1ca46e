/**
 * Where an interrupted run stands, in a file beside its output: a line of JSON that says of which run, then the numbers that
 * were added up and the residual streams that wait. It is written anew as a whole, and renamed.
 */

import { type FileHandle, open, rm } from 'node:fs/promises'
import { replaceFile } from '../checkpoint/index.js'
import type { ResumePoint } from '../runtime/index.js'
import { WeightsmithError } from '../util/errors.js'

type Numbers = Float64Array<ArrayBuffer> | Float32Array<ArrayBuffer>

interface Head {
  /** Hash of everything that decides about the numbers. */
  run: string
  part: number
  batch: number
  /** Bytes of the numbers. */
  kept: number[]
  /** Numbers and lengths of the streams. */
  streams: [key: number, length: number][]
}

/** Bytes that the first line may have. */
const longestHead = 2 ** 24

export function writeResumePoint(
  path: string,
  run: string,
  point: ResumePoint,
  kept: readonly Numbers[],
): Promise<void> {
  return replaceFile(path, async (file) => {
    const streams: Head['streams'] = []
    // The first line comes last, as it has the lengths; its place is held by blanks.
    let end = 0
    const put = async (bytes: Uint8Array) => {
      for (let done = 0; done < bytes.length; ) {
        done += (await file.write(bytes, done, bytes.length - done, end + done)).bytesWritten
      }
      end += bytes.length
    }
    for (const array of kept) await put(bytesOf(array))
    for await (const [key, rows] of point.streams()) {
      streams.push([key, rows.length])
      await put(bytesOf(rows))
    }
    const { partition: part, batch } = point
    const head: Head = { run, part, batch, kept: kept.map(({ byteLength }) => byteLength), streams }
    const text = Buffer.from(JSON.stringify(head))
    await put(text)
    const size = Buffer.alloc(8)
    size.writeBigUInt64LE(BigInt(text.length))
    await put(size)
  })
}

/**
 * Fills `kept` with what a run of the same kind has left, and says where it stood; nothing where there is no such file. Throws
 * ERR_WEIGHTSMITH_RESUME where it was left by a run of another kind.
 */
export async function readResumePoint(
  path: string,
  run: string,
  kept: readonly Numbers[],
): Promise<ResumePoint | undefined> {
  const file = await open(path, 'r').catch(() => undefined)
  if (file === undefined) return undefined
  const refuse = (what: string) =>
    new WeightsmithError(
      'ERR_WEIGHTSMITH_RESUME',
      `The unfinished scores in ${path} cannot be continued: ${what}. Start over without resume (--resume).`,
      { file: path },
    )
  try {
    const { size } = await file.stat()
    const length = size < 8 ? 0 : Number((await read(file, size - 8, 8)).readBigUInt64LE())
    if (length === 0 || length > longestHead || length > size - 8) throw refuse('the file is torn')
    const head = parse((await read(file, size - 8 - length, length)).toString('utf8'))
    if (head === undefined) throw refuse('the file is torn')
    if (head.run !== run) throw refuse('they were begun with another model, data, methods or options')
    const bytes = head.kept.reduce((sum, own) => sum + own, 0) + head.streams.reduce((sum, [, own]) => sum + 4 * own, 0)
    const fits = head.kept.length === kept.length && head.kept.every((own, i) => own === kept[i]?.byteLength)
    if (!fits || bytes !== size - 8 - length) throw refuse('the file is torn')
    let at = 0
    for (const array of kept) {
      bytesOf(array).set(await read(file, at, array.byteLength))
      at += array.byteLength
    }
    const streams: [number, Float32Array<ArrayBuffer>][] = []
    for (const [key, own] of head.streams) {
      streams.push([key, new Float32Array(new Uint8Array(await read(file, at, 4 * own)).buffer)])
      at += 4 * own
    }
    return {
      partition: head.part,
      batch: head.batch,
      async *streams() {
        // Each is given away, so that it is not held twice.
        for (let next = streams.shift(); next !== undefined; next = streams.shift()) yield next
      },
    }
  } finally {
    await file.close()
  }
}

export async function removeResumePoint(path: string): Promise<void> {
  await rm(path, { force: true })
}

async function read(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const bytes = Buffer.alloc(length)
  for (let done = 0; done < length; ) {
    const { bytesRead } = await file.read(bytes, done, length - done, position + done)
    if (bytesRead === 0)
      throw new WeightsmithError('ERR_WEIGHTSMITH_IO_READ', 'An unfinished score file ends too early.')
    done += bytesRead
  }
  return bytes
}

function parse(text: string): Head | undefined {
  try {
    const head = JSON.parse(text) as Partial<Head> | null
    const whole = (value: unknown) => Number.isSafeInteger(value) && Number(value) >= 0
    const fits =
      typeof head?.run === 'string' &&
      whole(head.part) &&
      whole(head.batch) &&
      Array.isArray(head.kept) &&
      head.kept.every(whole) &&
      Array.isArray(head.streams) &&
      head.streams.every((pair) => Array.isArray(pair) && pair.every(whole))
    return fits ? (head as Head) : undefined
  } catch {
    return undefined
  }
}

function bytesOf({ buffer, byteOffset, byteLength }: Numbers): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength)
}
