/** Totals of jest's result files, in the one line that people and CI read. As a program: the sum over its arguments. */
import { existsSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

/** A test file that fails before its first test counts as one failed test. */
export function totalsOf(results) {
  return {
    passed: results.numPassedTests,
    failed: results.numFailedTests + results.numRuntimeErrorTestSuites,
    skipped: results.numPendingTests + results.numTodoTests,
  }
}

export function totalsLine({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed, ${skipped} skipped`
}

if (process.argv[1] && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const sum = { passed: 0, failed: 0, skipped: 0 }
  for (const path of process.argv.slice(2)) {
    // A run that crashed left no results: that is a failure too.
    const part = existsSync(path)
      ? totalsOf(JSON.parse(readFileSync(path, 'utf8')))
      : { passed: 0, failed: 1, skipped: 0 }
    for (const key of Object.keys(sum)) sum[key] += part[key]
  }
  console.log(totalsLine(sum))
}
