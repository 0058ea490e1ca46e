/**
 * Where a model named in a recipe lies: a path (absolute, or relative to the recipe), else `org/name` in the local
 * Hugging Face cache. Nothing is downloaded; an error names every folder that was looked in.
 */

import { readdir, readFile, stat } from 'node:fs/promises'
import { homedir } from 'node:os'
import { isAbsolute, join, resolve } from 'node:path'
import { WeightsmithError } from '../util/errors.js'

export async function resolveModel(name: string, folder: string): Promise<string> {
  const expanded = name.startsWith('~/') ? join(homedir(), name.slice(2)) : name
  const path = resolve(folder, expanded)
  if (await exists(path)) return path
  const looked = [path]
  const id = /^([\w.-]+)\/([\w.-]+?)(?:@([\w./-]+))?$/.exec(name)
  if (id !== null && !isAbsolute(expanded) && !name.startsWith('.')) {
    const cached = join(cacheFolder(), `models--${id[1]}--${id[2]}`)
    looked.push(cached)
    const snapshot = await findSnapshot(cached, id[3] ?? 'main')
    if (snapshot !== undefined) return snapshot
  }
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_NOT_FOUND',
    `Model ${name} not found; looked in ${looked.join(' and ')}.`,
    { file: path },
  )
}

function cacheFolder(): string {
  const { HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME } = process.env
  if (HF_HUB_CACHE) return HF_HUB_CACHE
  return join(HF_HOME || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'huggingface'), 'hub')
}

/** The snapshot a revision points at; without a ref, the only snapshot there is. */
async function findSnapshot(cached: string, revision: string): Promise<string | undefined> {
  const snapshots = join(cached, 'snapshots')
  const ref = (await readFile(join(cached, 'refs', revision), 'utf8').catch(() => undefined))?.trim()
  // A ref names a folder of snapshots/; what it says must not lead elsewhere.
  const direct = join(snapshots, ref !== undefined && /^\w[\w.-]*$/.test(ref) ? ref : revision)
  if (await exists(direct)) return direct
  const all = await readdir(snapshots).catch(() => [])
  return all.length === 1 && all[0] !== undefined && revision === 'main' ? join(snapshots, all[0]) : undefined
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}
