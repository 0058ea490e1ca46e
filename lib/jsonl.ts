/** A .jsonl file that is written as results come. */

import { open } from 'node:fs/promises'
import { messageOf, WeightsmithError } from './errors.js'

export interface LinesFile {
  write(lines: readonly object[]): Promise<void>
  close(): Promise<void>
}

/** Replaces the file if it is there. Throws ERR_WEIGHTSMITH_IO_WRITE where it cannot be written, and so does `write`. */
export async function createLines(file: string): Promise<LinesFile> {
  const failed = (cause: unknown) => {
    const message = `${file} cannot be written: ${messageOf(cause)}.`
    throw new WeightsmithError('ERR_WEIGHTSMITH_IO_WRITE', message, { cause, file })
  }
  const handle = await open(file, 'w').catch(failed)
  return {
    write: (lines) => handle.appendFile(lines.map((line) => `${JSON.stringify(line)}\n`).join('')).catch(failed),
    close: () => handle.close(),
  }
}
