/**
 * The one list of native sources. CMakeLists.txt and binding.gyp read it through `generate.mjs --list`, so that a new
 * file needs no build edit.
 */
import { existsSync, readdirSync } from 'node:fs'
import { join, sep } from 'node:path'
import { fileURLToPath } from 'node:url'

export const root = fileURLToPath(new URL('..', import.meta.url))

/** Files under `folder` (relative to the root) with one of the endings: sorted, with forward slashes. */
export function listFiles(folder, ...endings) {
  if (!existsSync(join(root, folder))) return []
  return readdirSync(join(root, folder), { recursive: true })
    .map((name) => `${folder}/${name.split(sep).join('/')}`)
    .filter((name) => endings.some((ending) => name.endsWith(ending)))
    .sort()
}

export const generatedSources = ['kernels', 'cpu_steps', 'trampolines'].map((name) => `build/generated/${name}.cpp`)

export function nativeSources() {
  return [...listFiles('native', '.cpp'), ...generatedSources]
}
