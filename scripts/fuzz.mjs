/**
 * Fuzzes the parsers of hostile bytes with libFuzzer, for the seconds given (60 by default) in all, from the corpus in
 * test/fuzz/corpus. `--keep` adds the inputs that reach new code to the corpus, made small; a crash is written to
 * build/fuzz and ends with exit code 1. Without clang nothing of C++ can be fuzzed, which is said and is exit code 3.
 * The readers of .npy and pickles are TypeScript, and come first: test/fuzz/npy.mjs changes files at random.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { aptInstall, canInstallWithApt, hasCommand } from './setup.mjs'
import { listFiles, root } from './sources.mjs'

const targets = ['header', 'index', 'journal']
const seconds = Number(process.argv.find((word) => /^\d+$/.test(word)) ?? 60)
const keep = process.argv.includes('--keep')
const corpus = join(root, 'test/fuzz/corpus')
const build = join(root, 'build/fuzz')

function run(file, args, input) {
  return spawnSync(file, args, { cwd: build, stdio: ['pipe', 'ignore', 'pipe'], encoding: 'utf8', input })
}

/** A clang++ that has a libFuzzer, whatever its name. */
function findClang() {
  const names = ['clang++', ...Array.from({ length: 20 }, (_, i) => `clang++-${30 - i}`)].filter(hasCommand)
  const empty = 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }'
  return names.find((name) => run(name, ['-x', 'c++', '-fsanitize=fuzzer', '-o', 'empty', '-'], empty).status === 0)
}

/** Debian keeps libFuzzer in a package that carries the version of clang in its name. */
function installClang() {
  if (!canInstallWithApt()) return
  try {
    aptInstall(['clang'])
    const version = /version (\d+)/.exec(spawnSync('clang++', ['--version'], { encoding: 'utf8' }).stdout)?.[1]
    aptInstall([`libclang-rt-${version}-dev`])
  } catch {
    // What is missing then is said below.
  }
}

mkdirSync(build, { recursive: true })
const share = Math.ceil(seconds / (targets.length + 1))
const script = [join(root, 'test/fuzz/npy.mjs'), String(share), build]
// A hang is one that the parent has to end.
const limit = { timeout: (share + 30) * 1000 }
const ran = spawnSync(process.execPath, ['--max-old-space-size=512', ...script], { ...limit, encoding: 'utf8' })
if (ran.status !== 0) {
  console.error(ran.stderr)
  console.error(`fuzz: npy fails (${ran.signal ?? `exit code ${ran.status}`}).`)
  process.exit(1)
}
console.log(`fuzz: npy: ${ran.stdout.trim()}`)

let clang = findClang()
if (clang === undefined) {
  installClang()
  clang = findClang()
}
if (clang === undefined) {
  console.log('fuzz: clang with libFuzzer is not installed and cannot be installed here, so nothing was fuzzed.')
  process.exit(3)
}

const sources = [...listFiles('native/base', '.cpp'), ...listFiles('native/io', '.cpp')].map((path) => join(root, path))
const includes = ['native', 'build/generated'].flatMap((folder) => ['-I', join(root, folder)])
const flags = ['-std=c++20', '-O1', '-g', '-fno-sanitize-recover=undefined', ...includes]

function compile(output, ...args) {
  const built = run(clang, [...flags, '-o', output, ...args])
  if (built.status === 0) return
  console.error(built.stderr)
  console.error(`fuzz: ${output} does not build with ${clang}.`)
  process.exit(1)
}

const parsers = join(build, 'libparsers.so')
compile(parsers, '-shared', '-fPIC', '-fsanitize=fuzzer-no-link,address,undefined', ...sources)
for (const target of targets) {
  const binary = join(build, target)
  const main = join(root, `test/fuzz/${target}.cpp`)
  compile(binary, '-fsanitize=fuzzer,address,undefined', main, parsers, `-Wl,-rpath,${build}`)
  const found = join(build, `${target}-corpus`)
  mkdirSync(found, { recursive: true })
  const limits = [`-max_total_time=${share}`, '-max_len=4096', '-timeout=5', '-rss_limit_mb=1024']
  const dictionary = `-dict=${join(root, 'test/fuzz/json.dict')}`
  const ended = run(binary, [
    ...limits,
    dictionary,
    `-artifact_prefix=${build}/${target}-`,
    found,
    join(corpus, target),
  ])
  const executed = /#(\d+)\s+DONE/.exec(ended.stderr)?.[1]
  if (ended.status !== 0) {
    console.error(ended.stderr.split('\n').slice(-60).join('\n'))
    console.error(`fuzz: ${target} fails; the input is in build/fuzz.`)
    process.exit(1)
  }
  console.log(
    `fuzz: ${target}: ${executed} inputs, none of them harmful (corpus of ${readdirSync(join(corpus, target)).length})`,
  )
  if (keep && existsSync(found)) run(binary, ['-merge=1', join(corpus, target), found])
}
