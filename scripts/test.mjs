/**
 * Compiles test/**\/*.ts to build/test and runs jest on it. Arguments are passed on to jest. The last line holds the
 * totals, taken from jest's own results; a run in which no test was executed is a failure.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { compileTests } from './compile_tests.mjs'
import { jestCommand } from './jest.mjs'
import { root } from './sources.mjs'
import { totalsLine, totalsOf } from './totals.mjs'

const results = process.env.WEIGHTSMITH_TEST_RESULTS ?? join(root, 'build/test-results.json')

try {
  await compileTests()
} catch (error) {
  console.error(`test: ${error.message}`)
  process.exit(1)
}

rmSync(results, { force: true })
mkdirSync(dirname(results), { recursive: true })
const run = spawnSync(
  process.execPath,
  [...jestCommand, '--json', `--outputFile=${results}`, '--verbose', ...process.argv.slice(2)],
  {
    cwd: root,
    // With --json jest prints its results a second time to stdout; people read stderr.
    stdio: ['inherit', 'ignore', 'inherit'],
  },
)

const totals = existsSync(results) ? totalsOf(JSON.parse(readFileSync(results, 'utf8'))) : undefined
let status = run.status ?? 1
if (totals === undefined) {
  console.error(`test: jest ended without results (${run.signal ?? `exit code ${run.status}`}).`)
  status ||= 1
} else if (totals.passed + totals.failed === 0) {
  console.error('test: no test was executed.')
  status ||= 1
}
// The caller that sums several runs (.ci/run) prints its own line.
if (process.env.WEIGHTSMITH_TEST_RESULTS === undefined) {
  console.log(totalsLine(totals ?? { passed: 0, failed: 1, skipped: 0 }))
}
process.exit(status)
