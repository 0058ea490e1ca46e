/** Small text files. */

import { readFile } from 'node:fs/promises'
import { codeOf, messageOf, WeightsmithError } from '../util/errors.js'
import { withoutByteOrderMark } from '../util/json.js'

/** Nothing where there is no such file. */
export async function readIfThere(file: string): Promise<string | undefined> {
  try {
    return withoutByteOrderMark(await readFile(file, 'utf8'))
  } catch (cause) {
    if (codeOf(cause) === 'ENOENT') return undefined
    throw new WeightsmithError('ERR_WEIGHTSMITH_IO_READ', `${file} cannot be read: ${messageOf(cause)}.`, {
      cause,
      file,
    })
  }
}
