/**
 * The rooms of native/ and the arrows between them (ARCHITECTURE.md): a file may include its own room and the rooms
 * below it, never one above. Only the addon room may include napi.h.
 */
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { listFiles, root } from './sources.mjs'

/** Rooms that each room may include, besides itself. */
export const rooms = {
  addon: ['run', 'resident', 'gpu', 'dawn', 'io', 'base'],
  run: ['resident', 'gpu', 'dawn', 'io', 'base'],
  resident: ['gpu', 'dawn', 'io', 'base'],
  gpu: ['dawn', 'base', 'kernels'],
  dawn: ['base'],
  io: ['base'],
  base: [],
  kernels: [],
}

/** One sentence for every include that goes against the arrows; `files` maps paths to contents. */
export function roomViolations(files = readNative()) {
  const violations = []
  for (const [path, text] of Object.entries(files)) {
    const room = path.split('/')[1]
    if (!(room in rooms)) violations.push(`${path}: "${room}" is not a room of native/.`)
    for (const [, bracket, name] of text.matchAll(/^[ \t]*#[ \t]*include[ \t]*([<"])([^">]+)[">]/gm)) {
      if (/^(napi|node_api|js_native_api)\b/.test(name) && room !== 'addon') {
        violations.push(`${path}: includes ${name}, which only native/addon may.`)
      }
      if (bracket === '<') continue
      const first = name.split('/')[0]
      const target = name.startsWith('.')
        ? join(dirname(path), name).split(/[\\/]/)[1]
        : name.includes('/')
          ? first
          : room
      if (target in rooms && target !== room && !(rooms[room] ?? []).includes(target)) {
        violations.push(`${path}: room "${room}" includes ${name}, but "${target}" is not below it.`)
      }
    }
  }
  return violations
}

function readNative() {
  const paths = listFiles('native', '.cpp', '.h')
  return Object.fromEntries(paths.map((path) => [path, readFileSync(join(root, path), 'utf8')]))
}
