/** A small file that is written anew as a whole: at any moment there is the old one or the new one. */

import { open, rename, rm } from 'node:fs/promises'
import { writeFailed } from '../../util/errors.js'

/** The content is on disk before it gets the name. Throws ERR_WEIGHTSMITH_IO_WRITE or _DISK_FULL. */
export async function replaceFile(path: string, content: string | Uint8Array): Promise<void> {
  const draft = `${path}.new`
  try {
    const file = await open(draft, 'w')
    try {
      await file.writeFile(content)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(draft, path)
  } catch (cause) {
    await rm(draft, { force: true }).catch(() => undefined)
    throw writeFailed(path, cause)
  }
}
