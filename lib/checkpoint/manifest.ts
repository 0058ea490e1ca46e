/**
 * weightsmith.json: what an output was made from and what it should contain. It holds no times of its own, so that
 * the same merge gives the same manifest.
 */

import { createHash } from 'node:crypto'
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { NativeAddon, NativeDevice } from '../native/border.js'
import { version } from '../native/version.js'
import { codeOf, messageOf, WeightsmithError } from '../util/errors.js'
import { inside } from './inside.js'
import type { Checkpoint } from './open.js'
import { readSmall } from './small.js'

export const manifestName = 'weightsmith.json'

/** Bytes: a history of models and files in it takes some thousands. */
const largestManifest = 100e6

export interface ManifestInput {
  model: string
  files: { name: string; size: number; mtimeMs: number; headerHash: string; sha256?: string }[]
}

export interface Manifest {
  format: 1
  versions: Record<string, string>
  /** Of a merge, or the verb and its options. */
  recipe: object
  seed: number
  dtype: string
  device: { name: string; type: string; backend: string; driver: string }
  inputs: ManifestInput[]
  /** Every file of the output but the manifest itself; `sha256` is absent with `--checksum none`. */
  outputs: { name: string; size: number; sha256?: string }[]
}

/** The text of a manifest. */
export function manifestText(about: Omit<Manifest, 'format' | 'versions'>): string {
  const manifest: Manifest = { format: 1, versions: { weightsmith: version }, ...about }
  return `${JSON.stringify(manifest, null, 2)}\n`
}

/** A file that is written as a whole. */
export function fileEntry(name: string, data: string | Uint8Array, hash = true): Manifest['outputs'][number] {
  const size = Buffer.byteLength(data)
  return hash ? { name, size, sha256: createHash('sha256').update(data).digest('hex') } : { name, size }
}

/** The files of checkpoints by the names of the models; with `hash` they are read. */
export async function describeInputs(
  addon: Pick<NativeAddon, 'sha256File'>,
  checkpoints: ReadonlyMap<string, Checkpoint>,
  hash: boolean,
): Promise<ManifestInput[]> {
  const inputs: ManifestInput[] = []
  for (const [model, { files }] of checkpoints) {
    const described: ManifestInput['files'] = []
    for (const { path, name, size, modified, headerHash } of files) {
      const file = { name, size, mtimeMs: modified, headerHash }
      described.push(hash ? { ...file, sha256: await addon.sha256File(path) } : file)
    }
    inputs.push({ model, files: described })
  }
  return inputs
}

/** A device, as the manifest names it. */
export function deviceOf({ info }: Pick<NativeDevice, 'info'>): Manifest['device'] {
  const { name, type, backend, driver } = info
  return { name, type, backend, driver }
}

export async function readManifest(folder: string): Promise<Manifest> {
  const file = await inside(folder, manifestName)
  let manifest: unknown
  try {
    manifest = JSON.parse((await readSmall(file, largestManifest)).toString('utf8'))
  } catch (cause) {
    if (codeOf(cause) === 'ERR_WEIGHTSMITH_NOT_FOUND') {
      throw new WeightsmithError('ERR_WEIGHTSMITH_NOT_FOUND', `Manifest ${file} not found.`, { cause, file })
    }
    if (cause instanceof WeightsmithError) throw cause
    throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `The manifest ${file} is not valid: ${messageOf(cause)}.`, {
      cause,
      file,
    })
  }
  if (!isManifest(manifest)) {
    throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `The manifest ${file} has no list of outputs.`, { file })
  }
  return manifest
}

/**
 * Whether files are in a folder with the sizes that they should have; their bytes are not read (`verify` does that).
 */
export async function areThere(folder: string, files: Manifest['outputs']): Promise<boolean> {
  for (const { name, size } of files) {
    const info = await stat(join(folder, name)).catch(() => undefined)
    if (info?.size !== size) return false
  }
  return true
}

function isManifest(value: unknown): value is Manifest {
  if (typeof value !== 'object' || value === null || !('outputs' in value) || !Array.isArray(value.outputs))
    return false
  return value.outputs.every(
    (o) => typeof o === 'object' && o !== null && typeof o.name === 'string' && typeof o.size === 'number',
  )
}
