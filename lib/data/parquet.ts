/**
 * Rows of Parquet files, which data sets are published as. They are decoded in a thread with a limit of memory and of
 * time: what a file of a stranger makes the decoder do, such as counting to 2^32 for a few bytes, ends with an error of
 * that file, and the event loop goes on meanwhile.
 */

import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { here } from '../native/root.cjs'
import { codeOf, type ErrorCode, messageOf, WeightsmithError } from '../util/errors.js'
import type { Row } from './parquet_rows.js'

export interface RowsTask {
  file: string
  columns: readonly string[]
}

/** No rows: there are no more. */
export type RowsMessage = { rows: Row[] | undefined } | { error: { message: string; code: ErrorCode | undefined } }

/** What a thread may take. */
const memoryMiB = 4096
/** Seconds for a group of rows: some, and more for a larger file; decoders read 50 times as fast. */
const patienceOf = (bytes: number) => 60 + bytes / 2 ** 20

/**
 * Rows with those of `columns` that the file has. `patience`: seconds that a group of rows may take. Throws
 * ERR_WEIGHTSMITH_FORMAT for a file that cannot be read or takes more time or memory than that.
 */
export async function* readRows(file: string, columns: readonly string[], patience?: number): AsyncGenerator<Row> {
  const { size } = await stat(file)
  const seconds = patience ?? patienceOf(size)
  const workerData: RowsTask = { file, columns }
  const resourceLimits = { maxOldGenerationSizeMb: memoryMiB }
  const worker = new Worker(join(here, '..', 'data', 'parquet_thread.js'), { workerData, resourceLimits })
  try {
    for (;;) {
      const message = await ask(worker, seconds).catch((cause) => {
        const why =
          codeOf(cause) === 'ERR_WORKER_OUT_OF_MEMORY' ? `it needs more than ${memoryMiB} MiB` : messageOf(cause)
        throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `${file} cannot be read as Parquet: ${why}.`, {
          cause,
          file,
        })
      })
      if ('error' in message) {
        const { code, message: text } = message.error
        if (code !== undefined) throw new WeightsmithError(code, text, { file })
        throw new WeightsmithError('ERR_WEIGHTSMITH_IO_READ', `${file} cannot be read: ${text}.`, { file })
      }
      if (message.rows === undefined) return
      yield* message.rows
    }
  } finally {
    await worker.terminate()
  }
}

/** What the thread answers. Rejects where it ends, or has not answered in time. */
function ask(worker: Worker, seconds: number): Promise<RowsMessage> {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error(`a group of its rows takes more than ${seconds} s`)), 1000 * seconds)
    const settle = () => {
      clearTimeout(late)
      worker.off('message', answered).off('error', failed).off('exit', ended)
    }
    const answered = (message: RowsMessage) => {
      settle()
      resolve(message)
    }
    const failed = (error: unknown) => {
      settle()
      reject(error)
    }
    const ended = (code: number) => failed(new Error(`the thread that reads it ended with exit code ${code}`))
    worker.on('message', answered).on('error', failed).on('exit', ended)
    worker.postMessage('next')
  })
}
