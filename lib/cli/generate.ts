/** `weightsmith generate`. */

import { dirname } from 'node:path'
import type { Command } from 'commander'
import { type PromptLine, readPrompts } from '../data/index.js'
import {
  type Generated,
  type GenerateReport,
  type GenerateTextOptions,
  generateText,
} from '../generation/generate_text.js'
import { misuse } from '../util/errors.js'
import { createLines } from '../util/jsonl.js'
import { bytes, count, milliseconds, plural } from './format.js'
import { signal } from './interrupt.js'
import { device, dryRun, images, json, memory, realNumber, seed, wholeNumber } from './options.js'
import { type Common, print, verb, withEngine } from './verb.js'

export function addGenerate(program: Command): void {
  verb(
    program,
    'generate',
    'continue prompts, greedy or drawn; many go through the model together',
    'weightsmith generate ./merged --data questions.jsonl --temperature 0.7 --samples 3 --out said.jsonl',
  )
    .argument('<model>', 'a folder or org/name in the local cache')
    .argument('[prompts...]', 'what to continue')
    .option('--data <file>', 'prompts: a .jsonl file ("prompt" or "messages"), a text with one a line, or - for stdin')
    .addOption(wholeNumber('--max-tokens', 'most tokens of a continuation').default(64))
    .addOption(realNumber('--temperature', 'what logits are divided by; 0 takes the likeliest token').default(0))
    .addOption(wholeNumber('--top-k', 'only so many of the likeliest tokens; 0: all').default(0))
    .addOption(realNumber('--top-p', 'only the likeliest tokens that together are as likely as this').default(1))
    .addOption(seed())
    .addOption(wholeNumber('--samples', 'continuations of each prompt').default(1))
    .option('--stop <text...>', 'texts that end a continuation')
    .option('--chat', "prompts are messages in the model's chat template")
    .addOption(wholeNumber('--limit', 'only so many prompts of the file'))
    .addOption(images())
    .option('--out <file>', 'a .jsonl file, a continuation a line (default: stdout)')
    .addOption(dryRun())
    .addOption(memory())
    .addOption(device())
    .addOption(json())
    .action(run)
}

type Flags = Common & GenerateTextOptions & { data?: string; limit?: number; out?: string }

/** One continuation of one prompt is shown as it grows; others are lines of JSON, in a file or on standard output. */
async function run(model: string, given: string[], { data, limit, out, ...flags }: Flags): Promise<void> {
  const prompts = await promptsOf(given, data, limit)
  const toStdout = !flags.json && out === undefined && !flags.dryRun
  const single = toStdout && prompts.length === 1 && (flags.samples ?? 1) === 1
  const lineOf = ({ prompt, sample, ...rest }: Generated) => ({ ...prompts[prompt]?.line, sample, ...rest })
  const report = await withEngine('generate', flags, async (engine, progress) => {
    const file = out === undefined || flags.dryRun ? undefined : await createLines(out)
    try {
      const report = await generateText(
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
              : { onProgress: ({ done, total, tokens }) => progress.step(done, total, plural(tokens, 'token')) }),
        },
      )
      // In the order of the prompts, whichever ended first.
      await file?.write(report.continuations.map(lineOf))
      await file?.finish()
      return report
    } finally {
      await file?.close()
    }
  })
  if (single) process.stdout.write('\n')
  if (toStdout) process.stderr.write(`${text(report)}\n`)
  else print(report, text, flags)
}

/** Prompts of the command line, of a file, or of standard input. */
async function promptsOf(given: readonly string[], data?: string, limit?: number): Promise<PromptLine[]> {
  if (given.length > 0 === (data !== undefined)) {
    throw misuse('Give prompts either as arguments or by --data, one of both.')
  }
  if (data === undefined) return given.map((prompt, i) => ({ prompt, line: { prompt }, where: `Prompt ${i + 1}` }))
  return data === '-' ? readPrompts('standard input', limit, await standardInput()) : readPrompts(data, limit)
}

async function standardInput(): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of process.stdin) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString('utf8')
}

function text(report: GenerateReport): string {
  const { prompts, promptTokens, dryRun } = report
  const asked = `${plural(prompts, 'prompt')} of ${plural(promptTokens, 'token')}`
  const notes = report.notes.map((note) => `\n${note}`).join('')
  if (dryRun) {
    return (
      `Would continue ${asked} with ${report.model}, which takes ${bytes(report.bytes)} on ${report.device}: at most about ` +
      `${milliseconds(report.milliseconds)}.${notes}`
    )
  }
  const rate = report.tokens / (report.milliseconds / 1000)
  return (
    `${plural(report.continuations.length, 'continuation')} of ${asked}: ${plural(report.tokens, 'token')} in ` +
    `${milliseconds(report.milliseconds)}, ${count(Number(rate.toPrecision(3)))} a second, on ${report.device}.${notes}`
  )
}
