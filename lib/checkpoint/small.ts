/**
 * Reads the files beside the weights: regular files only (a pipe would wait for ever), and none larger than expected.
 */

import { readFile, stat } from 'node:fs/promises'
import { codeOf, messageOf, WeightsmithError } from '../util/errors.js'

/** Bytes of a configuration; real ones have some thousands. */
export const largestConfig = 16e6
/** Bytes of a tokenizer or a template; real ones have some ten millions. */
export const largestAuxiliary = 1e9

export async function readSmall(file: string, largest: number): Promise<Buffer> {
  try {
    const info = await stat(file)
    if (!info.isFile()) throw new Error('it is no regular file')
    if (info.size > largest) throw new Error(`it has ${info.size} bytes, but should have at most ${largest}`)
    return await readFile(file)
  } catch (cause) {
    if (codeOf(cause) === 'ENOENT') {
      throw new WeightsmithError('ERR_WEIGHTSMITH_NOT_FOUND', `${file} not found.`, { cause, file })
    }
    throw new WeightsmithError('ERR_WEIGHTSMITH_IO_READ', `${file} cannot be read: ${messageOf(cause)}.`, {
      cause,
      file,
    })
  }
}
