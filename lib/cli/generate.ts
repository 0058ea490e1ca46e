/** `weightsmith generate`. */

import { dirname } from 'node:path'
import type { Command } from 'commander'
import { type PromptLine, readPrompts } from '../data/index.js'
import {
  type GeneratedText,
  type GenerateForecast,
  type GenerateOptions,
  type GenerateReport,
  generate,
} from '../generation/generate.js'
import { misuse } from '../util/errors.js'
import { createLines } from '../util/jsonl.js'
import { bytes, count, milliseconds, plural, shapedName } from './format.js'
import { signal } from './interrupt.js'
import {
  depth,
  device,
  dryRun,
  images,
  json,
  memory,
  noBias,
  realNumber,
  type ShapeFlags,
  seed,
  shapeFrom,
  strategy,
  wholeNumber,
  width,
} from './options.js'
import { type Common, printResult, verb, withEngine } from './verb.js'

export function addGenerate(program: Command): void {
  verb(
    program,
    'generate',
    'continue prompts, in batches, by greedy decoding or sampling',
    'weightsmith generate ./merged --data questions.jsonl --temperature 0.7 --samples 3 --out answers.jsonl',
  )
    .argument('<model>', 'a folder or org/name in the local cache; model+adapter adds a LoRA adapter')
    .argument('[prompts...]', 'the texts to continue')
    .option(
      '--data <file>',
      'read prompts from a .jsonl file ("prompt" or "messages"), a text file with one per line, or - for stdin',
    )
    .addOption(wholeNumber('--max-tokens', 'maximum number of tokens to generate for each prompt').default(64))
    .addOption(realNumber('--temperature', 'sampling temperature (0 = greedy)').default(0))
    .addOption(wholeNumber('--top-k', 'sample from the K most likely tokens (0 = all)').default(0))
    .addOption(
      realNumber(
        '--top-p',
        'nucleus sampling: sample from the smallest set of tokens with total probability P',
      ).default(1),
    )
    .addOption(seed())
    .addOption(wholeNumber('--samples', 'number of continuations of each prompt').default(1))
    .option('--stop <text...>', 'stop a continuation when it produces one of these texts')
    .option('--chat', "put each prompt into the model's chat template")
    .addOption(wholeNumber('--limit', 'use only the first N prompts of the file'))
    .addOption(images())
    .addOption(strategy())
    .addOption(depth())
    .addOption(width())
    .addOption(noBias())
    .option('--out <file>', 'write one continuation per line to this .jsonl file (default: stdout)')
    .addOption(dryRun())
    .addOption(memory())
    .addOption(device())
    .addOption(json())
    .action(run)
}

type Flags = Common & GenerateOptions & ShapeFlags & { data?: string; limit?: number; out?: string }

/** One continuation of one prompt is shown as it grows; others are lines of JSON, in a file or on standard output. */
async function run(model: string, given: string[], { data, limit, out, ...asked }: Flags): Promise<void> {
  const flags = shapeFrom(asked)
  const prompts = await promptsOf(given, data, limit)
  const toStdout = !flags.json && out === undefined && !flags.dryRun
  const single = toStdout && prompts.length === 1 && (flags.samples ?? 1) === 1
  const lineOf = ({ prompt, sample, ...rest }: GeneratedText) => ({ ...prompts[prompt]?.line, sample, ...rest })
  const report = await withEngine('generate', flags, async (engine, progress) => {
    const file = out === undefined || flags.dryRun ? undefined : await createLines(out)
    try {
      const report = await generate(
        engine,
        model,
        prompts.map(({ prompt, line: { image }, where }) => ({
          prompt,
          where,
          image: typeof image === 'string' || typeof image === 'number' ? image : undefined,
        })),
        {
          ...flags,
          images: flags.images ?? (data === undefined || data === '-' ? undefined : dirname(data)),
          signal,
          ...(single
            ? { onText: (piece) => process.stdout.write(piece) }
            : toStdout
              ? { onEnd: (one) => process.stdout.write(`${JSON.stringify(lineOf(one))}\n`) }
              : { onProgress: (event) => progress.show({ ...event, item: plural(event.tokens, 'token') }) }),
        },
      )
      // In the order of the prompts, whichever ended first.
      if (!('forecast' in report)) await file?.write(report.continuations.map(lineOf))
      await file?.finish()
      return report
    } finally {
      await file?.close()
    }
  })
  if (single) process.stdout.write('\n')
  if (toStdout && !('forecast' in report)) process.stderr.write(`${text(report)}\n`)
  else printResult(report, { report: text, forecast: forecastText }, flags)
}

/** Prompts of the command line, of a file, or of standard input. */
async function promptsOf(given: readonly string[], data?: string, limit?: number): Promise<PromptLine[]> {
  if (given.length > 0 === (data !== undefined)) {
    throw misuse('Pass prompts as arguments or with --data, not both.')
  }
  if (data === undefined) return given.map((prompt, i) => ({ prompt, line: { prompt }, where: `Prompt ${i + 1}` }))
  return data === '-' ? readPrompts('standard input', limit, await standardInput()) : readPrompts(data, limit)
}

async function standardInput(): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString('utf8')
}

function forecastText(forecast: GenerateForecast): string {
  return (
    `Would continue ${promptsText(forecast)} with ${shapedName(forecast)}, which takes ${bytes(forecast.deviceBytes)} on ` +
    `${forecast.device}: at most about ${milliseconds(forecast.milliseconds)}.${notesText(forecast)}`
  )
}

function text(report: GenerateReport): string {
  const rate = report.tokens / (report.milliseconds / 1000)
  return (
    `${plural(report.continuations.length, 'continuation')} of ${promptsText(report)}: ${plural(report.tokens, 'token')} in ` +
    `${milliseconds(report.milliseconds)}, ${count(Number(rate.toPrecision(3)))} per second, on ${report.device}.` +
    notesText(report)
  )
}

function promptsText({ prompts, promptTokens }: GenerateForecast): string {
  return `${plural(prompts, 'prompt')} of ${plural(promptTokens, 'token')}`
}

function notesText({ notes }: GenerateForecast): string {
  return notes.map((note) => `\n${note}`).join('')
}
