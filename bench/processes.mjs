/** Runs bench/child.mjs, for figures that need a fresh process each. */
import { spawnSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const childScript = fileURLToPath(new URL('child.mjs', import.meta.url))

/** Methods and checkpoints merged: `linear` reads each tensor once; `ties` several times, and keeps facts of each. */
export const onceAndOften = [
  ['linear', 2],
  ['ties', 3],
]

export function child(what, options) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [childScript, what, JSON.stringify(options)], {
    encoding: 'utf8',
  })
  if (status !== 0) throw new Error(`bench/child.mjs ${what} failed: ${stderr.trim()}`)
  return JSON.parse(stdout)
}

export function mergeInChild(what, options, recipe, more = {}) {
  const out = join(options.folder, 'out')
  rmSync(out, { recursive: true, force: true })
  const result = child(what, { device: options.deviceName, recipe, out, ...more })
  rmSync(out, { recursive: true, force: true })
  return result
}
