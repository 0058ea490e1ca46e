/** The thread of `mergeInThread`: a merge on the engine of the thread that started it. */

import { parentPort, workerData } from 'node:worker_threads'
import { loadAddon } from '../native/load.js'
import { messageOf } from '../util/errors.js'
import type { MergeProgress } from './index.js'
import { mergeOn } from './merge.js'
import type { ThreadMessage, ThreadTask } from './worker_client.js'

async function run({ device, recipe, options, adapted }: ThreadTask): Promise<void> {
  const post = (message: ThreadMessage) => parentPort?.postMessage(message)
  const stop = new AbortController()
  parentPort?.once('message', () => stop.abort())
  try {
    const addon = loadAddon()
    const settings = { ...options, signal: stop.signal, onProgress: (progress: MergeProgress) => post({ progress }) }
    const result = await mergeOn({ addon, device: addon.join(device) }, recipe, settings, adapted)
    post({ result })
  } catch (error) {
    const { cause, ...properties } = { ...(error as object) } as Record<string, unknown>
    post({ error: { message: messageOf(error), properties } })
  } finally {
    parentPort?.close()
  }
}

void run(workerData as ThreadTask)
