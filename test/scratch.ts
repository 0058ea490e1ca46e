/** A folder for the files of one test file, removed when its tests are done. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from '@jest/globals'

export function scratch(name: string): { folder: string; fresh: (name: string) => string } {
  const folder = mkdtempSync(join(tmpdir(), `weightsmith-${name}-`))
  afterAll(() => rmSync(folder, { recursive: true, force: true }))
  let count = 0
  /** A path in it that nothing has yet. */
  const fresh = (name: string) => join(folder, `${name}-${count++}`)
  return { folder, fresh }
}
