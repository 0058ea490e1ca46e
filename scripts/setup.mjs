/**
 * Brings a fresh clone to the state where anything can run: packages, native addon, compiled TypeScript, embedded GPU
 * driver. Each step is skipped while the hash of what it depends on is unchanged, and says one line when it works.
 * Only Node's built-ins are imported, because there may be no packages yet.
 */
import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { listFiles, root } from './sources.mjs'

const LOCK_WAIT_MS = 15 * 60_000
const COMPILERS = ['c++', 'cmake']

class SetupError extends Error {}

export function hashOf(paths) {
  const hash = createHash('sha256')
  for (const path of paths) {
    hash.update(`${path}\0`)
    if (existsSync(join(root, path))) hash.update(readFileSync(join(root, path)))
    hash.update('\0')
  }
  return hash.digest('hex')
}

/** Runs `work` unless it last succeeded for the same `hash` and `product` still exists. */
export async function step(stamp, hash, product, work) {
  const path = join(root, stamp)
  const done = existsSync(path) && readFileSync(path, 'utf8') === hash && existsSync(join(root, product))
  if (done) return
  await work()
  mkdirSync(dirname(path), { recursive: true })
  writeFileSync(path, hash)
}

/** Runs a command; its output is shown only when it fails. */
export function command(file, args, options = {}) {
  const result = spawnSync(file, args, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28, ...options })
  if (result.status === 0) return result.stdout
  process.stderr.write(`${result.stdout ?? ''}${result.stderr ?? ''}`)
  const end = result.error?.message ?? (result.signal ? `signal ${result.signal}` : `exit code ${result.status}`)
  throw new SetupError(`The command "${[file, ...args].join(' ')}" failed with ${end}.`)
}

export function nodeTool(name, args, options) {
  const manifest = JSON.parse(readFileSync(join(root, 'node_modules', name, 'package.json'), 'utf8'))
  const bin = typeof manifest.bin === 'string' ? manifest.bin : Object.values(manifest.bin)[0]
  return command(process.execPath, [join(root, 'node_modules', name, bin), ...args], options)
}

/** Works on Windows too, where npm is a script that cannot be spawned directly. */
function npm(args) {
  const own = process.env.npm_execpath
  if (own?.endsWith('.js')) return command(process.execPath, [own, ...args])
  return command('npm', args, { shell: process.platform === 'win32' })
}

export function hasCommand(name) {
  return spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0
}

export const canInstallWithApt = () =>
  process.platform === 'linux' && process.getuid?.() === 0 && spawnSync('apt-get', ['--version']).status === 0

export function aptInstall(packages) {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  command('apt-get', ['update'], { env })
  command('apt-get', ['install', '-y', '--no-install-recommends', ...packages], { env })
}

function howToInstallCompiler() {
  if (process.platform === 'darwin') return 'xcode-select --install && brew install cmake'
  if (process.platform === 'win32') return 'winget install Microsoft.VisualStudio.2022.BuildTools Kitware.CMake'
  if (existsSync('/usr/bin/dnf')) return 'sudo dnf install -y gcc-c++ cmake make'
  if (existsSync('/usr/bin/pacman')) return 'sudo pacman -S --needed gcc cmake make'
  if (existsSync('/sbin/apk')) return 'sudo apk add g++ cmake make'
  return 'sudo apt-get update && sudo apt-get install -y g++ cmake make'
}

function ensureCompiler() {
  const missing = COMPILERS.filter((name) => !hasCommand(name))
  if (missing.length === 0 || process.platform === 'win32') return
  if (canInstallWithApt()) {
    console.log(`setup: installing ${missing.join(' and ')} with apt`)
    aptInstall(['g++', 'cmake', 'make'])
    return
  }
  throw new SetupError(
    `Building the native addon needs ${missing.join(' and ')} on the PATH; run: ${howToInstallCompiler()}`,
  )
}

const addonPath = `prebuilds/${process.platform}-${process.arch}/weightsmith.node`

function buildAddon() {
  ensureCompiler()
  console.log('setup: building the native addon')
  nodeTool('cmake-js', ['compile', '--out', 'build/native', '--parallel', String(availableParallelism())])
  mkdirSync(dirname(join(root, addonPath)), { recursive: true })
  // Renamed into place: a process that runs the old addon keeps its own copy.
  copyFileSync(join(root, 'build/native/Release/weightsmith.node'), join(root, `${addonPath}.new`))
  renameSync(join(root, `${addonPath}.new`), join(root, addonPath))
}

function compileTypeScript() {
  console.log('setup: compiling TypeScript')
  for (const [format, project] of [
    ['esm', 'tsconfig.json'],
    ['cjs', 'tsconfig.cjs.json'],
  ]) {
    const fresh = join(root, `build/next-${format}`)
    rmSync(fresh, { recursive: true, force: true })
    rmSync(join(root, `build/${format}.tsbuildinfo`), { force: true })
    nodeTool('typescript', ['-p', project, '--outDir', fresh])
    if (format === 'cjs') writeFileSync(join(fresh, 'package.json'), '{ "type": "commonjs" }\n')
    const target = join(root, 'dist', format)
    rmSync(target, { recursive: true, force: true })
    mkdirSync(dirname(target), { recursive: true })
    renameSync(fresh, target)
  }
  // Compiled tests in build/test import `../lib/x.js` exactly as their sources in test/ do.
  rmSync(join(root, 'build/lib'), { force: true })
  symlinkSync(join(root, 'dist/esm'), join(root, 'build/lib'), 'junction')
}

/** One set-up at a time in a folder: a second one waits for the first, and takes over from one that died. */
async function locked(work) {
  const lock = join(root, 'build/setup.lock')
  mkdirSync(dirname(lock), { recursive: true })
  const deadline = Date.now() + LOCK_WAIT_MS
  for (;;) {
    try {
      writeFileSync(lock, String(process.pid), { flag: 'wx' })
      break
    } catch (error) {
      if (error.code !== 'EEXIST') throw error
    }
    if (!isAlive(lock)) rmSync(lock, { force: true })
    else if (Date.now() > deadline) throw new SetupError(`Another set-up holds ${lock} since more than 15 minutes.`)
    else await new Promise((wake) => setTimeout(wake, 200))
  }
  try {
    await work()
  } finally {
    rmSync(lock, { force: true })
  }
}

function isAlive(lock) {
  try {
    const pid = Number(readFileSync(lock, 'utf8'))
    // An empty file belongs to a process between creating and writing it.
    return pid === 0 || process.kill(pid, 0)
  } catch (error) {
    return error.code === 'EPERM'
  }
}

async function setup() {
  if (Number(process.versions.node.split('.')[0]) < 20) {
    throw new SetupError(`Weightsmith needs Node 20 or later; this is ${process.version}.`)
  }
  const lockHash = hashOf(['package-lock.json'])
  await step('node_modules/.weightsmith-lock', lockHash, 'node_modules', () => {
    console.log('setup: installing packages')
    npm(['ci'])
  })

  const nativeFiles = [
    ...listFiles('native', '.cpp', '.h', '.wgsl'),
    ...(existsSync(join(root, 'bench/gemm.wgsl')) ? ['bench/gemm.wgsl'] : []),
    'CMakeLists.txt',
    'package-lock.json',
    'scripts/generate.mjs',
    'scripts/layouts.mjs',
    'scripts/sources.mjs',
    'package.json',
  ]
  await step('build/native.stamp', hashOf(nativeFiles), addonPath, async () => {
    const { generate } = await import('./generate.mjs')
    generate()
    buildAddon()
  })

  const { generateModules } = await import('./generate.mjs')
  generateModules()
  const sources = [
    ...listFiles('lib', '.ts', '.cts'),
    'tsconfig.json',
    'tsconfig.cjs.json',
    'package-lock.json',
    'scripts/setup.mjs',
  ]
  await step('build/typescript.stamp', hashOf(sources), 'dist/cjs/package.json', compileTypeScript)

  const { bundledDriver } = await import(pathToFileURL(join(root, 'dist/esm/native/driver.js')))
  await bundledDriver(() => console.log('setup: unpacking the embedded GPU driver'))
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  try {
    await locked(setup)
  } catch (error) {
    if (!(error instanceof SetupError)) throw error
    console.error(`setup: ${error.message}`)
    process.exit(1)
  }
}
