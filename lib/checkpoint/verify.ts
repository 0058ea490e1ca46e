/**
 * Checks an output against its manifest: every file there, of the right size and hash; the weights well-formed, of the
 * type that was written and finite; the index true. One pass over the bytes, and all that is wrong is reported.
 */

import { readdir, stat } from 'node:fs/promises'
import { resolve } from 'node:path'
import type { NativeAddon, NativeHeader } from '../native/border.js'
import { untilDone } from '../native/job.js'
import { loadAddon } from '../native/load.js'
import { codeOf, messageOf, throwIfAborted, WeightsmithError } from '../util/errors.js'
import type { ProgressEvent } from '../util/progress.js'
import { indexName, inside, isStorable, type Manifest, readManifest, torchName } from './index.js'

export interface VerifyOptions {
  /** Count NaN and infinite values as problems. Defaults to true. */
  finite?: boolean | undefined
  signal?: AbortSignal | undefined
  /** Bytes read; `item` is the file. */
  onProgress?: ((event: ProgressEvent) => void) | undefined
}

export interface VerifyReport {
  folder: string
  /** `hashed` is false for files that the manifest has no hash of (`--checksum none`). */
  files: { name: string; size: number; hashed: boolean }[]
  tensors: number
}

const progressMilliseconds = 100

/** Rejects with ERR_WEIGHTSMITH_VERIFY where anything does not match; the error lists all of it in `problems`. */
export async function verify(out: string, options: VerifyOptions = {}): Promise<VerifyReport> {
  const folder = resolve(out)
  const addon = loadAddon()
  const manifest = await readManifest(folder)
  const problems: string[] = []
  const files: VerifyReport['files'] = []
  const headers = new Map<string, NativeHeader>()
  const present = await checkSizes(folder, manifest, problems)
  const total = present.reduce((sum, { size }) => sum + size, 0)
  let done = 0
  for (const { name, path, size, sha256 } of present) {
    const progress = (bytes: number) =>
      options.onProgress?.({ phase: 'verify', done: done + bytes, total, unit: 'bytes', item: name })
    try {
      const scan = await scanFile(addon, path, name.endsWith('.safetensors'), options.signal, progress)
      if (sha256 !== undefined && scan.sha256 !== sha256) {
        problems.push(`${name} has the SHA-256 ${scan.sha256}, but ${sha256} was written`)
      }
      if (scan.header !== undefined) headers.set(name, scan.header)
      if (options.finite ?? true) {
        for (const { tensor, count } of scan.nonFinite)
          problems.push(`${name}: tensor ${tensor} holds ${count} NaN or infinite values`)
      }
    } catch (error) {
      if (codeOf(error) === 'ERR_WEIGHTSMITH_ABORTED') throw error
      problems.push(`${name}: ${messageOf(error).replace(/\.$/, '')}`)
    }
    done += size
    progress(0)
    files.push({ name, size, hashed: sha256 !== undefined })
  }
  const listed = new Set(manifest.outputs.map(({ name }) => name))
  for (const name of (await readdir(folder)).sort()) {
    if (name.endsWith('.safetensors') && !listed.has(name)) problems.push(`${name} is not in the manifest`)
  }
  checkType(headers, manifest, problems)
  problems.push(...(await indexProblems(addon, folder, headers)))
  if (problems.length > 0) throw mismatch(folder, problems)
  const tensors = [...headers.values()].reduce((sum, header) => sum + header.tensors.length, 0)
  return { folder, files, tensors }
}

interface Present {
  name: string
  path: string
  size: number
  sha256?: string
}

/** The files of the manifest that are there with the right size and may be opened. */
async function checkSizes(folder: string, manifest: Manifest, problems: string[]): Promise<Present[]> {
  const present: Present[] = []
  for (const { name, size, sha256 } of manifest.outputs) {
    if (/[/\\\0]/.test(name) || name === '..' || name === '.') {
      problems.push(`${JSON.stringify(name)} is not the name of a file in this folder`)
      continue
    }
    try {
      const path = await inside(folder, name)
      const info = await stat(path).catch(() => undefined)
      if (info === undefined) problems.push(`${name} is missing`)
      else if (info.size !== size) problems.push(`${name} has ${info.size} bytes, but ${size} were written`)
      else present.push({ name, path, size, ...(sha256 === undefined ? {} : { sha256 }) })
    } catch (error) {
      problems.push(`${name}: ${messageOf(error).replace(/\.$/, '')}`)
    }
  }
  return present
}

async function scanFile(
  addon: Pick<NativeAddon, 'scanFile'>,
  path: string,
  weights: boolean,
  signal: AbortSignal | undefined,
  onProgress: (bytes: number) => void,
) {
  throwIfAborted(signal, 'The check')
  const scan = addon.scanFile(path, weights)
  const timer = setInterval(() => onProgress(scan.bytes()), progressMilliseconds)
  try {
    return await untilDone(scan, signal)
  } finally {
    clearInterval(timer)
  }
}

/** The type that most of the weights have is the one the manifest names. */
function checkType(headers: ReadonlyMap<string, NativeHeader>, { dtype }: Manifest, problems: string[]): void {
  const bytes = new Map<string, number>()
  for (const tensor of [...headers.values()].flatMap((header) => header.tensors)) {
    if (!isStorable(tensor.dtype)) continue
    const elements = tensor.shape.reduce((a, b) => a * b, 1)
    bytes.set(torchName(tensor.dtype), (bytes.get(torchName(tensor.dtype)) ?? 0) + elements)
  }
  const [main] = [...bytes].sort((a, b) => b[1] - a[1])
  if (main === undefined || bytes.get(dtype) === main[1]) return
  problems.push(`most weights are stored as ${main[0]}, but ${dtype} was written`)
}

/** Every tensor is in one file, and the index (which more than one file needs) says which. */
async function indexProblems(
  addon: Pick<NativeAddon, 'readIndex'>,
  folder: string,
  headers: ReadonlyMap<string, NativeHeader>,
): Promise<string[]> {
  const problems: string[] = []
  const found = new Map<string, string>()
  for (const [file, { tensors }] of headers) {
    for (const { name } of tensors) {
      const twin = found.get(name)
      if (twin !== undefined) problems.push(`tensor ${name} is in both ${twin} and ${file}`)
      found.set(name, file)
    }
  }
  const read = async () => addon.readIndex(await inside(folder, indexName))
  const index = await read().catch((error: unknown) => {
    const missing = codeOf(error) === 'ERR_WEIGHTSMITH_NOT_FOUND'
    if (!missing) problems.push(`${indexName}: ${messageOf(error).replace(/\.$/, '')}`)
    else if (headers.size > 1) problems.push(`${indexName} is missing, but there are ${headers.size} files`)
    return undefined
  })
  if (index === undefined) return problems
  const listed = new Map(Object.entries(index.weightMap))
  for (const [tensor, file] of found) {
    const said = listed.get(tensor)
    if (said !== file)
      problems.push(`${indexName} lists tensor ${tensor} in ${said ?? 'no file'}, but it is in ${file}`)
  }
  for (const [tensor, file] of listed) {
    if (!found.has(tensor)) problems.push(`${indexName} lists tensor ${tensor} in ${file}, but it is not there`)
  }
  const bytes = [...headers.values()].flatMap((header) => header.tensors).reduce((sum, t) => sum + t.end - t.begin, 0)
  const said = index.metadata.total_size
  if (said !== undefined && said !== bytes) {
    problems.push(`${indexName} gives a total size of ${String(said)} bytes, but the tensors have ${bytes}`)
  }
  return problems
}

const shownProblems = 20

function mismatch(folder: string, problems: string[]): WeightsmithError {
  const more = problems.length - shownProblems
  const list = problems.slice(0, shownProblems).join('; ') + (more > 0 ? `; and ${more} more` : '')
  const count = `${problems.length} problem${problems.length === 1 ? '' : 's'}`
  return new WeightsmithError('ERR_WEIGHTSMITH_VERIFY', `${folder} does not match its manifest, ${count}: ${list}.`, {
    file: folder,
    problems,
  })
}
