/** `weightsmith batch`. */

import type { Command } from 'commander'
import { type BatchOptions, type BatchReport, type BatchResult, batch } from '../merge/batch/batch.js'
import { bytes, count, milliseconds, plural, printable, table } from './format.js'
import { signal } from './interrupt.js'
import { checksum, device, dtype, json, memory, overwrite, seed, shardSize, wholeNumber } from './options.js'
import { type Common, print, verb, withEngine } from './verb.js'

const shownJobs = 40
const lineEveryMilliseconds = 5000

export function addBatch(program: Command): void {
  verb(
    program,
    'batch',
    'run many recipes through one engine; a job that fails does not stop the others',
    'weightsmith batch recipes/ merged/ --jobs 4 --resume',
  )
    .argument('<jobs>', 'a .jsonl file with one {"recipe": ..., "name": ...} per line, or a folder of recipes')
    .argument('<out>', 'the folder to write; each job gets a folder in it')
    .addOption(wholeNumber('--jobs', 'number of jobs to run at a time').default(4))
    .option('--resume', 'skip jobs whose output is complete and made from the same recipe, seed and inputs')
    .addOption(dtype('the recipes'))
    .addOption(shardSize())
    .addOption(memory())
    .addOption(seed('random seed of the methods that drop entries'))
    .addOption(device())
    .addOption(overwrite('replace existing output folders'))
    .addOption(checksum())
    .option('--check-finite', 'fail jobs whose result has NaN or infinite values')
    .addOption(json())
    .action(run)
}

async function run(jobs: string, out: string, flags: Common & Omit<BatchOptions, 'out'>): Promise<void> {
  const done = await withEngine('batch', flags, (engine) =>
    batch(engine, jobs, { ...flags, out, signal, onJob: showJobs(flags.json === true) }),
  )
  print(done, text, flags)
  if (done.failed > 0) process.exitCode = 1
}

function text(report: BatchReport): string {
  const { jobs, merged, skipped, failed } = report
  // What went wrong is what people look for.
  const order = { failed: 0, merged: 1, skipped: 2 }
  const shown = [...jobs].sort((a, b) => order[a.status] - order[b.status]).slice(0, Math.max(shownJobs, failed))
  const rows = shown.map((job) => [
    job.name,
    job.status,
    bytes(job.bytesWritten),
    milliseconds(job.milliseconds),
    why(job),
  ])
  const rate = merged === 0 ? '' : `, ${Number(((merged / report.milliseconds) * 1e3).toPrecision(3))} merges/s`
  return [
    `${report.out}: ${count(merged)} merged, ${count(skipped)} skipped, ${count(failed)} failed; ${bytes(report.bytesWritten)} ` +
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

/** Writes a line to stderr for every failure, and one on the progress every few seconds. */
function showJobs(quiet: boolean): (result: BatchResult, progress: { done: number; total: number }) => void {
  let last = performance.now()
  return (result, { done, total }) => {
    if (quiet) return
    if (result.status === 'failed') process.stderr.write(`batch: ${result.name} failed: ${printable(why(result))}\n`)
    if (performance.now() - last < lineEveryMilliseconds) return
    last = performance.now()
    process.stderr.write(`batch: ${count(done)} of ${plural(total, 'job')} done\n`)
  }
}
