/**
 * weightsmith.json: what an output was made from and what it should contain. It holds no times of its own, so that
 * the same merge gives the same manifest.
 */

import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { codeOf, messageOf, WeightsmithError } from '../errors.js'
import type { RecipeInput } from '../recipe/index.js'

export const manifestName = 'weightsmith.json'

export interface ManifestInput {
  model: string
  files: { name: string; size: number; mtimeMs: number; headerHash: string; sha256?: string }[]
}

export interface Manifest {
  format: 1
  versions: Record<string, string>
  recipe: RecipeInput
  seed: number
  dtype: string
  adapter: { name: string; type: string; backend: string; driver: string }
  inputs: ManifestInput[]
  /** Every file of the output but the manifest itself; `sha256` is absent with `--checksum none`. */
  outputs: { name: string; size: number; sha256?: string }[]
}

export async function readManifest(folder: string): Promise<Manifest> {
  const file = join(folder, manifestName)
  let manifest: unknown
  try {
    manifest = JSON.parse(await readFile(file, 'utf8'))
  } catch (cause) {
    const missing = codeOf(cause) === 'ENOENT'
    throw new WeightsmithError(
      missing ? 'ERR_WEIGHTSMITH_NOT_FOUND' : 'ERR_WEIGHTSMITH_FORMAT',
      missing ? `There is no manifest ${file}.` : `The manifest ${file} is not valid: ${messageOf(cause)}.`,
      { cause, file },
    )
  }
  if (!isManifest(manifest)) {
    throw new WeightsmithError('ERR_WEIGHTSMITH_FORMAT', `The manifest ${file} has no list of outputs.`, { file })
  }
  return manifest
}

function isManifest(value: unknown): value is Manifest {
  if (typeof value !== 'object' || value === null || !('outputs' in value) || !Array.isArray(value.outputs))
    return false
  return value.outputs.every(
    (o) => typeof o === 'object' && o !== null && typeof o.name === 'string' && typeof o.size === 'number',
  )
}
