/** Checks an output against its manifest: every file there, of the right size and hash, and the weights well-formed. */

import { stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { manifestName, openCheckpoint, readManifest } from './checkpoint/index.js'
import { WeightsmithError } from './errors.js'
import { loadAddon } from './native/load.js'

export interface VerifyReport {
  folder: string
  /** `hashed` is false for files that the manifest has no hash of (`--checksum none`). */
  files: { name: string; size: number; hashed: boolean }[]
  tensors: number
}

/** Rejects with ERR_WEIGHTSMITH_VERIFY, naming the first file that does not match. */
export async function verify(out: string): Promise<VerifyReport> {
  const folder = resolve(out)
  const addon = loadAddon()
  const manifest = await readManifest(folder)
  const files: VerifyReport['files'] = []
  for (const { name, size, sha256 } of manifest.outputs) {
    if (/[/\\\0]/.test(name) || name === '..') {
      throw mismatch(folder, name, 'is not the name of a file in this folder')
    }
    const path = join(folder, name)
    const info = await stat(path).catch(() => undefined)
    if (info === undefined) throw mismatch(folder, name, 'is missing')
    if (info.size !== size) throw mismatch(folder, name, `has ${info.size} bytes, but ${size} were written`)
    if (sha256 !== undefined) {
      const found = await addon.sha256File(path)
      if (found !== sha256) throw mismatch(folder, name, `has the SHA-256 ${found}, but ${sha256} was written`)
    }
    files.push({ name, size, hashed: sha256 !== undefined })
  }
  const checkpoint = await openCheckpoint(addon, folder)
  const listed = new Set(files.map(({ name }) => name))
  const extra = checkpoint.files.find(({ name }) => !listed.has(name))
  if (extra !== undefined) throw mismatch(folder, extra.name, 'is not in the manifest')
  return { folder, files, tensors: checkpoint.tensors.size }
}

function mismatch(folder: string, name: string, problem: string): WeightsmithError {
  return new WeightsmithError(
    'ERR_WEIGHTSMITH_VERIFY',
    `The file ${JSON.stringify(name)} of ${join(folder, manifestName)} ${problem}.`,
    { file: join(folder, name) },
  )
}
