/**
 * Finds and loads the native addon, and finds the library that contains Dawn. Both are looked up from this package's
 * own root, so that the same code works from dist/esm, dist/cjs and an installed tarball.
 */
import { existsSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { messageOf, WeightsmithError } from '../util/errors.js'
import type { NativeAddon } from './border.js'
import { here } from './root.cjs'

/** The folder with this package's package.json (dist/cjs has one too, without a name). */
export const packageRoot = findPackageRoot(here)

const requireFromRoot = createRequire(join(packageRoot, 'package.json'))

function findPackageRoot(folder: string): string {
  const manifest = join(folder, 'package.json')
  if (existsSync(manifest)) {
    const content: unknown = JSON.parse(readFileSync(manifest, 'utf8'))
    if (typeof content === 'object' && content !== null && 'name' in content && content.name === 'weightsmith') {
      return folder
    }
  }
  const parent = dirname(folder)
  if (parent === folder) {
    throw new WeightsmithError('ERR_WEIGHTSMITH_LOAD', `No package.json of weightsmith lies above ${here}.`)
  }
  return findPackageRoot(parent)
}

let loaded: NativeAddon | undefined

/** The native addon, loaded once. */
export function loadAddon(): NativeAddon {
  if (loaded !== undefined) return loaded
  const platform = `${process.platform}-${process.arch}`
  const path = join(packageRoot, 'prebuilds', platform, 'weightsmith.node')
  if (!existsSync(path)) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_LOAD',
      `The native addon for ${platform} is not at ${path}; run "npm run setup" in a clone of the repository to build it.`,
      { file: path },
    )
  }
  let addon: NativeAddon
  try {
    addon = requireFromRoot(path) as NativeAddon
  } catch (cause) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_LOAD',
      `The native addon ${path} does not load: ${messageOf(cause)}; run "npm run setup" in a clone of the repository to rebuild it.`,
      { cause, file: path },
    )
  }
  addon.setErrorClass(WeightsmithError as new (code: string, message: string) => WeightsmithError)
  loaded = addon
  return addon
}

/**
 * The folder that kernels are read from instead of the addon, so that an edit of one needs no build:
 * `WEIGHTSMITH_KERNELS`.
 */
export function kernelFolder(): { kernels?: string } {
  const folder = process.env.WEIGHTSMITH_KERNELS
  return folder ? { kernels: resolve(folder) } : {}
}

/** The library that contains Dawn: `WEIGHTSMITH_DAWN`, or dawn.node of the `webgpu` package. */
export function dawnLibrary(): string {
  const own = process.env.WEIGHTSMITH_DAWN
  if (own) {
    if (existsSync(own)) return own
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_LOAD',
      `WEIGHTSMITH_DAWN names ${own}, but there is no such file; name a Dawn shared library or unset the variable.`,
      { file: own },
    )
  }
  const platform = process.platform === 'darwin' ? 'darwin-universal' : `${process.platform}-${process.arch}`
  let path: string
  try {
    path = join(dirname(requireFromRoot.resolve('webgpu/package.json')), 'dist', platform, 'dawn.node')
  } catch (cause) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_LOAD',
      `The package "webgpu", which brings Dawn, is not installed beside ${packageRoot}; run "npm install webgpu".`,
      { cause },
    )
  }
  if (existsSync(path)) return path
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_LOAD',
    `The package "webgpu" has no Dawn for ${platform} (tried ${path}); set WEIGHTSMITH_DAWN to a Dawn shared library.`,
    { file: path },
  )
}
