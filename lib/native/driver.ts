/**
 * The embedded GPU driver: SwiftShader out of the optional package `@sparticuz/chromium`, unpacked once into the user's
 * cache folder, so that Weightsmith runs where no Vulkan driver is installed.
 */
import { createReadStream, existsSync, readFileSync } from 'node:fs'
import { mkdir, mkdtemp, readFile, rename, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { homedir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import type { Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createBrotliDecompress } from 'node:zlib'
import { messageOf, WeightsmithError } from '../util/errors.js'
import { packageRoot } from './load.js'

export interface BundledDriver {
  vulkanLoader: string
  icd: string
}

const LOADER = 'libvulkan.so.1'
const ICD = 'vk_swiftshader_icd.json'
/** What is taken from the archive; it also holds OpenGL libraries. The ICD names the library relative to itself. */
const FILES = [LOADER, ICD, 'libvk_swiftshader.so']

/** The part of `tar-fs` (a dependency of the chromium package) that is used here. */
interface TarFs {
  extract(folder: string, options: { ignore(path: string): boolean }): Writable
}

const PACKAGE = '@sparticuz/chromium'

/** What installs the driver that this version is tested with; undefined where there is none for the platform. */
export const bundledCommand = isSupported() ? `npm install ${PACKAGE}@${testedVersion()}` : undefined

function isSupported(): boolean {
  return process.platform === 'linux' && process.arch === 'x64'
}

function testedVersion(): string {
  const manifest = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as {
    peerDependencies: Record<string, string>
  }
  return manifest.peerDependencies[PACKAGE] ?? 'latest'
}

/** Paths of the embedded driver, or undefined where the package is not installed or not made for this platform. */
export async function bundledDriver(onUnpack?: () => void): Promise<BundledDriver | undefined> {
  if (!isSupported()) return undefined
  const chromium = findChromium()
  if (chromium === undefined) return undefined
  const manifest = JSON.parse(await readFile(join(chromium, 'package.json'), 'utf8')) as { version: string }
  const cache = process.env.XDG_CACHE_HOME || join(homedir(), '.cache')
  const folder = join(cache, 'weightsmith', `swiftshader-${manifest.version}`)
  const driver = { vulkanLoader: join(folder, LOADER), icd: join(folder, ICD) }
  if (FILES.every((name) => existsSync(join(folder, name)))) return driver
  onUnpack?.()
  try {
    await unpack(chromium, folder)
  } catch (cause) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_LOAD',
      `The embedded GPU driver cannot be unpacked into ${folder}: ${messageOf(cause)}; set XDG_CACHE_HOME to a folder that can be written.`,
      { cause, file: folder },
    )
  }
  return driver
}

function findChromium(): string | undefined {
  try {
    // The package exports only its entry point, build/index.js.
    const entry = createRequire(join(packageRoot, 'package.json')).resolve(PACKAGE)
    const root = dirname(dirname(entry))
    return existsSync(archiveOf(root)) ? root : undefined
  } catch {
    return undefined
  }
}

function archiveOf(chromium: string): string {
  return join(chromium, 'bin', 'swiftshader.tar.br')
}

/** Unpacks beside the target and renames, so that no process ever sees half a driver. */
async function unpack(chromium: string, folder: string): Promise<void> {
  const tar = createRequire(join(chromium, 'package.json'))('tar-fs') as TarFs
  await mkdir(dirname(folder), { recursive: true })
  const fresh = await mkdtemp(`${folder}.`)
  try {
    const extract = tar.extract(fresh, { ignore: (path) => path !== fresh && !FILES.includes(basename(path)) })
    await pipeline(createReadStream(archiveOf(chromium)), createBrotliDecompress(), extract)
    const missing = FILES.filter((name) => !existsSync(join(fresh, name)))
    if (missing.length > 0) throw new Error(`the archive ${archiveOf(chromium)} holds no ${missing.join(', ')}`)
    await rm(folder, { recursive: true, force: true })
    await rename(fresh, folder)
  } catch (error) {
    await rm(fresh, { recursive: true, force: true })
    // Another process may have been faster.
    if (!FILES.every((name) => existsSync(join(folder, name)))) throw error
  }
}
