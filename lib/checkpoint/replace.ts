/** Small files that are written anew as a whole: at any moment there is the old one or the new one. */

import { type FileHandle, open, rename } from 'node:fs/promises'
import { writeFailed } from '../util/errors.js'

/** What `fill` writes is on disk before it gets the name. Throws ERR_WEIGHTSMITH_IO_WRITE or _DISK_FULL. */
export async function replaceFile(path: string, fill: (file: FileHandle) => Promise<void>): Promise<void> {
  const draft = `${path}.new`
  try {
    const file = await open(draft, 'w')
    try {
      await fill(file)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(draft, path)
  } catch (cause) {
    throw writeFailed(path, cause)
  }
}
