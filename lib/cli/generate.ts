/** The verbs `generate` and `eval`: their flags, and what they print. */

import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import { dirname } from 'node:path'
import type { Engine } from '../engine.js'
import { WeightsmithError } from '../errors.js'
import { type EvalOptions, type EvalReport, evaluateAll } from '../eval.js'
import { type Generated, type GenerateReport, type GenerateTextOptions, generateText } from '../generate.js'
import { type Prompt, readPrompts } from '../text.js'
import { bytes, count, milliseconds, percent, plural, table } from './format.js'
import { showProgress } from './progress.js'

export interface GenerateFlags extends Omit<GenerateTextOptions, 'signal'> {
  data?: string
  limit?: number
  out?: string
  json?: boolean
}

/** Prompts of the command line, of a file, or of standard input. */
export async function promptsOf(
  given: readonly string[],
  { data, limit }: Pick<GenerateFlags, 'data' | 'limit'>,
): Promise<{ prompt: Prompt; line: Record<string, unknown> }[]> {
  if (given.length > 0 === (data !== undefined)) {
    throw new WeightsmithError(
      'ERR_WEIGHTSMITH_ARGUMENT',
      'Give prompts either as arguments or by --data, one of both.',
    )
  }
  if (data === undefined) return given.map((prompt) => ({ prompt, line: { prompt } }))
  return data === '-' ? readPrompts('standard input', limit, await standardInput()) : readPrompts(data, limit)
}

async function standardInput(): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString('utf8')
}

/**
 * Runs it. One continuation of one prompt is shown as it grows; others are lines of JSON, in a file or on standard output.
 * Gives what is left to be printed.
 */
export async function runGenerate(
  engine: Engine,
  model: string,
  prompts: readonly { prompt: Prompt; line: Record<string, unknown> }[],
  flags: GenerateFlags,
  signal: AbortSignal,
): Promise<{ report: GenerateReport; shown: boolean }> {
  const { out, json = false, data, limit: _, ...options } = flags
  const single = prompts.length === 1 && (flags.samples ?? 1) === 1 && !json && out === undefined
  const toStdout = !single && !json && out === undefined
  const progress = showProgress('generate', json || single || toStdout)
  const file = out === undefined || flags.dryRun ? undefined : createWriteStream(out)
  const failed =
    file &&
    once(file, 'error').then(([cause]) => {
      throw new WeightsmithError('ERR_WEIGHTSMITH_IO_WRITE', `${out} cannot be written: ${String(cause)}.`, { cause })
    })
  failed?.catch(() => undefined)
  const lineOf = ({ prompt, sample, ...rest }: Generated) =>
    `${JSON.stringify({ ...prompts[prompt]?.line, sample, ...rest })}\n`
  try {
    const work = generateText(
      engine,
      model,
      prompts.map(({ prompt, line: { image } }) =>
        typeof image === 'string' || typeof image === 'number' ? { prompt, image } : prompt,
      ),
      {
        ...options,
        images: options.images ?? (data === undefined || data === '-' ? undefined : dirname(data)),
        signal,
        onProgress: ({ done, total }) => progress.step(done, total),
        ...(single ? { onText: (piece: string) => process.stdout.write(piece) } : {}),
        ...(toStdout ? { onEnd: (one: Generated) => process.stdout.write(lineOf(one)) } : {}),
      },
    )
    const report = await (failed ? Promise.race([work, failed]) : work)
    if (single && !report.dryRun) process.stdout.write('\n')
    if (file !== undefined) {
      // In the order of the prompts, whichever ended first.
      file.end(report.continuations.map(lineOf).join(''))
      await Promise.race([once(file, 'finish'), failed])
    }
    return { report, shown: (single || toStdout) && !report.dryRun }
  } finally {
    progress.stop()
  }
}

export interface EvalFlags extends Omit<EvalOptions, 'data' | 'signal'> {
  data: string[]
  json?: boolean
}

export async function runEval(
  engine: Engine,
  model: string,
  { json = false, ...options }: EvalFlags,
  signal: AbortSignal,
): Promise<EvalReport[]> {
  const progress = showProgress('eval', json)
  try {
    return await evaluateAll(engine, model, {
      ...options,
      signal,
      onProgress: ({ done, total }) => progress.step(done, total),
    })
  } finally {
    progress.stop()
  }
}

export function generateSummary(report: GenerateReport): string {
  const { prompts, promptTokens, dryRun } = report
  const asked = `${plural(prompts, 'prompt')} of ${plural(promptTokens, 'token')}`
  if (dryRun)
    return `Would continue ${asked} with ${report.model}, which takes ${bytes(report.bytes)} on ${report.adapter}.`
  const rate = report.tokens / (report.milliseconds / 1000)
  return (
    `${plural(report.continuations.length, 'continuation')} of ${asked}: ${plural(report.tokens, 'token')} in ` +
    `${milliseconds(report.milliseconds)}, ${count(Number(rate.toPrecision(3)))} a second, on ${report.adapter}.`
  )
}

export function evalText(reports: readonly EvalReport[]): string {
  const [first] = reports
  if (first === undefined) return ''
  const shown = (value: number | undefined, { metric }: EvalReport) => {
    if (value === undefined) return '-'
    return metric === 'exact-match' || metric === 'choice' ? percent(value) : value.toFixed(6)
  }
  const more = first.metric === 'choice' ? 'a byte' : 'answers'
  const total = reports.reduce((sum, report) => sum + report.milliseconds, 0)
  return [
    `${first.metric} of ${first.model}, ${milliseconds(total)} on ${first.adapter}`,
    '',
    table(
      ['data', 'examples', 'tokens', first.metric, ...(first.metric === 'exact-match' ? [] : [more])],
      reports.map((report) => [
        report.data,
        count(report.examples),
        count(report.tokens),
        shown(report.value, report),
        ...(report.metric === 'exact-match' ? [] : [shown(report.normalized ?? report.answers, report)]),
      ]),
    ),
  ].join('\n')
}
