/** `weightsmith batch`. */

import type { Command } from 'commander'
import {
  type BatchForecast,
  type BatchOptions,
  type BatchReport,
  type BatchResult,
  batch,
} from '../merge/batch/batch.js'
import { bytes, count, milliseconds, plural, printable, table } from './format.js'
import { signal } from './interrupt.js'
import { checksum, device, dryRun, dtype, json, memory, overwrite, seed, shardSize, wholeNumber } from './options.js'
import { type Common, printResult, verb, withEngine } from './verb.js'

const shownJobs = 40

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
    .addOption(dryRun())
    .option('--check-finite', 'fail jobs whose result has NaN or infinite values')
    .addOption(json())
    .action(run)
}

async function run(jobs: string, out: string, flags: Common & Omit<BatchOptions, 'out'>): Promise<void> {
  const done = await withEngine('batch', flags, (engine, progress) =>
    batch(engine, jobs, {
      ...flags,
      out,
      signal,
      onJob: (result) => {
        if (result.status !== 'failed' || flags.json) return
        process.stderr.write(`batch: ${result.name} failed: ${printable(why(result))}\n`)
      },
      onProgress: progress.show,
    }),
  )
  printResult(done, { report: text, forecast: forecastText }, flags)
  const failed = 'forecast' in done ? done.forecast.fail : done.failed
  if (failed > 0) process.exitCode = 1
}

function forecastText(forecast: BatchForecast): string {
  const { jobs, merge, skip, fail, milliseconds: time } = forecast
  // What would go wrong is what people look for.
  const order = { fail: 0, merge: 1, skip: 2 }
  const sorted = [...jobs].sort((a, b) => order[a.status] - order[b.status])
  const rows = sorted.map((job) => [job.name, job.status, bytes(job.bytesWritten), why(job)])
  return [
    `Would merge ${count(merge)}, skip ${count(skip)}, fail ${count(fail)} in ${forecast.out}: read ${bytes(forecast.bytesRead)}, ` +
      `write ${bytes(forecast.bytesWritten)}${time === undefined ? '' : `, about ${milliseconds(time)}`}, within ` +
      `${bytes(forecast.deviceBytes)} of ${forecast.device}.`,
    '',
    ...shownTable(['job', 'what', 'bytes', 'error'], rows, fail),
  ].join('\n')
}

/** The first rows, as many as there are failures at least. */
function shownTable(head: string[], rows: string[][], failed: number): string[] {
  const shown = rows.slice(0, Math.max(shownJobs, failed))
  const more = rows.length - shown.length
  return [table(head, shown), ...(more > 0 ? [`... and ${plural(more, 'more job')} (--json has all).`] : [])]
}

function text(report: BatchReport): string {
  const { jobs, merged, skipped, failed } = report
  // What went wrong is what people look for.
  const order = { failed: 0, merged: 1, skipped: 2 }
  const sorted = [...jobs].sort((a, b) => order[a.status] - order[b.status])
  const rows = sorted.map((job) => [
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
    ...shownTable(['job', 'status', 'bytes', 'time', 'error'], rows, failed),
  ].join('\n')
}

function why({ error }: Pick<BatchResult, 'error'>): string {
  return error === undefined ? '' : `${error.message}${error.code === undefined ? '' : ` [${error.code}]`}`
}
