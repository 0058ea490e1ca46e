/**
 * The rooms of lib/ and native/ and the arrows between them (ARCHITECTURE.md): a file may know its own room and those
 * below it, never one above, and no files know each other in a circle. Types count. Lint and a test read this table.
 */
import { readFileSync } from 'node:fs'
import { dirname, join, posix } from 'node:path'
import { listFiles, root } from './sources.mjs'

/** Each room with those it may know, from the lowest up; a room inside another one is named by its path. */
export const rooms = {
  lib: {
    util: [],
    native: ['util'],
    'checkpoint/resume': ['native', 'util'],
    checkpoint: ['checkpoint/resume', 'native', 'util'],
    'runtime/ops': ['native', 'util'],
    architectures: ['runtime/ops', 'checkpoint', 'native', 'util'],
    engine: ['checkpoint', 'native', 'util'],

    lora: ['checkpoint', 'native', 'util'],
    'merge/methods': ['native', 'util'],
    'merge/recipe': ['merge/methods', 'checkpoint', 'native', 'util'],
    'merge/plan': ['merge/recipe', 'merge/methods', 'lora', 'checkpoint', 'native', 'util'],
    merge: [
      ...['merge/plan', 'merge/recipe', 'merge/methods', 'lora', 'engine'],
      ...['checkpoint', 'checkpoint/resume', 'native', 'util'],
    ],
    adapters: [
      ...['merge', 'merge/plan', 'merge/recipe', 'merge/methods', 'lora'],
      ...['engine', 'checkpoint', 'native', 'util'],
    ],
    'merge/batch': ['merge', 'merge/recipe', 'engine', 'checkpoint', 'checkpoint/resume', 'native', 'util'],

    runtime: ['runtime/ops', 'engine', 'architectures', 'checkpoint', 'native', 'util'],
    'data/images': ['checkpoint', 'native', 'util'],
    data: ['data/images', 'runtime', 'engine', 'architectures', 'checkpoint', 'native', 'util'],
    score: [
      ...['adapters', 'data', 'runtime', 'engine', 'architectures'],
      ...['checkpoint', 'checkpoint/resume', 'native', 'util'],
    ],
    subnets: [
      ...['adapters', 'lora', 'score', 'runtime', 'architectures'],
      ...['checkpoint', 'checkpoint/resume', 'native', 'util'],
    ],
    generation: ['adapters', 'subnets', 'data', 'data/images', 'runtime', 'engine', 'checkpoint', 'native', 'util'],
    eval: [
      ...['adapters', 'generation', 'subnets', 'data', 'data/images', 'runtime', 'engine', 'architectures'],
      ...['checkpoint', 'native', 'util'],
    ],
    training: [
      ...['adapters', 'lora', 'data', 'runtime', 'engine', 'architectures'],
      ...['checkpoint', 'checkpoint/resume', 'native', 'util'],
    ],
    prune: ['score', 'data', 'runtime', 'engine', 'architectures', 'checkpoint', 'native', 'util'],
    compare: ['adapters', 'score', 'engine', 'checkpoint', 'native', 'util'],
    doctor: ['runtime', 'engine', 'native', 'util'],

    'workflows/imm': [
      ...['merge', 'merge/recipe', 'compare', 'eval', 'generation', 'training', 'data'],
      ...['engine', 'checkpoint', 'checkpoint/resume', 'native', 'util'],
    ],
    'workflows/manu': ['eval', 'score', 'data', 'runtime', 'engine', 'architectures', 'checkpoint', 'native', 'util'],
    'workflows/amoeba': [
      ...['subnets', 'adapters', 'lora', 'training', 'prune', 'eval', 'score', 'data', 'runtime', 'engine'],
      ...['architectures', 'checkpoint', 'checkpoint/resume', 'native', 'util'],
    ],
    report: [
      ...['workflows/imm', 'workflows/manu', 'workflows/amoeba', 'training', 'prune', 'compare', 'eval', 'score'],
      'adapters',
      ...['checkpoint', 'native', 'util'],
    ],
  },
  native: {
    base: [],
    kernels: [],
    linalg: ['base'],
    io: ['base'],
    plan: ['base'],
    dawn: ['base'],
    gpu: ['dawn', 'io', 'base', 'kernels'],
    graph: ['gpu', 'dawn', 'io', 'base'],
    steps: ['plan', 'linalg', 'base'],
    host: ['plan', 'base'],
    stream: ['steps', 'host', 'plan', 'graph', 'gpu', 'dawn', 'io', 'base'],
    engine: ['stream', 'graph', 'gpu', 'dawn', 'base'],
    addon: ['engine', 'stream', 'steps', 'plan', 'graph', 'gpu', 'dawn', 'linalg', 'io', 'base'],
  },
}

/** Rooms above all others, and the one file that stands in none. */
const above = new Set(['cli', 'index.ts'])

/** The room of a file of lib/ or native/: the longest path of a room that it lies in. */
function roomOf(path) {
  const [house, ...rest] = path.split('/')
  const all = Object.keys(rooms[house])
  const two = rest.slice(0, 2).join('/')
  return all.includes(two) && rest.length > 2 ? two : rest[0]
}

/** What a file names, as paths from the root of the repository. */
function imports(path, text) {
  if (path.startsWith('lib/')) {
    return [...text.matchAll(/(?:\bfrom|\bimport\()\s*'(\.[^']+)'/g)].map(([, name]) =>
      posix
        .join(posix.dirname(path), name)
        .replace(/\.js$/, '.ts')
        .replace(/\.cjs$/, '.cts'),
    )
  }
  return [...text.matchAll(/^[ \t]*#[ \t]*include[ \t]*"([^"]+)"/gm)].map(([, name]) =>
    name.startsWith('.') || !name.includes('/') ? posix.join(dirname(path), name) : `native/${name}`,
  )
}

/** One sentence for every import that goes against the arrows; `files` maps paths to contents. */
export function roomViolations(files = read()) {
  const violations = []
  for (const [path, text] of Object.entries(files)) {
    const house = path.split('/')[0]
    const room = roomOf(path)
    const known = rooms[house]
    if (!(room in known) && !(house === 'lib' && above.has(room))) violations.push(`${path}: "${room}" is no room.`)
    if (
      house === 'native' &&
      room !== 'addon' &&
      /^[ \t]*#[ \t]*include[ \t]*[<"](napi|node_api|js_native_api)\b/m.test(text)
    ) {
      violations.push(`${path}: includes napi.h, which only native/addon may.`)
    }
    if (above.has(room)) continue
    for (const name of imports(path, text)) {
      if (!name.startsWith(`${house}/`)) continue
      const other = roomOf(name)
      if (house === 'native' && !(other in known)) continue
      if (other !== room && !(known[room] ?? []).includes(other)) {
        violations.push(`${path}: the room "${room}" knows ${name}, but "${other}" is not below it.`)
      }
    }
  }
  return [...violations, ...circles(files)]
}

/** Files that know each other in a circle, a sentence for each circle that is found. */
function circles(files) {
  const found = []
  const state = new Map()
  const visit = (path, trail) => {
    if (state.get(path) === 'done' || !(path in files)) return
    if (state.get(path) === 'open') {
      found.push(`${[...trail.slice(trail.indexOf(path)), path].join(' -> ')} is a circle.`)
      return
    }
    state.set(path, 'open')
    for (const name of imports(path, files[path])) visit(name, [...trail, path])
    state.set(path, 'done')
  }
  for (const path of Object.keys(files)) visit(path, [])
  return found
}

function read() {
  const paths = [...listFiles('lib', '.ts', '.cts'), ...listFiles('native', '.cpp', '.h')]
  return Object.fromEntries(paths.map((path) => [path, readFileSync(join(root, path), 'utf8')]))
}
