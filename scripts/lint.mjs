/**
 * Everything that can be judged without running: biome, types, arrows between rooms, C++ format.
 * `--format-native` formats the C++ files instead.
 */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
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
  'clang-format': () => clangFormat(['--dry-run', '-Werror']),
}
const failed = Object.keys(checks).filter((name) => !checks[name]())
if (failed.length > 0) {
  console.error(`lint: failed: ${failed.join(', ')}. "npm run format" repairs what is only format.`)
  process.exit(1)
}
console.log('lint: all checks passed')
