/**
 * The one list of native sources, read by CMakeLists.txt and binding.gyp, so that a new file needs no build edit.
 * Run as a program it first writes the generated sources, then prints the list, one path a line.
 */
import { existsSync, readdirSync } from 'node:fs'
import { join, resolve, sep } from 'node:path'
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

export const generatedSources = ['kernels', 'host_steps', 'trampolines'].map((name) => `build/generated/${name}.cpp`)

export function nativeSources() {
  return [...listFiles('native', '.cpp'), ...generatedSources]
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  // Not awaited at the top level: generate.mjs imports this module, and would wait for it for ever.
  import('./generate.mjs').then(({ generate }) => {
    generate()
    console.log(nativeSources().join('\n'))
  })
}
