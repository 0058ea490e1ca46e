/**
 * How far an output is that is written from its first byte to its last: a small file beside it, written anew as a whole
 * after what it speaks of is on disk.
 */

import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Manifest } from './manifest.js'
import { replaceFile } from './replace.js'

export interface Progress {
  /** Those that are finished. */
  files: Manifest['outputs']
  /** Tensors of the file after them that are finished, and where they end. */
  tensors: number
  bytes: number
}

export function noteProgress(path: string, progress: Progress): Promise<void> {
  return replaceFile(path, (file) => file.writeFile(JSON.stringify(progress)))
}

/** What was noted of the files in a folder, as far as they are there; from the beginning where there is no note. */
export async function readProgress(path: string, folder: string, names: readonly string[]): Promise<Progress> {
  const nothing: Progress = { files: [], tensors: 0, bytes: 0 }
  const progress = parse(await readFile(path, 'utf8').catch(() => ''))
  if (progress === undefined) return nothing
  const sizeOf = async (name: string) => (await stat(join(folder, name)).catch(() => undefined))?.size ?? 0
  for (const [i, { name, size }] of progress.files.entries()) {
    if (names[i] !== name || (await sizeOf(name)) !== size) return nothing
  }
  const next = names[progress.files.length]
  const short = progress.bytes > 0 && (next === undefined || (await sizeOf(next)) < progress.bytes)
  return short ? { ...progress, tensors: 0, bytes: 0 } : progress
}

function parse(text: string): Progress | undefined {
  try {
    const { files, tensors, bytes } = JSON.parse(text) as Partial<Progress>
    const whole = (value: unknown) => Number.isSafeInteger(value) && Number(value) >= 0
    const fine =
      Array.isArray(files) &&
      files.every(({ name, size, sha256 }) => typeof name === 'string' && whole(size) && typeof sha256 === 'string')
    return fine && whole(tensors) && whole(bytes) ? ({ files, tensors, bytes } as Progress) : undefined
  } catch {
    return undefined
  }
}
