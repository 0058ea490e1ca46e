/** The thread of `readRows`: the next group of rows for every message that it gets, and nothing after the last one. */

import { parentPort, workerData } from 'node:worker_threads'
import { messageOf, WeightsmithError } from '../util/errors.js'
import type { RowsMessage, RowsTask } from './parquet.js'
import { decodeRows } from './parquet_rows.js'

const { file, columns } = workerData as RowsTask
const groups = decodeRows(file, columns)

async function answer(): Promise<RowsMessage> {
  try {
    const { value } = await groups.next()
    return { rows: value }
  } catch (error) {
    return { error: { message: messageOf(error), code: error instanceof WeightsmithError ? error.code : undefined } }
  }
}

parentPort?.on('message', async () => parentPort?.postMessage(await answer()))
