/**
 * Nothing outside the folders that were named is opened: a link in a checkpoint may lead elsewhere in the same folder,
 * or, in a Hugging Face cache, to the blobs of the same repository (snapshots/<revision>/file -> ../../blobs/<hash>).
 * Who trusts the folders lets their links lead anywhere: shards on another disk, the local_dir of older
 * huggingface_hub.
 */

import { realpath } from 'node:fs/promises'
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from 'node:path'
import { WeightsmithError } from '../util/errors.js'

/** Set to anything but 0 or nothing: links of folders with models and data may lead out of them. */
export const followLinksVariable = 'WEIGHTSMITH_FOLLOW_LINKS'

function followsLinks(): boolean {
  return !['', '0', undefined].includes(process.env[followLinksVariable])
}

/** The real path of `name` in `folder`, which is what may be opened; a name that is not there stays as it is. */
export async function inside(folder: string, name: string): Promise<string> {
  const path = join(folder, name)
  const [root, target] = await Promise.all([folder, path].map((p) => realpath(p).catch(() => undefined)))
  if (root === undefined || target === undefined) return path
  if (contains(repository(root) ?? root, target)) return target
  if (followsLinks() && contains(resolve(folder), resolve(path))) return target
  throw new WeightsmithError(
    'ERR_WEIGHTSMITH_OUTSIDE',
    `${path} is a link to ${target}, which is outside of its folder ${root}; put the file itself there, name the ` +
      'folder that holds it, or follow links with --follow-links (WEIGHTSMITH_FOLLOW_LINKS=1) if you trust the folder.',
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
