/**
 * Nothing outside the folders that were named is opened: a link in a checkpoint may lead elsewhere in the same folder,
 * or, in a Hugging Face cache, to the blobs of the same repository (snapshots/<revision>/file -> ../../blobs/<hash>).
 */

import { realpath } from 'node:fs/promises'
import { basename, dirname, isAbsolute, join, relative, sep } from 'node:path'
import { WeightsmithError } from '../util/errors.js'

/** The real path of `name` in `folder`, which is what may be opened; a name that is not there stays as it is. */
export async function inside(folder: string, name: string): Promise<string> {
  const path = join(folder, name)
  const [root, target] = await Promise.all([folder, path].map((p) => realpath(p).catch(() => undefined)))
  if (root === undefined || target === undefined) return path
  if (contains(repository(root) ?? root, target)) return target
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_OUTSIDE',
    `${path} is a link to ${target}, which is outside of its folder ${root}; put the file itself there, or name the ` +
      'folder that holds it.',
    { file: path },
  )
}

/** Whether `path` is `folder` or lies in it; both are absolute. */
export function contains(folder: string, path: string): boolean {
  const way = relative(folder, path)
  return way === '' || (way !== '..' && !way.startsWith(`..${sep}`) && !isAbsolute(way))
}

/** The repository of the Hugging Face cache that a snapshot belongs to. */
function repository(folder: string): string | undefined {
  if (basename(folder).startsWith('models--')) return folder
  const parent = dirname(folder)
  return parent === folder ? undefined : repository(parent)
}
