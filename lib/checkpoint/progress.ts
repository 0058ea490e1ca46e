/** How far an output is that is written from its first byte to its last: what its resume point says is done. */

import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { areThere, type Manifest } from './manifest.js'

export interface Progress {
  /** Those that are finished. */
  files: Manifest['outputs']
  /** Tensors of the file after them that are finished, and where they end. */
  tensors: number
  bytes: number
}

/** What was noted of the files in a folder, as far as they are there; from the beginning where nothing was. */
export async function soundProgress(done: unknown, folder: string, names: readonly string[]): Promise<Progress> {
  const nothing: Progress = { files: [], tensors: 0, bytes: 0 }
  if (!isProgress(done)) return nothing
  const { files, bytes } = done
  const ours = files.every(({ name }, i) => name === names[i])
  if (!ours || !(await areThere(folder, files))) return nothing
  const next = names[files.length]
  const size = next === undefined ? 0 : ((await stat(join(folder, next)).catch(() => undefined))?.size ?? 0)
  return size < bytes ? { files, tensors: 0, bytes: 0 } : done
}

function isProgress(done: unknown): done is Progress {
  const { files, tensors, bytes } = (done ?? {}) as Partial<Progress>
  const whole = (value: unknown) => Number.isSafeInteger(value) && Number(value) >= 0
  return (
    Array.isArray(files) &&
    files.every((file) => typeof file?.name === 'string' && whole(file.size) && typeof file.sha256 === 'string') &&
    whole(tensors) &&
    whole(bytes)
  )
}
