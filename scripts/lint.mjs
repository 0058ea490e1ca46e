/**
 * Everything that can be judged without running: biome, types, arrows between rooms, C++ format, widths of lines.
 * `--format-native` formats the C++ files instead.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { roomViolations } from './rooms.mjs'
import { aptInstall, canInstallWithApt, hasCommand } from './setup.mjs'
import { listFiles, root } from './sources.mjs'

function passes(file, args) {
  return spawnSync(file, args, { cwd: root, stdio: 'inherit' }).status === 0
}

function tool(name, bin, args) {
  return passes(process.execPath, [join(root, 'node_modules', name, bin), ...args])
}

function clangFormat(args) {
  if (!hasCommand('clang-format') && canInstallWithApt()) aptInstall(['clang-format'])
  if (!hasCommand('clang-format')) {
    console.log('lint: clang-format is not installed, so the format of the C++ files was not checked.')
    return true
  }
  const files = listFiles('native', '.cpp', '.h')
  return files.length === 0 || passes('clang-format', [...args, ...files])
}

/** Whose comments keep to the width of the code. */
const narrowFolders = ['lib', 'native', 'bench', 'test', 'scripts', 'demo', 'examples']
const width = 120

/** Comments, which no formatter breaks, and lines of WGSL, which has none. */
function longLines() {
  const files = narrowFolders.flatMap((folder) => listFiles(folder, '.ts', '.mjs', '.cpp', '.h', '.wgsl'))
  return files.flatMap((path) => {
    const lines = readFileSync(join(root, path), 'utf8').split('\n')
    const isLong = (line) => line.length > width && (path.endsWith('.wgsl') || /^\s*(\/\/|\/?\*)/.test(line))
    return lines.flatMap((line, i) => (isLong(line) ? [`${path}:${i + 1} has ${line.length} columns`] : []))
  })
}

if (process.argv.includes('--format-native')) process.exit(clangFormat(['-i']) ? 0 : 1)

const checks = {
  biome: () => tool('@biomejs/biome', 'bin/biome', ['check', '--error-on-warnings', '.']),
  'types of the library': () =>
    tool('typescript', 'bin/tsc', ['-p', 'tsconfig.json', '--noEmit', '--composite', 'false']),
  'types of the tests': () =>
    !existsSync(join(root, 'test')) ||
    listFiles('test', '.ts').length === 0 ||
    tool('typescript', 'bin/tsc', ['-p', 'test/tsconfig.json', '--noEmit']),
  'rooms of lib/ and native/': () => {
    const violations = roomViolations()
    for (const violation of violations) console.error(violation)
    return violations.length === 0
  },
  [`comments and WGSL of ${width} columns`]: () => {
    const long = longLines()
    for (const line of long) console.error(line)
    return long.length === 0
  },
  'clang-format': () => clangFormat(['--dry-run', '-Werror']),
}
const failed = Object.keys(checks).filter((name) => !checks[name]())
if (failed.length > 0) {
  console.error(`lint: failed: ${failed.join(', ')}. "npm run format" repairs what is only format.`)
  process.exit(1)
}
console.log('lint: all checks passed')
