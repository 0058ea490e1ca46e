/**
 * Compiles test/**\/*.ts to build/test: for the tests, and for the bench, which times the cases of test/ops.cases.ts.
 */
import { spawnSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { hashOf, step } from './setup.mjs'
import { listFiles, root } from './sources.mjs'

/** Does nothing where build/test is up to date. Throws where they do not compile, after the compiler's messages. */
export async function compileTests() {
  const inputs = [...listFiles('test', '.ts', 'tsconfig.json'), ...listFiles('dist/esm', '.d.ts'), 'package-lock.json']
  await step('build/test.stamp', hashOf(inputs), 'build/test', () => {
    rmSync(join(root, 'build/test'), { recursive: true, force: true })
    const tsc = join(root, 'node_modules/typescript/bin/tsc')
    const args = [tsc, '-p', 'test/tsconfig.json']
    const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: ['ignore', 2, 2] })
    if (status !== 0) throw new Error('the tests do not compile; see the messages above.')
  })
}
