/**
 * Merges whose planning would hold up the event loop run in a thread of their own, on the engine of the caller. Reading
 * a header and planning take time in proportion to the number of tensors, so the sizes of the headers decide.
 */

import { constants } from 'node:fs'
import { open, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import type { NativeDevice } from '../native/border.js'
import { here } from '../native/root.cjs'
import type { DryRun } from '../util/dry_run.js'
import { type ErrorCode, errorCodes, WeightsmithError } from '../util/errors.js'
import type { MergeForecast } from './forecast.js'
import type { AdaptedModels, MergeOptions, MergeProgress, MergeReport, Reader } from './index.js'
import type { RecipeInput } from './recipe/index.js'

/** Bytes of headers and indices, of all models together, that are planned on the event loop: about 500 tensors. */
const most = 2 ** 16

/** Thrown before a long header is read. */
export class LongHeaders extends Error {}

/** The reader of headers, which refuses to read more than a few milliseconds' worth. */
export function shortHeaders<T extends Reader>(addon: T): T {
  let bytes = 0
  const count = (more: number) => {
    bytes += more
    if (bytes > most) throw new LongHeaders('The headers are too long for the event loop.')
  }
  const readHeader: T['readHeader'] = async (path) => {
    count(await headerBytes(path))
    return addon.readHeader(path)
  }
  const readIndex: T['readIndex'] = async (path) => {
    count((await stat(path).catch(() => undefined))?.size ?? 0)
    return addon.readIndex(path)
  }
  return { ...addon, readHeader, readIndex }
}

/** As the file says; what it says is not checked, and 0 where it says nothing, because the real reader follows. */
async function headerBytes(path: string): Promise<number> {
  try {
    // A named pipe must not be waited for.
    const file = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0))
    try {
      const length = Buffer.alloc(8)
      const { bytesRead } = await file.read(length, 0, 8, 0)
      return bytesRead === 8 ? Number(length.readBigUInt64LE()) : 0
    } finally {
      await file.close()
    }
  } catch {
    return 0
  }
}

/** What the thread gets to start with. */
export interface ThreadTask {
  /** Of the caller's device. */
  device: number
  recipe: string | RecipeInput
  options: Omit<MergeOptions, 'signal' | 'onProgress'>
  adapted: AdaptedModels
}

export type MergeResult = MergeReport | DryRun<MergeForecast>

export type ThreadMessage = { progress: MergeProgress } | { result: MergeResult } | { error: ThreadError }

/** An error's own properties survive, its class does not. */
export interface ThreadError {
  message: string
  properties: Record<string, unknown>
}

export function mergeInThread(
  device: NativeDevice,
  recipe: string | RecipeInput,
  { signal, onProgress, ...options }: MergeOptions,
  adapted: AdaptedModels,
): Promise<MergeResult> {
  const workerData: ThreadTask = {
    device: device.id,
    recipe,
    options: { ...options, folder: options.folder ?? process.cwd() },
    adapted,
  }
  const worker = new Worker(join(here, '..', 'merge', 'worker.js'), { workerData })
  const abort = () => worker.postMessage('abort')
  return new Promise<MergeResult>((resolve, reject) => {
    worker.on('message', (message: ThreadMessage) => {
      if ('progress' in message) onProgress?.(message.progress)
      else if ('result' in message) resolve(message.result)
      else reject(revive(message.error))
    })
    worker.on('error', reject)
    worker.on('exit', (code) =>
      reject(new WeightsmithError('ERR_WEIGHTSMITH_INTERNAL', `The thread of the merge ended with exit code ${code}.`)),
    )
    signal?.addEventListener('abort', abort, { once: true })
    if (signal?.aborted) abort()
  }).finally(() => signal?.removeEventListener('abort', abort))
}

function revive({ message, properties }: ThreadError): Error {
  const { code } = properties
  const error = isErrorCode(code) ? new WeightsmithError(code, message) : new Error(message)
  return Object.assign(error, properties)
}

function isErrorCode(code: unknown): code is ErrorCode {
  return errorCodes.some((known) => known === code)
}
