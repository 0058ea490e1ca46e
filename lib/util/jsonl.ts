/** A .jsonl file of results. Until all of them are there, what had its name before stays. */

import { open, rename, rm, stat } from 'node:fs/promises'
import { writeFailed } from './errors.js'

export interface LinesFile {
  write(lines: readonly object[]): Promise<void>
  /** Gives the file its name. */
  finish(): Promise<void>
  /** Without `finish` nothing is left of it. */
  close(): Promise<void>
}

/** Throws ERR_WEIGHTSMITH_IO_WRITE where the file cannot be written, and so do `write` and `finish`. */
export async function createLines(file: string): Promise<LinesFile> {
  const failed = (cause: unknown) => {
    throw writeFailed(file, cause)
  }
  const there = await stat(file).catch(() => undefined)
  // A pipe or a device takes lines as they come.
  const draft = there === undefined || there.isFile() ? `${file}.partial` : file
  const handle = await open(draft, 'w').catch(failed)
  let finished = draft === file
  return {
    write: (lines) => handle.appendFile(lines.map((line) => `${JSON.stringify(line)}\n`).join('')).catch(failed),
    async finish() {
      if (!finished) await rename(draft, file).catch(failed)
      finished = true
    },
    async close() {
      await handle.close()
      if (!finished) await rm(draft, { force: true })
    },
  }
}
