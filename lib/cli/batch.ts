/** The text and the progress of `weightsmith batch`. */

import type { BatchReport, BatchResult } from '../batch.js'
import { bytes, count, milliseconds, plural, table } from './format.js'

const shownJobs = 40
const lineEveryMilliseconds = 5000

export function batchText(report: BatchReport): string {
  const { jobs, merged, skipped, failed } = report
  // What went wrong is what people look for.
  const order = { failed: 0, merged: 1, skipped: 2 }
  const shown = [...jobs].sort((a, b) => order[a.status] - order[b.status]).slice(0, Math.max(shownJobs, failed))
  const rows = shown.map((job) => [job.name, job.status, bytes(job.bytes), milliseconds(job.milliseconds), why(job)])
  const rate = merged === 0 ? '' : `, ${Number(((merged / report.milliseconds) * 1e3).toPrecision(3))} merges/s`
  return [
    `${report.out}: ${count(merged)} merged, ${count(skipped)} skipped, ${count(failed)} failed; ${bytes(report.bytes)} ` +
      `in ${milliseconds(report.milliseconds)}${rate}.`,
    '',
    table(['job', 'status', 'bytes', 'time', 'error'], rows),
    ...(shown.length < jobs.length
      ? [`... and ${plural(jobs.length - shown.length, 'more job')} (--json has all).`]
      : []),
  ].join('\n')
}

function why({ error }: BatchResult): string {
  return error === undefined ? '' : `${error.message}${error.code === undefined ? '' : ` [${error.code}]`}`
}

/** A line on stderr for every failure, and every few seconds one on how far it is. */
export function showJobs(quiet: boolean): (result: BatchResult, progress: { done: number; total: number }) => void {
  let last = performance.now()
  return (result, { done, total }) => {
    if (quiet) return
    if (result.status === 'failed') process.stderr.write(`batch: ${result.name} failed: ${why(result)}\n`)
    if (performance.now() - last < lineEveryMilliseconds) return
    last = performance.now()
    process.stderr.write(`batch: ${count(done)} of ${plural(total, 'job')} ended\n`)
  }
}
